"""From a PNG, JPEG or two-dimensional NIfTI file to gray values, rows x columns, bright is dense."""

from __future__ import annotations

import contextlib
import gzip
import io
import logging
import threading
import warnings
from collections.abc import Iterator

import imagecodecs
import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sga_monai.core.errors import ReadError
from sga_monai.imaging.limits import LUMINANCE, MAX_PIXELS, MOST_SCANS

ROWS_AT_ONCE = 256
HEADER_BYTES = 352
NIFTI = b"n+1\0"
MOST_PADDING = 16
CHUNK = 1 << 20
_LOCK = threading.Lock()
_readers, _level = 0, logging.NOTSET
PNG, JPEG, GZIP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x1f\x8b"


def is_picture(data: bytes) -> bool:
    """Whether ``data`` begins like a PNG or a JPEG file."""
    return data.startswith((PNG, JPEG))


def is_nifti(data: bytes) -> bool:
    """Whether ``data`` is a NIfTI-1 file or a gzip file, which only NIfTI uses here."""
    return data.startswith(GZIP) or data[344:348] == NIFTI


def read_picture(data: bytes) -> NDArray[np.float32]:
    """Gray values in [0, 1] of a PNG or JPEG with 8 or 16 bits: palette and color become luminance, alpha lies on black.

    JPEG's EXIF orientation is applied.

    Raises:
        ReadError: when the file is damaged, too large or of another kind.
    """
    if data.startswith(JPEG) and data.count(b"\xff\xda") > MOST_SCANS:
        raise ReadError("truncated")
    try:
        with _quiet(), warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ReadError("too_large")
            if getattr(picture, "n_frames", 1) != 1:
                raise ReadError("multi_frame")
            picture.load()
            upright = ImageOps.exif_transpose(picture)
    except ReadError:
        raise
    except Image.DecompressionBombError:
        raise ReadError("too_large") from None
    except Exception:
        # Pillow has an error of its own for each way in which a file can be damaged.
        raise ReadError("truncated") from None
    if data.startswith(PNG) and data[24] == 16 and data[25] in (2, 4, 6):
        return _deep_png(data)
    if upright.mode == "1":
        upright = upright.convert("L")
    if upright.mode in ("I;16", "I;16B", "I", "L"):
        values = np.asarray(upright)
        gray = values.astype(np.float32) / np.float32(255 if upright.mode == "L" else 65535)
        clear = picture.info.get("transparency")
        if isinstance(clear, int):
            gray[values == clear] = 0.0
        return gray
    if upright.mode in ("CMYK", "YCbCr"):
        upright = upright.convert("RGB")
    gray = np.empty((upright.height, upright.width), dtype=np.float32)
    for top in range(0, upright.height, ROWS_AT_ONCE):
        bottom = min(top + ROWS_AT_ONCE, upright.height)
        rgba = np.asarray(upright.crop((0, top, upright.width, bottom)).convert("RGBA"), dtype=np.float32) / np.float32(255)
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


def _deep_png(data: bytes) -> NDArray[np.float32]:
    """A PNG with 16 bits and color or alpha, of which Pillow keeps 8 bits."""
    try:
        array = np.asarray(imagecodecs.png_decode(data))
    except Exception:
        # Nothing is told of the bytes but that they end or lie.
        raise ReadError("truncated") from None
    gray = np.empty(array.shape[:2], dtype=np.float32)
    for top in range(0, len(array), ROWS_AT_ONCE):
        block = array[top : top + ROWS_AT_ONCE].astype(np.float32) / np.float32(65535)
        color = block[..., :3] @ LUMINANCE if block.shape[2] > 2 else block[..., 0]
        gray[top : top + ROWS_AT_ONCE] = color * (block[..., -1] if block.shape[2] in (2, 4) else 1)
    return gray


def read_nifti(data: bytes) -> NDArray[np.float32]:
    """Gray values in [0, 1] (minimum to maximum) of a two-dimensional NIfTI image.

    Orientation is made explicit: NIfTI stores x (left to right) first, so the array is transposed to rows x columns,
    and turned so that the patient's head is up and the patient's right is at the picture's left, as a radiograph is
    hung. Where the affine names no such axes (identity, or none), the first axis is columns, the second rows.

    Raises:
        ReadError: when the file is damaged, too large, or has more than one plane.
    """
    try:
        with nib.imageglobals.LoggingOutputSuppressor():
            values, codes = _nifti_values(data)
        if not np.isfinite(values).all():
            raise ReadError("not_finite")
        columns, rows = codes
    except ReadError:
        raise
    except Exception:
        # nibabel's errors are of many kinds, and some quote the header.
        raise ReadError("truncated") from None
    if columns in ("S", "I") and rows not in ("S", "I"):
        values, columns, rows = values.T, rows, columns
    # Radiographic convention: rows run from head to foot, columns from the patient's right to the left, or front to back.
    if rows in ("S", "I") and columns in ("L", "R", "A", "P"):
        values = values[::-1] if columns in ("R", "A") else values
        values = values[:, ::-1] if rows == "S" else values
    span = float(values.max() - values.min())
    return np.ascontiguousarray(((values - values.min()) / (span or 1.0)).T)


def _nifti_values(data: bytes) -> tuple[NDArray[np.float32], list[str | None]]:
    """The only plane, first axis first, without its minimum, and where its two axes point to."""
    # The header first: what it states bounds how much of a compressed file is inflated.
    compressed = data.startswith(GZIP)
    stream = gzip.GzipFile(fileobj=io.BytesIO(data)) if compressed else io.BytesIO(data)
    start = stream.read(HEADER_BYTES)
    if start[344:348] != NIFTI:
        raise ReadError("unknown_format")
    header = nib.Nifti1Image.header_class(start[:348])
    shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), int(header["vox_offset"])
    if int(np.prod(shape, dtype=np.float64)) > MAX_PIXELS:
        raise ReadError("too_large")
    axes = [i for i, length in enumerate(shape) if length != 1]
    if len(axes) != 2 or axes[1] > 2 or min(shape) < 1 or dtype.kind not in "iuf":
        raise ReadError("not_2d")
    length = offset + int(np.prod(shape)) * dtype.itemsize
    if compressed:
        # Reading to the end also has the checksum compared.
        data = start + stream.read(max(length + MOST_PADDING + 1 - len(start), 0))
    if offset < HEADER_BYTES or not length <= len(data) <= length + MOST_PADDING:
        raise ReadError("truncated")
    # Not through nibabel's array proxy, which copies three times; the minimum goes before float32 could round it away.
    raw = np.frombuffer(data, dtype, count=int(np.prod(shape)), offset=offset)
    values = np.empty(len(raw), dtype=np.float32)
    low = float(raw.min())
    for i in range(0, len(raw), CHUNK):
        values[i : i + CHUNK] = raw[i : i + CHUNK].astype(np.float64) - low
    slope, _ = header.get_slope_inter()
    if slope is not None and slope < 0:
        values *= np.float32(-1)
    codes = nib.aff2axcodes(header.get_best_affine())
    return values.reshape([shape[i] for i in axes], order="F"), [codes[i] for i in axes]
