"""Where manifests come from: public collections, a folder of DICOM files, the embedded phantom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.cohorts.from_dicom import manifest_from_dicom
    from sga_monai.cohorts.inspection import inspect_manifest
    from sga_monai.cohorts.phantom import write_phantom
    from sga_monai.cohorts.splits import split_by_patient

__all__ = [
    "inspect_manifest",
    "manifest_from_dicom",
    "split_by_patient",
    "write_phantom",
]
_MODULES = {
    "inspect_manifest": "inspection",
    "manifest_from_dicom": "from_dicom",
    "split_by_patient": "splits",
    "write_phantom": "phantom",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
