"""From a network and a dataset to predictions, and from predictions to the table of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.evaluation.predictions import INTERNAL, VALIDATION
    from sga_monai.evaluation.results import render, summarize
    from sga_monai.evaluation.saver import PredictionSaver

__all__ = [
    "INTERNAL",
    "VALIDATION",
    "PredictionSaver",
    "render",
    "summarize",
]
_MODULES = {
    "INTERNAL": "predictions",
    "PredictionSaver": "saver",
    "VALIDATION": "predictions",
    "render": "results",
    "summarize": "results",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
