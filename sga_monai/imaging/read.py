"""Read one radiograph from a file of any supported format: decoded correctly, or rejected with a reason code."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from sga_monai.core import checks as check
from sga_monai.core.errors import ReadError
from sga_monai.imaging.dicom import is_dicom, read_dicom
from sga_monai.imaging.raster import is_nifti, is_picture, read_nifti, read_picture

MAX_BYTES = 192 * 1024 * 1024
VOI = ("dicom", "none")


def read_cxr(path: str | Path, voi: str = "dicom", lateral: bool = False, frame: int | None = None) -> NDArray[np.float32]:
    """Read one chest radiograph from a DICOM, PNG, JPEG or two-dimensional NIfTI file, told apart by its bytes.

    Args:
        path: the file.
        voi: "dicom" applies the VOI LUT or window of a DICOM file, "none" does not.
        lateral: accept a DICOM file whose ViewPosition is lateral.
        frame: the frame to take of a DICOM file with several, from 1; ``None`` refuses such a file.

    Returns:
        float32 in [0, 1], rows x columns at native size, finite, bright is dense. The result does not depend on which
        optional packages are installed. Peak memory is below 700 MB for any bytes.

    Raises:
        ReadError: with a reason code, when the file is not one complete frontal image. The message names no path.
    """
    return decode_cxr(read_bytes(path), voi, lateral, frame)


def decode_cxr(data: bytes, voi: str = "dicom", lateral: bool = False, frame: int | None = None) -> NDArray[np.float32]:
    """``read_cxr`` for the bytes of a file."""
    check.choice("voi", voi, VOI)
    try:
        if is_dicom(data):
            image = read_dicom(data, voi, lateral, frame)
        elif is_picture(data):
            image = read_picture(data)
        elif is_nifti(data):
            image = read_nifti(data)
        else:
            raise ReadError("unknown_format")
    except ReadError:
        raise
    except Exception:
        # Nothing that a file's bytes bring about may end an evaluation.
        raise ReadError("unreadable") from None
    if image.ndim != 2 or min(image.shape) < 2:
        raise ReadError("not_2d")
    low, high = image.min(), image.max()
    if not np.isfinite([low, high]).all():
        raise ReadError("not_finite")
    if low == high:
        raise ReadError("constant")
    return np.ascontiguousarray(image, dtype=np.float32)


def read_bytes(path: str | Path) -> bytes:
    """The whole file; devices, pipes and folders are refused, since reading them may not end.

    Raises:
        ReadError: "missing", "not_a_file", "too_large", or "unreadable" where the system will not give it.
    """
    return read_from(path, lambda stream: stream.read(MAX_BYTES))


def read_from(path: str | Path, read: Callable[[BinaryIO], bytes]) -> bytes:
    """What ``read`` takes from an open file; see ``read_bytes`` for what is refused."""
    try:
        # Without O_NONBLOCK the open itself waits for a pipe's writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise ReadError("missing") from None
    except (OSError, ValueError):
        raise ReadError("unreadable") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ReadError("not_a_file")
        if status.st_size > MAX_BYTES:
            raise ReadError("too_large")
        with open(descriptor, "rb", closefd=False) as stream:
            return read(stream)
    except OSError:
        raise ReadError("unreadable") from None
    finally:
        os.close(descriptor)


def sha256_of(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits, as in the manifest's ``sha256``."""
    return hashlib.sha256(data).hexdigest()
