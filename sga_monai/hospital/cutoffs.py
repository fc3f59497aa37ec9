"""What other thresholds than the locked one would do: a table by cutoff, exploratory, and the locked one per 1,000 patients."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sga_monai.hospital.curves import even_edges
from sga_monai.hospital.formats import MIN_PATIENTS
from sga_monai.statistics.decisions import operating_point

CUTOFFS = (0.01, 0.02, 0.05, *(round(0.1 * i, 1) for i in range(1, 10)), 0.95, 0.98, 0.99)
RATES = ("sensitivity", "specificity", "ppv", "npv")
THOUSAND = 1000


def cutoff_table(
    cases: pd.DataFrame, probability: NDArray[np.float64] | None, locked: Mapping[str, Any] | None, **at: Any
) -> dict[str, Any]:
    """Sensitivity, specificity, predictive values and the share called positive by cutoff.

    Args:
        cases: ``score, label, patient``.
        probability: ``[N]``; ``None`` where the model gives none: cutoffs are then of the score.
        locked: the model's ``operating_point``; ``None`` without a threshold.
        at: ``prevalence`` for predictive values and the share called positive, the cohort's when ``None``, and ``threshold``, the
            probability of the locked threshold, ``None`` where it has none.

    Returns:
        ``scale`` ("probability" or "score") and ``rows`` with ``cutoff, locked, called, sensitivity, specificity, ppv, npv``; a
        row has ten patients or more who are called and as many who are not, or is the locked one.
    """
    scale = "score" if probability is None else "probability"
    values = cases["score"].to_numpy() if probability is None else probability
    label, patient = cases["label"].to_numpy(), cases["patient"].to_numpy()
    known = None if locked is None else locked["threshold"] if probability is None else at["threshold"]
    rows = [] if locked is None else [_row(known, True, locked)]
    for cutoff in even_edges(values)[0] if probability is None else CUTOFFS:
        if known is not None and abs(cutoff - known) < 1e-9:
            continue
        called = values >= cutoff
        if min(len(np.unique(patient[side])) for side in (called, ~called)) >= MIN_PATIENTS:
            rows.append(_row(cutoff, False, asdict(operating_point(values, label, cutoff, patient, at["prevalence"]))))
    # A locked threshold without a probability stands last.
    rows.sort(key=lambda row: (row["cutoff"] is None, row["cutoff"] or 0.0, row["locked"]))
    return {"scale": scale, "rows": rows}


def _row(cutoff: float | None, locked: bool, point: Mapping[str, Any]) -> dict[str, Any]:
    share = point["prevalence"]
    called = share * point["sensitivity"]["value"] + (1 - share) * (1 - point["specificity"]["value"])
    return {"cutoff": cutoff, "locked": locked, "called": called, **{name: point[name] for name in RATES}}


def per_thousand(point: Mapping[str, Any]) -> dict[str, Any] | None:
    """What the locked threshold does to 1,000 patients at the prevalence of its predictive values.

    Args:
        point: ``operating_point`` of a report. The intervals are those of sensitivity and specificity, times the number of diseased
            and of healthy patients; the prevalence is taken as known.

    Returns:
        ``prevalence, diseased, healthy``; ``found, missed, cleared, false_alarms`` with ``value, low, high``; and ``dots``, whole
        numbers of the four that add up to 1,000. ``None`` where a rate is not estimable.

    Example:
        >>> rate = {"value": 0.9, "low": 0.8, "high": 0.95}
        >>> found = per_thousand({"prevalence": 0.1, "sensitivity": rate, "specificity": rate})
        >>> found["dots"], found["missed"]["high"]
        ({'found': 90, 'missed': 10, 'false_alarms': 90, 'cleared': 810}, 20.0)
    """
    sensitivity, specificity, share = point["sensitivity"], point["specificity"], point["prevalence"]
    if any(rate["value"] is None or np.isnan(rate["value"]) for rate in (sensitivity, specificity)):
        return None
    diseased, healthy = THOUSAND * share, THOUSAND * (1 - share)
    whole = round(diseased)
    found, cleared = round(whole * sensitivity["value"]), round((THOUSAND - whole) * specificity["value"])
    return {
        "prevalence": share,
        "diseased": diseased,
        "healthy": healthy,
        "found": _times(sensitivity, diseased),
        "missed": _times(_complement(sensitivity), diseased),
        "cleared": _times(specificity, healthy),
        "false_alarms": _times(_complement(specificity), healthy),
        "dots": {"found": found, "missed": whole - found, "false_alarms": THOUSAND - whole - cleared, "cleared": cleared},
    }


def _complement(rate: Mapping[str, float]) -> dict[str, float]:
    return {"value": 1 - rate["value"], "low": 1 - rate["high"], "high": 1 - rate["low"]}


def _times(rate: Mapping[str, float], number: float) -> dict[str, float]:
    # Sums of binary fractions would show as 19.999999999999996.
    return {end: round(number * rate[end], 9) for end in ("value", "low", "high")}
