"""Scalars of a training in TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.utils.enums import CommonKeys as Keys

SCALARS = (str(Keys.LOSS.value), "ce_loss", "kl_loss", "epsilon", "adversarial_accuracy")


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

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after its ``ValidationHandler``."""
        # Not at the start, where a resume may still be refused.
        engine.add_event_handler(Events.ITERATION_STARTED(once=1), self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)

    def start(self, engine: Engine) -> None:
        """Write the hyper-parameters as a table."""
        rows = "\n".join(f"| {key} | {json.dumps(value)} |" for key, value in self.hyper_parameters.items())
        self.writer.add_text("hyper_parameters", f"| name | value |\n|---|---|\n{rows}")

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
