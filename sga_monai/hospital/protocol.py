"""The protocol of a validation, written before its results: question, labels, endpoint, acceptance limits, size; hashed."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from sga_monai.core import checks as check
from sga_monai.core.display import page_templates
from sga_monai.core.errors import InputError
from sga_monai.core.files import write_json, write_utf8
from sga_monai.core.provenance import utc_time
from sga_monai.core.schema import record, validate
from sga_monai.evaluation.predictions import GROUPS
from sga_monai.hospital.formats import PROTOCOL
from sga_monai.statistics.discrimination import hanley_mcneil_half_width

# What an acceptance limit may be of, with the range of its values and its name on a page.
MEASURES = {
    "auroc": (0.0, 1.0, "AUROC"),
    "auroc_difference": (-1.0, 1.0, "AUROC, site minus internal"),
    "sensitivity": (0.0, 1.0, "sensitivity"),
    "specificity": (0.0, 1.0, "specificity"),
    "ppv": (0.0, 1.0, "PPV"),
    "npv": (0.0, 1.0, "NPV"),
    "slope": (-100.0, 100.0, "calibration slope"),
    "intercept": (-100.0, 100.0, "calibration intercept"),
}
RELATIONS = {">=": "at least", "<=": "at most"}
# Numbers of patients for which a protocol shows the precision.
SIZES = (100, 200, 300, 500, 750, 1000, 1500, 2000, 3000, 5000)
MOST_PATIENTS = 1_000_000
LONGEST = 500
REFUSAL = "the protocol is missing or not as sga-monai protocol writes it; write it again, to another file"

NUMBER = {"type": ["number", "null"]}
SHARE = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
ONE_LINE = r"^[^\u0000-\u001f\u007f]*[^\u0000-\u0020\u007f][^\u0000-\u001f\u007f]*$"
TEXT = {"type": "string", "maxLength": LONGEST, "pattern": ONE_LINE}


SCHEMA = record(
    schema={"const": PROTOCOL},
    written={"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$"},
    question=TEXT,
    labels=TEXT,
    label_source=TEXT,
    prevalence={"anyOf": [SHARE, {"type": "null"}]},
    threshold=NUMBER,
    endpoint={"enum": list(MEASURES)},
    limits={
        "type": "array",
        "items": record(measure={"enum": list(MEASURES)}, relation={"enum": list(RELATIONS)}, limit={"type": "number"}),
    },
    subgroups={"type": "array", "items": {"enum": list(GROUPS)}, "uniqueItems": True},
    sample_size=record(
        expected_auroc=SHARE,
        positive_share=SHARE,
        half_width=SHARE,
        patients={"type": ["integer", "null"]},
        table={
            "type": "array",
            "items": record(patients={"type": "integer"}, positive={"type": "integer"}, half_width={"type": "number"}),
        },
    ),
)
# Protocols of before have neither.
SCHEMA["properties"] |= {"setting": TEXT, "period": TEXT}


@dataclass(frozen=True)
class Plan:
    """What a protocol is made from.

    Attributes:
        question: what the validation shall answer.
        labels: who counts as positive, and who as negative.
        label_source: how and when that was found out.
        prevalence: of the population in whom the model would be used, in (0, 1); the cohort's when ``None``.
        threshold: from which on a case is called positive; the bundle's when ``None``.
        endpoint: the primary one, of ``MEASURES``.
        limits: acceptance limits, as "auroc>=0.80".
        subgroups: of ``GROUPS``, those that will be looked at.
        expected_auroc: for the sample size.
        positive_share: share of positive patients in the cohort, for the sample size; ``prevalence``, or a half, when ``None``.
        half_width: of the AUROC's 95 % interval that is wanted.
        setting: where the patients come from, as "emergency department"; ``None`` where it is not said.
        period: when they are seen, in words.
    """

    question: str
    labels: str
    label_source: str
    prevalence: float | None = None
    threshold: float | None = None
    endpoint: str = "auroc"
    limits: Sequence[str] = ()
    subgroups: Sequence[str] = ()
    expected_auroc: float = 0.8
    positive_share: float | None = None
    half_width: float = 0.05
    setting: str | None = None
    period: str | None = None

    def __post_init__(self) -> None:
        for name in ("question", "labels", "label_source", "setting", "period"):
            text = getattr(self, name)
            if text is None and name in ("setting", "period"):
                continue
            if not re.fullmatch(ONE_LINE, text) or len(text) > LONGEST:
                raise InputError(f"{name} must be a text of one line, 1 to {LONGEST} characters")
        if self.prevalence is not None:
            check.number("prevalence", self.prevalence, above=0, below=1)
        if self.positive_share is not None:
            check.number("positive_share", self.positive_share, above=0, below=1)
        if self.threshold is not None:
            check.number("threshold", self.threshold)
        check.choice("endpoint", self.endpoint, MEASURES)
        check.number("expected_auroc", self.expected_auroc, above=0.5, below=1)
        check.number("half_width", self.half_width, above=0, below=0.5)
        for group in self.subgroups:
            check.choice("subgroup", group, GROUPS)
        if len(set(self.subgroups)) < len(self.subgroups):
            raise InputError("a subgroup is given twice; give each once")
        _check_limits([read_limit(text) for text in self.limits])


@dataclass(frozen=True)
class Protocol:
    """A protocol as read.

    Attributes:
        content: of the schema.
        sha256: of the file, as ``sha256sum`` prints it.
        data: the file.
    """

    content: Mapping[str, Any]
    sha256: str
    data: bytes


def read_limit(text: str) -> dict[str, Any]:
    """An acceptance limit from its text.

    Raises:
        InputError: when it is none, or its value is out of the measure's range.

    Example:
        >>> read_limit("auroc >= 0.80")
        {'measure': 'auroc', 'relation': '>=', 'limit': 0.8}
    """
    found = re.fullmatch(r"\s*(\w+)\s*(>=|<=)\s*(-?\d+(?:\.\d+)?)\s*", text, re.ASCII)
    if found is None:
        raise InputError('a limit must be a measure, ">=" or "<=", and a number with a decimal point, as "auroc>=0.80"')
    measure = check.choice("the measure of a limit", found[1], MEASURES)
    low, high, _ = MEASURES[measure]
    return {"measure": measure, "relation": found[2], "limit": check.number(f"the limit of {measure}", float(found[3]), low=low, high=high)}


def _check_limits(limits: Sequence[Mapping[str, Any]]) -> None:
    """Refuse two limits of a measure of which one says nothing, or that no value meets."""
    given: dict[tuple[str, str], float] = {}
    for line in limits:
        key = (line["measure"], line["relation"])
        if key in given:
            raise InputError(f"{key[0]} has two limits with {key[1]}; give the one that counts")
        given[key] = line["limit"]
    for measure in MEASURES:
        least, most = given.get((measure, ">="), -math.inf), given.get((measure, "<="), math.inf)
        if least > most:
            raise InputError(f"no {measure} is at least {least:g} and at most {most:g}; correct one of its limits")


def sample_size(plan: Plan) -> dict[str, Any]:
    """How precisely the AUROC will be known, by number of patients with one image each (Hanley and McNeil, Radiology 143, 1982).

    Returns:
        ``expected_auroc, positive_share, half_width``; ``patients``, the fewest that reach it, ``None`` above a million; and
        ``table`` with ``patients, positive, half_width``.
    """
    share = plan.positive_share or plan.prevalence or 0.5

    def expected(patients: int) -> tuple[int, float]:
        positive = min(max(round(share * patients), 1), patients - 1)
        return positive, hanley_mcneil_half_width(plan.expected_auroc, positive, patients - positive)

    low, high = 2, MOST_PATIENTS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if expected(middle)[1] <= plan.half_width else (middle + 1, high)
    enough = low if expected(low)[1] <= plan.half_width else None
    # The number wanted stands among the round ones.
    sizes = sorted({*SIZES, *([enough] if enough else [])})
    table = [{"patients": n, "positive": expected(n)[0], "half_width": round(expected(n)[1], 4)} for n in sizes]
    return {
        "expected_auroc": plan.expected_auroc,
        "positive_share": share,
        "half_width": plan.half_width,
        "patients": enough,
        "table": table,
    }


def write_protocol(plan: Plan, path: str | Path) -> Protocol:
    """Write a protocol, and a page of it beside it with the same name and ``.html``.

    Args:
        plan: what it says.
        path: the new JSON file.

    Raises:
        InputError: when the file or the page exists: a protocol is not changed, another one is written.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise InputError("the protocol's file must end in .json; the page beside it ends in .html")
    for output in (path, path.with_suffix(".html")):
        if output.exists():
            raise InputError(f"{output.name} exists, and a protocol is not overwritten, nor what would be its page; give another name")
    content = {
        "schema": PROTOCOL,
        "written": utc_time(),
        "question": plan.question,
        "labels": plan.labels,
        "label_source": plan.label_source,
        "prevalence": plan.prevalence,
        "threshold": plan.threshold,
        "endpoint": plan.endpoint,
        "limits": [read_limit(text) for text in plan.limits],
        "subgroups": list(plan.subgroups),
        "sample_size": sample_size(plan),
        **{name: getattr(plan, name) for name in ("setting", "period") if getattr(plan, name) is not None},
    }
    write_json(path, content)
    protocol = read_protocol(path)
    names = {name: label for name, (_, _, label) in MEASURES.items()}
    template = page_templates("hospital").get_template("protocol.html.jinja")
    page = template.render(protocol=protocol.content, sha256=protocol.sha256, names=names, relations=RELATIONS, file=path.name)
    write_utf8(path.with_suffix(".html"), page)
    return protocol


def read_protocol(path: str | Path) -> Protocol:
    """A protocol as received: JSON of known fields only.

    Raises:
        InputError: when it is missing or not of the schema.
    """
    try:
        data = Path(path).read_bytes()
        content: Any = json.loads(data.decode("utf-8-sig"))
        validate(content, SCHEMA)
    except (OSError, ValueError, RecursionError, jsonschema.ValidationError):
        raise InputError(REFUSAL) from None
    return Protocol(content, hashlib.sha256(data).hexdigest(), data)
