"""Statistics from arrays of scores, labels and patients; no files, no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.statistics.calibration import assess_calibration, fit_temperature
    from sga_monai.statistics.control_charts import chart, ewma_limit
    from sga_monai.statistics.decisions import net_benefit, operating_point, predictive_values, youden_threshold
    from sga_monai.statistics.discrimination import auroc, auroc_difference, average_precision, paired_difference
    from sga_monai.statistics.estimates import Estimate, cluster_bootstrap
    from sga_monai.statistics.logistic_recalibration import recalibrate
    from sga_monai.statistics.pooling import pool_aurocs
    from sga_monai.statistics.probes import metadata_auroc, site_probe
    from sga_monai.statistics.readers import average_readers, compare_with_readers
    from sga_monai.statistics.seeds import holm, mean_auroc, mean_difference
    from sga_monai.statistics.separability import site_auroc, site_scores, source_profile
    from sga_monai.statistics.shortcuts import frame_only_auroc, thumbnail_auroc

__all__ = [
    "Estimate",
    "assess_calibration",
    "auroc",
    "auroc_difference",
    "average_precision",
    "average_readers",
    "chart",
    "cluster_bootstrap",
    "compare_with_readers",
    "ewma_limit",
    "fit_temperature",
    "frame_only_auroc",
    "holm",
    "mean_auroc",
    "mean_difference",
    "metadata_auroc",
    "net_benefit",
    "operating_point",
    "paired_difference",
    "pool_aurocs",
    "predictive_values",
    "recalibrate",
    "site_auroc",
    "site_probe",
    "site_scores",
    "source_profile",
    "thumbnail_auroc",
    "youden_threshold",
]
_MODULES = {
    "Estimate": "estimates",
    "assess_calibration": "calibration",
    "auroc": "discrimination",
    "auroc_difference": "discrimination",
    "average_precision": "discrimination",
    "average_readers": "readers",
    "chart": "control_charts",
    "cluster_bootstrap": "estimates",
    "compare_with_readers": "readers",
    "ewma_limit": "control_charts",
    "fit_temperature": "calibration",
    "frame_only_auroc": "shortcuts",
    "holm": "seeds",
    "mean_auroc": "seeds",
    "mean_difference": "seeds",
    "metadata_auroc": "probes",
    "net_benefit": "decisions",
    "operating_point": "decisions",
    "paired_difference": "discrimination",
    "pool_aurocs": "pooling",
    "predictive_values": "decisions",
    "recalibrate": "logistic_recalibration",
    "site_auroc": "separability",
    "site_probe": "probes",
    "site_scores": "separability",
    "source_profile": "separability",
    "thumbnail_auroc": "shortcuts",
    "youden_threshold": "decisions",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
