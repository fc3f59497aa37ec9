"""What a recalibration at the site would do to the probabilities: exploratory, beside the locked figures, which stay."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd
from scipy.special import expit

from sga_monai.statistics.calibration import assess_calibration, observed_to_expected
from sga_monai.statistics.logistic_recalibration import recalibrate


def local_recalibration(scored: pd.DataFrame, model: Mapping[str, Any]) -> dict[str, Any] | None:
    """Calibration as it came and after a slope and an intercept fitted here, cross-fitted by patient.

    Args:
        scored: the scored rows of ``evaluate_bundle``'s predictions.
        model: the figures of the model in ``make_report``; its calibration is copied, not computed again.

    Returns:
        ``exploratory`` (true), ``fitted`` (``intercept, slope`` on all images), and ``locked`` and ``recalibrated``, each with
        ``slope, intercept, brier, ece, observed_to_expected``, and ``images``, ``patients``; ``None`` with fewer than 10 patients of
        a class, or where no recalibration is finite.
    """
    if model["calibration"] is None:
        return None
    label, patient = scored["label"], scored["patient"]
    probability = expit(scored["score"].to_numpy() / model["temperature"])
    found = recalibrate(probability, label, patient)
    if found is None:
        return None
    after = asdict(assess_calibration(found.probability, label, patient))
    parts = {"locked": (model["calibration"], probability), "recalibrated": (after, found.probability)}
    figures = {
        name: {key: fit[key] for key in ("slope", "intercept", "brier", "ece")}
        | {"observed_to_expected": asdict(observed_to_expected(p, label, patient))}
        for name, (fit, p) in parts.items()
    }
    fitted = {"intercept": asdict(found.intercept), "slope": asdict(found.slope)}
    return {"exploratory": True, "fitted": fitted, **figures, "images": len(scored), "patients": int(patient.nunique())}
