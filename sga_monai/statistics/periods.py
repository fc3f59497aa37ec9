"""Figures of periods that can be compared: means at one prevalence, AUROCs on the logit scale, and changes in standard deviations."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t

from sga_monai.statistics.control_charts import Summary
from sga_monai.statistics.discrimination import Auroc
from sga_monai.statistics.estimates import Estimate

NOT_ESTIMABLE = Summary(math.nan, math.nan, math.nan, math.nan)


def mean_summary(values: ArrayLike, stratum: ArrayLike, patient: ArrayLike, shares: Mapping[int, float]) -> Summary:
    """Mean of figures of images at fixed shares of strata (direct standardization), its variance clustered by patient.

    With the label as the stratum and the same shares in every period, a wave of disease alone changes nothing.

    Args:
        values: ``[N]``, finite.
        stratum: ``[N]``; values outside of ``shares`` are not used.
        patient: ``[N]``, any keys.
        shares: of the strata, with the sum 1.

    Returns:
        Nothing usable where a stratum has fewer than two patients, or no image differs from another.

    Example:
        >>> mean_summary([1.0, 3.0, 10.0, 20.0], [0, 0, 1, 1], [1, 2, 3, 4], {0: 0.9, 1: 0.1}).value
        3.3
    """
    values, stratum, patient = np.asarray(values, dtype=np.float64), np.asarray(stratum), np.asarray(patient)
    keys, cluster = np.unique(patient, return_inverse=True)
    influence, value, inverse = np.zeros(len(keys)), 0.0, 0.0
    variances, degrees = [], []
    for name, share in shares.items():
        chosen = stratum == name
        n, people = int(chosen.sum()), len(np.unique(patient[chosen]))
        if people < 2:
            return NOT_ESTIMABLE
        mean = float(values[chosen].mean())
        part = np.bincount(cluster[chosen], share * (values[chosen] - mean) / n, len(keys)) * math.sqrt(people / (people - 1))
        influence += part
        value, inverse = value + share * mean, inverse + share**2 / n
        variances.append(float((part**2).sum()))
        degrees.append(people - 1)
    # Residuals of equal values may sum to a rounding error instead of zero.
    if np.abs(influence).max() <= 1e-12 * np.abs(values).max():
        return NOT_ESTIMABLE
    # Patients with images of several strata are in the variance together, and apart in the degrees of freedom (Satterthwaite's).
    variance = float((influence**2).sum())
    freedom = sum(variances) ** 2 / sum(part**2 / number for part, number in zip(variances, degrees, strict=True))
    return Summary(value, variance, freedom, 1 / inverse)


def auroc_summary(figure: Auroc, n_patients: int) -> Summary:
    """An AUROC on the logit scale, on which it is nearly normal.

    Args:
        figure: of ``auroc``.
        n_patients: of the class that has fewer.
    """
    area = figure.auroc
    if not figure.variance > 0 or not 0 < area < 1:
        return NOT_ESTIMABLE
    size = 1 / (1 / figure.n_positive + 1 / figure.n_negative)
    return Summary(math.log(area / (1 - area)), figure.variance / (area * (1 - area)) ** 2, n_patients - 1, size)


def change(now: Summary, first: Summary, deviation: float, confidence: float = 0.95) -> Estimate:
    """Difference of two independent summaries in units of a standard deviation, which is taken as known, with a t interval."""
    if not now.usable() or not first.usable() or not deviation > 0:
        return Estimate(math.nan, math.nan, math.nan)
    variance = now.variance + first.variance
    degrees = variance**2 / (now.variance**2 / now.degrees + first.variance**2 / first.degrees)
    half = float(t.ppf(0.5 + confidence / 2, degrees)) * math.sqrt(variance)
    value = now.value - first.value
    return Estimate(value / deviation, (value - half) / deviation, (value + half) / deviation)


def deviation_within(values: ArrayLike, stratum: ArrayLike, shares: Mapping[int, float]) -> float:
    """Standard deviation of figures of images within strata, at fixed shares of these."""
    values, stratum = np.asarray(values, dtype=np.float64), np.asarray(stratum)
    return math.sqrt(sum(share * float(values[stratum == name].var()) for name, share in shares.items()))
