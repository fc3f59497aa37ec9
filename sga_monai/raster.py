"""From a PNG, JPEG or two-dimensional NIfTI file to gray values, rows x columns, bright is dense."""

from __future__ import annotations

import gzip
import io

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from sga_monai.errors import ReadError

MAX_PIXELS = 50_000_000
PNG, JPEG, GZIP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x1f\x8b"


def is_picture(data: bytes) -> bool:
    """Whether ``data`` begins like a PNG or a JPEG file."""
    return data.startswith((PNG, JPEG))


def is_nifti(data: bytes) -> bool:
    """Whether ``data`` is a NIfTI-1 file or a gzip file, which only NIfTI uses here."""
    return data.startswith(GZIP) or data[344:347] in (b"n+1", b"ni1")


def read_picture(data: bytes) -> NDArray[np.float32]:
    """Gray values in [0, 1] of a PNG or JPEG with 8 or 16 bits: palette and color become luminance, alpha lies on black.

    JPEG's EXIF orientation is applied.

    Raises:
        ReadError: when the file is damaged, too large or of another kind.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise ReadError("too_large")
            if getattr(picture, "n_frames", 1) != 1:
                raise ReadError("multi_frame")
            picture.load()
            upright = ImageOps.exif_transpose(picture)
    except ReadError:
        raise
    except Exception:
        raise ReadError("truncated") from None
    if upright.mode == "1":
        upright = upright.convert("L")
    if upright.mode in ("I;16", "I;16B", "I"):
        return np.asarray(upright, dtype=np.float32) / np.float32(65535)
    if upright.mode == "L":
        return np.asarray(upright, dtype=np.float32) / np.float32(255)
    if upright.mode in ("CMYK", "YCbCr"):
        upright = upright.convert("RGB")
    rgba = np.asarray(upright.convert("RGBA"), dtype=np.float32) / np.float32(255)
    gray = rgba[..., :3] @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return gray * rgba[..., 3]


def read_nifti(data: bytes) -> NDArray[np.float32]:
    """Gray values in [0, 1] (minimum to maximum) of a two-dimensional NIfTI image.

    Orientation is made explicit: NIfTI stores x (left to right) first, so the array is transposed to rows x columns,
    and turned so that the patient's head is up and the patient's right is at the picture's left, as a radiograph is
    hung. Where the affine names no such axes (identity, or none), the first axis is columns, the second rows.

    Raises:
        ReadError: when the file is damaged, too large, or has more than one plane.
    """
    try:
        if data.startswith(GZIP):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
                data = stream.read(8 * MAX_PIXELS + 1)
            if len(data) > 8 * MAX_PIXELS:
                raise ReadError("too_large")
        if not is_nifti(data) or data.startswith(GZIP):
            raise ReadError("unknown_format")
        picture = nib.Nifti1Image.from_bytes(data)
        if int(np.prod(picture.shape, dtype=np.float64)) > MAX_PIXELS:
            raise ReadError("too_large")
        if picture.ndim < 2 or np.prod(picture.shape[2:]) != 1:
            raise ReadError("not_2d")
        values = np.asarray(picture.dataobj, dtype=np.float32).reshape(picture.shape[:2])
    except ReadError:
        raise
    except Exception:
        raise ReadError("truncated") from None
    if not np.isfinite(values).all():
        raise ReadError("not_finite")
    columns, rows = nib.aff2axcodes(picture.affine)[:2]
    if columns in ("S", "I") and rows in ("L", "R"):
        values, columns, rows = values.T, rows, columns
    if {columns, rows} <= {"S", "I", "L", "R"} and rows in "SI":
        # Radiographic convention: rows run from head to foot, columns from the patient's right to the left.
        values = values[::-1] if columns == "R" else values
        values = values[:, ::-1] if rows == "S" else values
    span = float(values.max() - values.min())
    return np.ascontiguousarray(((values - values.min()) / (span or 1.0)).T)
