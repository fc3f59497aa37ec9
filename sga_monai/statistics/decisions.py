"""What a locked threshold does at a site: sensitivity, specificity, predictive values, net benefit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import roc_curve

from sga_monai.statistics.estimates import Estimate, share


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
        counts: images: true positives, false positives, false negatives, true negatives.
        patient_counts: patients who have such an image; one with several may count more than once.
        sensitivity: share of positives that are called so.
        specificity: share of negatives that are not.
        ppv: share of called images that are positive, at ``prevalence``.
        npv: share of others that are negative, at ``prevalence``.
        prevalence: the given one, or the cohort's share of positive images.
    """

    threshold: float
    counts: tuple[int, int, int, int]
    patient_counts: tuple[int, int, int, int]
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
) -> OperatingPoint:
    """Sensitivity, specificity, PPV and NPV at a locked threshold.

    Intervals of sensitivity and specificity are those of ``share``: Wilson's, clustered by patient. Those of PPV and NPV
    follow from them through Bayes' formula, see ``predictive_values``, so that none is without width where no call is wrong.

    Args:
        score: ``[N]``.
        label: ``[N]``, 0 or 1.
        threshold: locked on internal data.
        patient: ``[N]``, any keys; each image its own patient when ``None``.
        prevalence: of the population that the predictive values are for, in (0, 1); the cohort's when ``None``. It is taken
            as known either way.

    Raises:
        ValueError: when ``prevalence`` is not in (0, 1).
    """
    called, label = np.asarray(score, dtype=np.float64) >= threshold, np.asarray(label)
    patient = np.arange(len(label)) if patient is None else np.asarray(patient)
    if prevalence is not None and not 0 < prevalence < 1:
        raise ValueError("prevalence must be in (0, 1)")
    groups = [called & (label == 1), called & (label == 0), ~called & (label == 1), ~called & (label == 0)]
    tp, fp, fn, tn = (int(group.sum()) for group in groups)
    patients = tuple(len(np.unique(patient[group])) for group in groups)
    sensitivity = share(called[label == 1], patient[label == 1])
    specificity = share(~called[label == 0], patient[label == 0])
    at = float((label == 1).mean()) if prevalence is None else prevalence
    ppv, npv = predictive_values(sensitivity, specificity, at)
    return OperatingPoint(threshold, (tp, fp, fn, tn), patients, sensitivity, specificity, ppv, npv, at)  # type: ignore[arg-type]


def predictive_values(sensitivity: Estimate, specificity: Estimate, prevalence: float) -> tuple[Estimate, Estimate]:
    """PPV and NPV at a prevalence, with intervals from those of sensitivity and specificity.

    By Bayes' formula the odds against a right call are (1 - prevalence) / prevalence * (1 - specificity) / sensitivity for
    PPV, and prevalence / (1 - prevalence) * (1 - sensitivity) / specificity for NPV: a known factor times a ratio of two
    independent rates (Mercaldo, Lau and Zhou, Statistics in Medicine 26, 2007). Limits of that ratio are made from the limits
    of the rates by the method of variance estimates recovery, MOVER (Zou and Donner, Statistics in Medicine 27, 2008; for
    ratios: Donner and Zou, Statistical Methods in Medical Research 21, 2012), which needs no logarithm of a count of zero.

    Patients with images of both classes make the two rates dependent. Their calls are alike as a rule, which makes the ratio
    more certain than is said here.

    Args:
        sensitivity: with its interval.
        specificity: with its interval.
        prevalence: in (0, 1).

    Returns:
        PPV and NPV; NaN where a rate is not estimable, or where no image would be called so.

    Example:
        >>> ppv, npv = predictive_values(Estimate(1.0, 0.93, 1.0), Estimate(0.8, 0.7, 0.87), 0.3)
        >>> round(npv.value, 3), round(npv.low, 3)
        (1.0, 0.964)
    """
    if not 0 < prevalence < 1:
        return Estimate(math.nan, math.nan, math.nan), Estimate(math.nan, math.nan, math.nan)
    odds = prevalence / (1 - prevalence)
    return _from_odds(_ratio(_complement(specificity), sensitivity), 1 / odds), _from_odds(
        _ratio(_complement(sensitivity), specificity), odds
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
    pt = np.asarray(thresholds, dtype=np.float64)
    share = float((np.asarray(label) == 1).mean()) if prevalence is None else prevalence
    fall_out, sensitivity = rates_at(probability, label, pt).T
    odds = pt / (1 - pt)
    return np.stack([sensitivity * share - fall_out * (1 - share) * odds, share - (1 - share) * odds], axis=1)


def rates_at(probability: ArrayLike, label: ArrayLike, thresholds: ArrayLike) -> NDArray[np.float64]:
    """False and true positive rate by threshold, ``[T, 2]``; arguments are those of ``net_benefit``."""
    probability, label = np.asarray(probability, dtype=np.float64), np.asarray(label)
    called = probability[:, None] >= np.asarray(thresholds, dtype=np.float64)
    return np.stack([called[label == 0].mean(axis=0), called[label == 1].mean(axis=0)], axis=1)


def _complement(rate: Estimate) -> Estimate:
    return Estimate(1 - rate.value, 1 - rate.high, 1 - rate.low)


def _ratio(first: Estimate, second: Estimate) -> Estimate:
    """``first`` over ``second``, two independent rates, with MOVER's limits; infinite where ``second`` may be 0."""
    if not first.value + second.value > 0:
        return Estimate(math.nan, math.nan, math.nan)
    product = first.value * second.value
    # As published, times its conjugate for the lower limit: no difference of nearly equal numbers, no division by 0.
    first_low, first_high = (end * (2 * first.value - end) for end in (first.low, first.high))
    second_low, second_high = (end * (2 * second.value - end) for end in (second.low, second.high))
    low = _over(first_low, product + math.sqrt(max(product**2 - first_low * second_high, 0.0)))
    high = _over(product + math.sqrt(max(product**2 - first_high * second_low, 0.0)), second_low)
    return Estimate(_over(first.value, second.value), low, high)


def _over(a: float, b: float) -> float:
    return a / b if b else (0.0 if a == 0 else math.inf)


def _from_odds(ratio: Estimate, factor: float) -> Estimate:
    """The predictive value whose odds against are ``factor`` times ``ratio``."""
    return Estimate(*(1 / (1 + factor * end) for end in (ratio.value, ratio.high, ratio.low)))
