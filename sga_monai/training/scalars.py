"""Scalars of a training in TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.compat.proto import event_pb2
from tensorboard.summary.writer.record_writer import RecordWriter

from sga_monai.core.files import write_whole
from sga_monai.sga.engine import SCALARS

# What ``PredictionSaver`` writes at the end, of the weights that are then the best.
FINAL = ("final_auroc/", "results/")


class ScalarWriter:
    """Writes ``train_*`` scalars and ``learning_rate`` each iteration, ``val_*`` each epoch, hyper-parameters once.

    Args:
        summary_writer: a TensorBoard ``SummaryWriter``.
        evaluator: its metrics are written under their own names.
        hyper_parameters: shown as text.
    """

    def __init__(self, summary_writer: Any, evaluator: Engine, hyper_parameters: Mapping[str, Any]) -> None:
        self.writer = summary_writer
        self.evaluator = evaluator
        self.hyper_parameters = dict(hyper_parameters)
        self.resumed = False

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after its ``ValidationHandler``."""
        # Not at the start, where a resume may still be refused.
        engine.add_event_handler(Events.ITERATION_STARTED(once=1), self.start)
        engine.add_event_handler(Events.EPOCH_STARTED, self.forget_what_was_lost, 1)
        # A resume that has no epoch left is tested again.
        engine.add_event_handler(Events.COMPLETED, self.forget_what_was_lost)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)

    def start(self, engine: Engine) -> None:
        """Write the hyper-parameters as a table."""
        rows = "\n".join(f"| {key} | {json.dumps(value)} |" for key, value in self.hyper_parameters.items())
        self.writer.add_text("hyper_parameters", f"| name | value |\n|---|---|\n{rows}")

    def forget_what_was_lost(self, engine: Engine, begun: int = 0) -> None:
        """After a resume, drop what an earlier process wrote beyond its last checkpoint: these steps are made again.

        Args:
            engine: the trainer.
            begun: epochs that have begun and are not complete.
        """
        if not self.resumed:
            self.resumed = True
            if engine.state.iteration:
                # It opens another file when it writes again: all that are there now are finished.
                self.writer.close()
                drop_steps(self.writer.log_dir, engine.state.iteration, engine.state.epoch - begun)

    def write_iteration(self, engine: SupervisedTrainer) -> None:
        """Write the loss terms of one iteration."""
        output: Any = engine.state.output
        for key in SCALARS:
            if key in output:
                self.writer.add_scalar(f"train_{key}", output[key].item(), engine.state.iteration)
        self.writer.add_scalar("learning_rate", engine.optimizer.param_groups[0]["lr"], engine.state.iteration)

    def epoch(self, engine: Engine) -> None:
        """Write the validation metrics of one epoch."""
        if self.evaluator.state.epoch != engine.state.epoch:
            return
        for key, value in self.evaluator.state.metrics.items():
            self.writer.add_scalar(key, float(value), engine.state.epoch)
        self.writer.flush()


def drop_steps(folder: str | Path, iteration: int, epoch: int) -> None:
    """Rewrite the event files of a folder without later steps, and without the results of an earlier end.

    TensorBoard's own ``purge_step`` is one number for all tags, while here some count iterations and some epochs, and not
    every reader heeds it.

    Args:
        folder: of event files, of which none is being written.
        iteration: the last iteration to keep, of the tags written in ``write_iteration``.
        epoch: the last epoch to keep, of all other tags.
    """
    for path in Path(folder).glob("events.out.tfevents.*"):
        records = [record for record in _records(path) if not _is_lost(event_pb2.Event.FromString(record), iteration, epoch)]
        write_whole(path, partial(_write_records, records=records))


def _records(path: Path) -> Iterator[bytes]:
    """The whole records of an event file; a kill may have cut the last one."""
    reader = event_file_loader.RawEventFileLoader(str(path))
    yield from reader.Load()


def _is_lost(event: event_pb2.Event, iteration: int, epoch: int) -> bool:
    tags = [value.tag for value in event.summary.value]
    if any(tag.startswith(FINAL) for tag in tags):
        return True
    counted = any(tag.startswith("train_") or tag == "learning_rate" for tag in tags)
    return bool(tags) and event.step > (iteration if counted else epoch)


def _write_records(path: Path, records: Sequence[bytes]) -> None:
    with path.open("wb") as stream:
        writer = RecordWriter(stream)
        for record in records:
            writer.write(record)
