"""Other systems of a hospital: studies come from its archive (PACS), results go back as DICOM objects, federations get what may leave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.integrations.dicom_results.results import write_results
    from sga_monai.integrations.federated.aggregation import average
    from sga_monai.integrations.federated.plan import TrainingPlan
    from sga_monai.integrations.federated.site import SiteFile, read_site_file
    from sga_monai.integrations.pacs.pull import pull

__all__ = ["SiteFile", "TrainingPlan", "average", "pull", "read_site_file", "write_results"]
_MODULES = {
    "SiteFile": "federated.site",
    "TrainingPlan": "federated.plan",
    "average": "federated.aggregation",
    "pull": "pacs.pull",
    "read_site_file": "federated.site",
    "write_results": "dicom_results.results",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
