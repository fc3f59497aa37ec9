"""A network's features before its last layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sga_monai.core.errors import InputError


class FeatureRecorder:
    """Sees the input of a network's last layer at every forward pass between ``start`` and ``finish``.

    Args:
        network: with a last layer ``fc``.

    Raises:
        InputError: when it has none.
    """

    def __init__(self, network: nn.Module) -> None:
        last = getattr(network, "fc", None)
        if not isinstance(last, nn.Module):
            raise InputError("the network has no last layer fc, so it has no features to compare")
        self.last = last
        self.handle: RemovableHandle | None = None

    def start(self) -> None:
        """Begin anew."""
        self.finish()
        self.seen: list[Tensor] = []
        self.kept: list[Tensor] = []
        self.handle = self.last.register_forward_pre_hook(lambda _, inputs: self.seen.append(inputs[0].detach()))

    def keep(self, chosen: Sequence[bool] | None = None) -> None:
        """Keep the features of the chosen images of the last mini-batch; all when ``None``."""
        features = self.seen[-1].float().cpu()
        self.kept.append(features if chosen is None else features[torch.tensor(chosen)])
        self.seen.clear()

    def finish(self) -> NDArray[np.float32]:
        """What was kept, ``[N, D]``."""
        if self.handle is None:
            return np.zeros((0, 0), dtype=np.float32)
        self.handle.remove()
        self.handle = None
        return torch.cat(self.kept).numpy() if self.kept else np.zeros((0, 0), dtype=np.float32)


def forward_with_features(network: nn.Module, image: Tensor) -> tuple[Tensor, NDArray[np.float32]]:
    """Logits ``[N, 2]`` of images and the features before the last layer, ``[N, D]``.

    Raises:
        InputError: when the network has no last layer ``fc``.
    """
    watch = FeatureRecorder(network)
    watch.start()
    try:
        logits = network(image)
        watch.keep()
    finally:
        features = watch.finish()
    return logits, features
