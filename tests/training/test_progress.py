"""What is said at the end of a training, and the optimizer steps that are counted, also over a resume."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import TinyNet, iteration, train
from conftest import batches as mini_batches
from ignite.engine import Engine, Events

from sga_monai.training.checkpoint import Checkpoints, load_checkpoint, save_checkpoint
from sga_monai.training.progress import TrainingProgress, count_on, optimizer_steps

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
@pytest.mark.parametrize(("means", "warned"), [([4.15, 2.2], True), ([-1.2, 0.9], True), ([0.9, 3.2], False)])
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


def test_accumulated_steps_are_counted_inside_an_epoch_and_of_an_older_checkpoint():
    """Three mini-batches an epoch are one step of two and one of one."""
    engine = SimpleNamespace(accumulation_steps=2, state=SimpleNamespace(iteration=0, epoch_length=3))
    counts = []
    for engine.state.iteration in range(8):
        counts.append(optimizer_steps(engine))
    assert counts == [0, 0, 1, 2, 2, 3, 4, 4]
    # Three such epochs, before mini-batches were made smaller: ten an epoch.
    engine.state.iteration, engine.state.epoch_length = 30, 10
    count_on(engine, epoch=3, iteration=9)
    assert optimizer_steps(engine) == 6
    engine.state.iteration = 40
    assert optimizer_steps(engine) == 6 + 5


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


def test_an_epochs_line_has_the_means_of_that_epoch_alone(caplog):
    evaluator, losses = Engine(lambda *_: None), iter([1.0, 3.0, 10.0, 20.0])
    trainer = Engine(lambda *_: {"loss": torch.tensor(next(losses))})

    @trainer.on(Events.EPOCH_COMPLETED(once=1))
    def validate(engine: Engine) -> None:
        state = evaluator.state
        state.epoch, state.best_metric_epoch, state.metrics = 1, 1, {"val_auroc": 0.625, "val_mean_score": 0.5}

    TrainingProgress(evaluator, TRAINING).attach(trainer)
    with caplog.at_level(logging.INFO):
        trainer.run([0, 1], max_epochs=2)
    assert "epoch 1/2 optimizer_steps 2 loss 2.0000 val_auroc 0.6250 (" in caplog.text
    # Epochs that are not validated have no AUROC, and not that of an earlier one.
    assert "epoch 2/2 optimizer_steps 4 loss 15.0000 val_auroc nan (" in caplog.text
    assert "only 4 optimizer steps" in caplog.text


@pytest.mark.parametrize(("steps", "few"), [(499, True), (500, False)])
def test_few_steps_are_said(caplog, steps, few):
    trainer = Engine(lambda *_: {"loss": torch.zeros(())})
    TrainingProgress(Engine(lambda *_: None)).attach(trainer)
    trainer.run(range(steps), max_epochs=1)
    assert ("the results are preliminary" in caplog.text) == few
