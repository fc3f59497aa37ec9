"""The only way an image gets in: a picture is right, or it is refused with a reason."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import ensure_tuple
from numpy.typing import NDArray

from sga_monai.dicom import is_dicom, read_dicom
from sga_monai.errors import InputError, ReadError
from sga_monai.raster import is_nifti, is_picture, read_nifti, read_picture

MAX_BYTES = 512 * 1024 * 1024
VOI = ("dicom", "none")


def read_cxr(path: str | Path, voi: str = "dicom", lateral: bool = False) -> NDArray[np.float32]:
    """Read one chest radiograph from a DICOM, PNG, JPEG or two-dimensional NIfTI file, told apart by its bytes.

    Args:
        path: the file.
        voi: "dicom" applies the VOI LUT or window of a DICOM file, "none" does not.
        lateral: accept a DICOM file whose ViewPosition is lateral.

    Returns:
        float32 in [0, 1], rows x columns at native size, finite, bright is dense. The result does not depend on which
        optional packages are installed.

    Raises:
        ReadError: with a reason code, when the file is not one complete frontal image. The message names no path.
    """
    data = _read_bytes(Path(path))
    if is_dicom(data):
        image = read_dicom(data, voi, lateral)
    elif is_picture(data):
        image = read_picture(data)
    elif is_nifti(data):
        image = read_nifti(data)
    else:
        raise ReadError("unknown_format")
    if image.ndim != 2 or min(image.shape) < 2:
        raise ReadError("not_2d")
    if not np.isfinite(image).all():
        raise ReadError("not_finite")
    if image.min() == image.max():
        raise ReadError("constant")
    return np.ascontiguousarray(image, dtype=np.float32)


def _read_bytes(path: Path) -> bytes:
    """The whole file; devices, pipes and folders are refused, since reading them may not end."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ReadError("not_a_file")
        if status.st_size > MAX_BYTES:
            raise ReadError("too_large")
        return path.read_bytes()
    except FileNotFoundError:
        raise ReadError("missing") from None
    except (OSError, ValueError) as error:
        raise error if isinstance(error, ReadError) else ReadError("unreadable") from None


class CXRReader(ImageReader):
    """``read_cxr`` for ``LoadImaged(keys="image", reader="sga_monai.reader.CXRReader")``.

    Args:
        voi: see ``read_cxr``.
        lateral: see ``read_cxr``.
    """

    def __init__(self, voi: str = "dicom", lateral: bool = False) -> None:
        super().__init__()
        if voi not in VOI:
            raise InputError(f"voi must be one of {', '.join(VOI)}, got {voi!r}")
        self.voi = voi
        self.lateral = lateral

    def verify_suffix(self, filename: Sequence[str | PathLike[str]] | str | PathLike[str]) -> bool:
        """Always true: files are told apart by their bytes."""
        return True

    def read(self, data: Sequence[str | PathLike[str]] | str | PathLike[str], **kwargs: Any) -> str:
        """The path itself. An error here would make ``LoadImage`` try its next reader; ``get_data`` may fail."""
        return str(ensure_tuple(data)[0])

    def get_data(self, img: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """The image and the metadata ``LoadImage`` needs; nothing of the file's header, which names the patient."""
        image = read_cxr(img, self.voi, self.lateral)
        meta = {
            "affine": np.eye(4),
            "original_affine": np.eye(4),
            "spatial_shape": np.asarray(image.shape),
            "original_channel_dim": float("nan"),
            "space": "RAS",
        }
        return image, meta
