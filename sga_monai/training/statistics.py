"""BatchNorm statistics that fit the weights: estimated anew at the end of every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from sga_monai.core import checks as check
from sga_monai.model.modes import autocast, device_of, norms, recalibrate

CHOICES = ("recalibrated", "running")
# An eighth of the training images costs 4 % of an epoch of NT. Small data sets pay more: below 256 images the mean score depends on which
# are drawn (docs/results/batch_norm_draws.csv).
SHARE, FEWEST, MOST = 8, 256, 2048


class BatchNormStatistics:
    """Estimates the running statistics on clean training images before the first epoch and at the end of each.

    So they fit the weights that are validated, saved as ``model.pt`` and, with ``attack_mode`` eval, attacked in the next epoch.
    The images and their order are drawn once by ``seed``: nothing of it is state, and a resumed training is equal to the bit.

    Args:
        network: the trained network.
        dataset: the training data without augmentation.
        batch_norm: "recalibrated", or "running" to leave the statistics as training left them.
        batch_size: images at once; a last smaller batch is left out.
        precision: "fp32", "bf16" or "fp16", as in training.
        seed: of the run.

    Attributes:
        chosen: indices of the images.
    """

    def __init__(
        self,
        network: nn.Module,
        dataset: Sequence[Mapping[str, Any]],
        batch_norm: str = "recalibrated",
        batch_size: int = 64,
        precision: str = "fp32",
        seed: int = 0,
    ) -> None:
        self.active = check.choice("batch_norm", batch_norm, CHOICES) == "recalibrated" and bool(norms(network))
        self.network, self.dataset, self.precision = network, dataset, precision
        # Statistics of fewer than 16 images are noise, whatever the batch size of the training.
        self.batch_size = min(max(batch_size, 16), len(dataset))
        count = max(min(max(len(dataset) // SHARE, FEWEST), MOST, len(dataset)), self.batch_size)
        count -= count % self.batch_size
        self.chosen: list[int] = np.random.default_rng(seed).permutation(len(dataset))[:count].tolist()

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, before the ``ValidationHandler``."""
        if idist.get_world_size() > 1:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self.share)
        if self.active:
            # A resumed training begins with a later epoch, and has the checkpoint's statistics.
            engine.add_event_handler(Events.EPOCH_STARTED(once=1), self)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def share(self, engine: Engine) -> None:
        """Give the network of every process the mean of all processes' running statistics."""
        share_statistics(self.network)

    def __call__(self, engine: Engine | None = None) -> None:
        """Estimate the statistics of the network as it is; ``engine`` is the trainer where it calls."""
        device = device_of(self.network)
        with autocast(device, self.precision):
            recalibrate(self.network, self._batches(device))
        # The same images in every process; a GPU may differ in the last bits.
        share_statistics(self.network)

    def _batches(self, device: torch.device) -> Iterator[Tensor]:
        for first in range(0, len(self.chosen), self.batch_size):
            indices = self.chosen[first : first + self.batch_size]
            yield torch.stack([torch.as_tensor(np.asarray(self.dataset[i][Keys.IMAGE])) for i in indices]).to(device)


def share_statistics(network: nn.Module) -> None:
    """Average the running statistics over all processes, so that they are equal to the bit; nothing happens in one process."""
    buffers = [layer.get_buffer(name) for layer in norms(network) for name, value in layer.named_buffers() if value.is_floating_point()]
    if idist.get_world_size() == 1 or not buffers:
        return
    flat = torch.cat([buffer.flatten() for buffer in buffers])
    torch.distributed.all_reduce(flat)
    flat /= idist.get_world_size()
    for buffer, part in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
        buffer.copy_(part.view_as(buffer))
