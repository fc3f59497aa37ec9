"""Several trainings of one method on the same test images: two sources of chance, the patients and the seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import t as student

from sga_monai.statistics.discrimination import auroc, auroc_covariance
from sga_monai.statistics.estimates import mean_variance


@dataclass(frozen=True)
class SeedMean:
    """A figure averaged over seeds.

    Attributes:
        value: mean over the seeds.
        low: lower end of the 95 % interval; NaN where not estimable.
        high: upper end.
        p: two-sided, of ``value`` against ``null``; NaN where not estimable.
        sd_patients: standard error that the choice of patients brings.
        sd_seeds: standard error that the choice of seeds brings; NaN with one seed, and then not in the interval.
        n_seeds: number of seeds.
    """

    value: float
    low: float
    high: float
    p: float
    sd_patients: float
    sd_seeds: float
    n_seeds: int


def mean_auroc(scores: ArrayLike, label: ArrayLike, patient: ArrayLike) -> SeedMean:
    """Mean AUROC of S trainings, with an interval over patients and seeds; p is against 0.5.

    The patients' variance is that of the mean of correlated AUROCs (Obuchowski, Biometrics 53, 1997), the seeds' is the
    sample variance over S. Their sum has Satterthwaite's degrees of freedom, S - 1 for the seeds' part; the other part is
    taken as known. What seeds and patients do together is in both parts, so the interval is a little too wide.

    Args:
        scores: ``[S, N]``, one row a seed.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys.
    """
    return mean_difference(scores, None, label, patient)


def mean_difference(first: ArrayLike, second: ArrayLike | None, label: ArrayLike, patient: ArrayLike) -> SeedMean:
    """Mean over S seeds of the AUROC of ``first`` minus that of ``second``, paired by image and by seed; p is against 0.

    Args:
        first: ``[S, N]``.
        second: ``[S, N]``, or ``None`` for ``mean_auroc``.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys.
    """
    signed = [(1.0, np.asarray(first, dtype=np.float64))]
    if second is not None:
        signed.append((-1.0, np.asarray(second, dtype=np.float64)))
    n_seeds = len(signed[0][1])
    areas = np.array([sum(sign * auroc(scores[s], label, patient).auroc for sign, scores in signed) for s in range(n_seeds)])
    rows = [(sign, scores[s]) for s in range(n_seeds) for sign, scores in signed]
    covariance = np.array([[a * b * auroc_covariance(x, y, label, patient) for b, y in rows] for a, x in rows])
    patients = float(covariance.sum()) / n_seeds**2
    seeds = float(areas.var(ddof=1)) / n_seeds if n_seeds > 1 else math.nan
    return combine(float(areas.mean()), patients, seeds, n_seeds, 0.5 if second is None else 0.0)


def mean_over_seeds(values: ArrayLike, patient: ArrayLike) -> SeedMean:
    """Mean of images' figures over S trainings, with an interval over patients and seeds; p is against 0.

    The patients' variance is that of ``estimates.patient_mean`` for each image's mean over the seeds, the seeds' as in
    ``mean_auroc``.

    Args:
        values: ``[S, N]``, one row a seed, finite.
        patient: ``[N]``, any keys.
    """
    figures = np.asarray(values, dtype=np.float64)
    means, n_seeds = figures.mean(1), len(figures)
    seeds = float(means.var(ddof=1)) / n_seeds if n_seeds > 1 else math.nan
    return combine(float(means.mean()), mean_variance(figures.mean(0), patient), seeds, n_seeds)


def combine(value: float, patients: float, seeds: float, n_seeds: int, null: float = 0.0) -> SeedMean:
    """Interval and p of a mean whose variance has a part of ``patients`` and one of ``seeds`` (NaN with one seed)."""
    total = patients + (0.0 if math.isnan(seeds) else seeds)
    parts = math.sqrt(patients) if patients >= 0 else math.nan, math.sqrt(seeds) if seeds >= 0 else math.nan
    # Where no pair is in the wrong order the patients' variance is zero and says nothing.
    if not patients > 0:
        return SeedMean(value, math.nan, math.nan, math.nan, *parts, n_seeds)
    freedom = (n_seeds - 1) * (total / seeds) ** 2 if seeds > 0 else math.inf
    half = float(student.ppf(0.975, freedom)) * math.sqrt(total)
    p = float(2 * student.sf(abs(value - null) / math.sqrt(total), freedom))
    return SeedMean(value, value - half, value + half, p, *parts, n_seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment for several comparisons (Scandinavian Journal of Statistics 6, 1979); NaN stays and is not counted."""
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
