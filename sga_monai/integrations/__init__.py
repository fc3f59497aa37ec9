"""Other systems of a hospital: studies come from its archive (PACS), results go back to it as DICOM objects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.integrations.dicom_results.results import write_results
    from sga_monai.integrations.pacs.pull import pull

__all__ = ["pull", "write_results"]
_MODULES = {"pull": "pacs.pull", "write_results": "dicom_results.results"}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
