"""Whether a probability means what it says: slope, intercept, Brier score, expected calibration error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm

from sga_monai.statistics.estimates import Estimate, cluster_bootstrap, share

CLIP = 1e-6


@dataclass(frozen=True)
class Bin:
    """Images of neighboring probabilities.

    Attributes:
        probability: the mean.
        positives: share of positives, with its interval clustered by patient.
        images: number of images.
        patients: number of patients.
    """

    probability: float
    positives: Estimate
    images: int
    patients: int


@dataclass(frozen=True)
class Calibration:
    """Calibration of a probability.

    Attributes:
        slope: of the logistic recalibration; 1 is right, below 1 is overconfident.
        intercept: calibration in the large, with slope 1; 0 is right, below 0 is too high a probability.
        brier: mean squared difference of probability and label.
        ece: expected calibration error, of the same bins, without an interval: it is above 0 by chance alone, in every new sample
            of the patients more than in the first, so that an interval from samples can lie above it.
        bins: ten of about equal size, by probability; fewer where many images have the same one.
    """

    slope: Estimate
    intercept: Estimate
    brier: Estimate
    ece: Estimate
    bins: list[Bin]


def assess_calibration(
    probability: ArrayLike, label: ArrayLike, patient: ArrayLike | None = None, n_bins: int = 10, n_samples: int = 1000
) -> Calibration:
    """Calibration with 95 % intervals, clustered by patient.

    Slope and intercept are Cox's (Biometrika 45, 1958): logistic regressions of the label on the logit of the
    probability, with sandwich variances clustered by patient; the Brier score has an interval from resampled patients, the
    bins those of ``share``.

    Args:
        probability: ``[N]``; clipped to [1e-6, 1 - 1e-6].
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys; each image its own patient when ``None``.
        n_bins: number of bins.
        n_samples: bootstrap samples.
    """
    p, y = np.clip(np.asarray(probability, dtype=np.float64), CLIP, 1 - CLIP), np.asarray(label, dtype=np.float64)
    patient = np.arange(len(y)) if patient is None else np.asarray(patient)
    slope, intercept = calibration_line(p, y, patient)
    squared = (p - y) ** 2
    brier = cluster_bootstrap(lambda w: float(np.average(squared, weights=w)), patient, n_samples)
    ece = Estimate(expected_calibration_error(p, y, n_bins), math.nan, math.nan)
    bins = [Bin(float(p[i].mean()), share(y[i] == 1, patient[i]), len(i), len(np.unique(patient[i]))) for i in _bins(p, n_bins)]
    return Calibration(slope, intercept, brier, ece, bins)


def calibration_line(probability: ArrayLike, label: ArrayLike, patient: ArrayLike) -> tuple[Estimate, Estimate]:
    """Slope and intercept in the large (with slope 1) of ``Calibration``, and no bootstrap: what a small part of a cohort needs.

    Args:
        probability: ``[N]``; clipped to [1e-6, 1 - 1e-6].
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys.
    """
    x, y, patient = log_odds(probability), np.asarray(label, dtype=np.float64), np.asarray(patient)
    ones = np.ones_like(x)
    slope = logistic_estimate(np.stack([ones, x], axis=1), y, np.zeros_like(x), patient, 1)
    return slope, logistic_estimate(ones[:, None], y, x, patient, 0)


def log_odds(probability: ArrayLike) -> NDArray[np.float64]:
    """Logit of probabilities ``[N]``, clipped to [1e-6, 1 - 1e-6] so that it is finite."""
    clipped: NDArray[np.float64] = logit(np.clip(np.asarray(probability, dtype=np.float64), CLIP, 1 - CLIP))
    return clipped


def observed_to_expected(probability: ArrayLike, label: ArrayLike, patient: ArrayLike | None = None) -> Estimate:
    """Number of positives over the sum of probabilities, O:E; 1 is right, above 1 is too low a probability.

    The interval is on the logarithmic scale (Debray et al., BMJ 356, 2017, i6460), with the variance of a ratio of two sums over
    patients, linearized: both the labels and the probabilities vary between patients.

    Args:
        probability: ``[N]``.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys; each image its own patient when ``None``.

    Returns:
        Ends are NaN with one patient or without a positive; all is NaN without an image.

    Example:
        >>> round(observed_to_expected([0.2, 0.3, 0.5, 0.6], [0, 0, 1, 1]).value, 2)
        1.25
    """
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(label, dtype=np.float64)
    keys, cluster = np.unique(np.arange(len(y)) if patient is None else np.asarray(patient), return_inverse=True)
    observed, expected = float(y.sum()), float(p.sum())
    if not expected > 0:
        return Estimate(math.nan, math.nan, math.nan)
    if len(keys) < 2 or observed == 0:
        return Estimate(observed / expected, math.nan, math.nan)
    influence = np.bincount(cluster, y / observed - p / expected, len(keys))
    half = float(norm.ppf(0.975)) * math.sqrt(len(keys) / (len(keys) - 1) * float((influence**2).sum()))
    return Estimate(observed / expected, observed / expected * math.exp(-half), observed / expected * math.exp(half))


def expected_calibration_error(probability: ArrayLike, label: ArrayLike, n_bins: int = 10) -> float:
    """Mean over bins of |mean probability - share of positives| (Naeini et al., AAAI 2015).

    Bins are of equal size, but for equal probabilities, which stay together: each cut lies at the nearest change.
    """
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(label, dtype=np.float64)
    return float(sum(len(i) * abs(p[i].mean() - y[i].mean()) for i in _bins(p, n_bins)) / len(p))


def fit_temperature(score: ArrayLike, label: ArrayLike) -> float:
    """The T for which sigmoid(score / T) has the largest likelihood (Guo et al., ICML 2017). The order of the scores stays.

    The negative log-likelihood is convex in 1 / T, so T is where its derivative is zero. To be fitted on internal validation
    data, never on a site's.

    Args:
        score: ``[N]``, differences of logits.
        label: ``[N]``, 0 or 1.

    Raises:
        ValueError: when a class is missing; when no score is on the wrong side of 0, and T would be 0; when scores do not rise
            with the label, and T would be infinite.

    Example:
        >>> round(fit_temperature([4.0, 4.0, 4.0, -4.0, -4.0, -4.0], [1, 1, 0, 0, 0, 1]), 3)  # two of three are right: 4 / log 2
        5.771
    """
    s, y = np.asarray(score, dtype=np.float64), np.asarray(label, dtype=np.float64)
    if len(np.unique(y)) < 2:
        raise ValueError("a temperature needs both classes")

    def slope(inverse: float) -> float:
        return float(((expit(inverse * s) - y) * s).mean())

    if not slope(0.0) < 0:
        raise ValueError("the scores do not rise with the label, so that no temperature fits them")
    if not (s * (2 * y - 1) < 0).any():
        raise ValueError("the scores separate the classes, so that no temperature is small enough")
    high = 1.0 / float(np.abs(s).max())
    while slope(high) <= 0:
        high *= 2
    return 1.0 / float(brentq(slope, 0.0, high, xtol=1e-14 * high, rtol=1e-12))


def logistic_coefficients(design: NDArray[np.float64], y: NDArray[np.float64], offset: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Maximum-likelihood coefficients ``[K]`` of a logistic regression by iteratively reweighted least squares.

    Args:
        design: ``[N, K]``.
        y: ``[N]``, 0 or 1.
        offset: ``[N]``, added to the linear predictor with a coefficient of 1.

    Returns:
        ``None`` where there are none: one class only, separated classes, or columns that are the same to rounding.
    """
    if len(np.unique(y)) < 2:
        return None
    beta = np.zeros(design.shape[1])
    for _ in range(100):
        mean = expit(design @ beta + offset)
        information = design.T @ (design * (mean * (1 - mean))[:, None])
        if not np.linalg.cond(information) < 1e13:
            return None
        step = np.linalg.solve(information, design.T @ (y - mean))
        # Where nearly all probabilities are saturated a full Newton step overshoots.
        beta += np.clip(step, -2.0, 2.0)
        # Separated classes have no finite coefficient.
        if not np.isfinite(beta).all() or abs(beta).max() > 1e4:
            return None
        if abs(step).max() < 1e-10:
            return beta
    return None


def logistic_estimate(
    design: NDArray[np.float64], y: NDArray[np.float64], offset: NDArray[np.float64], patient: NDArray[np.generic], which: int
) -> Estimate:
    """One of ``logistic_coefficients`` with an interval from a sandwich variance clustered by patient.

    Also where each patient has one image: the model that the intercept in the large is of, slope 1, is rarely right.
    """
    nothing = Estimate(math.nan, math.nan, math.nan)
    beta = logistic_coefficients(design, y, offset)
    if beta is None:
        return nothing
    mean = expit(design @ beta + offset)
    bread = np.linalg.inv(design.T @ (design * (mean * (1 - mean))[:, None]))
    keys, cluster = np.unique(patient, return_inverse=True)
    if len(keys) < 2:
        return Estimate(float(beta[which]), math.nan, math.nan)
    scores = np.zeros((len(keys), design.shape[1]))
    np.add.at(scores, cluster, design * (y - mean)[:, None])
    n, k, g = len(y), design.shape[1], len(keys)
    covariance = bread @ (scores.T @ scores) @ bread * (g / (g - 1) * (n - 1) / max(n - k, 1))
    # Where nearly all probabilities are the same the information is singular to rounding.
    if not covariance[which, which] > 0:
        return nothing
    half = float(norm.ppf(0.975)) * math.sqrt(covariance[which, which])
    return Estimate(float(beta[which]), float(beta[which] - half), float(beta[which] + half))


def _bins(p: NDArray[np.float64], n_bins: int) -> list[NDArray[np.intp]]:
    """Rows of each bin of ``expected_calibration_error``. A cut among equal probabilities would depend on the order of the rows."""
    order = np.argsort(p, kind="stable")
    changes = np.flatnonzero(np.diff(p[order])) + 1
    if not len(changes):
        return [order] if len(order) else []
    cuts = np.cumsum([len(part) for part in np.array_split(order, n_bins)])[:-1]
    after = np.searchsorted(changes, cuts)
    low, high = changes[np.maximum(after - 1, 0)], changes[np.minimum(after, len(changes) - 1)]
    return np.split(order, np.unique(np.where(np.abs(cuts - low) < np.abs(cuts - high), low, high)))
