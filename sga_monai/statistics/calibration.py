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
        ece: expected calibration error, ten bins of equal size.
        bins: ten bins of equal size, by probability.
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
    probability, with sandwich variances clustered by patient; Brier score and error have intervals from resampled patients, the
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
    x = logit(p)
    ones = np.ones_like(x)
    slope = _coefficient(np.stack([ones, x], axis=1), y, np.zeros_like(x), patient, 1)
    intercept = _coefficient(ones[:, None], y, x, patient, 0)
    squared = (p - y) ** 2
    brier = cluster_bootstrap(lambda w: float(np.average(squared, weights=w)), patient, n_samples)
    ece = cluster_bootstrap(lambda w: expected_calibration_error(np.repeat(p, w), np.repeat(y, w), n_bins), patient, n_samples)
    rows = [i for i in np.array_split(np.argsort(p, kind="stable"), n_bins) if len(i)]
    bins = [Bin(float(p[i].mean()), share(y[i] == 1, patient[i]), len(i), len(np.unique(patient[i]))) for i in rows]
    return Calibration(slope, intercept, brier, ece, bins)


def expected_calibration_error(probability: ArrayLike, label: ArrayLike, n_bins: int = 10) -> float:
    """Mean over bins of equal size of |mean probability - share of positives| (Naeini et al., AAAI 2015)."""
    p, y = np.asarray(probability, dtype=np.float64), np.asarray(label, dtype=np.float64)
    bins = [i for i in np.array_split(np.argsort(p, kind="stable"), n_bins) if len(i)]
    return float(sum(len(i) * abs(p[i].mean() - y[i].mean()) for i in bins) / len(p))


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
        >>> round(fit_temperature([4.0, 4.0, 4.0, -4.0, -4.0, -4.0], [1, 1, 0, 0, 0, 1]), 3)
        2.485
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


def _coefficient(
    design: NDArray[np.float64], y: NDArray[np.float64], offset: NDArray[np.float64], patient: NDArray[np.generic], which: int
) -> Estimate:
    """One coefficient of a logistic regression by iteratively reweighted least squares, with a clustered variance."""
    nothing = Estimate(math.nan, math.nan, math.nan)
    if len(np.unique(y)) < 2:
        return nothing
    beta = np.zeros(design.shape[1])
    for _ in range(100):
        mean = expit(design @ beta + offset)
        information = design.T @ (design * (mean * (1 - mean))[:, None])
        if not np.linalg.cond(information) < 1e13:
            return nothing
        step = np.linalg.solve(information, design.T @ (y - mean))
        # Where nearly all probabilities are saturated a full Newton step overshoots.
        beta += np.clip(step, -2.0, 2.0)
        # Separated classes have no finite coefficient.
        if not np.isfinite(beta).all() or abs(beta).max() > 1e4:
            return nothing
        if abs(step).max() < 1e-10:
            break
    else:
        return nothing
    mean = expit(design @ beta + offset)
    bread = np.linalg.inv(design.T @ (design * (mean * (1 - mean))[:, None]))
    keys, cluster = np.unique(patient, return_inverse=True)
    if len(keys) < 2:
        return Estimate(float(beta[which]), math.nan, math.nan)
    if len(keys) < len(y):
        scores = np.zeros((len(keys), design.shape[1]))
        np.add.at(scores, cluster, design * (y - mean)[:, None])
        n, k, g = len(y), design.shape[1], len(keys)
        bread = bread @ (scores.T @ scores) @ bread * (g / (g - 1) * (n - 1) / (n - k))
    # Where nearly all probabilities are the same the information is singular to rounding.
    if not bread[which, which] > 0:
        return nothing
    half = float(norm.ppf(0.975)) * math.sqrt(bread[which, which])
    return Estimate(float(beta[which]), float(beta[which] - half), float(beta[which] + half))
