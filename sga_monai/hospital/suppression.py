"""What of a site's aggregates is hidden before they leave: small levels and their names, a small overlap of the classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

COUNTS = ("patients", "positive_patients", "negative_patients")
# In place of the names of what is hidden: a level may be free text, and one patient's.
HIDDEN = "(suppressed)"


def shown_counts(counts: Mapping[str, int], patients: bool = True) -> dict[str, int]:
    """The numbers of patients that may leave.

    Args:
        counts: ``patients, positive_patients, negative_patients``.
        patients: whether the number of all patients may leave; see ``few_with_both``.
    """
    return {key: counts[key] for key in COUNTS if patients or key != "patients"}


def few_with_both(counts: Mapping[str, int], min_cell: int) -> bool:
    """Whether the patients with images of both labels are 1 to ``min_cell - 1``: the two classes less all patients would tell."""
    return 0 < _with_both(counts) < min_cell


def suppress(subgroups: Sequence[Mapping[str, Any]], cohort: Mapping[str, int], min_cell: int, digits: int = 3) -> list[dict[str, Any]]:
    """Hide small levels, and as many others of the same grouping as subtraction from the cohort would need.

    So are levels that would tell how few patients are in two of them, or in none.

    Hidden levels become one entry without their names and their number. The number of all patients is left out of a grouping in which
    few patients of one level, or of those hidden together, have both labels; and of all of them where few of the cohort have.

    Args:
        subgroups: ``by, level, patients, positive_patients, negative_patients, auroc`` of each level.
        cohort: the same counts of all, those that are not shown included.
        min_cell: smallest number that is shown.
        digits: of the AUROC.
    """
    result: list[dict[str, Any]] = []
    for by in dict.fromkeys(line["by"] for line in subgroups):
        levels = [line for line in subgroups if line["by"] == by]
        # Every kind of negative is compared with all positives, so only negatives add up to the cohort.
        keys = ("negative_patients",) if by == "negative_type" else COUNTS
        hidden = {line["level"] for line in levels if min(line[key] for key in keys) < min_cell}
        while len(hidden) < len(levels):
            shown = [line for line in levels if line["level"] not in hidden]
            # What is left of the cohort is the sum of the hidden levels and of patients whose level is unknown; below zero, of those
            # who are in two levels, with both views or another age later.
            left = [cohort[key] - sum(line[key] for line in shown) for key in keys]
            few = any(0 < abs(number) < min_cell for number in left)
            if not few and (not hidden or (len(hidden) > 1 and min(left) >= min_cell)):
                break
            hidden.add(min(shown, key=lambda line: line["patients"])["level"])
        shown = [line for line in levels if line["level"] not in hidden]
        rest = _with_both(cohort) - sum(map(_with_both, shown))
        patients = not (0 < rest < min_cell or any(few_with_both(line, min_cell) for line in (cohort, *shown)))
        for line in shown:
            figures = {**shown_counts(line, patients), "auroc": round_estimate(line["auroc"], digits)}
            result.append({"by": by, "level": line["level"], "suppressed": False, **figures})
        if hidden:
            result.append({"by": by, "level": HIDDEN, "suppressed": True})
    return result


def round_estimate(estimate: Mapping[str, Any] | None, digits: int) -> dict[str, Any] | None:
    """``value, low, high`` of an estimate, rounded."""
    return None if estimate is None else {key: round_number(estimate[key], digits) for key in ("value", "low", "high")}


def round_number(value: float | None, digits: int) -> float | None:
    """A number rounded; ``None`` where it is none or not finite."""
    return None if value is None or not math.isfinite(value) else round(value, digits)


def _with_both(counts: Mapping[str, int]) -> int:
    return counts["positive_patients"] + counts["negative_patients"] - counts["patients"]
