"""From a network and a dataset to predictions, and from predictions to the table of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.evaluation.cohort import Cohort, list_cohort, read_cohorts
    from sga_monai.evaluation.predictions import INTERNAL, VALIDATION, is_internal, read_predictions
    from sga_monai.evaluation.results import render, summarize
    from sga_monai.evaluation.saver import PredictionSaver
    from sga_monai.evaluation.scoring import Control, score_dataset

__all__ = [
    "INTERNAL",
    "VALIDATION",
    "Cohort",
    "Control",
    "PredictionSaver",
    "is_internal",
    "list_cohort",
    "read_cohorts",
    "read_predictions",
    "render",
    "score_dataset",
    "summarize",
]
_MODULES = {
    "INTERNAL": "predictions",
    "VALIDATION": "predictions",
    "Cohort": "cohort",
    "Control": "scoring",
    "PredictionSaver": "saver",
    "is_internal": "predictions",
    "list_cohort": "cohort",
    "read_cohorts": "cohort",
    "read_predictions": "predictions",
    "render": "results",
    "score_dataset": "scoring",
    "summarize": "results",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
