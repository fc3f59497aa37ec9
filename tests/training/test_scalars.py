"""What TensorBoard shows of a run that was killed inside an epoch and resumed: every step once, in order."""

from __future__ import annotations

from pathlib import Path

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
    writer.close()


def steps(folder: Path, tag: str) -> list[int]:
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    # Files are read in the order of their names, which within one second and one process is that of a number without leading zeros.
    return sorted(event.step for event in events.Scalars(tag))


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
    seen: list[int] = []
    for path in sorted(tmp_path.glob("events*"), key=lambda path: path.stat().st_mtime_ns):
        events = EventAccumulator(str(path))
        events.Reload()
        seen += [event.step for event in events.Scalars("train_loss")] if "train_loss" in events.Tags()["scalars"] else []
    assert sorted(seen) == list(range(1, 5 * ITERATIONS + 1))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert "hyper_parameters/text_summary" in events.Tags()["tensors"]


def test_a_run_that_was_not_resumed_is_not_touched(tmp_path):
    run(tmp_path, 0, 2)
    (path,) = tmp_path.glob("events*")
    before = path.read_bytes()
    drop_steps(tmp_path, 1, 0)
    assert path.read_bytes() == before


def test_a_file_that_a_kill_has_cut_keeps_its_whole_records(tmp_path):
    run(tmp_path, 0, 2)
    (path,) = tmp_path.glob("events*")
    path.write_bytes(path.read_bytes()[:-7])
    SummaryWriter(str(tmp_path)).close()
    drop_steps(tmp_path, 3, 0)
    assert steps(tmp_path, "train_loss") == [1, 2, 3]
