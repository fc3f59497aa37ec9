"""A picture of many small images with their row numbers, for a person who looks through a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sga_monai.core.errors import InputError
from sga_monai.core.files import write_whole

THUMBNAIL = 144
COLUMNS, MOST_THUMBNAILS = 8, 48
WIDTH = COLUMNS * (THUMBNAIL + 4)
# How a gray PNG of that width begins: the bytes up to its height, and those behind it.
HEAD, GRAY = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + WIDTH.to_bytes(4, "big"), b"\x08\0"

Thumbnail = tuple[int, int, NDArray[np.uint8]]


class EvenSample:
    """Of the pictures of one label 48 to 96, evenly spaced however many come: all of a hundred thousand would fill the memory.

    Attributes:
        kept: row, label and picture of each.
    """

    def __init__(self) -> None:
        self.kept: list[Thumbnail] = []
        self._step, self._seen = 1, 0

    def add(self, thumbnail: Thumbnail) -> None:
        """Keep a picture, or leave it out."""
        if self._seen % self._step == 0:
            self.kept.append(thumbnail)
        self._seen += 1
        if len(self.kept) > 2 * MOST_THUMBNAILS:
            self.kept, self._step = self.kept[::2], 2 * self._step


def as_thumbnail(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A grayscale image, ``[H, W]`` on any scale, as a square of 144 pixels with its proportions kept."""
    low, high = np.percentile(image[::4, ::4], (0.5, 99.5))
    picture = Image.fromarray(np.uint8(255 * np.clip((image - low) / max(high - low, 1e-6), 0, 1)))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    tile = Image.new("L", (THUMBNAIL, THUMBNAIL))
    tile.paste(picture, ((THUMBNAIL - picture.width) // 2, (THUMBNAIL - picture.height) // 2))
    return np.asarray(tile)


def write_contact_sheet(path: str | Path, thumbnails: Sequence[Thumbnail]) -> int:
    """Write a PNG of small pictures with their row numbers, label 0 above label 1; nothing else is in the file.

    Args:
        path: the PNG.
        thumbnails: of an ``Inspection``; at most 48 of a label are drawn, evenly spaced.

    Returns:
        The number of pictures drawn.

    Raises:
        InputError: when there is nothing to draw.
    """
    if not thumbnails:
        raise InputError("no image may be drawn on the contact sheet: none is readable without BurnedInAnnotation YES")
    strips = []
    drawn = 0
    for label in sorted({label for _, label, _ in thumbnails}):
        group = [entry for entry in thumbnails if entry[1] == label]
        chosen = [group[i] for i in np.unique(np.linspace(0, len(group) - 1, MOST_THUMBNAILS).astype(int))]
        drawn += len(chosen)
        lines = -(-len(chosen) // COLUMNS)
        strip = Image.new("L", (WIDTH, 18 + lines * (THUMBNAIL + 16)), 40)
        draw = ImageDraw.Draw(strip)
        draw.text((4, 3), f"label {label}" if label >= 0 else "no label", fill=255)
        for i, (row, _, picture) in enumerate(chosen):
            left, top = (i % COLUMNS) * (THUMBNAIL + 4), 18 + (i // COLUMNS) * (THUMBNAIL + 16)
            strip.paste(Image.fromarray(picture), (left, top))
            draw.text((left + 2, top + THUMBNAIL + 2), f"row {row}", fill=200)
        strips.append(np.asarray(strip))
    sheet = Image.fromarray(np.vstack(strips))
    write_whole(Path(path), lambda temporary: sheet.save(temporary, format="PNG"))
    return drawn


def is_contact_sheet(path: Path) -> bool:
    """Whether a file looks like one of ``write_contact_sheet``: a gray PNG of its width."""
    with path.open("rb") as stream:
        head = stream.read(len(HEAD) + 4 + len(GRAY))
    return head.startswith(HEAD) and head.endswith(GRAY)
