"""A network's features: the input of its last layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sga_monai.core.errors import InputError
from sga_monai.model.networks import OTHER_LAST_LAYER, last_layer


class FeatureRecorder:
    """Records the input of a network's last layer at every forward pass between ``start`` and ``finish``.

    Args:
        network: one of ``NETWORKS``, or any with a last layer ``fc``.

    Raises:
        InputError: when it has no such layer.
    """

    def __init__(self, network: nn.Module) -> None:
        last = last_layer(network)
        if last is None:
            raise InputError(f"the network has no last layer {OTHER_LAST_LAYER}, so it has no features to compare")
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
        InputError: see ``FeatureRecorder``.
    """
    recorder = FeatureRecorder(network)
    recorder.start()
    try:
        logits = network(image)
        recorder.keep()
    finally:
        features = recorder.finish()
    return logits, features
