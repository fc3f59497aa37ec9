"""``CXRReader``: the reader of ``imaging`` as a MONAI ``ImageReader``."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import ensure_tuple
from numpy.typing import NDArray

from sga_monai.core import checks as check
from sga_monai.imaging.dicom import is_dicom, read_facts
from sga_monai.imaging.read import VOI, decode_cxr, read_bytes, sha256_of


class CXRReader(ImageReader):
    """``read_cxr`` for ``LoadImaged(keys="image", reader="sga_monai.reader.CXRReader")``.

    Args:
        voi: see ``read_cxr``.
        lateral: see ``read_cxr``.
        frame: see ``read_cxr``.
    """

    def __init__(self, voi: str = "dicom", lateral: bool = False, frame: int | None = None) -> None:
        super().__init__()
        self.voi = check.choice("voi", voi, VOI)
        self.lateral = lateral
        self.frame = None if frame is None else check.whole("frame", frame, low=1)

    def verify_suffix(self, filename: Sequence[str | PathLike[str]] | str | PathLike[str]) -> bool:  # noqa: ARG002 - MONAI's name
        """Always true: files are told apart by their bytes."""
        return True

    def read(self, data: Sequence[str | PathLike[str]] | str | PathLike[str], **_kwargs: Any) -> str:
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
