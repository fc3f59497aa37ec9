"""Reasons to stop a training before its last epoch: no better validation AUROC, or robust overfitting."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys
from torch import nn

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.model.modes import device_of, frozen_statistics
from sga_monai.sga.iteration import SGAIteration

logger = logging.getLogger(__name__)


class EarlyStopping:
    """Stops when ``val_auroc`` has not been better for ``patience`` validations. NaN is never better.

    Args:
        evaluator: whose metric is watched.
        patience: number of validations; 0 never stops.
    """

    def __init__(self, evaluator: Engine, patience: int = 0) -> None:
        self.evaluator = evaluator
        self.patience = check.whole("early_stopping_patience", patience, low=0)
        self.best = -math.inf
        self.waited = 0

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after the ``ValidationHandler`` and before ``Checkpoints``."""
        if self.patience:
            engine.add_event_handler(Events.EPOCH_STARTED, self.check)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.watch)

    def check(self, engine: Engine) -> None:
        """End a run that was resumed after it had stopped."""
        if self.waited >= self.patience:
            logger.info("stopped before: val_auroc had not been better for %d validations", self.waited)
            engine.terminate()

    def watch(self, engine: Engine) -> None:
        """Count one validation."""
        if self.evaluator.state.epoch != engine.state.epoch:
            return
        value = float(self.evaluator.state.metrics["val_auroc"])
        if value > self.best:
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            logger.info("stopped: val_auroc has not been better for %d validations", self.waited)
            engine.terminate()

    def state_dict(self) -> dict[str, Any]:
        """Best value and validations waited."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The inverse."""
        self.best, self.waited = state_dict["best"], state_dict["waited"]


class RobustOverfitting:
    """Accuracy on validation images under PGD, every ``interval`` epochs; stops when it has fallen by ``drop``.

    Adversarially trained networks lose robustness on new images while they still gain it on those of the training
    (Rice et al., "Overfitting in adversarially robust deep learning", ICML 2020). The attack is the training's own at
    the upper end of ``epsilon_range``, with ten steps and no random start, in eval mode.

    Args:
        iteration: the training step whose norm and ``epsilon_range`` are used.
        network: the trained network; it is left as it was.
        dataset: validation dataset.
        interval: epochs between two measurements; 0 never measures.
        drop: fall of the accuracy from its best that ends the training, in (0, 1]; ``None`` only measures.
        batch_size: images at once.
        summary_writer: TensorBoard writer of ``val_pgd_accuracy``.
        evaluator: of the validation; before it has chosen a first model nothing is stopped.

    Raises:
        InputError: when a number is out of range, or there is a ``drop`` and no ``interval``.
    """

    def __init__(
        self,
        iteration: SGAIteration,
        network: nn.Module,
        dataset: Sequence[Mapping[str, Any]],
        interval: int = 0,
        drop: float | None = None,
        batch_size: int = 64,
        summary_writer: Any = None,
        evaluator: Engine | None = None,
    ) -> None:
        self.interval = check_robust(interval, drop)
        self.iteration = iteration
        self.network = network
        self.dataset = dataset
        self.drop = drop
        self.batch_size = batch_size
        self.writer = summary_writer
        self.evaluator = evaluator
        self.best = self.last = -math.inf
        self.stopped = False

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, before ``Checkpoints``."""
        if self.interval:
            engine.add_event_handler(Events.EPOCH_STARTED, self.check)
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self.measure)

    def check(self, engine: Engine) -> None:
        """End a run that was resumed after it had stopped."""
        # A forced resume may have another drop, or none.
        self.stopped = self.stopped and self._fell_too_far()
        if self.stopped:
            logger.info("stopped before: val_pgd_accuracy had fallen from %.4f by robust_drop or more", self.best)
            engine.terminate()

    def measure(self, engine: Engine) -> None:
        """Measure, log, and stop when the accuracy has fallen too far."""
        value = self.accuracy()
        logger.info("epoch %d val_pgd_accuracy %.4f", engine.state.epoch, value)
        if self.writer is not None:
            self.writer.add_scalar("val_pgd_accuracy", value, engine.state.epoch)
        self.best, self.last = max(self.best, value), value
        state: Any = None if self.evaluator is None else self.evaluator.state
        has_model = state is None or state.best_metric_epoch > 0
        if has_model and self._fell_too_far():
            self.stopped = True
            logger.info("stopped: val_pgd_accuracy fell from %.4f to %.4f", self.best, value)
            engine.terminate()

    def _fell_too_far(self) -> bool:
        # Accuracies are shares of counts, whose difference may miss the drop by its last bit.
        return self.drop is not None and self.best - self.last >= self.drop - 1e-9

    def accuracy(self) -> float:
        """Share of validation images that are right under attack; the same in all processes, of which none may go on alone."""
        device = device_of(self.network)
        right = 0
        attack = self.iteration.attack.strongest()
        for first in range(0, len(self.dataset), self.batch_size):
            items = [self.dataset[i] for i in range(first, min(first + self.batch_size, len(self.dataset)))]
            image = torch.stack([torch.as_tensor(item[Keys.IMAGE]) for item in items]).to(device)
            label = torch.tensor([int(item[Keys.LABEL]) for item in items], device=device)
            with frozen_statistics(self.network):
                attacked = attack(self.network, image, label, attack.draw(image), self.iteration.domain)
                with torch.no_grad():
                    right += int((self.network(attacked).argmax(dim=1) == label).sum())
        # Each has counted, and GPUs may differ in the last bits.
        shared: Any = idist.broadcast(right)
        return float(shared) / len(self.dataset)

    def state_dict(self) -> dict[str, Any]:
        """Best and last accuracy, and whether the run was stopped."""
        return {"best": self.best, "last": self.last, "stopped": self.stopped}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The inverse."""
        self.best, self.stopped = state_dict["best"], state_dict["stopped"]
        # Older checkpoints do not say how far it fell.
        self.last = state_dict.get("last", -math.inf)


def check_robust(interval: int, drop: float | None) -> int:
    """``interval`` as a whole number.

    Raises:
        InputError: see ``RobustOverfitting``.
    """
    if drop is not None:
        check.number("robust_drop", drop, above=0, high=1)
    interval = check.whole("robust_interval", interval, low=0)
    if drop is not None and not interval:
        raise InputError("robust_drop needs a robust_interval of 1 or more, or it is never measured")
    return interval
