"""How well a site's images are told from internal ones by a network's features, without the internal images.

A probe needs two sides. What travels of the internal side are Gaussians in a few coordinates of the features, in two
halves: one half of each side's patients draws the line, the other halves are judged by it, so that equal hospitals give
0.5. Images are compared within their label, so that another share of the diseased is not taken for another hospital.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm

from sga_monai.statistics.folds import patient_folds

LABELS = ("0", "1")
# Principal axes, the least number of patients of one half and label for each, and that for any profile at all.
N_AXES, PATIENTS_EACH, FEWEST = 8, 5, 10
# Points of an internal Gaussian, equally probable.
N_QUANTILES = 1000
CONFIDENCE = 0.95


def source_profile(features: ArrayLike, label: ArrayLike, patient: ArrayLike) -> list[dict[str, Any]] | None:
    """What travels of the internal features.

    Args:
        features: ``[N, D]`` of all internal images.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys.

    Returns:
        For each half of the patients its coordinates, ``center`` ``[D]``, principal ``axes`` within the labels ``[K, D]`` and
        variances of the ``rest`` ``[D]``, and by label the Gaussians in them of the same half, ``drawn``, and of the other,
        ``judge``: ``n_patients, mean`` ``[K + 1]`` and ``covariance``. ``None`` with fewer than 10 patients in a half of a
        label, or features without variance. Six digits of each number.
    """
    values, label, patient, half = np.asarray(features, dtype=np.float64), np.asarray(label), np.asarray(patient), patient_folds(patient, 2)
    parts = {(side, name): (half == side) & (label == int(name)) for side in (0, 1) for name in LABELS}
    fewest = min(len(np.unique(patient[chosen])) for chosen in parts.values())
    if fewest < FEWEST:
        return None
    profile = []
    for side in (0, 1):
        within = np.concatenate([values[parts[side, name]] - values[parts[side, name]].mean(axis=0) for name in LABELS])
        axes = np.linalg.svd(within, full_matrices=False)[2][: min(N_AXES, fewest // PATIENTS_EACH)]
        rest = ((within - within @ axes.T @ axes) ** 2).mean(axis=0)
        if not rest.mean() > 0:
            return None
        # A feature that is silent inside must not count without limit where it is not.
        part: dict[str, Any] = {"center": values[half == side].mean(axis=0), "axes": axes, "rest": rest + 0.01 * rest.mean()}
        along = coordinates(values, part)
        for role, whose in (("drawn", side), ("judge", 1 - side)):
            part[role] = {name: _gaussian(along[parts[whose, name]], patient[parts[whose, name]]) for name in LABELS}
        profile.append(_rounded(part))
    return profile


def coordinates(features: ArrayLike, part: Mapping[str, Any]) -> NDArray[np.float64]:
    """Features ``[N, D]`` as ``[N, K + 1]``: along the axes, and the logarithm of the mean square of the standardized rest.

    The last one shows a difference in a direction in which internal images hardly vary.
    """
    centered, axes = np.asarray(features, dtype=np.float64) - np.asarray(part["center"]), np.asarray(part["axes"])
    along = centered @ axes.T
    rest = ((centered - along @ axes) ** 2 / np.asarray(part["rest"])).mean(axis=1)
    return np.column_stack([along, np.log(rest + 1e-12)])


def site_scores(features: ArrayLike, label: ArrayLike, patient: ArrayLike, profile: Sequence[Mapping[str, Any]]) -> NDArray[np.float64]:
    """How much each of a site's images is unlike the internal ones of its label, by a line that it did not draw.

    Fisher's discriminant, pooled over labels, of one half of the site's patients against an internal half.

    Args:
        features: ``[N, D]``.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys.
        profile: of ``source_profile``.

    Returns:
        ``[N]``, in standard deviations of the judging internal half around its mean; NaN for a label with fewer than 5
        patients in a half of the site's, or where the line has no spread.
    """
    return site_scores_along([coordinates(features, part) for part in profile], label, patient, profile)


def site_scores_along(
    along_halves: Sequence[NDArray[np.float64]], label: ArrayLike, patient: ArrayLike, profile: Sequence[Mapping[str, Any]]
) -> NDArray[np.float64]:
    """``site_scores`` of features that are given as their ``coordinates`` in each half of ``profile``, ``[N, K + 1]`` each."""
    label, patient, half = np.asarray(label), np.asarray(patient), patient_folds(patient, 2)
    score = np.full(len(label), math.nan)
    people = {name: [len(np.unique(patient[(label == int(name)) & (half == side)])) for side in (0, 1)] for name in LABELS}
    known = [name for name in LABELS if min(people[name]) >= PATIENTS_EACH]
    for side, part in enumerate(profile if known else ()):
        along = along_halves[side]
        outside = {name: along[(half == side) & (label == int(name))] for name in known}
        shift = sum(outside[name].mean(axis=0) - part["drawn"][name]["mean"] for name in known)
        spread = sum(np.cov(outside[name], rowvar=False) + part["drawn"][name]["covariance"] for name in known)
        line = np.linalg.lstsq(spread, shift, rcond=None)[0]
        for name in known:
            judge, judged = part["judge"][name], (half == 1 - side) & (label == int(name))
            variance = float(line @ np.asarray(judge["covariance"]) @ line)
            if variance > 0:
                score[judged] = (along[judged] - np.asarray(judge["mean"])) @ line / math.sqrt(variance)
    return score


def site_auroc(score: ArrayLike, label: ArrayLike, patient: ArrayLike, profile: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """AUROC of ``site_scores``: 0.5 where a site is like the internal images, near 1 where it is not.

    The mean, over the site's images, of the share of the internal Gaussian below each. The variance has a part of the
    site's patients, clustered, and one of the internal patients (DeLong et al., Biometrics 44, 1988, with the Gaussian's
    quantiles as the internal images; what the Gaussian itself gets wrong is not in it). The interval is on the logit scale.

    Args:
        score: ``[N]`` of ``site_scores``.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys.
        profile: the same as for ``site_scores``.

    Returns:
        ``value, low, high``, and the number of images ``n``; ``None`` where no image has a score.
    """
    score, label, patient, half = np.asarray(score, dtype=np.float64), np.asarray(label), np.asarray(patient), patient_folds(patient, 2)
    known = np.isfinite(score)
    if not known.any():
        return None
    quantiles = norm.ppf((np.arange(N_QUANTILES) + 0.5) / N_QUANTILES)
    area, error = 0.0, 0.0
    for side in (0, 1):
        judged = known & (half == 1 - side)
        if not judged.any():
            continue
        below, share = norm.cdf(score[judged]), judged.sum() / known.sum()
        sums = np.bincount(np.unique(patient[judged], return_inverse=True)[1], below - below.mean())
        variance = len(sums) / max(len(sums) - 1, 1) * float((sums**2).sum()) / judged.sum() ** 2
        for name in LABELS:
            of_label = np.sort(score[judged & (label == int(name))])
            if len(of_label):
                above = 1 - np.searchsorted(of_label, quantiles) / len(of_label)
                variance += (len(of_label) / judged.sum()) ** 2 * float(above.var()) / profile[side]["judge"][name]["n_patients"]
        area += float(share * below.mean())
        # What draws one line is judged by the other, so the halves err together.
        error += float(share * math.sqrt(variance))
    figure = {"value": area, "low": math.nan, "high": math.nan, "n": int(known.sum())}
    if 0 < area < 1 and error > 0:
        width = float(norm.ppf(0.5 + CONFIDENCE / 2)) * error / (area * (1 - area))
        figure |= {"low": float(expit(logit(area) - width)), "high": float(expit(logit(area) + width))}
    return figure


def _gaussian(values: NDArray[np.float64], patient: NDArray[Any]) -> dict[str, Any]:
    return {"n_patients": len(np.unique(patient)), "mean": values.mean(axis=0), "covariance": np.cov(values, rowvar=False)}


def _rounded(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _rounded(value) for key, value in content.items()}
    if isinstance(content, np.ndarray):
        return [_rounded(value) for value in content]
    return float(f"{content:.6g}") if isinstance(content, float) else content
