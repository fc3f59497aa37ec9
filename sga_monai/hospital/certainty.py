"""How certain a site's AUROC and its drop are, also where an AUROC of 0 or 1 has no variance."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from scipy.stats import norm

from sga_monai.hospital.formats import MODEL


def auroc_with_limits(report: Mapping[str, Any]) -> dict[str, float]:
    """``value, low, high`` of the model's AUROC; one of 0 or 1, which has no variance, has the limits of ``separated_limit``."""
    area, cohort = report["models"][MODEL]["auroc"], report["cohort"]
    found = {end: area[end] for end in ("value", "low", "high")}
    if found["value"] in (0.0, 1.0):
        limit = separated_limit(cohort["positive_patients"], cohort["negative_patients"], cohort["patients"])
        found |= {"low": limit, "high": 1.0} if found["value"] else {"low": 0.0, "high": 1 - limit}
    return found


def drop_with_limits(report: Mapping[str, Any]) -> dict[str, float]:
    """``value, low, high`` of site minus internal AUROC, of a report with an internal one; NaN where not estimable."""
    model, area = report["models"][MODEL], auroc_with_limits(report)
    internal, drop = model["internal"], model["auroc_difference"]
    found = {end: drop[end] for end in ("value", "low", "high")}
    if internal["auroc"] == 1:
        limit = separated_limit(internal["n_positive"], internal["n_negative"], internal["n_patients"])
        found |= {"low": area["low"] - 1, "high": area["high"] - limit}
    elif area["value"] in (0.0, 1.0):
        # Two independent figures, each with its own limits (Newcombe, Statistics in Medicine 17, 1998, method 10).
        half = float(norm.ppf(0.975)) * math.sqrt(internal.get("variance") or math.nan)
        found["low"] = found["value"] - math.hypot(area["value"] - area["low"], half)
        found["high"] = found["value"] + math.hypot(area["high"] - area["value"], half)
    return found


def separated_limit(positive: int, negative: int, patients: int) -> float:
    """Lower 95 % limit of an AUROC that is 1 in a sample, where the usual variance is 0.

    Were the true one below 0.025^(1/k), then k independent pairs of patients would all be in the right order with a probability
    below 2.5 %.

    Args:
        positive: patients with label 1.
        negative: patients with label 0; one may have both.
        patients: all of them.

    Example:
        >>> round(separated_limit(100, 300, 400), 3), round(separated_limit(1, 300, 301), 3)
        (0.964, 0.025)
    """
    pairs = max(min(positive, negative, patients // 2), 1)
    return float(0.025 ** (1 / pairs))
