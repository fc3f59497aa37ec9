"""A radiograph beside itself with a heat map, the result and the notice as letters in the pixels."""

from __future__ import annotations

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sga_monai.integrations.dicom_results.case import NOTICE

# Of each half; a radiograph's ten megapixels would only be more to send.
LARGEST = 1024
SMALLEST_WIDTH = 320
OPACITY = 0.65
CAPTION = "right: how much each pixel's change would change the score (input gradient), scaled to this image"
RED, WHITE, BLACK = (150, 0, 0), (255, 255, 255), (0, 0, 0)


def draw_result(image: NDArray[np.float32], heat: NDArray[np.float32], text: str) -> NDArray[np.uint8]:
    """The picture, ``[H, W, 3]``.

    Args:
        image: the radiograph in [0, 1], ``[h, w]``, as it hangs.
        heat: the heat map of the whole image at any size, not negative.
        text: the result, in one line.
    """
    left = _resized(Image.fromarray(np.uint8(np.rint(255 * np.clip(image, 0, 1))))).convert("RGB")
    halves = [np.asarray(left), _overlay(np.asarray(left), heat)]
    body = Image.fromarray(np.hstack(halves))
    size = max(body.width // 48, 12)
    bands = [_band(NOTICE, body.width, int(1.6 * size), RED), body, *(_band(line, body.width, size, BLACK) for line in (text, CAPTION))]
    bands.append(_band(NOTICE, body.width, size, RED))
    return np.vstack([np.asarray(band) for band in bands])


def _resized(image: Image.Image) -> Image.Image:
    """No larger than ``LARGEST``, and wide enough for the letters."""
    scale = min(LARGEST / max(image.size), 1.0)
    scale = max(scale, SMALLEST_WIDTH / image.width)
    return image.resize((max(round(image.width * scale), 1), max(round(image.height * scale), 1)), Image.Resampling.BILINEAR)


def _overlay(gray: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The colors of the heat map over the image, stronger where there is more."""
    top = max(float(np.percentile(heat, 99.5)), float(np.finfo(np.float32).tiny))
    scaled = Image.fromarray(np.clip(heat / top, 0, 1).astype(np.float32)).resize(gray.shape[1::-1], Image.Resampling.BILINEAR)
    share = np.clip(np.asarray(scaled), 0, 1)
    colors = np.asarray(colormaps["inferno"](share))[..., :3] * 255
    weight = (OPACITY * np.sqrt(share))[..., None]
    return np.rint((1 - weight) * gray + weight * colors).astype(np.uint8)


def _band(text: str, width: int, size: int, color: tuple[int, int, int]) -> Image.Image:
    """One line of text in the middle of a band, made smaller where it would not fit."""
    font = ImageFont.load_default(size)
    while size > 6 and font.getlength(text) > 0.98 * width:
        size -= 1
        font = ImageFont.load_default(size)
    band = Image.new("RGB", (width, int(1.7 * size)), color)
    ImageDraw.Draw(band).text((width / 2, band.height / 2), text, WHITE, font, "mm")
    return band
