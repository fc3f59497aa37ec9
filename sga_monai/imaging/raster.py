"""From a PNG or JPEG file to gray values, rows x columns, bright is dense."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sga_monai.core.errors import ReadError
from sga_monai.imaging import jpeg
from sga_monai.imaging.geometry import make_square, ratio_of
from sga_monai.imaging.jpeg_complete import Pixels, check_complete
from sga_monai.imaging.limits import LUMINANCE, MAX_PIXELS, refused_as
from sga_monai.imaging.png import ORIENTATION, SIGNATURE, orientation_of, read_png

# Bounds the bytes of a deep color PNG.
MAX_DEEP = 96 * 1024 * 1024
ROWS_AT_ONCE = 256
_LOCK = threading.Lock()
_readers, _level = 0, logging.NOTSET
JPEG = b"\xff\xd8\xff"
# Exif orientation: whether rows and columns change places, then whether rows and columns run backward.
TURNS = {2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1), 8: (1, 1, 0)}


def is_picture(data: bytes) -> bool:
    """Whether ``data`` begins like a PNG or a JPEG file."""
    return data.startswith((SIGNATURE, JPEG))


def read_picture(data: bytes) -> NDArray[np.float32]:
    """Gray values in [0, 1] of a PNG or JPEG with 8 to 16 bits: palette and color become luminance, alpha lies on black.

    The Exif orientation of both is applied, and pixels become square by pHYs or JFIF's density.

    Raises:
        ReadError: when the file is damaged, incomplete, too large, or holds several pictures.
    """
    orientation: object
    if data.startswith(SIGNATURE):
        png = read_png(data, MAX_PIXELS)
        orientation, aspect = png.orientation, png.aspect
        if png.depth == 16 and png.color in (2, 4, 6):
            if png.width * png.height * {2: 6, 4: 4, 6: 8}[png.color] > MAX_DEEP:
                raise ReadError("too_large")
            gray = _deep_png(png.stream().read())
        else:
            gray, _ = _by_pillow(png.stream(), None, png.width * png.height)
    else:
        structure = jpeg.parse(data)
        aspect = _aspect(structure.density)
        if structure.precision != 8 or structure.process in (*jpeg.LOSSLESS, jpeg.LS):
            gray, orientation = _deep_jpeg(data, structure), orientation_of(structure.exif)
        else:
            check, samples = partial(check_complete, data, structure), math.prod(structure.shape)
            gray, orientation = _by_pillow(io.BufferedReader(io.BytesIO(data)), check, samples)
    return _turned(make_square(gray, aspect, MAX_PIXELS), orientation)


def _by_pillow(source: io.BufferedReader, check: Callable[[Pixels], None] | None, samples: int) -> tuple[NDArray[np.float32], object]:
    """Gray values, and the Exif orientation as Pillow finds it, of what has 8 bits, or gray alone, and ``samples`` in all."""
    # Pillow has an error of its own for each way in which a file can be damaged.
    with refused_as("truncated", samples):
        try:
            with _quiet(), warnings.catch_warnings(action="ignore"), Image.open(source, formats=("PNG", "JPEG")) as picture:
                if picture.width * picture.height > MAX_PIXELS:
                    raise ReadError("too_large")
                if getattr(picture, "n_frames", 1) != 1:
                    raise ReadError("multi_frame")
                picture.load()
                if check is not None:
                    check(partial(_pixels, picture))
                return _gray(picture), picture.getexif().get(ORIENTATION, 1)
        except Image.DecompressionBombError:
            raise ReadError("too_large") from None


def _aspect(density: tuple[int, int, int]) -> float:
    """Height of a pixel over its width; densities of 0 are blanks.

    Raises:
        ReadError: "aspect", also where they differ and have no unit: some writers then mean the pixel's sides.
    """
    unit, across, down = density
    if across == down:
        return 1.0
    if not unit:
        raise ReadError("aspect")
    return ratio_of(across, down)


def _pixels(picture: Image.Image, rows: slice, columns: slice) -> NDArray[np.uint8]:
    """A few pixels of a picture, without a copy of all."""
    return np.asarray(picture.crop((columns.start, rows.start, min(columns.stop, picture.width), min(rows.stop, picture.height))))


def _turned(gray: NDArray[np.float32], orientation: object) -> NDArray[np.float32]:
    swap, rows, columns = TURNS.get(orientation, (0, 0, 0)) if isinstance(orientation, int) else (0, 0, 0)
    return (gray.T if swap else gray)[:: -1 if rows else 1, :: -1 if columns else 1]


def _gray(picture: Image.Image) -> NDArray[np.float32]:
    if picture.mode == "1":
        picture = picture.convert("L")
    gray = np.empty((picture.height, picture.width), dtype=np.float32)
    if picture.mode in ("I;16", "I;16B", "I", "L"):
        values = np.asarray(picture)
        np.divide(values, np.float32(255 if picture.mode == "L" else 65535), out=gray, dtype=np.float32, casting="unsafe")
        clear = picture.info.get("transparency")
        if isinstance(clear, int):
            gray[values == clear] = 0.0
        return gray
    for top in range(0, picture.height, ROWS_AT_ONCE):
        bottom = min(top + ROWS_AT_ONCE, picture.height)
        strip = picture.crop((0, top, picture.width, bottom))
        strip = strip.convert("RGB") if strip.mode in ("CMYK", "YCbCr") else strip
        rgba = np.asarray(strip.convert("RGBA"), dtype=np.float32) / np.float32(255)
        gray[top:bottom] = (rgba[..., :3] @ LUMINANCE) * rgba[..., 3]
    return gray


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Pillow, which logs what it finds in a file's text fields; the level comes back when no thread reads any more."""
    global _readers, _level
    log = logging.getLogger("PIL")
    with _LOCK:
        if not _readers:
            _level = log.level
            log.setLevel(logging.CRITICAL)
        _readers += 1
    try:
        yield
    finally:
        with _LOCK:
            _readers -= 1
            if not _readers:
                log.setLevel(_level)


def _deep_jpeg(data: bytes, structure: jpeg.Structure) -> NDArray[np.float32]:
    """A JPEG that Pillow does not read: of more than 8 bits, lossless, or JPEG-LS."""
    rows, columns, _ = structure.shape
    if rows * columns > MAX_PIXELS:
        raise ReadError("too_large")
    with refused_as("truncated", math.prod(structure.shape)):
        array = np.asarray((imagecodecs.jpegls_decode if structure.process == jpeg.LS else imagecodecs.jpeg8_decode)(data))
    if array.shape[:2] != (rows, columns) or array.ndim - 1 != (2 if structure.shape[2] == 3 else 1):
        raise ReadError("truncated")
    check_complete(data, structure, lambda rows, columns: array[rows, columns])
    gray = np.empty((rows, columns), dtype=np.float32)
    for top in range(0, rows, ROWS_AT_ONCE):
        block = array[top : top + ROWS_AT_ONCE].astype(np.float32) / np.float32((1 << structure.precision) - 1)
        gray[top : top + ROWS_AT_ONCE] = block if block.ndim == 2 else block @ LUMINANCE
    if not gray.max(initial=0.0) <= 1:
        raise ReadError("bits")
    return gray


def _deep_png(data: bytes) -> NDArray[np.float32]:
    """A PNG with 16 bits and color or alpha, of which Pillow keeps 8 bits."""
    with refused_as("truncated"):
        array = np.asarray(imagecodecs.png_decode(data))
    gray = np.empty(array.shape[:2], dtype=np.float32)
    for top in range(0, len(array), ROWS_AT_ONCE):
        block = array[top : top + ROWS_AT_ONCE].astype(np.float32) / np.float32(65535)
        color = block[..., :3] @ LUMINANCE if block.shape[2] > 2 else block[..., 0]
        gray[top : top + ROWS_AT_ONCE] = color * (block[..., -1] if block.shape[2] in (2, 4) else 1)
    return gray
