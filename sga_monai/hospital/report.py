"""``report.json``: a site's evaluation as figures. Every number of the page is in it, and nothing about a single case."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.special import expit

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.files import plain, write_json
from sga_monai.evaluation.embedding import read_embedding
from sga_monai.evaluation.predictions import BASELINE_SCORE
from sga_monai.evaluation.results import summarize
from sga_monai.hospital.acceptance import compare_with_protocol, status_of_evaluation
from sga_monai.hospital.checks import drift, embedding_distance, shortcut_audit, site_separability
from sga_monai.hospital.conclusions import draw_conclusions
from sga_monai.hospital.development import compare_cohorts
from sga_monai.hospital.evaluated import read_evaluation
from sga_monai.hospital.formats import BASELINE, MODEL, PROTOCOL_FILE, REPORT, ROLES
from sga_monai.hospital.performance import cohort_figures, failure_figures, flow, locked_threshold, model_figures, subgroups
from sga_monai.hospital.protocol import Protocol, read_protocol
from sga_monai.hospital.recalibration import local_recalibration
from sga_monai.hospital.reference import FPR_GRID, read_reference
from sga_monai.hospital.verdict import planning_half_width
from sga_monai.model.architectures import find_architecture
from sga_monai.statistics.discrimination import difference_in_differences, paired_difference
from sga_monai.statistics.estimates import Estimate, difference

# What is shown of the model's own test set. Bundles of before have no sensitivity and no specificity.
INTERNAL = ("auroc", "variance", "n_positive", "n_negative", "n_patients", "sensitivity", "specificity")


def make_report(output_dir: str | Path, prevalence: float | None = None, protocol: str | Path | None = None) -> dict[str, Any]:
    """Compute ``report.json`` of an evaluation and write it beside the predictions.

    Args:
        output_dir: of ``evaluate_bundle``.
        prevalence: of the population in which the model would be used, for PPV, NPV and net benefit; the cohort's,
            which is not a clinical one, when ``None``. A protocol's is taken where none is given.
        protocol: file of ``write_protocol``; the copy that the evaluation recorded when ``None``.

    Raises:
        InputError: see ``read_evaluation``; when the evaluation's protocol is gone, or ``prevalence`` is not in (0, 1).
    """
    out = Path(output_dir)
    run, predictions = read_evaluation(out)
    if prevalence is not None:
        check.number("prevalence", prevalence, above=0, below=1)
    plan = _protocol(out, protocol, run.get("protocol"))
    if prevalence is None and plan is not None:
        prevalence = plan.content["prevalence"]
    reference = read_reference(out / "reference.json")
    n_features = find_architecture(reference["models"][MODEL]["network"]).n_features
    scored = predictions[predictions["score"].notna()]
    summary = summarize(predictions, failure_limit=run["failure_limit"]).iloc[0]
    columns, roles = {MODEL: "score", BASELINE: BASELINE_SCORE}, [role for role in ROLES if role in reference["models"]]
    report = {
        "schema": REPORT,
        "title": f"{run['bundle']['name']} {run['bundle']['version']}",
        "scores": None,
        "bundle": run["bundle"],
        "software": run["software"],
        "manifest_sha256": run["manifest_sha256"],
        "prevalence": prevalence,
        "flow": flow(predictions),
        "failures": failure_figures(predictions, run["failure_limit"], summary),
        "cohort": cohort_figures(scored),
        "models": {role: _model(scored, columns[role], reference["models"][role], prevalence) for role in roles},
        "comparison": _comparison(scored, reference) if BASELINE in roles else None,
        "subgroups": subgroups(scored, reference["models"][MODEL]["threshold"]),
        "development": compare_cohorts(scored, reference.get("development")),
        "drift": drift(scored, reference),
        "embedding": embedding_distance(read_embedding(out / "embedding.json", n_features), reference.get("embedding")),
        "site_auroc": site_separability(scored, reference.get("embedding")),
        "shortcut_audit": shortcut_audit(scored),
        "planning": {"half_width_at_0.8": planning_half_width(summary)},
    }
    report["recalibration"] = local_recalibration(scored, report["models"][MODEL])
    # Scores that were known before do not become unknown when they are made again.
    first = run.get("first") or run
    status = status_of_evaluation(plan, first.get("protocol"))
    report["protocol"] = compare_with_protocol(report, plan, status, first.get("started"))
    report |= draw_conclusions(report)
    report = plain(report)
    write_json(out / "report.json", report, sort_keys=True)
    return report


def _protocol(out: Path, given: str | Path | None, recorded: str | None) -> Protocol | None:
    """The protocol that is given, or the one that lies in the evaluation's folder, where there must be one if one was recorded."""
    if given is None and not (out / PROTOCOL_FILE).exists():
        if recorded is not None:
            raise InputError(f"the evaluation recorded a protocol, and its copy {PROTOCOL_FILE} is gone; give the file with --protocol")
        return None
    return read_protocol(out / PROTOCOL_FILE if given is None else given)


def _model(scored: pd.DataFrame, column: str, reference: Mapping[str, Any], prevalence: float | None) -> dict[str, Any]:
    """Figures of a bundle's model, beside those of its internal test set."""
    cases = scored[["label", "patient"]].assign(score=scored[column])
    temperature = reference["temperature"]
    threshold = locked_threshold(reference["threshold"], temperature)
    figures = model_figures(cases, expit(cases["score"].to_numpy() / temperature), threshold, prevalence)
    area, variance = figures["auroc"]["value"], figures["auroc"]["variance"]
    return figures | {
        "temperature": temperature,
        "internal": {key: reference.get(key) for key in INTERNAL},
        "internal_roc": [list(pair) for pair in zip(FPR_GRID, reference["roc"], strict=True)],
        "auroc_difference": asdict(difference(area - _nan(reference["auroc"]), variance + _nan(reference["variance"]))),
    }


def _comparison(scored: pd.DataFrame, reference: Mapping[str, Any]) -> dict[str, Any]:
    """AUROC of the model minus that of the baseline: here, on the internal test set, and the difference of the two."""
    paired = paired_difference(scored["score"], scored[BASELINE_SCORE], scored["label"], scored["patient"])
    internal = reference["model_minus_baseline"]
    did = None
    if internal is not None and scored["label"].nunique() == 2:
        did = asdict(difference_in_differences(paired, Estimate(*(_nan(internal[key]) for key in ("value", "low", "high")))))
    return {"model_minus_baseline": asdict(paired), "internal_model_minus_baseline": internal, "difference_in_differences": did}


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)
