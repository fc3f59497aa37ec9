"""The learning rate over a training: constant or cosine, with a linear warm-up."""

from __future__ import annotations

import math
from collections.abc import Sized

import torch
from torch.optim.lr_scheduler import LambdaLR

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError

CHOICES = ("constant", "cosine")


def learning_rate_factor(step: int, total: int, warmup: int, lr_schedule: str) -> float:
    """Share of ``learning_rate`` at one optimizer step, from 0.

    Args:
        step: number of the step, from 0.
        total: steps of the whole training.
        warmup: the first steps, over which the rate rises linearly to ``learning_rate``.
        lr_schedule: "constant", or "cosine": half a cosine from 1 after the warm-up to 0 after the last step
            (Loshchilov and Hutter, "SGDR", ICLR 2017, equation 5, without restarts).

    Example:
        >>> [round(learning_rate_factor(step, 10, 2, "cosine"), 3) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.038]
    """
    if step < warmup:
        return (step + 1) / warmup
    if lr_schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min((step - warmup) / max(total - warmup, 1), 1.0)))


def lr_scheduler(
    optimizer: torch.optim.Optimizer, batches: Sized, max_epochs: int, lr_schedule: str = "constant", warmup_epochs: float = 0.0
) -> LambdaLR:
    """The scheduler for MONAI's ``LrScheduleHandler`` with ``epoch_level`` false; one step a mini-batch.

    Args:
        optimizer: its learning rate is the highest one.
        batches: the training data loader, whose length is the number of steps of an epoch.
        max_epochs: epochs of the whole training.
        lr_schedule: "constant" or "cosine".
        warmup_epochs: length of the linear warm-up in epochs, zero or more.

    Raises:
        InputError: when an argument is outside its range, or the warm-up is longer than the training.
    """
    warmup_epochs = check_schedule(max_epochs, lr_schedule, warmup_epochs)
    total, warmup = max_epochs * len(batches), round(warmup_epochs * len(batches))
    return LambdaLR(optimizer, lambda step: learning_rate_factor(step, total, warmup, lr_schedule))


def check_schedule(max_epochs: int, lr_schedule: str, warmup_epochs: float) -> float:
    """``warmup_epochs`` as a number.

    Raises:
        InputError: see ``lr_scheduler``.
    """
    check.choice("lr_schedule", lr_schedule, CHOICES)
    warmup_epochs = check.number("warmup_epochs", warmup_epochs, low=0)
    if warmup_epochs > max_epochs:
        raise InputError(f"warmup_epochs must not be greater than max_epochs, got {warmup_epochs!r}")
    return warmup_epochs
