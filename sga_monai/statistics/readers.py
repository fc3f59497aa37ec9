"""Several readers on the same cases, and a model beside them: intervals for a population of readers and of cases."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t

from sga_monai.statistics.discrimination import auroc_covariance
from sga_monai.statistics.estimates import Estimate, difference


@dataclass(frozen=True)
class ReaderAverage:
    """The mean of a figure over readers, or of a difference of figures.

    Attributes:
        value: the mean.
        low: lower end of the interval; NaN where not estimable.
        high: upper end.
        p: two-sided, against a mean of 0; of a difference.
        standard_error: of ``value``.
        degrees_of_freedom: of the t distribution that the interval is of; infinite for the normal one.
    """

    value: float
    low: float
    high: float
    p: float
    standard_error: float
    degrees_of_freedom: float


@dataclass(frozen=True)
class ReaderComparison:
    """A model against readers of the same cases.

    Attributes:
        average: of the readers, who stand for a population of readers.
        difference: model minus ``average``; both readers and cases are samples.
        these_readers: the same for these readers only: only the cases are a sample.
        each: model minus each reader.
    """

    average: ReaderAverage
    difference: ReaderAverage
    these_readers: Estimate
    each: tuple[Estimate, ...]


def average_readers(values: ArrayLike, covariance: ArrayLike, confidence: float = 0.95) -> ReaderAverage:
    """Mean over readers by the model of Obuchowski and Rockette: readers and cases are both random.

    Var(mean) = MS(R) / R + max(Cov2, 0), with the mean square MS(R) of the R figures, and Cov2, the mean covariance of two
    readers that comes from their common cases (Obuchowski and Rockette, Communications in Statistics 24, 1995). The degrees
    of freedom are those of Hillis (Statistics in Medicine 26, 2007). With differences of two tests in place of figures it
    is the test of two modalities; for the difference from one stand-alone model see Hillis, Obuchowski and Berbaum
    (Academic Radiology 18, 2011).

    Args:
        values: ``[R]``, one figure a reader.
        covariance: ``[R, R]`` of these figures over samples of cases.
        confidence: level of the interval.

    Returns:
        Not estimable with fewer than two readers, or without any variance.
    """
    figures, matrix = np.asarray(values, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    n = len(figures)
    mean = float(figures.mean())
    if n < 2 or np.isnan(matrix).any():
        return ReaderAverage(mean, *[math.nan] * 5)
    ms = float(figures.var(ddof=1))
    cov2 = float(matrix[~np.eye(n, dtype=bool)].mean())
    variance = ms / n + max(cov2, 0.0)
    if not variance > 0:
        return ReaderAverage(mean, *[math.nan] * 5)
    # Rounding of equal figures is no difference between readers.
    df = (n * variance) ** 2 * (n - 1) / ms**2 if ms > 1e-24 else math.inf
    error = math.sqrt(variance)
    scale = norm if math.isinf(df) else t(df)
    half = float(scale.ppf(0.5 + confidence / 2)) * error
    return ReaderAverage(mean, mean - half, mean + half, float(2 * scale.sf(abs(mean) / error)), error, df)


def compare_with_readers(model: float, readers: ArrayLike, covariance: ArrayLike, confidence: float = 0.95) -> ReaderComparison:
    """A model's figure against the average of readers, and against each of them.

    Args:
        model: the model's figure.
        readers: ``[R]``, the same figure of each reader.
        covariance: ``[R + 1, R + 1]`` over samples of cases, the model first.
        confidence: level of the intervals.

    Returns:
        Differences are not estimable where the model's figure has no variance, as an AUROC of 1.
    """
    figures, matrix = np.asarray(readers, dtype=np.float64), np.asarray(covariance, dtype=np.float64)
    differences = model - figures
    # Cov(M - Rj, M - Rk) = Var(M) - Cov(M, Rj) - Cov(M, Rk) + Cov(Rj, Rk).
    of_differences = matrix[0, 0] - matrix[0, 1:, None] - matrix[0, None, 1:] + matrix[1:, 1:]
    if not matrix[0, 0] > 0:
        of_differences = np.full_like(of_differences, math.nan)
    return ReaderComparison(
        average_readers(figures, matrix[1:, 1:], confidence),
        average_readers(differences, of_differences, confidence),
        difference(float(differences.mean()), float(of_differences.mean()), confidence),
        tuple(difference(float(d), float(v), confidence) for d, v in zip(differences, np.diag(of_differences), strict=True)),
    )


def auroc_covariances(scores: Sequence[ArrayLike], label: ArrayLike, patient: ArrayLike | None = None) -> NDArray[np.float64]:
    """Covariances of the AUROCs of several scores of the same cases, DeLong's, clustered by patient.

    Args:
        scores: K arrays ``[N]``.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys; each case its own patient when ``None``.

    Returns:
        ``[K, K]``; NaN with fewer than two patients in a class.
    """
    matrix = np.empty((len(scores), len(scores)))
    for i, first in enumerate(scores):
        for j, second in enumerate(scores[: i + 1]):
            matrix[i, j] = matrix[j, i] = auroc_covariance(first, second, label, patient)
    return matrix


def share_covariances(hits: ArrayLike, patient: ArrayLike | None = None) -> NDArray[np.float64]:
    """Covariances of several shares of the same cases, as of readers' sensitivities, clustered by patient.

    With one case a patient it is the sample covariance over N.

    Args:
        hits: ``[K, N]``, bool.
        patient: ``[N]``, any keys; each case its own patient when ``None``.

    Returns:
        ``[K, K]``; NaN with fewer than two patients.
    """
    called = np.asarray(hits, dtype=np.float64)
    k, n = called.shape
    keys, cluster = np.unique(np.arange(n) if patient is None else np.asarray(patient), return_inverse=True)
    if len(keys) < 2:
        return np.full((k, k), math.nan)
    sums = np.stack([np.bincount(cluster, row - row.mean(), len(keys)) for row in called])
    covariances: NDArray[np.float64] = len(keys) / (len(keys) - 1) * (sums @ sums.T) / n**2
    return covariances
