"""The one scoring loop against scores by hand, and against MONAI's evaluator with ``PredictionSaver``."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TinyNet
from ignite.engine import Engine
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from torch import nn

from sga_monai.core.errors import NumericError
from sga_monai.data.datalist import load_manifest
from sga_monai.data.dataset import CXRDataset
from sga_monai.data.transforms import preprocessing
from sga_monai.evaluation.predictions import FEATURES, SCORED
from sga_monai.evaluation.saver import PredictionSaver
from sga_monai.evaluation.scoring import Control, score_dataset
from sga_monai.model.networks import build_network
from sga_monai.model.preparation import Preparation
from sga_monai.model.scores import MeanScore

SIZE = 16


class MeanOf(nn.Module):
    """Logit 1 is the mean of the image, logit 0 is zero; no parameter and no last layer."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        score = image.flatten(1).mean(dim=1)
        return torch.stack([torch.zeros_like(score), score], dim=1)


def rows(count: int = 7) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 1, SIZE, SIZE, generator=generator)
    return [{"image": images[i], "label": i % 2, "patient": f"p{i // 2}", "row": i + 2, "set": "site"} for i in range(count)]


def test_scores_and_features_by_hand():
    items = rows()
    scored = score_dataset(MeanOf(), items, batch_size=3)
    assert tuple(scored.predictions) == SCORED
    assert scored.features.shape == (7, 0)
    means = np.array([float(item["image"].mean()) for item in items])
    assert scored.predictions["score"].to_numpy() == pytest.approx(means, abs=1e-6)
    assert scored.predictions["probability"].to_numpy() == pytest.approx(1 / (1 + np.exp(-means)), abs=1e-6)
    assert scored.predictions["image_mean"].to_numpy() == pytest.approx(means, abs=1e-6)
    dark = [float((item["image"] < 0.05).double().mean()) for item in items]
    assert scored.predictions[FEATURES[2]].tolist() == dark
    for key in ("set", "row", "patient", "label"):
        assert scored.predictions[key].tolist() == [item[key] for item in items]
    warm = score_dataset(MeanOf(), items, batch_size=3, temperature=2.5).predictions
    assert warm["probability"].to_numpy() == pytest.approx(1 / (1 + np.exp(-means / 2.5)), abs=1e-6)
    assert warm["score"].equals(scored.predictions["score"])


def test_features_are_of_the_images_as_they_are():
    torch.manual_seed(0)
    network, items = TinyNet().eval(), rows()
    controls = [Control("dark", lambda image: image * 0), Control("masked", lambda image, lung: image * lung, needs_lung=True)]
    mask = torch.arange(SIZE).expand(1, SIZE, SIZE) > 3
    scored = score_dataset(network, items, 4, controls, lambda row: mask if row % 2 else None)
    with torch.no_grad():
        image = torch.stack([item["image"] for item in items])
        expected = torch.relu(network.norm(network.conv(image))).mean((2, 3))
        dark, masked = (network(changed).diff(dim=1)[:, 0].numpy() for changed in (image * 0, image * mask))
    assert scored.features == pytest.approx(expected.numpy(), abs=1e-6)
    assert scored.predictions["score_dark"].to_numpy() == pytest.approx(dark, abs=1e-6)
    assert scored.predictions["score_masked"].to_numpy()[1::2] == pytest.approx(masked[1::2], abs=1e-6)


def test_controls_see_the_image_and_its_mask_or_are_missing():
    items = rows()
    mask = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    mask[:, :4] = True
    seen: list[tuple[int, ...]] = []

    def only(image: torch.Tensor, lung: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(lung.shape))
        return image * lung

    controls = (Control("half", lambda image: image / 2), Control("only", only, needs_lung=True))
    scored = score_dataset(MeanOf(), items, 4, controls, lambda row: mask if row % 2 else None).predictions
    assert list(scored)[6:8] == ["score_half", "score_only"]
    assert scored["score_half"].to_numpy() == pytest.approx(scored["score"].to_numpy() / 2, abs=1e-7)
    has_mask = np.array([item["row"] % 2 == 1 for item in items])
    assert scored["score_only"].isna().tolist() == (~has_mask).tolist()
    expected = [float((item["image"] * mask).mean()) for item, known in zip(items, has_mask, strict=True) if known]
    assert scored.loc[has_mask, "score_only"].to_numpy() == pytest.approx(np.array(expected), abs=1e-6)
    # Images without a mask are not given to the network at all.
    assert seen == [(2, 1, SIZE, SIZE), (1, 1, SIZE, SIZE)]
    none = score_dataset(MeanOf(), items, 4, controls, lambda row: None).predictions
    assert none["score_only"].isna().all()
    assert none["score_half"].tolist() == scored["score_half"].tolist()
    without = score_dataset(MeanOf(), items, 4, controls).predictions
    assert without["score_only"].isna().all()


def test_the_network_is_left_as_it_was():
    network = TinyNet(dropout=0.5)
    network.train()
    network.norm.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state = torch.random.get_rng_state()
    first = score_dataset(network, rows(), 4)
    second = score_dataset(network, rows(), 4)
    assert torch.equal(torch.random.get_rng_state(), state)
    pd.testing.assert_frame_equal(first.predictions, second.predictions)
    assert first.features.shape == (7, 4)
    assert [network.training, network.dropout.training, network.norm.training] == [True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not network.fc._forward_pre_hooks


def test_a_score_that_is_not_finite_is_an_error():
    items = rows()
    items[3]["image"] = torch.full((1, SIZE, SIZE), float("nan"))
    with pytest.raises(NumericError, match="NaN or infinite"):
        score_dataset(MeanOf(), items)


def test_the_mean_score_is_of_images_and_not_of_mini_batches():
    engine, rng = Engine(lambda _, batch: {"pred": batch}), np.random.default_rng(0)
    MeanScore().attach(engine, "val_mean_score")
    logits = torch.tensor(rng.normal(size=(7, 2)))
    found = engine.run([logits[:4], logits[4:6], logits[6:]]).metrics["val_mean_score"]
    assert found == pytest.approx(float((logits[:, 1] - logits[:, 0]).mean()))


def test_the_loop_and_the_evaluators_handler_write_the_same(phantom_dir, tmp_path):
    torch.manual_seed(0)
    network = build_network("resnet18").eval()
    items = load_manifest(phantom_dir / "harbor.csv", phantom_dir)[:10]
    dataset = CXRDataset(items, preprocessing(Preparation(32)))
    loader = DataLoader(dataset, batch_size=4)
    handlers = [PredictionSaver(str(tmp_path), dataset)]
    SupervisedEvaluator(device=torch.device("cpu"), val_data_loader=loader, network=network, val_handlers=handlers, decollate=False).run()
    scored = score_dataset(network, dataset, 4).predictions
    scored.to_csv(tmp_path / "loop.csv", index=False)
    written, looped = (pd.read_csv(tmp_path / name) for name in ("predictions.csv", "loop.csv"))
    pd.testing.assert_frame_equal(written[list(SCORED)], looped[list(SCORED)], check_exact=True)
