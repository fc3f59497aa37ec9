"""A progress bar on a terminal, and one log line an epoch everywhere."""

from __future__ import annotations

import logging
import math
import sys
import time
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.utils.enums import CommonKeys as Keys
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)


class TrainingProgress:
    """A bar with the time left on a terminal, and one log line an epoch everywhere.

    Args:
        evaluator: its metric ``val_auroc`` is shown.
    """

    def __init__(self, evaluator: Engine) -> None:
        self.evaluator = evaluator
        self.sums: dict[str, list[float]] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after its ``ValidationHandler``."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)
        engine.add_event_handler(Events.COMPLETED, self.stop)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def start(self, engine: SupervisedTrainer) -> None:
        """Open the bar."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, transient=True, disable=not sys.stdout.isatty())
        self.task = self.bar.add_task("training", total=(engine.state.max_epochs or 0) * (engine.state.epoch_length or 0))
        self.began = time.monotonic()
        self.bar.start()

    def step(self, engine: Engine) -> None:
        """Advance by one iteration."""
        output: Any = engine.state.output
        for key in (Keys.LOSS, "ce_loss", "kl_loss", "adversarial_accuracy"):
            if key in output:
                self.sums.setdefault(str(key), []).append(output[key].item())
        self.bar.update(self.task, advance=1, description=f"epoch {engine.state.epoch}/{engine.state.max_epochs}")

    def epoch(self, engine: Engine) -> None:
        """Log the epoch's means and its validation AUROC."""
        means = " ".join(f"{key} {sum(values) / len(values):.4f}" for key, values in self.sums.items())
        validated = self.evaluator.state.epoch == engine.state.epoch
        metric = self.evaluator.state.metrics.get("val_auroc", math.nan) if validated else math.nan
        seconds = time.monotonic() - self.began
        logger.info("epoch %d/%d %s val_auroc %.4f (%.0f s)", engine.state.epoch, engine.state.max_epochs, means, metric, seconds)
        self.sums.clear()

    def stop(self, engine: Engine) -> None:
        """Close the bar."""
        self.bar.stop()

    def fail(self, engine: Engine, error: BaseException) -> None:
        """Close the bar and pass the error on."""
        self.bar.stop()
        raise error
