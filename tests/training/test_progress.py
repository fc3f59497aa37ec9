"""What is said at the end of a training, and the optimizer steps that are counted, also over a resume."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from conftest import TinyNet, iteration, train
from conftest import batches as mini_batches
from ignite.engine import Engine, Events

from sga_monai.training.checkpoint import Checkpoints, load_checkpoint, save_checkpoint
from sga_monai.training.progress import TrainingProgress, optimizer_steps

TRAINING = 8 * [{"label": 1}] + 3 * [{"label": 0}]


def validated(folder: Path, means: list[float], resume: bool = False) -> Engine:
    """Train in name only: the first epoch is the best, and ``means`` are the mean scores of all. Returns the evaluator."""
    network, evaluator, trainer = TinyNet(), Engine(lambda *_: None), Engine(lambda *_: {"loss": torch.zeros(())})
    progress = TrainingProgress(evaluator, TRAINING)

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        state = evaluator.state
        state.epoch, state.best_metric, state.best_metric_epoch = engine.state.epoch, 0.8, 1
        state.metrics = {"val_auroc": 0.9 - 0.1 * engine.state.epoch, "val_mean_score": means[engine.state.epoch - 1]}

    progress.attach(trainer)
    Checkpoints(str(folder), network, torch.optim.SGD(network.parameters()), {}, evaluator, {}, resume).attach(trainer)
    trainer.run([0], max_epochs=len(means))
    return evaluator


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.parametrize(("means", "warned"), [([4.15, 2.2], True), ([0.9, 3.2], False)])
def test_the_warning_of_probabilities_is_about_the_model_that_is_kept(tmp_path, caplog, means, warned, resumed):
    with caplog.at_level(logging.WARNING):
        if resumed:
            validated(tmp_path, means[:1])
            caplog.clear()
        validated(tmp_path, means, resumed)
    assert ("its probabilities are not calibrated" in caplog.text) == warned


def test_a_checkpoint_from_before_the_mean_score_was_kept_is_resumed(tmp_path, caplog):
    validated(tmp_path, [4.15])
    state = load_checkpoint(tmp_path / "checkpoints")
    assert state["evaluator"].pop("best_mean_score") == 4.15
    save_checkpoint(tmp_path / "checkpoints", 1, state)
    caplog.clear()
    assert not hasattr(validated(tmp_path, [4.15, 2.2], resume=True).state, "best_mean_score")
    assert "not calibrated" not in caplog.text


@pytest.mark.parametrize(("n", "accumulation", "epochs", "steps"), [(3, 1, 2, 6), (3, 2, 2, 4), (4, 4, 3, 3)])
def test_optimizer_steps_count_accumulated_ones_once(n, accumulation, epochs, steps):
    trainer = train(TinyNet(), iteration(kl_weight=0), mini_batches(n), epochs=epochs, accumulation_steps=accumulation)
    assert optimizer_steps(trainer) == steps


@pytest.mark.parametrize("has_count", [True, False])
def test_a_forced_resume_with_other_mini_batches_counts_the_steps_that_were_made(tmp_path, has_count):
    """Also from a checkpoint that is older than the count, and over a second resume."""

    def run(length: int, epochs: int, resume: bool) -> int:
        network = TinyNet()
        optimizer = torch.optim.SGD(network.parameters())
        trainer = Engine(lambda *_: None)
        Checkpoints(str(tmp_path), network, optimizer, {}, None, {"settings": {"n": length}}, resume, resume).attach(trainer)
        trainer.run(list(range(length)), max_epochs=epochs)
        return optimizer_steps(trainer)

    assert run(2, 3, resume=False) == 6
    if not has_count:
        state = load_checkpoint(tmp_path / "checkpoints")
        del state["trainer"]["optimizer_steps"]
        save_checkpoint(tmp_path / "checkpoints", 3, state)
    assert run(10, 4, resume=True) == 6 + 10
    assert run(10, 5, resume=True) == 6 + 10 + 10
