"""``CXRReader``: the reader of ``imaging`` as a MONAI ``ImageReader``."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import numpy as np
from monai.data.image_reader import ImageReader
from monai.utils import ensure_tuple
from numpy.typing import NDArray

from sga_monai.imaging.decoded import ReadOptions
from sga_monai.imaging.read import decode, read_bytes, sha256_of


class CXRReader(ImageReader):
    """``read_cxr`` for ``LoadImaged``.

    Args:
        voi: see ``ReadOptions``, as for all that follow.
        lateral: accept lateral and oblique views too.
        frame: the frame to take of a DICOM file with several, from 1.
        orientation: "header" or "stored".
        other_examinations: accept what is no chest radiograph by its header.

    Raises:
        InputError: when an option has no such value.

    Example:
        >>> from monai.transforms import LoadImaged
        >>> load = LoadImaged(keys="image", reader=CXRReader(orientation="stored"), image_only=False, ensure_channel_first=True)
    """

    def __init__(
        self,
        voi: str = "dicom",
        lateral: bool = False,
        frame: int | None = None,
        orientation: str = "header",
        other_examinations: bool = False,
    ) -> None:
        super().__init__()
        self.options = ReadOptions(voi, lateral, frame, orientation, other_examinations)

    def verify_suffix(self, filename: Sequence[str | PathLike[str]] | str | PathLike[str]) -> bool:  # noqa: ARG002 - MONAI's name
        """Always true: a file's bytes say what it is."""
        return True

    def read(self, data: Sequence[str | PathLike[str]] | str | PathLike[str], **_kwargs: Any) -> str:
        """The path itself. An error here would make ``LoadImage`` try its next reader; ``get_data`` may fail."""
        return str(ensure_tuple(data)[0])

    def get_data(self, img: str) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """The image, and the metadata ``LoadImage`` needs; nothing of the file's header that may name the patient.

        ``meta["sha256"]`` is that of the very bytes that were decoded; ``meta["burned_in"]`` is whether BurnedInAnnotation is
        YES, so that nobody draws the image unasked; ``meta["padding"]`` is where the pixels are padding, absent where none is.
        """
        data = read_bytes(img)
        decoded = decode(data, self.options)
        meta = {
            "affine": np.eye(4),
            "original_affine": np.eye(4),
            "spatial_shape": np.asarray(decoded.image.shape),
            "original_channel_dim": float("nan"),
            "space": "RAS",
            "sha256": sha256_of(data),
            "burned_in": decoded.facts.get("burned_in") == "YES",
        }
        return decoded.image, meta if decoded.padding is None else meta | {"padding": decoded.padding}
