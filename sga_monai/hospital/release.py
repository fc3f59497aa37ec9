"""``release.json``: the only file that leaves a site. Aggregates of patients, small groups hidden, checked against a schema."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jsonschema

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.files import read_earlier, read_json, write_json
from sga_monai.core.schema import record
from sga_monai.core.text import ALPHABET, ALPHABET_IN_WORDS, plain_text
from sga_monai.hospital import approval
from sga_monai.hospital.formats import BASELINE, EVALUATION, MODEL, RELEASE, REPORT, THRESHOLDS, is_schema_1
from sga_monai.hospital.suppression import COUNTS, HIDDEN, few_with_both, round_estimate, round_number, shown_counts, suppress
from sga_monai.hospital.thinning import thin_curve, thin_net_benefit

MIN_CELL = 10
NUMBER = {"type": ["number", "null"]}
COUNT = {"type": "integer", "minimum": MIN_CELL}


def _counted(**properties: Any) -> dict[str, Any]:
    """A JSON object with exactly these fields and the counts; that of all patients may be absent."""
    counted = record(**properties, positive_patients=COUNT, negative_patients=COUNT)
    counted["properties"]["patients"] = COUNT
    return counted


ESTIMATE = record(value=NUMBER, low=NUMBER, high=NUMBER)
MODEL_FIGURES = record(
    auroc=ESTIMATE,
    auprc=ESTIMATE,
    auroc_difference=ESTIMATE,
    sensitivity=ESTIMATE,
    specificity=ESTIMATE,
    ppv=ESTIMATE,
    npv=ESTIMATE,
    slope=ESTIMATE,
    intercept=ESTIMATE,
    brier=ESTIMATE,
    ece=ESTIMATE,
    roc={"type": "array", "items": {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}, "maxItems": 21},
    net_benefit={"type": "array", "items": {"type": "array", "items": NUMBER, "minItems": 3, "maxItems": 3}, "maxItems": 10},
)
TEXT = {"type": "string", "pattern": ALPHABET}
SHOWN = _counted(by=TEXT, level=TEXT, suppressed={"const": False}, auroc=ESTIMATE)
SUBGROUP = {"anyOf": [SHOWN, record(by=TEXT, level={"const": HIDDEN}, suppressed={"const": True})]}
SCHEMA = record(
    schema={"const": RELEASE},
    site=TEXT,
    bundle=record(
        name=TEXT, version=TEXT, sha256sums={"type": "string", "pattern": "^[0-9a-f]{64}$"}, signature_verified={"type": "boolean"}
    ),
    software={"type": "object", "additionalProperties": TEXT, "propertyNames": TEXT},
    min_cell={"type": "integer", "minimum": MIN_CELL},
    prevalence=NUMBER,
    cohort_prevalence=NUMBER,
    cohort=_counted(),
    failed_patients={"anyOf": [{"const": 0}, COUNT, {"const": "suppressed"}]},
    models={
        "type": "object",
        "additionalProperties": False,
        "required": [MODEL],
        "properties": {MODEL: MODEL_FIGURES, BASELINE: MODEL_FIGURES},
    },
    model_minus_baseline={"anyOf": [ESTIMATE, {"type": "null"}]},
    difference_in_differences={"anyOf": [ESTIMATE, {"type": "null"}]},
    subgroups={"type": "array", "items": SUBGROUP},
    drift={"type": "array", "items": record(feature=TEXT, psi=NUMBER, flag={"type": "boolean"})},
    shortcut_audit=record(center_blank=ESTIMATE, border_blank=ESTIMATE, metadata_only={"anyOf": [ESTIMATE, {"type": "null"}]}),
    verdict=TEXT,
)
# Where there was one; a release of before has no such field.
SCHEMA["properties"]["protocol"] = record(
    sha256={"type": "string", "pattern": "^[0-9a-f]{64}$"}, status={"enum": ["before", "changed", "after"]}
)
SCHEMA["properties"][approval.FIELD] = approval.SCHEMA


def make_release(
    output_dir: str | Path, path: str | Path, site: str = "site", min_cell: int = MIN_CELL, approved_by: str | None = None
) -> dict[str, Any]:
    """Write the aggregates of a report that may leave the site.

    Patients are counted, not images. A level of a subgroup is hidden with its name when its patients, positives or negatives
    are fewer than ``min_cell``, and so are further levels until what is hidden cannot be had by subtraction; the number of all
    patients is left out where fewer have both labels (see ``suppress``). Rates have three decimals, two below 100 patients.
    Points of the ROC curve and net benefits are left out near the ends, and where few patients lie between two.
    No single score, no extreme value. Whatever the schema does not know cannot get in, and nothing is written when it fails.

    Not hidden: sensitivity and specificity with the two class counts give the numbers of right and wrong calls, which may be
    small, and two releases of a growing cohort differ by the new patients.

    Args:
        output_dir: with ``report.json`` of ``make_report``.
        path: the new file; an approved release of other values that it holds is kept beside it as ``release.1.json``.
        site: an alias without identifiers; umlauts are spelled out, accents dropped.
        min_cell: smallest number of patients that is shown, at least 10.
        approved_by: who has read the values of an earlier call with the same arguments, and approves that they leave; without it an
            approval stays that ``path`` has of exactly these values.

    Raises:
        InputError: when there is no report, it is not reportable, a class has fewer than ``min_cell`` patients,
            ``min_cell`` is below 10, or the values that are approved are not those that ``path`` holds.
    """
    check.whole("min_cell", min_cell, low=MIN_CELL)
    alias = plain_text(site)
    if not alias:
        raise InputError(f"site must be written in {ALPHABET_IN_WORDS}")
    release = _aggregates(_read_report(Path(output_dir) / "report.json"), alias, min_cell)
    check_release(release)
    shown = read_earlier(Path(path))
    given = approval.standing_approval(release, shown)
    if approved_by is not None:
        given = approval.make_approval(release, shown, approved_by, sum(1 for _ in numbers(release)))
    if given is not None:
        release[approval.FIELD] = given
        check_release(release)
    approval.keep_approved(Path(path), release, shown)
    write_json(Path(path), release, sort_keys=True)
    return release


def _read_report(path: Path) -> dict[str, Any]:
    """The report of a bundle's evaluation in which few enough images failed."""
    try:
        report: dict[str, Any] = read_json(path)
    except (OSError, ValueError):
        is_above = (path.parent / EVALUATION / path.name).is_file()
        remedy = f"give its folder {EVALUATION}" if is_above else "run sga-monai report first"
        raise InputError(f"no report.json in this folder; {remedy}") from None
    if report.get("schema") != REPORT or any("net_benefit_rates" not in model for model in report["models"].values()):
        raise InputError("report.json is of another version; run sga-monai report again")
    if report["bundle"] is None:
        raise InputError("the report is of a table of scores; only the report of a bundle's evaluation can be released")
    if not report["failures"]["reportable"]:
        raise InputError("the report is not reportable: too many images failed")
    return report


def _aggregates(report: Mapping[str, Any], alias: str, min_cell: int) -> dict[str, Any]:
    """What of a report may leave the site, before anyone has approved it."""
    cohort = {key: report["cohort"][key] for key in COUNTS}
    if min(cohort.values()) < min_cell:
        raise InputError(f"a class has fewer than {min_cell} patients: nothing may leave")
    shown = shown_counts(cohort, patients=not few_with_both(cohort, min_cell))
    digits = decimals(shown)
    failed = [line["patients"] for line in report["flow"] if line["step"].startswith("failed")]
    comparison = report["comparison"] or {}
    audit = report["shortcut_audit"]
    release = {
        "schema": RELEASE,
        "site": alias,
        "bundle": report["bundle"],
        "software": report["software"],
        "min_cell": min_cell,
        "prevalence": report["prevalence"],
        "cohort_prevalence": round_number(report["cohort"]["prevalence"], digits),
        "cohort": shown,
        # A patient may have failed for two reasons; the reasons stay.
        "failed_patients": 0 if not failed else report["failures"]["failed_patients"] if min(failed) >= min_cell else "suppressed",
        "models": {key: _model(model, cohort, min_cell, digits) for key, model in report["models"].items()},
        "model_minus_baseline": round_estimate(comparison.get("model_minus_baseline"), digits),
        "difference_in_differences": round_estimate(comparison.get("difference_in_differences"), digits),
        "subgroups": suppress(report["subgroups"], cohort, min_cell, digits),
        "drift": [{"feature": line["feature"], "psi": round(line["psi"], 2), "flag": line["flag"]} for line in report["drift"]],
        "shortcut_audit": {key: round_estimate(audit[key], digits) for key in ("center_blank", "border_blank", "metadata_only")},
        "verdict": report["verdict"]["code"],
    }
    if report.get("protocol", {}).get("sha256"):
        release["protocol"] = {key: report["protocol"][key] for key in ("sha256", "status")}
    return release


def decimals(cohort: Mapping[str, int]) -> int:
    """How many decimals the rates of a release with these counts have; where all patients are not counted, by those of each class."""
    return 3 if cohort.get("patients", cohort["positive_patients"] + cohort["negative_patients"]) >= 100 else 2


def check_release(release: Any) -> None:
    """Compare with the schema.

    Raises:
        InputError: when it is of an earlier version; naming the field that must not be there, or is not as it must be.
    """
    if is_schema_1(release):
        raise InputError("release: it is of an earlier version (schema 1); package the model and evaluate again with this version")
    error = next(iter(jsonschema.Draft202012Validator(SCHEMA).iter_errors(release)), None)
    if error is not None:
        place = "/".join(str(part) for part in error.absolute_path) or "the file"
        raise InputError(f"release: {place} is not what may leave a site; nothing was written")


def numbers(release: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every value of a release with its place, for the person who approves it."""
    stack: list[tuple[str, Any]] = [("", release)]
    while stack:
        place, value = stack.pop(0)
        if isinstance(value, Mapping):
            stack[:0] = [(f"{place}.{key}" if place else str(key), inner) for key, inner in value.items()]
        elif isinstance(value, list):
            stack[:0] = [(f"{place}[{i}]", inner) for i, inner in enumerate(value)]
        else:
            yield place, value


def _model(model: Mapping[str, Any], cohort: Mapping[str, int], min_cell: int, digits: int) -> dict[str, Any]:
    point, fit = model["operating_point"], model["calibration"]
    return {
        **{key: round_estimate(model[key], digits) for key in ("auroc", "auprc", "auroc_difference")},
        **{key: round_estimate(point[key], digits) for key in ("sensitivity", "specificity", "ppv", "npv")},
        **{key: round_estimate(fit[key], digits) for key in ("slope", "intercept", "brier", "ece")},
        "roc": thin_curve(model["roc"], cohort, min_cell, digits),
        # The locked threshold is the bundle's; at the others releases are compared.
        "net_benefit": thin_net_benefit(
            [line for line in model["net_benefit"] if line[0] in THRESHOLDS], model["net_benefit_rates"], cohort, min_cell, digits
        ),
    }
