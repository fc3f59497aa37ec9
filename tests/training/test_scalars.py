"""What TensorBoard shows of a run that was killed inside an epoch, or ended, and resumed: every step once, and one result."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from sga_monai.training.scalars import ScalarWriter, drop_steps

ITERATIONS = 6


class Killed(Exception):
    """Ends a run as a kill does: nothing after it is done."""


def run(folder: Path, completed: int, epochs: int, kill_at: tuple[int, int] | None = None, kill_after_validation: int = 0) -> None:
    """Train in name only, from ``completed`` epochs on, as a resume sets the engine's state."""
    writer = SummaryWriter(str(folder))
    evaluator = Engine(lambda engine, batch: None)

    def update(engine: Engine, batch: int) -> dict[str, torch.Tensor]:
        return {"loss": torch.tensor(float(engine.state.iteration))}

    trainer = Engine(update)
    trainer.optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)

    @trainer.on(Events.STARTED)
    def resume(engine: Engine) -> None:
        engine.state.epoch, engine.state.iteration = completed, completed * ITERATIONS

    @trainer.on(Events.EPOCH_COMPLETED)
    def validate(engine: Engine) -> None:
        evaluator.state.epoch, evaluator.state.metrics = engine.state.epoch, {"val_auroc": 0.5}

    ScalarWriter(writer, evaluator, {"seed": 0}).attach(trainer)

    @trainer.on(Events.ITERATION_COMPLETED)
    def kill(engine: Engine) -> None:
        if kill_at == (engine.state.epoch, (engine.state.iteration - 1) % ITERATIONS + 1):
            raise Killed

    @trainer.on(Events.EPOCH_COMPLETED)
    def kill_before_the_checkpoint(engine: Engine) -> None:
        if engine.state.epoch == kill_after_validation:
            raise Killed

    try:
        trainer.run(range(ITERATIONS), max_epochs=epochs)
    except Killed:
        writer.flush()
        return
    # As PredictionSaver does.
    writer.add_scalar("final_auroc/internal", epochs / 10)
    writer.add_text("results", f"AUROC {epochs / 10}")
    writer.close()


def read(path: Path) -> EventAccumulator:
    events = EventAccumulator(str(path), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    return events


def steps(folder: Path, tag: str) -> list[int]:
    events = read(folder)
    # Files are read in the order of their names, which within one second and one process is that of a number without leading zeros.
    return sorted(event.step for event in events.Scalars(tag))


def steps_of_files(folder: Path) -> list[int]:
    files = [read(path) for path in folder.glob("events*")]
    return sorted(event.step for file in files if "train_loss" in file.Tags()["scalars"] for event in file.Scalars("train_loss"))


def test_no_step_is_there_twice_after_kills_and_resumes(tmp_path):
    run(tmp_path, 0, 5, kill_at=(3, 4))
    assert steps(tmp_path, "train_loss")[-1] == 16
    run(tmp_path, 2, 5, kill_after_validation=3)
    run(tmp_path, 2, 5, kill_at=(5, 1))
    run(tmp_path, 4, 5)
    for tag in ("train_loss", "learning_rate"):
        assert steps(tmp_path, tag) == list(range(1, 5 * ITERATIONS + 1))
    assert steps(tmp_path, "val_auroc") == [1, 2, 3, 4, 5]
    # Also file by file, for readers that take them one at a time; and the text of the hyper-parameters is kept.
    assert steps_of_files(tmp_path) == list(range(1, 5 * ITERATIONS + 1))
    assert "hyper_parameters/text_summary" in read(tmp_path).Tags()["tensors"]


def test_no_step_is_there_twice_though_the_clock_was_set_back(tmp_path):
    run(tmp_path, 0, 2)
    (earlier,) = tmp_path.glob("events*")
    os.utime(earlier, (4e9, 4e9))
    run(tmp_path, 1, 3)
    assert steps_of_files(tmp_path) == list(range(1, 3 * ITERATIONS + 1))


@pytest.mark.parametrize("epochs", [2, 4])
def test_a_run_that_goes_on_after_its_end_shows_the_results_of_its_last_end(tmp_path, epochs):
    """Also where no epoch is left, and only the test is repeated."""
    run(tmp_path, 0, 2)
    run(tmp_path, 2, epochs)
    events = read(tmp_path)
    assert [event.value for event in events.Scalars("final_auroc/internal")] == pytest.approx([epochs / 10])
    assert len(events.Tensors("results/text_summary")) == 1
    assert steps_of_files(tmp_path) == list(range(1, epochs * ITERATIONS + 1))


def test_a_run_that_was_not_resumed_is_not_touched(tmp_path):
    run(tmp_path, 0, 2)
    (path,) = tmp_path.glob("events*")
    before = path.read_bytes()
    run(tmp_path, 0, 1)
    assert path.read_bytes() == before


def test_a_file_that_a_kill_has_cut_keeps_its_whole_records(tmp_path):
    run(tmp_path, 0, 2)
    (path,) = tmp_path.glob("events*")
    path.write_bytes(path.read_bytes()[:-7])
    drop_steps(tmp_path, 3, 0)
    assert steps(tmp_path, "train_loss") == [1, 2, 3]


def test_an_epoch_without_a_validation_of_its_own_has_no_value():
    evaluator, trainer, written = Engine(lambda *_: None), Engine(lambda *_: None), []
    writer = SimpleNamespace(add_scalar=lambda tag, _value, step: written.append((tag, step)), flush=lambda: None)
    evaluator.state.metrics = {"val_auroc": 0.5}
    for evaluator.state.epoch, trainer.state.epoch in ((2, 2), (2, 3), (4, 4)):
        ScalarWriter(writer, evaluator, {}).epoch(trainer)
    assert written == [("val_auroc", 2), ("val_auroc", 4)]
