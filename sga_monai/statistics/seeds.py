"""Several trainings of one method on the same test images: two sources of chance, the patients and the seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

from sga_monai.statistics.discrimination import auroc, auroc_covariance
from sga_monai.statistics.estimates import mean_variance

SMALLEST_P = 1e-12


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
    sample variance over S; see ``combine`` for the interval. What seeds and patients do together is in both parts.

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
    return mean_of(areas, float(covariance.sum()) / n_seeds**2, 0.5 if second is None else 0.0)


def mean_over_seeds(values: ArrayLike, patient: ArrayLike) -> SeedMean:
    """Mean of images' figures over S trainings, with an interval over patients and seeds; p is against 0.

    The patients' variance is that of ``estimates.patient_mean`` for each image's mean over the seeds, the seeds' as in
    ``mean_auroc``.

    Args:
        values: ``[S, N]``, one row a seed, finite.
        patient: ``[N]``, any keys.
    """
    figures = np.asarray(values, dtype=np.float64)
    return mean_of(figures.mean(1), mean_variance(figures.mean(0), patient), n_patients=len(np.unique(patient)))


def mean_of(by_seed: ArrayLike, patients: float, null: float = 0.0, n_patients: int | None = None) -> SeedMean:
    """``combine`` of the figures of S trainings, whose sample variance over S is the seeds' part.

    Args:
        by_seed: ``[S]``, a figure of each seed.
        patients: see ``combine``.
        null: see ``combine``.
        n_patients: see ``combine``.
    """
    figures = np.asarray(by_seed, dtype=np.float64)
    seeds = float(figures.var(ddof=1)) / len(figures) if len(figures) > 1 else math.nan
    return combine(float(figures.mean()), patients, seeds, len(figures), null, n_patients)


def combine(value: float, patients: float, seeds: float, n_seeds: int, null: float = 0.0, n_patients: int | None = None) -> SeedMean:
    """Interval and p of a mean whose variance has a part of the patients and one of the seeds.

    Half the interval is the root of the sum of squares of what it would be for each part alone (Zou and Donner, Statistics in
    Medicine 27, 2008): normal quantiles for the patients' part, or t with one degree of freedom less than there are patients;
    t with S - 1 for the seeds'. The degrees of freedom of Satterthwaite would be too many where a few seeds happen to agree. p is
    the level at which the interval ends at ``null``.

    Args:
        value: the mean.
        patients: variance that the choice of patients brings.
        seeds: variance that the choice of seeds brings; NaN with one seed.
        n_seeds: S.
        null: what p is against.
        n_patients: where they are few; ``None`` takes their variance as known.
    """
    parts = math.sqrt(patients) if patients >= 0 else math.nan, math.sqrt(seeds) if seeds >= 0 else math.nan
    # Where no pair is in the wrong order the patients' variance is zero and says nothing.
    if not patients > 0:
        return SeedMean(value, math.nan, math.nan, math.nan, *parts, n_seeds)

    def half(level: float) -> float:
        of_patients = ndtri(level / 2) if n_patients is None else stdtrit(n_patients - 1, level / 2)
        return math.hypot(of_patients * parts[0], stdtrit(n_seeds - 1, level / 2) * parts[1] if seeds > 0 else 0.0)

    distance = abs(value - null)
    p = SMALLEST_P if half(SMALLEST_P) < distance else float(brentq(lambda level: half(level) - distance, SMALLEST_P, 1, xtol=SMALLEST_P))
    return SeedMean(value, value - half(0.05), value + half(0.05), p, *parts, n_seeds)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjustment for several comparisons (Scandinavian Journal of Statistics 6, 1979); NaN stays and is not counted."""
    order = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted
