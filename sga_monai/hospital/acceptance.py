"""A report against its protocol: was it there before the scores, what was planned, are the acceptance limits met."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from sga_monai.core.display import estimate_text
from sga_monai.core.errors import InputError
from sga_monai.hospital.certainty import auroc_with_limits, drop_with_limits
from sga_monai.hospital.formats import MODEL
from sga_monai.hospital.protocol import MEASURES, RELATIONS, Protocol

# What is known about the time of a protocol; the sentences are the report's.
STATUS = {
    "none": "No protocol: nothing shows that the question, limits and subgroups were set before the results were known.",
    "before": "The protocol was recorded when scoring began.",
    "changed": "The protocol was changed after scoring began: a different one was recorded then. Its limits do not count as prespecified.",
    "after": "No protocol was recorded when scoring began; this one was given later. Its limits do not count as prespecified.",
    "elsewhere": "The scores came in a table: nothing here shows whether the protocol was written before they were known.",
    "replaced": "An earlier report on the same table had another protocol, or none. The limits of this one do not count as prespecified.",
}
LATE = ("changed", "after", "replaced")


def status_of_evaluation(protocol: Protocol | None, recorded: str | None) -> str:
    """The key of ``STATUS`` for an evaluation by a bundle.

    Args:
        protocol: of the report.
        recorded: hash of the one that the evaluation recorded when it began.
    """
    if protocol is None:
        return "none"
    if recorded is None:
        return "after"
    return "before" if recorded == protocol.sha256 else "changed"


def compare_with_protocol(report: Mapping[str, Any], protocol: Protocol | None, status: str, began: str | None) -> dict[str, Any]:
    """The part "protocol" of a report; its subgroups get a field ``planned``.

    Args:
        report: its figures; with a protocol each entry of ``subgroups`` is marked.
        protocol: ``None`` where there is none.
        status: a key of ``STATUS``.
        began: when scoring began.

    Returns:
        ``status, text, began``; with a protocol also its ``sha256``, its content's fields, ``limits`` with
        their outcomes, and ``deviations``, a sentence each.

    Raises:
        InputError: when a limit of PPV or NPV would be judged at another prevalence than the protocol's.
    """
    base = {"status": status, "text": STATUS[status], "began": began, "sha256": protocol.sha256 if protocol else None}
    for line in report["subgroups"]:
        line["planned"] = line["by"] in protocol.content["subgroups"] if protocol else None
    if protocol is None:
        return base
    plan = protocol.content
    refuse_other_prevalence(protocol, report["prevalence"])
    return base | {
        **{key: plan[key] for key in ("written", "question", "labels", "label_source", "prevalence", "threshold", "endpoint", "subgroups")},
        **{key: plan.get(key) for key in ("setting", "period")},
        "sample_size": {key: plan["sample_size"][key] for key in ("expected_auroc", "half_width", "patients")},
        "limits": [limit | _outcome(limit, estimate_of(report, limit["measure"])) for limit in plan["limits"]],
        "endpoint_estimate": estimate_of(report, plan["endpoint"]),
        "deviations": _deviations(report, plan),
    }


def refuse_other_prevalence(protocol: Protocol, prevalence: float | None) -> None:
    """Refuse to judge a protocol's limit of PPV or NPV at another prevalence than its own.

    Args:
        protocol: as read.
        prevalence: of the report; the cohort's when ``None``.

    Raises:
        InputError: naming the limit.
    """
    plan = protocol.content
    at_prevalence = [limit["measure"] for limit in plan["limits"] if limit["measure"] in ("ppv", "npv")]
    if at_prevalence and prevalence != plan["prevalence"]:
        planned = "the cohort's" if plan["prevalence"] is None else f"{plan['prevalence']:g}"
        raise InputError(
            f"the protocol's limit of {at_prevalence[0]} applies at its own prevalence ({planned}), and another would change whether it is "
            "met; leave --prevalence out"
        )


def estimate_of(report: Mapping[str, Any], measure: str) -> dict[str, float] | None:
    """``value, low, high`` of a measure of ``MEASURES`` of the model; ``None`` where the report has none."""
    model = report["models"][MODEL]
    if measure == "auroc":
        return auroc_with_limits(report)
    if measure == "auroc_difference":
        return drop_with_limits(report) if model["internal"] is not None else None
    place = {"slope": model["calibration"], "intercept": model["calibration"]}
    part = place.get(measure, model["operating_point"])
    estimate = part[measure] if part else None
    return None if estimate is None else {end: estimate[end] for end in ("value", "low", "high")}


def limit_text(line: Mapping[str, Any]) -> str:
    """A limit as the protocol's page shows it, with what was found: one decimal more than the limit has, two at least.

    Example:
        >>> limit_text({"measure": "auroc", "relation": ">=", "limit": 0.8, "value": 0.85, "low": 0.82, "high": 0.88})
        'AUROC at least 0.8: 0.85 [0.82, 0.88]'
        >>> limit_text({"measure": "npv", "relation": ">=", "limit": 0.995, "value": 0.9965, "low": 0.9921, "high": 0.9985})
        'NPV at least 0.995: 0.9965 [0.9921, 0.9985]'
        >>> limit_text({"measure": "npv", "relation": ">=", "limit": 0.95, "value": None, "low": None, "high": None})
        'NPV at least 0.95: not estimable'
    """
    limit = f"{line['limit']:g}"
    asked = f"{MEASURES[line['measure']][2]} {RELATIONS[line['relation']]} {limit}"
    digits = max(2, 1 - int(Decimal(limit).as_tuple().exponent))
    return f"{asked}: {estimate_text(line, digits, absent='not estimable', absent_interval='[not estimable]')}"


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _outcome(limit: Mapping[str, Any], estimate: Mapping[str, float] | None) -> dict[str, Any]:
    """Met when the whole 95 % interval is on the right side, not met when all of it is on the wrong one, if there is an interval."""
    found: dict[str, Any] = {"value": None, "low": None, "high": None} if estimate is None else dict(estimate)
    if not (_known(found["low"]) and _known(found["high"])):
        return found | {"outcome": "not estimable"}
    sign = 1 if limit["relation"] == ">=" else -1
    worst, best = sorted((sign * found["low"], sign * found["high"]))
    bound = sign * limit["limit"]
    return found | {"outcome": "met" if worst >= bound else "not met" if best < bound else "undecided"}


def _deviations(report: Mapping[str, Any], plan: Mapping[str, Any]) -> list[str]:
    """What was done otherwise than planned."""
    found = []
    if report["prevalence"] != plan["prevalence"]:
        asked, used = (f"{value:g}" if value is not None else "the cohort's" for value in (plan["prevalence"], report["prevalence"]))
        found.append(f"Prevalence: {used} instead of {asked}.")
    point = report["models"][MODEL]["operating_point"]
    if plan["threshold"] is not None and (point is None or point["threshold"] != plan["threshold"]):
        used = "none" if point is None else f"{point['threshold']:g}"
        found.append(f"Threshold: {used} instead of {plan['threshold']:g}.")
    patients, planned = report["cohort"]["patients"], plan["sample_size"]["patients"]
    if planned is not None and patients < planned:
        found.append(f"Patients: {patients} instead of {planned} or more.")
    there = {line["by"] for line in report["subgroups"]}
    found += [f"Subgroup {by}: planned, but not in the data." for by in plan["subgroups"] if by not in there]
    return found
