"""How well a saliency map finds what a reader marked: pure functions, one figure an image, NaN where there is none.

Maps are ``[B, H, W]`` float, finite and not negative, higher means more salient; masks are ``[B, H, W]`` bool, from
boxes or of the lungs. Figures are ``[B]`` float64. A wrong shape, type or value of a map or mask is a ``ValueError``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from sga_monai.core.errors import InputError

ScoreFn = Callable[[Tensor], Tensor]


def boxes_to_mask(boxes: Sequence[Sequence[float]], shape: tuple[int, int], size: int) -> Tensor:
    """The union of boxes, ``[size, size]`` bool, after the image was resized to a square.

    A pixel belongs to a box when its center does, left and upper edge included; a box that holds no center marks the
    pixel in which its own center lies.

    Args:
        boxes: ``[x, y, width, height]`` each, in pixels of the original image from its upper left corner. What lies
            outside the image is cut off.
        shape: rows and columns of the original image.
        size: side of the resized image, pixels.

    Raises:
        InputError: when a box is not four finite numbers with a positive width and height.
        ValueError: when ``shape`` or ``size`` is not positive.
    """
    if min(*shape, size) < 1:
        raise ValueError(f"shape and size must be positive, got {tuple(shape)} and {size}")
    mask = torch.zeros(size, size, dtype=torch.bool)
    for box in boxes:
        if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
            raise InputError(f"a box must be [x, y, width, height] with positive width and height, got {list(box)}")
        x, y, width, height = box
        mask[_span(y, height, shape[0], size), _span(x, width, shape[1], size)] = True
    return mask


def energy_inside(map: Tensor, mask: Tensor) -> Tensor:
    """Share of the map's sum that lies inside the mask (the energy-based pointing game of Wang et al., Score-CAM, CVPRW 2020).

    Returns:
        ``[B]`` in [0, 1]; NaN where the map is zero everywhere or the mask is empty. A flat map has the mask's share of
        the area.
    """
    map = _checked(map, mask)
    inside, total = (map * mask).sum((1, 2)), map.sum((1, 2))
    # 0 / 0 is NaN by itself; an empty mask would give 0.
    return (inside / total).masked_fill(~mask.any(2).any(1), math.nan)


def pointing_game(map: Tensor, mask: Tensor, tolerance: float = 0) -> Tensor:
    """Whether the map's maximum hits the mask (Zhang et al., IJCV 126, 2018): 1 or 0, or the mean over tied maxima.

    Args:
        map: ``[B, H, W]``.
        mask: ``[B, H, W]``.
        tolerance: a maximum this far from the mask still hits, in pixels between centers; the paper has 15.

    Returns:
        ``[B]`` in [0, 1]; NaN where the mask is empty.
    """
    map = _checked(map, mask)
    if tolerance < 0:
        raise ValueError(f"tolerance must not be negative, got {tolerance}")
    found = mask.any(2).any(1)
    if tolerance > 0:
        distances = [distance_transform_edt(~one) for one in mask.cpu().numpy()]
        mask = torch.as_tensor(np.stack(distances) <= tolerance, device=map.device)
    peak = map == map.amax((1, 2), keepdim=True)
    return ((peak & mask).sum((1, 2)).double() / peak.sum((1, 2))).masked_fill(~found, math.nan)


def iou_at_area(map: Tensor, mask: Tensor) -> Tensor:
    """Intersection over union of the mask and as many of the map's highest pixels as the mask has.

    No threshold has to be chosen, and a monotone rescaling of the map changes nothing. Of pixels that tie for the last places an equal
    part of each counts, so that a flat map has what chance has, wherever the mask lies.

    Returns:
        ``[B]`` in [0, 1]; NaN where the mask is empty.
    """
    map = _checked(map, mask)
    area = mask.sum((1, 2))
    ordered = map.flatten(1).sort(dim=1, descending=True).values
    last = ordered.gather(1, (area - 1).clamp(min=0).view(-1, 1)).view(-1, 1, 1)
    above, tied = map > last, map == last
    places = (area - above.sum((1, 2))).double()
    overlap = (above & mask).sum((1, 2)) + places * (tied & mask).sum((1, 2)) / tied.sum((1, 2))
    return torch.where(area > 0, overlap / (2 * area - overlap), torch.nan)


def blur(image: Tensor, sigma: float) -> Tensor:
    """``image`` ``[B, C, H, W]`` after a Gaussian filter of ``sigma`` pixels, cut at three sigma, edges repeated."""
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    planes = image.flatten(0, 1)[:, None]
    for _ in range(2):
        # Along the rows, then the same of the transposed.
        planes = F.conv2d(F.pad(planes, (radius, radius, 0, 0), mode="replicate"), kernel).transpose(2, 3)
    return planes.view(image.shape)


def insertion_auc(score_fn: ScoreFn, image: Tensor, map: Tensor, steps: int = 64, baseline: Tensor | None = None) -> Tensor:
    """Area under the score as the image's pixels, most salient first, are put into a baseline (Petsiuk et al., BMVC 2018).

    Higher is better. The area is by the trapezoid rule over the share of pixels from 0 to 1, in ``steps`` equal steps;
    ties of the map go in raster order.

    Args:
        score_fn: from ``[B, C, H, W]`` to ``[B]``, the probability of each image's class, with the network in the mode
            it should have; called ``steps`` + 1 times, without gradients.
        image: ``[B, C, H, W]``.
        map: ``[B, H, W]``.
        steps: at least 1.
        baseline: ``[B, C, H, W]``; ``None`` takes the image blurred by a sixteenth of its shorter side. Opacities are
            coarse, and a weaker blur leaves them in.

    Returns:
        ``[B]``, in [0, 1] where the score is a probability.

    Raises:
        ValueError: when a shape does not fit, or ``steps`` is less than 1.
    """
    return _area(score_fn, image, map, steps, _baseline(image, baseline), insert=True)


def deletion_auc(score_fn: ScoreFn, image: Tensor, map: Tensor, steps: int = 64, baseline: Tensor | None = None) -> Tensor:
    """Area under the score as the image's pixels, most salient first, are replaced by those of a baseline; lower is better.

    Arguments, result and errors are those of ``insertion_auc``.
    """
    return _area(score_fn, image, map, steps, _baseline(image, baseline), insert=False)


def _span(start: float, length: float, pixels: int, size: int) -> slice:
    """Of ``size`` resized pixels those whose centers lie between ``start`` and ``start + length`` of ``pixels``."""
    low, high = max(start, 0.0) * size / pixels, min(start + length, pixels) * size / pixels
    if low >= high:
        return slice(0, 0)
    first, last = math.ceil(low - 0.5), math.ceil(high - 0.5)
    return slice(first, last) if first < last else slice(int((low + high) / 2), int((low + high) / 2) + 1)


def _checked(map: Tensor, mask: Tensor | None = None) -> Tensor:
    """``map`` as float64, once it and ``mask`` are as the module says."""
    if map.ndim != 3 or not torch.isfinite(map).all() or (map < 0).any():
        raise ValueError(f"map must be [B, H, W], finite and not negative, got {list(map.shape)}")
    if mask is not None and (mask.shape != map.shape or mask.dtype != torch.bool):
        raise ValueError(f"mask must be bool {list(map.shape)} like the map, got {mask.dtype} {list(mask.shape)}")
    return map.detach().as_subclass(Tensor).double()


def _ranks(map: Tensor) -> Tensor:
    """Number of pixels before each, ``[B, H, W]``, from the highest, ties in raster order."""
    order = map.flatten(1).argsort(dim=1, descending=True, stable=True)
    return order.argsort(dim=1).view(map.shape)


def _baseline(image: Tensor, baseline: Tensor | None) -> Tensor:
    return blur(image, min(image.shape[2:]) / 16) if baseline is None else baseline


@torch.no_grad()
def _area(score_fn: ScoreFn, image: Tensor, map: Tensor, steps: int, baseline: Tensor, insert: bool) -> Tensor:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if baseline.shape != image.shape or map.shape != (len(image), *image.shape[2:]):
        raise ValueError(f"image and baseline must be [B, C, H, W] and map [B, H, W], got {list(image.shape)}, {list(baseline.shape)}")
    ranks = _ranks(_checked(map))[:, None]
    pixels = ranks[0].numel()
    counts = [round(i * pixels / steps) for i in range(steps + 1)]
    new, old = (image, baseline) if insert else (baseline, image)
    scores = torch.stack([score_fn(torch.where(ranks < count, new, old)).double() for count in counts])
    if scores.shape != (steps + 1, len(image)):
        raise ValueError(f"score_fn must return [B], got {list(scores.shape[1:])} for {len(image)} images")
    return torch.trapezoid(scores, torch.tensor(counts, dtype=torch.float64, device=scores.device) / pixels, dim=0)
