"""From the bytes of one file to gray values in [0, 1], or a reason code; no torch, no MONAI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.imaging.decoded import Decoded, ReadOptions
    from sga_monai.imaging.dicom import read_header
    from sga_monai.imaging.read import decode, decode_cxr, read_cxr

__all__ = [
    "Decoded",
    "ReadOptions",
    "decode",
    "decode_cxr",
    "read_cxr",
    "read_header",
]
_MODULES = {
    "Decoded": "decoded",
    "ReadOptions": "decoded",
    "decode": "read",
    "decode_cxr": "read",
    "read_cxr": "read",
    "read_header": "dicom",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
