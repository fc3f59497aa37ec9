"""Comparison methods besides SGA's own special cases: augmentations of a mini-batch, and group DRO.

Augmentations are pure functions of a generator, so that a resumed training draws the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sga_monai.core import checks as check
from sga_monai.sga.augmentation import standard

# Mixup's Beta(alpha, alpha); 0.2 is the value of Zhang et al. for ImageNet.
MIXUP_ALPHA = 0.2
# Largest share of each side that a strong augmentation cuts off, and of a corner that it covers.
BORDER, CORNER = 0.15, 0.3


def mixup(image: Tensor, label: Tensor, generator: torch.Generator | None = None, n_classes: int = 2) -> tuple[Tensor, Tensor]:
    """Convex combinations of pairs of images and of their labels (Zhang et al., "mixup", ICLR 2018, equation 1).

    Args:
        image: ``[B, C, H, W]``.
        label: ``[B]``, class numbers.
        generator: source of the pairing and of one weight for the mini-batch.
        n_classes: number of classes.

    Returns:
        Images ``[B, C, H, W]`` and class probabilities ``[B, n_classes]``.
    """
    gamma = torch._standard_gamma(torch.full((2,), MIXUP_ALPHA, dtype=torch.float64, device=image.device), generator=generator)
    # Two zeros are possible for a small alpha in floating point; then nothing is mixed.
    weight = float(gamma[0] / gamma.sum()) if float(gamma.sum()) > 0 else 1.0
    other = torch.randperm(image.shape[0], generator=generator, device=image.device)
    target = F.one_hot(label, n_classes).to(image.dtype)
    return weight * image + (1 - weight) * image[other], weight * target + (1 - weight) * target[other]


def border_and_marker(image: Tensor, label: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Cut a random border off each image and cover its upper corners: the two places where markers and collimation are.

    Each image loses up to 15 % of each side, is brought back to its size, mirrored with probability 1/2, and in each
    upper corner a rectangle of up to 30 % of each side is replaced by the image's mean with probability 1/2.

    Args:
        image: ``[B, C, H, W]``.
        label: ``[B]``, returned as it is.
        generator: source of all random numbers.
    """
    batch, _, height, width = image.shape
    draw = torch.rand((batch, 11), generator=generator, dtype=image.dtype, device=image.device)
    # Left, right, top and bottom edge of what is kept, in the [-1, 1] of grid_sample.
    left, right, top, bottom = (
        -1 + 2 * BORDER * draw[:, 0],
        1 - 2 * BORDER * draw[:, 1],
        -1 + 2 * BORDER * draw[:, 2],
        1 - 2 * BORDER * draw[:, 3],
    )
    mirror = torch.where(draw[:, 4] < 0.5, -1.0, 1.0).to(image.dtype)
    theta = image.new_zeros((batch, 2, 3))
    theta[:, 0, 0], theta[:, 0, 2] = mirror * (right - left) / 2, (right + left) / 2
    theta[:, 1, 1], theta[:, 1, 2] = (bottom - top) / 2, (bottom + top) / 2
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    cut = F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    rows = torch.arange(height, device=image.device).view(1, height, 1) / height
    columns = torch.arange(width, device=image.device).view(1, 1, width) / width
    covered = torch.zeros((batch, height, width), dtype=torch.bool, device=image.device)
    for side, place in ((5, columns), (8, 1 - columns)):
        chosen, tall, wide = (draw[:, side + i].view(batch, 1, 1) for i in range(3))
        covered |= (chosen < 0.5) & (rows < CORNER * tall) & (place < CORNER * wide)
    return torch.where(covered[:, None], cut.mean(dim=(2, 3), keepdim=True), cut), label


AUGMENTATIONS = {"mixup": mixup, "border_and_marker": border_and_marker, "standard": standard}


@dataclass(frozen=True)
class Augmentation:
    """An augmentation of a mini-batch by its name.

    Args:
        augmentation: ``None`` for none, "mixup", "border_and_marker" or "standard".
    """

    augmentation: str | None = None

    def __post_init__(self) -> None:
        check.choice("augmentation", self.augmentation, (None, *AUGMENTATIONS))

    def __call__(self, image: Tensor, label: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Images ``[B, C, H, W]`` and targets, ``[B]`` or, after mixup, ``[B, K]``."""
        if self.augmentation is None:
            return image, label
        return AUGMENTATIONS[self.augmentation](image, label, generator)


class GroupWeights:
    """Weights of the groups (site, label) by exponentiated gradient ascent on their losses: group DRO.

    Sagawa et al., "Distributionally Robust Neural Networks for Group Shifts", ICLR 2020, algorithm 1. A group enters
    with the mean weight when its first image comes.

    Args:
        group_dro_step: eta of the ascent, zero or more; 0 turns the weights off.
    """

    def __init__(self, group_dro_step: float = 0.0) -> None:
        self.group_dro_step = check.number("group_dro_step", group_dro_step, low=0)
        self._weights: dict[str, float] = {}
        self._kept: dict[str, float] = {}

    def loss(self, losses: Tensor, site: Sequence[Any], label: Tensor) -> Tensor:
        """The weighted sum of the groups' mean losses, after the weights were updated with them.

        Args:
            losses: ``[B]``, one for each image.
            site: ``[B]``, any keys.
            label: ``[B]``.
        """
        keys = [f"{int(s)}-{int(y)}" for s, y in zip(site, label.tolist(), strict=True)]
        means = {key: losses[torch.tensor([k == key for k in keys], device=losses.device)].mean() for key in sorted(set(keys))}
        for key in means:
            self._weights.setdefault(key, sum(self._weights.values()) / len(self._weights) if self._weights else 1.0)
        values = {key: float(mean.detach()) for key, mean in means.items()}
        if not all(map(math.isfinite, values.values())):
            # In 16 bits a step may overflow; it is not taken, and must leave no trace here either.
            return torch.stack(list(means.values())).sum()
        ascent = {key: self.group_dro_step * values[key] if key in values else 0.0 for key in self._weights}
        # Less the largest exponent, which the division below cancels and which could overflow.
        grown = {key: w * math.exp(ascent[key] - max(ascent.values())) for key, w in self._weights.items()}
        total = sum(grown.values())
        self._weights = {key: value / total for key, value in grown.items()}
        return torch.stack([self._weights[key] * mean for key, mean in means.items()]).sum()

    def keep(self) -> None:
        """Remember the weights as an optimizer step begins."""
        self._kept = dict(self._weights)

    def take_back(self) -> None:
        """Restore the weights of the last ``keep``: the step is not taken."""
        self._weights = dict(self._kept)

    def state_dict(self) -> dict[str, float]:
        """The weights by group."""
        return dict(self._weights)

    def load_state_dict(self, state_dict: Mapping[str, float]) -> None:
        """Restore what ``state_dict`` returned."""
        self._weights = {str(key): float(value) for key, value in state_dict.items()}
