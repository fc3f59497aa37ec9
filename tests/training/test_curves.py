from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TinyNet, equal
from ignite.engine import Engine, Events
from sklearn.metrics import roc_auc_score

from sga_monai.core.errors import InputError
from sga_monai.model.scores import logit_difference
from sga_monai.training.curves import LearningCurves


def items(name: str, n: int, positive: int, seed: int) -> list[dict]:
    rng = np.random.default_rng(seed)
    return [{"image": rng.random((1, 12, 12), dtype=np.float32), "label": int(i < positive), "set": name} for i in range(n)]


def engine(epoch: int, length: int = 5) -> SimpleNamespace:
    return SimpleNamespace(state=SimpleNamespace(epoch=epoch, iteration=epoch * length, epoch_length=length))


def test_lines_are_scikit_learns_and_nothing_is_left_behind(tmp_path):
    torch.manual_seed(0)
    network, data = TinyNet(), items("internal", 40, 10, 0) + items("far", 30, 15, 1) + items("one class", 8, 8, 2)
    before, state = {key: value.clone() for key, value in network.state_dict().items()}, torch.get_rng_state()
    network.train()
    curves = LearningCurves(str(tmp_path), network, data, curve_images=20, batch_size=7)
    curves(engine(1))
    table = pd.read_csv(tmp_path / "curves.csv").set_index("set")
    assert table[["n_positive", "n_negative"]].values.tolist() == [[10, 10], [10, 10], [8, 0]]
    assert (table["optimizer_steps"] == 5).all()
    network.eval()
    for name in ("internal", "far"):
        chosen = [data[i] for i in curves.chosen[name]]
        with torch.no_grad():
            score = logit_difference(network(torch.stack([torch.as_tensor(item["image"]) for item in chosen])))
        label = [item["label"] for item in chosen]
        assert table.loc[name, "auroc"] == pytest.approx(roc_auc_score(label, score))
        assert table.loc[name, "mean_score"] == pytest.approx(float(score.mean()), abs=1e-6)
    assert math.isnan(table.loc["one class", "auroc"])
    assert equal(before, network.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


def test_images_are_the_same_each_time_and_spread_over_the_set(tmp_path):
    data = items("far", 1000, 500, 0)
    chosen = LearningCurves(str(tmp_path), TinyNet(), data, curve_images=10).chosen["far"]
    assert chosen == [0, 125, 250, 374, 499, 500, 625, 750, 874, 999]
    # Of a single one there is one of each label, or there would be nothing to score.
    assert LearningCurves(str(tmp_path), TinyNet(), data, curve_images=1).chosen["far"] == [0, 500]


def test_a_resumed_training_keeps_completed_epochs_alone(tmp_path):
    network, data = TinyNet(dropout=0), items("far", 10, 5, 0)
    first = LearningCurves(str(tmp_path), network, data, curve_images=10)
    for epoch in (1, 2, 3):
        first(engine(epoch))
    # Killed in epoch 3: the checkpoint is of epoch 2.
    resumed = LearningCurves(str(tmp_path), network, data, curve_images=10)
    resumed(engine(3))
    assert pd.read_csv(tmp_path / "curves.csv")["epoch"].tolist() == [1, 2, 3]
    fresh = LearningCurves(str(tmp_path), network, data, curve_images=10)
    fresh(engine(1))
    assert pd.read_csv(tmp_path / "curves.csv")["epoch"].tolist() == [1]


def test_a_set_called_na_keeps_its_name(tmp_path):
    """As a manifest NA.csv gives it; pandas would take it for a missing value."""
    network, data = TinyNet(dropout=0), items("NA", 10, 5, 0)
    for epoch in (1, 2):
        LearningCurves(str(tmp_path), network, data, curve_images=10)(engine(epoch))
    assert pd.read_csv(tmp_path / "curves.csv", keep_default_na=False)["set"].tolist() == ["NA", "NA"]


def test_a_resumed_trainer_says_late_at_which_epoch_it_goes_on(tmp_path):
    """The order of handlers is the bundle's: curves before checkpoints, which set the epoch when the trainer starts."""

    def training(max_epochs: int, start: int) -> None:
        trainer = Engine(lambda *_: None)
        LearningCurves(str(tmp_path), TinyNet(dropout=0), items("far", 10, 5, 0), curve_images=10).attach(trainer)
        trainer.add_event_handler(Events.STARTED, lambda engine: setattr(engine.state, "epoch", start))
        trainer.run([0, 1], max_epochs=max_epochs)

    training(2, start=0)
    training(4, start=2)
    assert pd.read_csv(tmp_path / "curves.csv")["epoch"].tolist() == [1, 2, 3, 4]


def test_off_and_refused(tmp_path):
    assert LearningCurves(str(tmp_path), TinyNet(), items("far", 4, 2, 0)).chosen == {}
    with pytest.raises(InputError, match="curve_images must be a whole number, zero or more"):
        LearningCurves(str(tmp_path), TinyNet(), [], curve_images=-1)
