"""What a model does at a site, as figures of its scores, labels and patients, wherever the scores came from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from sga_monai.evaluation.predictions import GROUPS
from sga_monai.hospital.curves import calibration_figures, decision_band, score_distributions
from sga_monai.hospital.cutoffs import cutoff_table, per_thousand
from sga_monai.hospital.development import age_group
from sga_monai.hospital.formats import THRESHOLDS
from sga_monai.hospital.reference import FPR_GRID, roc_on_grid
from sga_monai.statistics.calibration import CLIP, assess_calibration
from sga_monai.statistics.decisions import net_benefit, operating_point, rates_at
from sga_monai.statistics.discrimination import auroc, average_precision
from sga_monai.statistics.estimates import share

FURTHER = tuple(round(0.05 * i, 2) for i in range(11, 20))


@dataclass(frozen=True)
class Threshold:
    """From which score on an image is called positive, and which probability that is.

    Attributes:
        score: an image with this score or more is called positive.
        probability: that the score stands for, in (0, 1); ``None`` where the model gives no probabilities.
    """

    score: float
    probability: float | None


def locked_threshold(score: float, temperature: float) -> Threshold:
    """The threshold of a bundle's model, whose probability is the logistic function of the score over the temperature."""
    # Where all scores are far from 0 the odds would be infinite.
    return Threshold(score, float(np.clip(expit(score / temperature), CLIP, 1 - CLIP)))


def given_threshold(value: float, score: NDArray[np.float64], probability: NDArray[np.float64] | None) -> Threshold:
    """A threshold whose probability is read between the two neighboring cases, on the logit scale; of probabilities, it is its own.

    Args:
        value: on the scale of ``score``.
        score: ``[N]``.
        probability: ``[N]`` of the same cases; ``None`` where the model gives none.

    Returns:
        Without a probability where there are none, where they do not rise with the scores, and outside of the scores, unless
        scores and probabilities are the same.

    Example:
        >>> round(given_threshold(0.0, np.array([-1.0, 1.0]), np.array([0.2, 0.8])).probability, 6)
        0.5
    """
    if probability is not None and 0 < value < 1 and np.array_equal(score, probability):
        return Threshold(value, value)
    if probability is None or not score.min() <= value <= score.max():
        return Threshold(value, None)
    order = np.lexsort((probability, score))
    x, p = score[order], np.clip(probability[order], CLIP, 1 - CLIP)
    if (np.diff(p) < 0).any():
        return Threshold(value, None)
    return Threshold(value, float(expit(np.interp(value, x, logit(p)))))


def model_figures(
    cases: pd.DataFrame, probability: NDArray[np.float64] | None, threshold: Threshold | None, prevalence: float | None
) -> dict[str, Any]:
    """Every figure of one model at one site that needs nothing but its scores.

    Args:
        cases: the scored ones, with ``score, label, patient``.
        probability: ``[N]`` of the same cases; ``None`` where the model gives none.
        threshold: ``None`` where there is none: then there is no operating point.
        prevalence: of the population, for PPV, NPV and net benefit; the cohort's when ``None``.

    Returns:
        ``auroc, auprc, operating_point, per_thousand, calibration, calibration_curve, threshold_probability, net_benefit,
        net_benefit_rates`` (threshold, false and true positive rate), ``net_benefit_band, roc, distributions, cutoffs``;
        ``None`` where a class, the probabilities or the threshold are missing.
    """
    score, label, patient = cases["score"], cases["label"], cases["patient"]
    figure, both = auroc(score, label, patient), label.nunique() == 2
    locked = threshold.probability if threshold else None
    point = asdict(operating_point(score, label, threshold.score, patient, prevalence)) if threshold else None
    fit = smooth = benefit = rates = band = None
    if both and probability is not None:
        fit = asdict(assess_calibration(probability, label, patient))
        smooth = calibration_figures(probability, label, patient)
        curve = decision_thresholds(locked)
        benefit = [[t, *map(float, line)] for t, line in zip(curve, net_benefit(probability, label, curve, prevalence), strict=True)]
        rates = [[t, *map(float, line)] for t, line in zip(curve, rates_at(probability, label, curve), strict=True)]
        band = decision_band(probability, cases, curve, prevalence)
    return {
        "auroc": {**figure.estimate, "variance": figure.variance},
        "auprc": asdict(average_precision(score, label, patient)) if both else None,
        "operating_point": point,
        "per_thousand": per_thousand(point) if point else None,
        "calibration": fit,
        "calibration_curve": smooth,
        "threshold_probability": locked,
        "net_benefit": benefit,
        "net_benefit_rates": rates,
        "net_benefit_band": band,
        "roc": [list(pair) for pair in zip(FPR_GRID, roc_on_grid(score, label), strict=True)] if both else None,
        "distributions": score_distributions(cases) if len(cases) else None,
        "cutoffs": cutoff_table(cases, probability, point, threshold=locked, prevalence=prevalence) if both else None,
    }


def decision_thresholds(locked: float | None) -> list[float]:
    """Threshold probabilities of the decision curve: 0.05 to 0.5, further where the locked one is higher, and the locked one.

    Args:
        locked: the probability that the locked threshold stands for; ``None`` where it has none.

    Example:
        >>> decision_thresholds(0.62)[-5:]
        [0.45, 0.5, 0.55, 0.6, 0.62]
    """
    if locked is None:
        return list(THRESHOLDS)
    return sorted({*THRESHOLDS, *(t for t in FURTHER if t < locked), locked})


def flow(predictions: pd.DataFrame) -> list[dict[str, Any]]:
    """What became of every row: listed, failed by reason, scored."""
    steps = [("listed", predictions)]
    for code, rows in predictions[predictions["score"].isna()].groupby("error", sort=True):
        steps.append((f"failed: {code}", rows))
    steps.append(("scored", predictions[predictions["score"].notna()]))
    return [{"step": step, **_counts(rows)} for step, rows in steps]


def _counts(rows: pd.DataFrame) -> dict[str, int]:
    return {
        "images": len(rows),
        "positive_images": int((rows["label"] == 1).sum()),
        "negative_images": int((rows["label"] == 0).sum()),
        "patients": int(rows["patient"].nunique()),
        "positive_patients": int(rows.loc[rows["label"] == 1, "patient"].nunique()),
        "negative_patients": int(rows.loc[rows["label"] == 0, "patient"].nunique()),
    }


def cohort_figures(scored: pd.DataFrame) -> dict[str, Any]:
    """Numbers of images and patients, the share of positive images, and whether a patient has several."""
    clustered = bool(scored["patient"].duplicated().any())
    return _counts(scored) | {
        "prevalence": float((scored["label"] == 1).mean()) if len(scored) else math.nan,
        "clustered": clustered,
    }


def failure_figures(predictions: pd.DataFrame, limit: float, summary: Mapping[str, Any]) -> dict[str, Any]:
    """How many rows have no score.

    Args:
        predictions: all rows.
        limit: share of failed rows above which nothing is reportable.
        summary: the row of ``summarize``.
    """
    return {
        "failed": int(summary["n_failed"]),
        "failed_patients": int(predictions.loc[predictions["score"].isna(), "patient"].nunique()),
        "failed_positive": int(summary["n_failed_positive"]),
        "failed_negative": int(summary["n_failed_negative"]),
        "share": float(predictions["score"].isna().mean()),
        "limit": limit,
        "reportable": bool(summary["reportable"]),
        "auroc_worst_case": float(summary["auroc_worst_case"]),
    }


def subgroups(scored: pd.DataFrame, threshold: float | None = None) -> list[dict[str, Any]]:
    """AUROC, sensitivity, specificity and counts by level of each column of ``GROUPS`` that is there.

    Args:
        scored: the scored rows of a site's predictions.
        threshold: the locked one; without it sensitivity and specificity are ``None``.
    """
    table = []
    for by in GROUPS:
        if by not in scored or not scored[by].notna().any():
            continue
        levels = scored[by].fillna("missing")
        levels = levels.map(age_group) if by == "age" else levels
        for level, rows in scored.groupby(levels, sort=True):
            # Who is negative is a property of the negatives: all positives are compared with each kind.
            if by == "negative_type":
                rows = pd.concat([rows[rows["label"] == 0], scored[scored["label"] == 1]])
                if level == "missing" and not (rows["label"] == 0).any():
                    continue
            estimate = auroc(rows["score"], rows["label"], rows["patient"]).estimate
            table.append({"by": by, "level": str(level), **_counts(rows), "auroc": estimate, **_rates(rows, threshold)})
    return table


def _rates(rows: pd.DataFrame, threshold: float | None) -> dict[str, Any]:
    """Sensitivity and specificity of a subgroup at the locked threshold."""
    if threshold is None:
        return {"sensitivity": None, "specificity": None}
    sides = {"sensitivity": (1, rows["score"] >= threshold), "specificity": (0, rows["score"] < threshold)}
    found = {}
    for name, (label, right) in sides.items():
        chosen = rows["label"] == label
        estimate = share(right[chosen], rows.loc[chosen, "patient"])
        found[name] = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return found
