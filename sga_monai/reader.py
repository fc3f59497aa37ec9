"""The only way an image gets in: a picture is right, or it is refused with a reason."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import ensure_tuple
from numpy.typing import NDArray

from sga_monai.dicom import is_dicom, read_dicom, read_facts
from sga_monai.errors import InputError, ReadError
from sga_monai.raster import is_nifti, is_picture, read_nifti, read_picture

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
    if voi not in VOI:
        raise InputError(f"voi must be one of {', '.join(VOI)}, got {voi!r}")
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
            return stream.read(MAX_BYTES)
    except OSError:
        raise ReadError("unreadable") from None
    finally:
        os.close(descriptor)


def sha256_of(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits, as in the manifest's ``sha256``."""
    return hashlib.sha256(data).hexdigest()


class CXRReader(ImageReader):
    """``read_cxr`` for ``LoadImaged(keys="image", reader="sga_monai.reader.CXRReader")``.

    Args:
        voi: see ``read_cxr``.
        lateral: see ``read_cxr``.
        frame: see ``read_cxr``.
    """

    def __init__(self, voi: str = "dicom", lateral: bool = False, frame: int | None = None) -> None:
        super().__init__()
        if voi not in VOI:
            raise InputError(f"voi must be one of {', '.join(VOI)}, got {voi!r}")
        self.voi = voi
        if frame is not None and (isinstance(frame, bool) or not isinstance(frame, int) or frame < 1):
            raise InputError(f"frame must be a number from 1, or null, got {frame!r}")
        self.lateral = lateral
        self.frame = frame

    def verify_suffix(self, filename: Sequence[str | PathLike[str]] | str | PathLike[str]) -> bool:
        """Always true: files are told apart by their bytes."""
        return True

    def read(self, data: Sequence[str | PathLike[str]] | str | PathLike[str], **kwargs: Any) -> str:
        """The path itself. An error here would make ``LoadImage`` try its next reader; ``get_data`` may fail."""
        return str(ensure_tuple(data)[0])

    def get_data(self, img: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """The image, and the metadata ``LoadImage`` needs; nothing of the file's header that may name the patient.

        ``meta["sha256"]`` is that of the very bytes that were decoded; ``meta["burned_in"]`` is whether
        BurnedInAnnotation is YES, so that nobody draws the image unasked.
        """
        data = read_bytes(img)
        image = decode_cxr(data, self.voi, self.lateral, self.frame)
        meta = {
            "affine": np.eye(4),
            "original_affine": np.eye(4),
            "spatial_shape": np.asarray(image.shape),
            "original_channel_dim": float("nan"),
            "space": "RAS",
            "sha256": sha256_of(data),
            "burned_in": is_dicom(data) and read_facts(data)["burned_in"] == "YES",
        }
        return image, meta
