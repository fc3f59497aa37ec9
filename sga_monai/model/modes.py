"""Forward passes that leave no trace in BatchNorm and dropout."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn


@contextlib.contextmanager
def frozen_statistics(network: nn.Module, attack_mode: str = "eval") -> Iterator[None]:
    """Put ``network`` in ``attack_mode`` so that a forward pass leaves no trace; restore every module's mode after.

    "eval" uses the running statistics of BatchNorm, "train" those of the batch without updating the running ones, and
    draws dropout from a copy of the random state.
    """
    training = {module: module.training for module in network.modules()}
    tracking = {module: bool(module.track_running_stats) for module in training if hasattr(module, "track_running_stats")}
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    devices = [device] if device.type == "cuda" else []
    try:
        network.train(attack_mode == "train")
        if attack_mode == "train":
            # BatchNorm in train mode without tracking normalizes by the batch and leaves its buffers alone.
            for module in tracking:
                setattr(module, "track_running_stats", False)  # noqa: B010
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for module, track in tracking.items():
            setattr(module, "track_running_stats", track)  # noqa: B010
