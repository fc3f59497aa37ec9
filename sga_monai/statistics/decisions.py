"""What a locked threshold does at a site: sensitivity, specificity, predictive values, net benefit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest
from sklearn.metrics import roc_curve

from sga_monai.statistics.estimates import Estimate, cluster_bootstrap


def youden_threshold(score: ArrayLike, label: ArrayLike) -> float:
    """The score from which on an image is called positive so that sensitivity + specificity - 1 is largest (Youden 1950).

    The middle between the two neighboring scores, so that rounding elsewhere does not move a case across it. To be used
    on internal validation data, never on a site's.

    Raises:
        ValueError: when one class is missing.
    """
    score, label = np.asarray(score, dtype=np.float64), np.asarray(label)
    if len(np.unique(label)) < 2:
        raise ValueError("a threshold needs both classes")
    fpr, tpr, thresholds = roc_curve(label, score, drop_intermediate=False)
    best = float(thresholds[int(np.argmax(tpr - fpr))])
    below = score[score < best]
    if math.isinf(best):
        return float(score.max()) + 1.0
    return float((best + below.max()) / 2) if len(below) else best


@dataclass(frozen=True)
class OperatingPoint:
    """Rates at a threshold with 95 % intervals, and the counts behind them.

    Attributes:
        threshold: an image with this score or more is called positive.
        counts: true positives, false positives, false negatives, true negatives.
        sensitivity: share of positives that are called so.
        specificity: share of negatives that are not.
        ppv: share of called images that are positive, at ``prevalence``.
        npv: share of others that are negative, at ``prevalence``.
        prevalence: the given one, or the cohort's.
    """

    threshold: float
    counts: tuple[int, int, int, int]
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate
    prevalence: float


def operating_point(
    score: ArrayLike,
    label: ArrayLike,
    threshold: float,
    patient: ArrayLike | None = None,
    prevalence: float | None = None,
    n_samples: int = 1000,
) -> OperatingPoint:
    """Sensitivity, specificity, PPV and NPV at a locked threshold.

    Intervals are Wilson's (JASA 22, 1927) where each patient has one image and the prevalence is the cohort's, and from
    resampled patients otherwise. A rate of 0 or 1, of which resampling makes a point, has Wilson's interval with the
    number of patients.

    Args:
        score: ``[N]``.
        label: ``[N]``, 0 or 1.
        threshold: locked on internal data.
        patient: ``[N]``, any keys; each image its own patient when ``None``.
        prevalence: of the population that the predictive values are for, in (0, 1); the cohort's when ``None``.
        n_samples: bootstrap samples.

    Raises:
        ValueError: when ``prevalence`` is not in (0, 1).
    """
    called, label = np.asarray(score, dtype=np.float64) >= threshold, np.asarray(label)
    patient = np.arange(len(label)) if patient is None else np.asarray(patient)
    if prevalence is not None and not 0 < prevalence < 1:
        raise ValueError("prevalence must be in (0, 1)")
    groups = [called & (label == 1), called & (label == 0), ~called & (label == 1), ~called & (label == 0)]
    tp, fp, fn, tn = (int(group.sum()) for group in groups)
    clustered = len(np.unique(patient)) < len(patient)

    def rate(k: int, n: int, hit: NDArray[np.bool_], base: NDArray[np.bool_]) -> Estimate:
        if not n:
            return Estimate(math.nan, math.nan, math.nan)
        if not clustered:
            return _wilson(k, n)
        if len(np.unique(patient)) < 2:
            return Estimate(k / n, math.nan, math.nan)
        if k in (0, n):
            people = len(np.unique(patient[base]))
            return _wilson(people if k else 0, people)
        return cluster_bootstrap(lambda w: _ratio(w[hit].sum(), w[base].sum()), patient, n_samples)

    def predictive(positive: bool) -> Estimate:
        if prevalence is None:
            hit, base = (groups[0], called) if positive else (groups[3], ~called)
            return rate(int(hit.sum()), int(base.sum()), hit, base)
        return cluster_bootstrap(lambda w: _predictive_value([int(w[g].sum()) for g in groups], prevalence, positive), patient, n_samples)

    return OperatingPoint(
        threshold,
        (tp, fp, fn, tn),
        rate(tp, tp + fn, groups[0], label == 1),
        rate(tn, tn + fp, groups[3], label == 0),
        predictive(True),
        predictive(False),
        float((label == 1).mean()) if prevalence is None else prevalence,
    )


def net_benefit(probability: ArrayLike, label: ArrayLike, thresholds: ArrayLike, prevalence: float | None = None) -> NDArray[np.float64]:
    """Net benefit of treating by the model and of treating all (Vickers and Elkin, Medical Decision Making 26, 2006).

    Args:
        probability: ``[N]`` in [0, 1].
        label: ``[N]``, 0 or 1.
        thresholds: ``[T]`` in (0, 1), probabilities from which on one treats.
        prevalence: of the population; the cohort's when ``None``.

    Returns:
        ``[T, 2]``: model, all. Treating none is 0.
    """
    probability, label = np.asarray(probability, dtype=np.float64), np.asarray(label)
    pt = np.asarray(thresholds, dtype=np.float64)
    share = float((label == 1).mean()) if prevalence is None else prevalence
    called = probability[:, None] >= pt
    sensitivity, fall_out = called[label == 1].mean(axis=0), called[label == 0].mean(axis=0)
    odds = pt / (1 - pt)
    return np.stack([sensitivity * share - fall_out * (1 - share) * odds, share - (1 - share) * odds], axis=1)


def _wilson(k: int, n: int) -> Estimate:
    interval = binomtest(k, n).proportion_ci(method="wilson")
    return Estimate(k / n, float(interval.low), float(interval.high))


def _ratio(k: float, n: float) -> float:
    return float(k / n) if n else math.nan


def _predictive_value(counts: list[int], prevalence: float, positive: bool) -> float:
    tp, fp, fn, tn = counts
    sensitivity, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    if positive:
        return _ratio(sensitivity * prevalence, sensitivity * prevalence + (1 - specificity) * (1 - prevalence))
    return _ratio(specificity * (1 - prevalence), specificity * (1 - prevalence) + (1 - sensitivity) * prevalence)
