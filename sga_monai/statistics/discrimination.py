"""AUROC and average precision with intervals; the unit of sampling is the patient, not the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit
from scipy.stats import norm, rankdata

from sga_monai.statistics.estimates import Estimate, cluster_bootstrap, difference


@dataclass(frozen=True)
class Auroc:
    """An AUROC with its uncertainty.

    Attributes:
        auroc: in [0, 1], or NaN when one class is missing.
        variance: of ``auroc``, clustered by patient; NaN when not estimable.
        ci_low: lower end of the interval; NaN when not estimable.
        ci_high: upper end.
        n_positive: images with label 1.
        n_negative: images with label 0.
        n_patients: patients.
    """

    auroc: float
    variance: float
    ci_low: float
    ci_high: float
    n_positive: int
    n_negative: int
    n_patients: int

    @property
    def estimate(self) -> dict[str, float]:
        """``value, low, high``, as every estimate is recorded."""
        return {"value": self.auroc, "low": self.ci_low, "high": self.ci_high}


def placements(score: ArrayLike, label: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each positive the share of negatives below it, for each negative the share of positives above it.

    Ties count half. The mean of either is the AUROC (DeLong et al., Biometrics 44, 1988; by midranks as in Sun and
    Xu, IEEE Signal Processing Letters 21(11), 2014).
    """
    score, label = np.asarray(score, dtype=np.float64), np.asarray(label)
    positive, negative = score[label == 1], score[label == 0]
    ranks = rankdata(np.concatenate([positive, negative]))
    m, n = len(positive), len(negative)
    v10 = (ranks[:m] - rankdata(positive)) / n
    v01 = 1.0 - (ranks[m:] - rankdata(negative)) / m
    return v10, v01


def auroc(score: ArrayLike, label: ArrayLike, patient: ArrayLike | None = None, confidence: float = 0.95) -> Auroc:
    """AUROC with a patient-clustered variance and an interval on the logit scale.

    The variance is Obuchowski's for clustered data (Biometrics 53, 1997, equations 2 to 4); with one image a patient
    it differs from DeLong's by a factor of the order 1/n. It is not estimable with fewer than two patients in a class,
    nor when the AUROC is 0 or 1.

    Args:
        score: ``[N]``, higher means more likely positive, finite.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys; each image its own patient when ``None``.
        confidence: level of the interval.

    Raises:
        ValueError: when a score is not finite, a label is not 0 or 1, or lengths differ.
    """
    score, label = np.asarray(score, dtype=np.float64), np.asarray(label)
    patient = np.arange(len(score)) if patient is None else np.asarray(patient)
    if not len(score) == len(label) == len(patient):
        raise ValueError("score, label and patient must have the same length")
    if not np.isfinite(score).all():
        raise ValueError("scores must be finite")
    if not np.isin(label, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    n_positive, n_negative = int((label == 1).sum()), int((label == 0).sum())
    counts = (n_positive, n_negative, len(np.unique(patient)))
    if not n_positive or not n_negative:
        return Auroc(math.nan, math.nan, math.nan, math.nan, *counts)

    area = float(placements(score, label)[0].mean())
    variance = auroc_covariance(score, score, label, patient) if 0 < area < 1 else math.nan
    if not variance > 0:
        return Auroc(area, math.nan, math.nan, math.nan, *counts)
    return Auroc(area, variance, *logit_interval(area, variance, confidence), *counts)


def logit_interval(area: float, variance: float, confidence: float = 0.95) -> tuple[float, float]:
    """Both ends of the interval of an AUROC between 0 and 1, symmetric on the logit scale, so that it stays in [0, 1].

    Example:
        >>> low, high = logit_interval(0.9, 0.03**2)
        >>> round(low, 3), round(high, 3)
        (0.824, 0.945)
    """
    half = float(norm.ppf(0.5 + confidence / 2)) * math.sqrt(variance) / (area * (1 - area))
    logit = math.log(area / (1 - area))
    return float(expit(logit - half)), float(expit(logit + half))


def auroc_covariance(first: ArrayLike, second: ArrayLike, label: ArrayLike, patient: ArrayLike | None = None) -> float:
    """Covariance of the AUROCs of two scores on the same images, clustered by patient (Obuchowski, Biometrics 53, 1997).

    With one image a patient it is DeLong's. With ``first`` equal to ``second`` it is the variance of ``auroc``.

    Returns:
        NaN with fewer than two patients in a class.
    """
    label = np.asarray(label)
    patient = np.arange(len(label)) if patient is None else np.asarray(patient)
    keys, cluster = np.unique(patient, return_inverse=True)
    m, n = int((label == 1).sum()), int((label == 0).sum())
    i10, i01 = (len(np.unique(cluster[label == value])) for value in (1, 0))
    if i10 < 2 or i01 < 2:
        return math.nan
    sums = []
    for score in (first, second):
        v10, v01 = placements(score, label)
        # Deviations of each patient's sum of placements from what the AUROC predicts for that many images.
        d10 = np.bincount(cluster[label == 1], v10 - v10.mean(), len(keys))
        sums.append((d10, np.bincount(cluster[label == 0], v01 - v01.mean(), len(keys))))
    (a10, a01), (b10, b01) = sums
    s10 = i10 / ((i10 - 1) * m) * (a10 * b10).sum()
    s01 = i01 / ((i01 - 1) * n) * (a01 * b01).sum()
    s11 = len(keys) / (len(keys) - 1) * ((a10 * b01).sum() + (b10 * a01).sum())
    return float(s10 / m + s01 / n + s11 / (m * n))


def auroc_difference(external: Auroc, internal: Auroc, confidence: float = 0.95) -> tuple[float, float, float]:
    """External minus internal AUROC (the paper's sign) and its interval, for two disjoint groups of patients.

    Returns:
        Difference, lower and upper end; the ends are NaN when a variance is not estimable.
    """
    result = difference(external.auroc - internal.auroc, external.variance + internal.variance, confidence)
    return result.value, result.low, result.high


def paired_difference(
    first: ArrayLike, second: ArrayLike, label: ArrayLike, patient: ArrayLike | None = None, confidence: float = 0.95
) -> Estimate:
    """AUROC of ``first`` minus AUROC of ``second`` on the same images: DeLong's test, clustered by patient."""
    covariance = [auroc_covariance(a, b, label, patient) for a, b in ((first, first), (second, second), (first, second))]
    value = auroc(first, label, patient).auroc - auroc(second, label, patient).auroc
    return difference(value, covariance[0] + covariance[1] - 2 * covariance[2], confidence)


def difference_in_differences(site: Estimate, reference: Estimate, confidence: float = 0.95) -> Estimate:
    """How much more the first model gains over the second at a site than at the reference, where patients are others.

    Args:
        site: ``paired_difference`` of the two models at the site.
        reference: ``paired_difference`` of the two models on internal data.
        confidence: of both, and of the result.
    """
    z = float(norm.ppf(0.5 + confidence / 2))
    variance = sum(((estimate.high - estimate.low) / (2 * z)) ** 2 for estimate in (site, reference))
    return difference(site.value - reference.value, variance, confidence)


def hanley_mcneil_half_width(area: float, n_positive: int, n_negative: int, confidence: float = 0.95) -> float:
    """Half-width to expect of an AUROC's interval (Hanley and McNeil, Radiology 143, 1982), for planning."""
    q1, q2 = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (n_positive - 1) * (q1 - area**2) + (n_negative - 1) * (q2 - area**2)
    return float(norm.ppf(0.5 + confidence / 2)) * math.sqrt(variance / (n_positive * n_negative))


def average_precision(score: ArrayLike, label: ArrayLike, patient: ArrayLike | None = None, n_samples: int = 1000) -> Estimate:
    """AUPRC as average precision, with an interval from resampled patients.

    The sum over thresholds of the gain in recall times the precision, as scikit-learn's ``average_precision_score``; images are
    sorted once for all samples, where it sorts and checks them a thousand times.

    Args:
        score: ``[N]``, finite.
        label: ``[N]``, 1 or 0.
        patient: ``[N]``, any keys; each image is a patient of its own when ``None``.
        n_samples: number of samples.
    """
    score, label = np.asarray(score, dtype=np.float64), np.asarray(label)
    patient = np.arange(len(label)) if patient is None else patient
    order = np.argsort(-score, kind="stable")
    positive = (label == 1)[order]
    # Images of one score lie on one side of every threshold.
    last_of_score = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))

    def statistic(counts: NDArray[np.int64]) -> float:
        drawn = counts[order]
        called, right = np.cumsum(drawn)[last_of_score], np.cumsum(drawn * positive)[last_of_score]
        if not 0 < right[-1] < called[-1]:
            return math.nan
        gain = np.diff(right, prepend=0)
        found = gain > 0
        return float((gain[found] * (right[found] / called[found])).sum() / right[-1])

    return cluster_bootstrap(statistic, patient, n_samples)
