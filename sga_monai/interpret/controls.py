"""Control images: does a model rely on the lungs? Pure functions on ``[N, 1, H, W]`` in [0, 1].

Blanked areas are filled with the mean of the remaining pixels, never of the whole image: that would carry the brightness of
what was taken away, and a model could go on reading it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from sga_monai.evaluation.scoring import Control
from sga_monai.imaging.marker import MARKER_LETTERS

BORDER = 0.12
# Upper corner on the patient's right, where a radiographer puts the R; fractions of the image's height and width.
TAG_TOP, TAG_LEFT, TAG_HEIGHT, TAG_WIDTH = 0.05, 0.07, 0.085, 0.052
LEAD = 0.97


def blank_center(image: Tensor) -> Tensor:
    """Blank an ellipse over both lungs, so that hardly any lung is left; for images without a lung mask."""
    height, width = image.shape[2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return _keep(image, ((x / 0.8) ** 2 + (y / 0.85) ** 2 > 1).to(image.device))


def blank_border(image: Tensor) -> Tensor:
    """Blank a frame of 12 % of each side, with its markers and collimation."""
    height, width = image.shape[2:]
    top, left = round(BORDER * height), round(BORDER * width)
    inside = torch.zeros(height, width, dtype=torch.bool, device=image.device)
    inside[top : height - top, left : width - left] = True
    return _keep(image, inside)


def crop_border(image: Tensor) -> Tensor:
    """Cut 12 % off each side and resize the rest to the same shape (bilinear), so that no blank frame is seen instead."""
    height, width = image.shape[2:]
    top, left = round(BORDER * height), round(BORDER * width)
    inner = image[:, :, top : height - top, left : width - left]
    return nn.functional.interpolate(inner, size=(height, width), mode="bilinear", align_corners=False)


def blank_lungs(image: Tensor, lung: Tensor) -> Tensor:
    """Blank the lungs. ``lung`` is bool ``[N, 1, H, W]``."""
    return _keep(image, ~lung)


def only_lungs(image: Tensor, lung: Tensor) -> Tensor:
    """Blank all but the lungs. ``lung`` is bool ``[N, 1, H, W]``."""
    return _keep(image, lung)


def plant_tag(image: Tensor) -> Tensor:
    """Draw a bright lead letter R with a bar under it in the upper left corner, at the same place and relative size in every image."""
    alpha = _tag(*image.shape[2:]).to(image)
    return image * (1 - alpha) + LEAD * alpha


CENTER_BLANK, BORDER_BLANK, BORDER_CROP, TAG, LUNGS_BLANK, ONLY_LUNGS = (
    Control("center_blank", blank_center),
    Control("border_blank", blank_border),
    Control("border_crop", crop_border),
    Control("tag", plant_tag),
    Control("lungs_blank", blank_lungs, needs_lung=True),
    Control("only_lungs", only_lungs, needs_lung=True),
)


def _keep(image: Tensor, kept: Tensor) -> Tensor:
    """``image`` with all but ``kept`` (bool, broadcast) replaced by the mean of what is kept."""
    kept = kept.expand_as(image)
    count = kept.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    mean = torch.where(kept, image, 0.0).double().sum(dim=(2, 3), keepdim=True) / count
    return torch.where(kept, image, mean.to(image.dtype))


def _tag(height: int, width: int) -> Tensor:
    """``[H, W]``: the share of each pixel that the letter covers, so that it is the same letter at every resolution."""
    letter = np.array([[cell == "#" for cell in line] for line in MARKER_LETTERS["R"]])
    glyph = np.vstack([letter, np.zeros((1, 5), dtype=bool), np.ones((1, 5), dtype=bool)]).astype(np.float64)
    rows = _overlap(height, TAG_TOP, TAG_HEIGHT, glyph.shape[0])
    columns = _overlap(width, TAG_LEFT, TAG_WIDTH, glyph.shape[1])
    return torch.from_numpy(rows @ glyph @ columns.T)


def _overlap(pixels: int, start: float, length: float, cells: int) -> np.ndarray:
    """``[pixels, cells]``: the share of each pixel of a side that each cell of the letter covers."""
    edges = np.arange(pixels + 1)[:, None]
    bounds = (start + length * np.arange(cells + 1) / cells) * pixels
    shared = np.minimum(edges[1:], bounds[1:]) - np.maximum(edges[:-1], bounds[:-1])
    return np.asarray(np.clip(shared, 0, None))
