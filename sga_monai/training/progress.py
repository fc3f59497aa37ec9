"""A progress bar on a terminal, one log line an epoch everywhere, and two warnings at the end."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.utils.enums import CommonKeys as Keys
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)


# With fewer steps than this results are preliminary, and a mean score this far from the prior means badly calibrated probabilities.
FEW_STEPS, FAR_LOGITS = 500, 2.0


def optimizer_steps(engine: Any) -> int:
    """Optimizer steps of a trainer so far, with those that float16 left out; the end of an epoch closes an accumulated step."""
    return _steps(engine, engine.state.iteration, engine.state.epoch_length) + getattr(engine.state, "more_steps", 0)


def count_on(engine: Any, epoch: int, iteration: int, optimizer_steps: int | None = None) -> None:
    """Let ``optimizer_steps`` of a resumed trainer go on from what was made, also where a forced resume changed an epoch's length.

    Args:
        engine: at the iteration at which it goes on.
        epoch: completed before the resume.
        iteration: made before the resume.
        optimizer_steps: made before the resume; from the iterations where the checkpoint is older than this count.
    """
    made = _steps(engine, iteration, iteration // max(epoch, 1)) if optimizer_steps is None else optimizer_steps
    # More than the completed epochs would have at their present length.
    engine.state.more_steps = made - _steps(engine, engine.state.iteration, engine.state.epoch_length)


def _steps(engine: Any, iteration: int, epoch_length: int | None) -> int:
    length, accumulation = epoch_length or iteration or 1, getattr(engine, "accumulation_steps", 1)
    epochs, rest = divmod(iteration, length)
    return int(epochs * -(-length // accumulation) + rest // accumulation)


class TrainingProgress:
    """A bar with the time left on a terminal, and one log line an epoch everywhere.

    At the end it says so when the training had fewer than 500 optimizer steps, or when the best model's mean validation score is
    more than 2 away from the logit of the training images' prevalence: probabilities are then far off, however good the ranking.

    Args:
        evaluator: its metric ``val_auroc`` is shown, and ``val_mean_score`` of its best epoch kept as ``state.best_mean_score``.
        dataset: the training data, whose labels give the prevalence.
    """

    def __init__(self, evaluator: Engine, dataset: Sequence[Mapping[str, Any]] = ()) -> None:
        self.evaluator = evaluator
        positive = sum(int(item[Keys.LABEL]) for item in dataset)
        self.prior = math.log(positive / (len(dataset) - positive)) if 0 < positive < len(dataset) else math.nan
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
        self.bar.update(self.task, completed=engine.state.iteration, description=f"epoch {engine.state.epoch}/{engine.state.max_epochs}")

    def epoch(self, engine: Engine) -> None:
        """Log the epoch's means and its validation AUROC."""
        means = " ".join(f"{key} {sum(values) / len(values):.4f}" for key, values in self.sums.items())
        state: Any = self.evaluator.state
        validated = state.epoch == engine.state.epoch
        metric = state.metrics.get("val_auroc", math.nan) if validated else math.nan
        if validated and state.best_metric_epoch == engine.state.epoch:
            state.best_mean_score = float(state.metrics.get("val_mean_score", math.nan))
        seconds, steps = time.monotonic() - self.began, optimizer_steps(engine)
        place = (engine.state.epoch, engine.state.max_epochs, steps)
        logger.info("epoch %d/%d optimizer_steps %d %s val_auroc %.4f (%.0f s)", *place, means, metric, seconds)
        self.sums.clear()

    def stop(self, engine: Engine) -> None:
        """Close the bar; say what the reader of the results should know."""
        self.bar.stop()
        steps = optimizer_steps(engine)
        if steps < FEW_STEPS:
            logger.warning("only %d optimizer steps (the paper: about 1,700): the results are preliminary; raise max_epochs", steps)
        mean = getattr(self.evaluator.state, "best_mean_score", math.nan)
        if abs(mean - self.prior) > FAR_LOGITS:
            text = "the best model's mean score is %+.1f, the training prevalence's logit %+.1f: its probabilities are not calibrated"
            logger.warning(text + "; see batch_norm, and the temperature option of sga-monai package", mean, self.prior)

    def fail(self, engine: Engine, error: BaseException) -> None:
        """Close the bar and pass the error on."""
        self.bar.stop()
        raise error
