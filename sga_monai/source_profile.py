"""How well a site's images are told from internal ones by a network's features, without the internal images.

A probe needs two sides. What travels of the internal side is its Gaussian in a few principal axes, once for each half of
the patients: one half draws the line, the other is judged by it, so that equal hospitals give 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm

# Principal axes, and the least number of a half's patients for each.
N_AXES, PATIENTS_EACH = 8, 5
# Points of the internal half's Gaussian, equally probable.
N_QUANTILES = 1000
CONFIDENCE = 0.95


def source_profile(features: ArrayLike, patient: ArrayLike) -> dict[str, Any] | None:
    """What travels of the internal features.

    Args:
        features: ``[N, D]`` of all internal images.
        patient: ``[N]``, any keys.

    Returns:
        ``axes`` ``[K, D]``, the first principal axes of all images, and ``halves``, two of ``n_patients, mean`` ``[K]`` and
        ``covariance`` ``[K, K]`` of the centered features along them; ``None`` with fewer than 10 patients.
    """
    values, half = np.asarray(features, dtype=np.float64), _halves(patient)
    people = [len(np.unique(np.asarray(patient)[half == side])) for side in (0, 1)]
    n_axes = min(N_AXES, min(people) // PATIENTS_EACH)
    if n_axes < 1:
        return None
    centered = values - values.mean(axis=0)
    axes = np.linalg.svd(centered, full_matrices=False)[2][:n_axes]
    along = centered @ axes.T
    parts = [_gaussian(along[half == side]) for side in (0, 1)]
    halves = [{"n_patients": n, "mean": m.tolist(), "covariance": c.tolist()} for n, (m, c) in zip(people, parts, strict=True)]
    return {"axes": axes.tolist(), "halves": halves}


def told_apart(along: ArrayLike, patient: ArrayLike, profile: Mapping[str, Any]) -> dict[str, Any] | None:
    """AUROC with which a linear discriminant tells a site's images from internal ones; 0.5 where they are alike.

    Fisher's discriminant of one half of the site's patients against one internal half is applied to the other two. There
    the AUROC is the mean, over the site's images, of the share of the internal Gaussian below each. The variance has a
    part of the site's patients, clustered, and one of the internal patients (DeLong et al., Biometrics 44, 1988, with the
    Gaussian's quantiles as the internal images); the interval is on the logit scale.

    Args:
        along: ``[N, K]``, the site's features minus the internal mean, along the axes.
        patient: ``[N]``, any keys.
        profile: of ``source_profile``.

    Returns:
        ``value, low, high`` and ``n``; ``None`` with fewer than 10 patients at the site, or a profile without spread.
    """
    values, patient, half = np.asarray(along, dtype=np.float64), np.asarray(patient), _halves(patient)
    if len(np.unique(patient)) < 2 * PATIENTS_EACH:
        return None
    quantiles = norm.ppf((np.arange(N_QUANTILES) + 0.5) / N_QUANTILES)
    area, error = 0.0, 0.0
    for side in (0, 1):
        inside, outside = profile["halves"][side], _gaussian(values[half == side])
        covariance = (np.asarray(inside["covariance"]) + outside[1]) / 2
        line = np.linalg.lstsq(covariance, outside[0] - np.asarray(inside["mean"]), rcond=None)[0]
        judged, judge = half == 1 - side, profile["halves"][1 - side]
        spread = math.sqrt(max(float(line @ np.asarray(judge["covariance"]) @ line), 0.0))
        if not spread > 0:
            return None
        score = (values[judged] @ line - line @ np.asarray(judge["mean"])) / spread
        below = norm.cdf(score)
        above = 1 - np.searchsorted(np.sort(score), quantiles) / len(score)
        sums = np.bincount(np.unique(patient[judged], return_inverse=True)[1], below - below.mean())
        variance = len(sums) / (len(sums) - 1) * float((sums**2).sum()) / len(score) ** 2 + float(above.var()) / judge["n_patients"]
        area += judged.mean() * float(below.mean())
        # What draws one line is judged by the other, so the halves err together.
        error += judged.mean() * math.sqrt(variance)
    figure = {"value": area, "low": math.nan, "high": math.nan, "n": len(values)}
    if 0 < area < 1 and error > 0:
        width = float(norm.ppf(0.5 + CONFIDENCE / 2)) * error / (area * (1 - area))
        figure |= {"low": float(expit(logit(area) - width)), "high": float(expit(logit(area) + width))}
    return figure


def _halves(patient: ArrayLike) -> NDArray[np.int64]:
    """0 or 1 for each image: the patients in two halves, the same each time."""
    keys, index = np.unique(np.asarray(patient), return_inverse=True)
    side: NDArray[np.int64] = (np.random.default_rng(0).permutation(len(keys)) % 2)[index]
    return side


def _gaussian(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return values.mean(axis=0), np.atleast_2d(np.cov(values, rowvar=False))
