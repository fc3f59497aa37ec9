"""Device, memory format, precision and modes of a network: forward passes that leave no trace, BatchNorm statistics estimated anew."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
MEMORY_FORMATS = {"contiguous_format": torch.contiguous_format, "channels_last": torch.channels_last}


def to_device(network: nn.Module, device: torch.device | str, memory_format: str = "contiguous_format") -> nn.Module:
    """``network`` on ``device`` with its weights in ``memory_format``: "contiguous_format", or "channels_last", which is faster.

    Raises:
        InputError: when it is no device, or this machine has no such device.
    """
    chosen = check.choice("memory_format", memory_format, MEMORY_FORMATS)
    try:
        kind = torch.device(device).type
    except (RuntimeError, TypeError):
        raise InputError(f"device must be one of torch, as cpu, cuda or cuda:1, got {device!r}") from None
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError("device: this machine has no CUDA device; leave --device out")
    return network.to(device=device, memory_format=MEMORY_FORMATS[chosen])  # type: ignore[call-overload]


def default_device() -> torch.device:
    """The GPU where there is one, otherwise the CPU: as ``train.json`` chooses."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_of(network: nn.Module) -> torch.device:
    """Where the weights of ``network`` are; the CPU where it has none."""
    return next((parameter.device for parameter in network.parameters()), torch.device("cpu"))


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Forward passes inside in ``precision``: "fp32" as they are, "bf16" and "fp16" by torch's autocast."""
    dtype = PRECISIONS[check.choice("precision", precision, PRECISIONS)]
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


@contextlib.contextmanager
def frozen_statistics(network: nn.Module, attack_mode: str = "eval") -> Iterator[None]:
    """Put ``network`` in ``attack_mode`` so that a forward pass leaves no trace; restore every module's mode after.

    "eval" uses the running statistics of BatchNorm, "train" those of the batch without updating the running ones, and
    draws dropout from a copy of the random state.
    """
    training = {module: module.training for module in network.modules()}
    tracking = {module: bool(module.track_running_stats) for module in training if hasattr(module, "track_running_stats")}
    device = device_of(network)
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


@contextlib.contextmanager
def untracked_statistics(network: nn.Module) -> Iterator[None]:
    """Let forward passes in train mode normalize by the batch, as always, but leave the running statistics alone."""
    tracking = {module: module.track_running_stats for module in norms(network)}
    try:
        for module in tracking:
            module.track_running_stats = False
        yield
    finally:
        for module, track in tracking.items():
            module.track_running_stats = track


def recalibrate(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Estimate the running statistics of all normalization layers anew from ``batches``; weights do not change.

    Mean and variance of each batch, averaged over the batches with equal weights (precise BatchNorm; Wu and Johnson,
    "Rethinking 'Batch' in BatchNorm", arXiv:2105.07576, section 3). Statistics that were averaged while the weights still moved
    belong to earlier weights. Dropout and other layers are in eval mode meanwhile; every mode is restored.

    Args:
        network: with or without normalization layers that have running statistics; without any nothing happens.
        batches: images ``[B, C, H, W]`` on the network's device, of equal numbers.

    Raises:
        ValueError: without a batch, which would leave mean 0 and variance 1.

    Example:
        >>> network = nn.BatchNorm2d(1)
        >>> recalibrate(network, [torch.full((4, 1, 2, 2), 3.0)])
        >>> network.running_mean
        tensor([3.])
    """
    layers = [layer for layer in norms(network) if layer.track_running_stats]
    if not layers:
        return
    modes = {module: module.training for module in network.modules()}
    momenta = {layer: layer.momentum for layer in layers}
    try:
        network.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.train()
            # A cumulative average instead of an exponential one.
            layer.momentum = None
        seen = 0
        with torch.no_grad():
            for images in batches:
                network(images)
                seen += len(images)
        if not seen:
            raise ValueError("BatchNorm's statistics need at least one batch of images")
    finally:
        for layer, momentum in momenta.items():
            layer.momentum = momentum
        for module, mode in modes.items():
            module.training = mode


def norms(network: nn.Module) -> list[_NormBase]:
    """The layers that may hold running statistics."""
    return [module for module in network.modules() if isinstance(module, _NormBase)]
