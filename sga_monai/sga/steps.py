"""The steps of Algorithm 1 as pure functions of tensors: saliency, mask, fill and divergence.

Equations are those of Li et al. (see ``iteration.py``, which puts the steps together; the attack is ``options.Attack``).
Parameters receive no gradient.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def input_gradient(network: nn.Module, image: Tensor, label: Tensor, target: str = "label") -> Tensor:
    """Gradient of each image's class score with respect to its pixels (Eq. 2).

    Args:
        network: maps ``[B, C, H, W]`` to logits ``[B, K]``, in eval mode or within ``frozen_statistics``.
        image: ``[B, C, H, W]``.
        label: ``[B]``, class numbers.
        target: "label" takes the logit of ``label``, "predicted" the largest logit, "difference" the logit of ``label`` minus
            the largest other one.

    Returns:
        ``[B, C, H, W]``; parameters receive no gradient.
    """
    image = image.detach().requires_grad_(True)
    with torch.enable_grad():
        score = class_score(network(image), label, target)
    return torch.autograd.grad(score, image)[0]


def class_score(logits: Tensor, label: Tensor, target: str = "label") -> Tensor:
    """Sum over the mini-batch of each image's class score, see ``input_gradient``, from ``logits`` ``[B, K]``."""
    logits = logits.float()
    chosen = logits.argmax(dim=1) if target == "predicted" else label
    score = logits.gather(1, chosen.view(-1, 1)).sum()
    if target == "difference":
        score = score - logits.scatter(1, label.view(-1, 1), -torch.inf).amax(dim=1).sum()
    return score


class CleanPass(NamedTuple):
    """f(X) with its graph, so that one forward pass gives gradients at X and the loss.

    Attributes:
        image: X, ``[B, C, H, W]``, a leaf that requires a gradient.
        logits: f(X), ``[B, K]``.

    Example:
        >>> clean = CleanPass.of(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.ones(1, 1, 2, 2))
        >>> clean.gradient(class_score(clean.logits, torch.tensor([0]))).shape
        torch.Size([1, 1, 2, 2])
    """

    image: Tensor
    logits: Tensor

    @classmethod
    def of(cls, network: nn.Module, image: Tensor) -> CleanPass:
        """Run ``network`` on ``image`` as it is: its mode decides about statistics and dropout."""
        image = image.detach().requires_grad_(True)
        return cls(image, network(image))

    def gradient(self, value: Tensor) -> Tensor:
        """Gradient of a scalar made from ``logits`` with respect to X; the graph stays."""
        return torch.autograd.grad(value, self.image, retain_graph=True)[0]


def border(image: Tensor, border_width: float) -> Tensor:
    """The pixels nearer to an edge than ``border_width`` of that side, ``[1, 1, H, W]`` bool; all of them for 0.5."""
    ends = [torch.arange(side, device=image.device) for side in image.shape[2:]]
    near = [torch.minimum(end, end.flip(0)) < border_width * len(end) for end in ends]
    return (near[0][:, None] | near[1][None, :])[None, None]


def lowest_mask(
    gradient: Tensor,
    mask_fraction: float,
    order: str = "signed",
    generator: torch.Generator | None = None,
    region: Tensor | None = None,
) -> Tensor:
    """The floor(``mask_fraction`` * H * W) pixels of lowest gradient in each image, ``[B, 1, H, W]`` bool (Eq. 3).

    Args:
        gradient: ``[B, C, H, W]``; channels are summed, since they share one mask.
        mask_fraction: in [0, 1).
        order: "signed" (most negative first), "magnitude" (nearest zero first), "highest" or "highest_magnitude" (the
            pixels that these two would mask last) or "random" (any, whatever the gradient). Ties go to the first in
            raster order.
        generator: source of the random order; the global one when ``None``.
        region: ``[1, 1, H, W]`` bool; only its pixels are masked, and ``mask_fraction`` is a share of them.
    """
    batch, _, height, width = gradient.shape
    n_masked = mask_size(gradient, mask_fraction, region)
    value = gradient.sum(dim=1).flatten(1)
    if order.endswith("magnitude"):
        value = value.abs()
    if order.startswith("highest"):
        value = -value
    elif order == "random":
        value = torch.rand(value.shape, generator=generator, dtype=value.dtype, device=value.device)
    if region is not None:
        value = value.masked_fill(~region.flatten(1), math.inf)
    return _lowest(value, n_masked).view(batch, 1, height, width)


def mask_size(image: Tensor, mask_fraction: float, region: Tensor | None = None) -> int:
    """K of Eq. 3: how many pixels of each image ``[B, C, H, W]`` are masked, see ``lowest_mask``.

    Example:
        >>> mask_size(torch.zeros(1, 1, 10, 10), 0.29)
        29
    """
    n_pixels = image[0, 0].numel() if region is None else int(region.sum())
    # 0.29 * 100 is 28.999999999999996 in floating point; rounding first makes the floor the one a reader expects.
    return math.floor(round(mask_fraction * n_pixels, 6))


def _lowest(value: Tensor, count: int) -> Tensor:
    """The ``count`` lowest values of each row of ``[B, N]``, bool; of equal ones the first.

    ``topk`` takes a sixth of a sort's time, but any of the values that equal the last one taken.
    """
    if count == 0:
        return torch.zeros_like(value, dtype=torch.bool)
    value = value.masked_fill(value.isnan(), math.inf)
    last = value.topk(count, dim=1, largest=False, sorted=False).values.amax(dim=1, keepdim=True)
    below, equal = value < last, value == last
    places = count - below.sum(dim=1, keepdim=True)
    return below | (equal & (equal.cumsum(dim=1, dtype=torch.int32) <= places))


def fill_masked(
    image: Tensor,
    mask: Tensor,
    fill: str = "image_range",
    generator: torch.Generator | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """X~: ``image`` with random values where ``mask`` is true and bit-equal elsewhere (Eq. 3).

    Args:
        image: ``[B, C, H, W]``.
        mask: ``[B, 1, H, W]`` bool.
        fill: "image_range" draws uniformly between minimum and maximum of each image and channel, "value_range"
            between the ends of ``value_range``, "image_mean" puts the mean of each image and channel.
        generator: source of the random values; the global one when ``None``.
        value_range: used by fill "value_range".
    """
    if fill == "image_mean":
        values = image.mean(dim=(2, 3), keepdim=True)
    else:
        low, high = image.amin((2, 3), keepdim=True), image.amax((2, 3), keepdim=True)
        if fill == "value_range":
            low, high = torch.full_like(low, value_range[0]), torch.full_like(high, value_range[1])
        uniform = torch.rand(image.shape, generator=generator, dtype=image.dtype, device=image.device)
        values = torch.clamp(low + uniform * (high - low), low, high)
    return torch.where(mask, values, image)


def kl_divergence(clean_logits: Tensor, adversarial_logits: Tensor) -> Tensor:
    """KL(f(X) || f(X')), mean over the batch (Eq. 6). ``F.kl_div`` takes its second distribution first."""
    clean, adversarial = F.log_softmax(clean_logits, dim=1), F.log_softmax(adversarial_logits, dim=1)
    return F.kl_div(adversarial, clean, log_target=True, reduction="batchmean")
