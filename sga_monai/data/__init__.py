"""From a row of a manifest to a prepared tensor, or a counted failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.data.cxr_reader import CXRReader
    from sga_monai.data.datalist import load_manifest
    from sga_monai.data.dataset import CXRDataset, refuse_same_bytes
    from sga_monai.data.duplicates import refuse_near_duplicates
    from sga_monai.data.manifest import read_manifest
    from sga_monai.data.manifest_writer import write_manifest
    from sga_monai.data.transforms import ScalePercentilesd, preprocessing

__all__ = [
    "CXRDataset",
    "CXRReader",
    "ScalePercentilesd",
    "load_manifest",
    "preprocessing",
    "read_manifest",
    "refuse_near_duplicates",
    "refuse_same_bytes",
    "write_manifest",
]
_MODULES = {
    "CXRDataset": "dataset",
    "CXRReader": "cxr_reader",
    "ScalePercentilesd": "transforms",
    "load_manifest": "datalist",
    "preprocessing": "transforms",
    "read_manifest": "manifest",
    "refuse_near_duplicates": "duplicates",
    "refuse_same_bytes": "dataset",
    "write_manifest": "manifest_writer",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
