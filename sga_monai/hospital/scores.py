"""Reports of any model from a table of its scores: a vendor's, or an older one; no images and no bundle are needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, plain, read_json, write_json
from sga_monai.core.provenance import software
from sga_monai.core.text import plain_text
from sga_monai.evaluation.predictions import BASELINE_SCORE
from sga_monai.evaluation.results import FAILURE_LIMIT, summarize
from sga_monai.hospital.acceptance import compare_with_protocol
from sga_monai.hospital.conclusions import draw_conclusions
from sga_monai.hospital.development import compare_cohorts
from sga_monai.hospital.formats import BASELINE, MODEL, REPORT
from sga_monai.hospital.performance import cohort_figures, failure_figures, flow, given_threshold, model_figures, subgroups
from sga_monai.hospital.protocol import Protocol, read_protocol
from sga_monai.hospital.reader_study import reader_study, refuse_no_export, write_imrmc
from sga_monai.hospital.score_table import BASELINE_PROBABILITY, PROBABILITY, read_scores
from sga_monai.hospital.verdict import planning_half_width
from sga_monai.statistics.discrimination import paired_difference
from sga_monai.statistics.probes import METADATA, metadata_auroc


@dataclass(frozen=True)
class ScoresReport:
    """What a report of a table of scores is made with.

    Attributes:
        name: of the model, for the page.
        prevalence: see ``make_report``.
        threshold: from which score on, or from which probability where there is no score, a case is called positive.
        failure_limit: share of cases without a score above which nothing is reportable.
        protocol: file of ``write_protocol``.
        cutoff: from which rating on a reader calls a case positive; see ``reader_study``.
        imrmc: the new file of ``write_imrmc``; none is written when ``None``.
    """

    name: str = "a model given by its scores"
    prevalence: float | None = None
    threshold: float | None = None
    failure_limit: float = FAILURE_LIMIT
    protocol: Path | None = None
    cutoff: float | None = None
    imrmc: Path | None = None

    def __post_init__(self) -> None:
        if not plain_text(self.name):
            raise InputError("name must have a letter or a digit")
        if self.prevalence is not None:
            check.number("prevalence", self.prevalence, above=0, below=1)
        if self.threshold is not None:
            check.number("threshold", self.threshold)
        if self.cutoff is not None:
            check.number("cutoff", self.cutoff)
        check.number("failure_limit", self.failure_limit, low=0, high=1)


def report_scores(path: str | Path, output_dir: str | Path, options: ScoresReport | None = None) -> dict[str, Any]:
    """Compute ``report.json`` of a table of scores: the figures of ``make_report`` that need no images and no bundle.

    Args:
        path: see ``read_scores``.
        output_dir: gets ``report.json``; a report of the same table there says whether its protocol was another.
        options: name, prevalence, threshold, protocol.

    Raises:
        InputError: when the table is refused, the threshold is no probability and the table has no scores, ``output_dir`` holds an
            evaluation of a bundle, or ``imrmc`` is another file.
    """
    options, out = options or ScoresReport(), Path(output_dir)
    if (out / "run.json").exists():
        raise InputError("output_dir holds an evaluation or a training; give another folder for a report of scores")
    if options.imrmc is not None:
        refuse_no_export(options.imrmc)
    protocol = read_protocol(options.protocol) if options.protocol is not None else None
    planned: Mapping[str, Any] = protocol.content if protocol else {"prevalence": None, "threshold": None}
    prevalence = planned["prevalence"] if options.prevalence is None else options.prevalence
    threshold = planned["threshold"] if options.threshold is None else options.threshold
    predictions = read_scores(path)
    scored = predictions[predictions["score"].notna()]
    if scored.empty:
        raise InputError(f"{Path(path).name}: no case has a score")
    if threshold is not None and not _has_own_score(scored):
        _refuse_no_probability(threshold)
    summary = summarize(predictions, failure_limit=options.failure_limit).iloc[0]
    sha256 = file_sha256(path)
    models = {MODEL: _figures(scored, "score", PROBABILITY, threshold, prevalence)}
    if BASELINE_SCORE in scored:
        models[BASELINE] = _figures(scored, BASELINE_SCORE, BASELINE_PROBABILITY, None, prevalence)
    report: dict[str, Any] = {
        "schema": REPORT,
        "title": options.name,
        "bundle": None,
        "scores": {"sha256": sha256, "scale": "score" if _has_own_score(scored) else PROBABILITY, "threshold_given": threshold is not None},
        "software": software(),
        "manifest_sha256": None,
        "prevalence": prevalence,
        "flow": flow(predictions),
        "failures": failure_figures(predictions, options.failure_limit, summary),
        "cohort": cohort_figures(scored),
        "models": models,
        "comparison": _comparison(scored),
        "subgroups": subgroups(scored, threshold),
        "development": compare_cohorts(scored, None),
        "drift": [],
        "embedding": None,
        "site_auroc": None,
        "shortcut_audit": _audit(scored),
        "planning": {"half_width_at_0.8": planning_half_width(summary)},
    }
    if (study := reader_study(scored, threshold, options.cutoff)) is not None:
        report["readers"] = study
    if options.imrmc is not None:
        write_imrmc(scored, options.imrmc)
    first = _first_protocol(out, sha256)
    report["protocol"] = compare_with_protocol(report, protocol, _status(protocol, first), None)
    report["protocol"]["first_sha256"] = report["protocol"]["sha256"] if first is None else first["first_sha256"]
    report |= draw_conclusions(report)
    report = plain(report)
    write_json(out / "report.json", report, sort_keys=True)
    return report


def _has_own_score(scored: pd.DataFrame) -> bool:
    return PROBABILITY not in scored or not scored["score"].equals(scored[PROBABILITY])


def _refuse_no_probability(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise InputError(f"the threshold must be in [0, 1], got {threshold:g}: the table has probabilities and no scores")


def _figures(
    scored: pd.DataFrame, column: str, probability_column: str, threshold: float | None, prevalence: float | None
) -> dict[str, Any]:
    cases = scored[["label", "patient"]].assign(score=scored[column])
    score = cases["score"].to_numpy()
    probability = scored[probability_column].to_numpy() if probability_column in scored else None
    locked = None if threshold is None else given_threshold(threshold, score, probability)
    absent = {"temperature": None, "internal": None, "internal_roc": None, "auroc_difference": None}
    return model_figures(cases, probability, locked, prevalence) | absent


def _comparison(scored: pd.DataFrame) -> dict[str, Any] | None:
    if BASELINE_SCORE not in scored:
        return None
    paired = asdict(paired_difference(scored["score"], scored[BASELINE_SCORE], scored["label"], scored["patient"]))
    return {"model_minus_baseline": paired, "internal_model_minus_baseline": None, "difference_in_differences": None}


def _audit(scored: pd.DataFrame) -> dict[str, Any]:
    """Of the controls, those that need no image."""
    columns = {key: scored[key].fillna("") for key in METADATA if key in scored}
    absent = dict.fromkeys(("center_blank", "border_blank", "lungs_blank", "only_lungs", "tag"))
    return absent | {"metadata_only": metadata_auroc(columns, scored["label"], scored["patient"])}


def _first_protocol(out: Path, sha256: str) -> dict[str, Any] | None:
    """What an earlier report of the same table says of its protocol; ``None`` where there is no such report."""
    try:
        earlier = read_json(out / "report.json")
        found: dict[str, Any] | None = earlier["protocol"] if earlier["scores"]["sha256"] == sha256 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found


def _status(protocol: Protocol | None, first: Mapping[str, Any] | None) -> str:
    if protocol is None:
        return "none"
    return "replaced" if first is not None and first["first_sha256"] != protocol.sha256 else "elsewhere"
