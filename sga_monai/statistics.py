"""Statistics of predictions: pure functions on arrays. The unit of sampling is the patient, not the image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata


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
    keys, cluster = np.unique(patient, return_inverse=True)
    counts = (n_positive, n_negative, len(keys))
    if not n_positive or not n_negative:
        return Auroc(math.nan, math.nan, math.nan, math.nan, *counts)

    v10, v01 = placements(score, label)
    area = float(v10.mean())
    # Deviations of each patient's sum of placements from what the AUROC predicts for that many images.
    d10 = np.bincount(cluster[label == 1], v10 - area, len(keys))
    d01 = np.bincount(cluster[label == 0], v01 - area, len(keys))
    i10, i01 = (len(np.unique(cluster[label == value])) for value in (1, 0))
    variance = math.nan
    if i10 > 1 and i01 > 1 and 0 < area < 1:
        s10 = i10 / ((i10 - 1) * n_positive) * (d10**2).sum()
        s01 = i01 / ((i01 - 1) * n_negative) * (d01**2).sum()
        s11 = len(keys) / (len(keys) - 1) * (d10 * d01).sum()
        variance = float(s10 / n_positive + s01 / n_negative + 2 * s11 / (n_positive * n_negative))
    if not variance > 0:
        return Auroc(area, math.nan, math.nan, math.nan, *counts)
    z = float(norm.ppf(0.5 + confidence / 2))
    half = z * math.sqrt(variance) / (area * (1 - area))
    logit = math.log(area / (1 - area))
    return Auroc(area, variance, _expit(logit - half), _expit(logit + half), *counts)


def auroc_difference(external: Auroc, internal: Auroc, confidence: float = 0.95) -> tuple[float, float, float]:
    """External minus internal AUROC (the paper's sign) and its interval, for two disjoint groups of patients.

    Returns:
        Difference, lower and upper end; the ends are NaN when a variance is not estimable.
    """
    difference = external.auroc - internal.auroc
    half = float(norm.ppf(0.5 + confidence / 2)) * math.sqrt(external.variance + internal.variance)
    return difference, difference - half, difference + half


def _expit(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))
