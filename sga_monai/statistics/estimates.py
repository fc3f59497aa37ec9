"""Estimates with intervals: differences, the cluster bootstrap, means by patient."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, t


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval and, for a comparison, its p-value; NaN where not estimable."""

    value: float
    low: float
    high: float
    p: float = math.nan


def difference(value: float, variance: float, confidence: float = 0.95) -> Estimate:
    """A difference with a normal interval and a two-sided p-value."""
    if not variance > 0:
        return Estimate(value, math.nan, math.nan)
    half = float(norm.ppf(0.5 + confidence / 2)) * math.sqrt(variance)
    return Estimate(value, value - half, value + half, float(2 * norm.sf(abs(value) / math.sqrt(variance))))


def cluster_bootstrap(
    statistic: Callable[[NDArray[np.int64]], float], patient: ArrayLike, n_samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """A figure with a percentile interval from resampled patients.

    Args:
        statistic: from the number of times that each image is in the sample, ``[N]``, to a figure; NaN where it is not
            estimable in a sample.
        patient: ``[N]``, any keys; a patient is drawn with all images.
        n_samples: number of samples.
        confidence: of the interval.
        seed: of the samples.

    Returns:
        Ends are NaN when more than one sample in twenty is not estimable, or there is one patient, of whom every sample is
        the same; all is NaN where there is no image.
    """
    keys, cluster = np.unique(np.asarray(patient), return_inverse=True)
    if not len(keys):
        return Estimate(math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    value = statistic(np.ones(len(cluster), dtype=np.int64))
    if len(keys) < 2:
        return Estimate(value, math.nan, math.nan)
    chance = np.full(len(keys), 1 / len(keys))
    # One at a time: those of a hundred thousand patients together would be 800 MB.
    samples = np.array([statistic(rng.multinomial(len(keys), chance)[cluster]) for _ in range(n_samples)])
    usable = samples[~np.isnan(samples)]
    if math.isnan(value) or len(usable) < 0.95 * n_samples:
        return Estimate(value, math.nan, math.nan)
    low, high = np.quantile(usable, (0.5 - confidence / 2, 0.5 + confidence / 2))
    return Estimate(value, float(low), float(high))


def mean_change(after: ArrayLike, before: ArrayLike, patient: ArrayLike) -> Estimate:
    """Mean of ``after`` minus ``before``, ``[N]``, with an interval from resampled patients."""
    change = np.subtract(np.asarray(after, dtype=np.float64), np.asarray(before, dtype=np.float64))
    return cluster_bootstrap(lambda counts: float(np.average(change, weights=counts)), patient)


def share(hit: ArrayLike, patient: ArrayLike, confidence: float = 0.95) -> Estimate:
    """Share of images that are hits, with Wilson's interval (JASA 22, 1927) for the effective number of images.

    With one image a patient that number is n. Otherwise it is n over the design effect, the clustered variance of the share
    over the binomial one (Rao and Scott, Biometrics 48, 1992), less what a t distribution is wider for so many patients (Korn
    and Graubard, Survey Methodology 24, 1998), and n at most. A share of 0 or 1 has no variance: all images of a patient are
    then taken to be alike, which gives (sum of m)^2 / sum of m^2 for patients with m images.

    Args:
        hit: ``[N]``, bool.
        patient: ``[N]``, any keys.
        confidence: level of the interval.

    Returns:
        All is NaN without an image, and the ends are with one patient who has several.
    """
    hit = np.asarray(hit, dtype=bool)
    n, k = len(hit), int(hit.sum())
    if not n:
        return Estimate(math.nan, math.nan, math.nan)
    keys, cluster, images = np.unique(np.asarray(patient), return_inverse=True, return_counts=True)
    if len(keys) == 1 < n:
        return Estimate(k / n, math.nan, math.nan)
    effective = float(n)
    if len(keys) < n:
        squares = float((np.bincount(cluster, hit - k / n, len(keys)) ** 2).sum()) * len(keys) / (len(keys) - 1)
        # Where every patient has the same share of hits the variance is 0, though chance would not repeat it.
        alike = n**2 / float((images.astype(float) ** 2).sum())
        level = 0.5 + confidence / 2
        few = float(norm.ppf(level) / t.ppf(level, len(keys) - 1)) ** 2
        effective = min(few * k * (n - k) / squares, n) if squares > 1e-9 else alike
    return _wilson(k / n, effective, confidence)


def _wilson(value: float, n: float, confidence: float) -> Estimate:
    """Wilson's interval of a share of ``n`` images, which need not be whole."""
    z2 = float(norm.ppf(0.5 + confidence / 2)) ** 2
    middle = value + z2 / (2 * n)
    half = math.sqrt(z2 * (value * (1 - value) / n + z2 / (4 * n * n)))
    # Rounding must not move an end off 0 or 1, or past the share.
    low, high = ((middle + sign * half) / (1 + z2 / n) for sign in (-1, 1))
    return Estimate(value, 0.0 if value == 0 else min(low, value), 1.0 if value == 1 else max(high, value))


@dataclass(frozen=True)
class PatientMean:
    """A mean over images with its interval, in which patients are the clusters.

    Attributes:
        value: the mean of the images that have a figure; NaN when none has.
        low: lower end of the interval; NaN with fewer than two patients or without any variation between them.
        high: upper end.
        n_images: images that have a figure.
        n_patients: patients of these images.
        n_missing: images without a figure, left out.
    """

    value: float
    low: float
    high: float
    n_images: int
    n_patients: int
    n_missing: int


def patient_mean(values: ArrayLike, patient: ArrayLike, confidence: float = 0.95) -> PatientMean:
    """Mean of figures of images, each image counting the same, with a patient-clustered t interval.

    The variance is the cluster-robust one of a mean, G / (G - 1) * sum over G patients of (sum of residuals)^2 / N^2;
    quantiles are those of t with G - 1 degrees of freedom. With one image a patient it is the plain t interval.

    Args:
        values: ``[N]``; NaN is left out and counted.
        patient: ``[N]``, any keys.
        confidence: level of the interval, in (0, 1).

    Raises:
        ValueError: when lengths differ or a value is infinite.
    """
    figures, patient = np.asarray(values, dtype=np.float64), np.asarray(patient)
    if figures.ndim != 1 or figures.shape != patient.shape:
        raise ValueError("values and patient must be [N] of the same length")
    if np.isinf(figures).any():
        raise ValueError("values must be finite or NaN")
    used = ~np.isnan(figures)
    n, n_patients = int(used.sum()), len(np.unique(patient[used]))
    counts = (n, n_patients, len(figures) - n)
    if not n:
        return PatientMean(math.nan, math.nan, math.nan, *counts)
    mean, variance = float(figures[used].mean()), mean_variance(figures[used], patient[used])
    if math.isnan(variance):
        return PatientMean(mean, math.nan, math.nan, *counts)
    half = float(t.ppf(0.5 + confidence / 2, n_patients - 1)) * math.sqrt(variance)
    return PatientMean(mean, mean - half, mean + half, *counts)


def mean_variance(values: ArrayLike, patient: ArrayLike) -> float:
    """The cluster-robust variance of a mean of images' figures; NaN with fewer than two patients or without variation between them.

    Args:
        values: ``[N]``, finite.
        patient: ``[N]``, any keys.
    """
    figures = np.asarray(values, dtype=np.float64)
    keys, cluster = np.unique(np.asarray(patient), return_inverse=True)
    if len(keys) < 2:
        return math.nan
    sums = np.bincount(cluster, figures - figures.mean(), len(keys))
    # Residuals of equal values may sum to a rounding error instead of zero.
    if np.abs(sums).max() <= 1e-12 * np.abs(figures).sum():
        return math.nan
    return len(keys) / (len(keys) - 1) * float((sums**2).sum()) / len(figures) ** 2
