"""``report.json``: a site's evaluation as figures. Every number of the page is in it, and nothing about a single case."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.files import plain, write_json
from sga_monai.data.manifest import age_band
from sga_monai.evaluation.embedding import read_embedding
from sga_monai.evaluation.predictions import BASELINE_SCORE, FILE, GROUPS, read_predictions
from sga_monai.evaluation.results import summarize
from sga_monai.hospital.checks import drift, embedding_distance, shortcut_audit, site_separability
from sga_monai.hospital.formats import BASELINE, MODEL, REPORT, ROLES, THRESHOLDS
from sga_monai.hospital.recalibration import local_recalibration
from sga_monai.hospital.reference import FPR_GRID, read_reference, roc_on_grid
from sga_monai.hospital.verdict import give_verdict, planning_half_width
from sga_monai.model.networks import find_architecture
from sga_monai.statistics.calibration import CLIP, assess_calibration
from sga_monai.statistics.decisions import net_benefit, operating_point
from sga_monai.statistics.discrimination import (
    Auroc,
    auroc,
    average_precision,
    difference_in_differences,
    paired_difference,
)
from sga_monai.statistics.estimates import Estimate, difference

FURTHER = tuple(round(0.05 * i, 2) for i in range(11, 20))


def make_report(output_dir: str | Path, prevalence: float | None = None) -> dict[str, Any]:
    """Compute ``report.json`` of an evaluation and write it beside the predictions.

    Args:
        output_dir: of ``evaluate_bundle``.
        prevalence: of the population in which the model would be used, for PPV, NPV and net benefit; the cohort's,
            which is not a clinical one, when ``None``.

    Raises:
        InputError: when the evaluation is missing, unfinished or damaged, or ``prevalence`` is not in (0, 1).
    """
    out = Path(output_dir)
    try:
        run = json.loads((out / "run.json").read_text(encoding="utf-8-sig"))
        predictions = read_predictions(out / FILE)
    except (OSError, ValueError):
        raise InputError("no evaluation in this folder; run sga-monai evaluate first") from None
    if run.get("finished") is None:
        raise InputError("the evaluation is not finished; give the same command again")
    if prevalence is not None:
        check.number("prevalence", prevalence, above=0, below=1)
    reference = read_reference(out / "reference.json")
    n_features = find_architecture(reference["models"][MODEL]["network"]).n_features
    scored = predictions[predictions["score"].notna()]
    summary = summarize(predictions, failure_limit=run["failure_limit"]).iloc[0]
    columns, roles = {MODEL: "score", BASELINE: BASELINE_SCORE}, [role for role in ROLES if role in reference["models"]]
    report = {
        "schema": REPORT,
        "bundle": run["bundle"],
        "software": run["software"],
        "manifest_sha256": run["manifest_sha256"],
        "prevalence": prevalence,
        "flow": _flow(predictions),
        "failures": _failures(predictions, run["failure_limit"], summary),
        "cohort": _cohort(scored),
        "models": {role: _model(scored, columns[role], reference["models"][role], prevalence) for role in roles},
        "comparison": _comparison(scored, reference) if BASELINE in roles else None,
        "subgroups": _subgroups(scored),
        "drift": drift(scored, reference),
        "embedding": embedding_distance(read_embedding(out / "embedding.json", n_features), reference.get("embedding")),
        "site_auroc": site_separability(scored, reference.get("embedding")),
        "shortcut_audit": shortcut_audit(scored),
        "planning": {"half_width_at_0.8": planning_half_width(summary)},
    }
    report["recalibration"] = local_recalibration(scored, report["models"][MODEL])
    report["verdict"] = give_verdict(report)
    report = plain(report)
    write_json(out / "report.json", report, sort_keys=True)
    return report


def _model(scored: pd.DataFrame, column: str, reference: Mapping[str, Any], prevalence: float | None) -> dict[str, Any]:
    score, label, patient = scored[column], scored["label"], scored["patient"]
    temperature = reference["temperature"]
    probability = expit(score.to_numpy() / temperature)
    # Where all scores are far from 0 the odds would be infinite.
    locked = float(np.clip(expit(reference["threshold"] / temperature), CLIP, 1 - CLIP))
    figure = auroc(score, label, patient)
    internal = Auroc(
        _nan(reference["auroc"]), _nan(reference["variance"]), math.nan, math.nan,
        reference["n_positive"], reference["n_negative"], reference["n_patients"],
    )  # fmt: skip
    both = label.nunique() == 2
    fit = assess_calibration(probability, label, patient) if both else None
    point = operating_point(score, label, reference["threshold"], patient, prevalence)
    curve = decision_thresholds(locked)
    return {
        "auroc": {"value": figure.auroc, "low": figure.ci_low, "high": figure.ci_high, "variance": figure.variance},
        "auprc": asdict(average_precision(score, label, patient)) if both else None,
        "operating_point": asdict(point),
        "calibration": asdict(fit) if fit else None,
        "temperature": temperature,
        "threshold_probability": locked,
        "net_benefit": [[t, *map(float, line)] for t, line in zip(curve, net_benefit(probability, label, curve, prevalence), strict=True)]
        if both
        else None,
        "roc": [list(pair) for pair in zip(FPR_GRID, roc_on_grid(score, label), strict=True)] if both else None,
        "internal": {key: getattr(internal, key) for key in ("auroc", "variance", "n_positive", "n_negative", "n_patients")},
        "internal_roc": [list(pair) for pair in zip(FPR_GRID, reference["roc"], strict=True)],
        "auroc_difference": asdict(difference(figure.auroc - internal.auroc, figure.variance + internal.variance)),
    }


def decision_thresholds(locked: float) -> list[float]:
    """Threshold probabilities of the decision curve: 0.05 to 0.5, further where the locked one is higher, and the locked one.

    Args:
        locked: the probability that the locked threshold stands for.

    Example:
        >>> decision_thresholds(0.62)[-5:]
        [0.45, 0.5, 0.55, 0.6, 0.62]
    """
    return sorted({*THRESHOLDS, *(t for t in FURTHER if t < locked), locked})


def _comparison(scored: pd.DataFrame, reference: Mapping[str, Any]) -> dict[str, Any]:
    """AUROC of the model minus that of the baseline: here, on the internal test set, and the difference of the two."""
    paired = paired_difference(scored["score"], scored[BASELINE_SCORE], scored["label"], scored["patient"])
    internal = reference["model_minus_baseline"]
    did = None
    if internal is not None and scored["label"].nunique() == 2:
        did = asdict(difference_in_differences(paired, Estimate(*(_nan(internal[key]) for key in ("value", "low", "high")))))
    return {"model_minus_baseline": asdict(paired), "internal_model_minus_baseline": internal, "difference_in_differences": did}


def _flow(predictions: pd.DataFrame) -> list[dict[str, Any]]:
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


def _cohort(scored: pd.DataFrame) -> dict[str, Any]:
    clustered = bool(scored["patient"].duplicated().any())
    return _counts(scored) | {
        "prevalence": float((scored["label"] == 1).mean()) if len(scored) else math.nan,
        "clustered": clustered,
    }


def _failures(predictions: pd.DataFrame, limit: float, summary: pd.Series) -> dict[str, Any]:
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


def _subgroups(scored: pd.DataFrame) -> list[dict[str, Any]]:
    table = []
    for by in GROUPS:
        if by not in scored or not scored[by].notna().any():
            continue
        levels = scored[by].fillna("missing")
        levels = levels.map(_age_band) if by == "age" else levels
        for level, rows in scored.groupby(levels, sort=True):
            # Who is negative is a property of the negatives: all positives are compared with each kind.
            if by == "negative_type":
                rows = pd.concat([rows[rows["label"] == 0], scored[scored["label"] == 1]])
                if level == "missing" and not (rows["label"] == 0).any():
                    continue
            figure = auroc(rows["score"], rows["label"], rows["patient"])
            estimate = {"value": figure.auroc, "low": figure.ci_low, "high": figure.ci_high}
            table.append({"by": by, "level": str(level), **_counts(rows), "auroc": estimate})
    return table


def _age_band(age: str) -> str:
    """18-39, 40-64, ... 90+ of a number of years; a band stays."""
    try:
        years = float(age)
    except ValueError:
        return age
    return age_band(years)


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
