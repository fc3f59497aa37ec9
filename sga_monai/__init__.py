"""Chest X-ray classifiers that keep working at the next hospital: saliency guided adversarial training on MONAI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.data import CXRDataset, CXRReader, load_manifest
    from sga_monai.hospital import load
    from sga_monai.imaging import read_cxr
    from sga_monai.model import CXRResNet18
    from sga_monai.sga import Attack, Domain, Masking, Objective, SGAIteration

__version__ = "0.1.0"
__all__ = [
    "Attack",
    "CXRDataset",
    "CXRReader",
    "CXRResNet18",
    "Domain",
    "Masking",
    "Objective",
    "SGAIteration",
    "load",
    "load_manifest",
    "read_cxr",
]
_MODULES = {
    "Attack": "sga",
    "CXRDataset": "data",
    "CXRReader": "data",
    "CXRResNet18": "model",
    "Domain": "sga",
    "Masking": "sga",
    "Objective": "sga",
    "SGAIteration": "sga",
    "load": "hospital",
    "load_manifest": "data",
    "read_cxr": "imaging",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
