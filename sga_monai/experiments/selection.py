"""Choose a method by a rule, and say what the choice achieves on the other sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from sga_monai.evaluation.predictions import INTERNAL, VALIDATION

Record = dict[str, Any]
# Marks a rule that no one may use.
ORACLE = "oracle: it looks at the test"


def is_reported(name: str, selection_set: str) -> bool:
    """Whether a set is a result: external, and not the one that may choose among the methods."""
    return name not in (INTERNAL, VALIDATION, selection_set)


def selections(condition: str, means: Sequence[Record], selection_set: str, uneven: Collection[str] = ()) -> list[Record]:
    """Which method each rule would choose: internal validation, the selection set, or the paper's average over the test sets.

    Args:
        condition: its name.
        means: of the condition.
        selection_set: of the plan; empty for none.
        uneven: internal sets whose images are not the same for all methods, as of training manifests of their own: by AUROCs of
            different images nothing is chosen, and the record says why.
    """

    def average(of: Mapping[str, float]) -> float:
        outside = [area for name, area in of.items() if is_reported(name, selection_set)]
        return (of.get(INTERNAL, math.nan) + sum(outside) / len(outside)) / 2 if outside else math.nan

    validation, oracle = "internal validation AUROC", f"average of the internal and external test AUROC ({ORACLE})"
    rules: dict[str, Callable[[Mapping[str, float]], float]] = {validation: lambda of: of.get(VALIDATION, math.nan)}
    if selection_set:
        rules[f"AUROC at {selection_set}, a source held out for selection"] = lambda of: of.get(selection_set, math.nan)
    rules[oracle] = average
    areas: dict[str, dict[str, float]] = {}
    for mean in means:
        areas.setdefault(mean["method"], {})[mean["set"]] = mean["auroc"]["value"]
    reasons = {}
    if VALIDATION in uneven:
        reasons[validation] = "the methods were validated on different images"
    tested = {frozenset(name for name in of if is_reported(name, selection_set)) for of in areas.values()}
    if INTERNAL in uneven or len(tested) > 1:
        reasons[oracle] = "the methods were tested on different images or sets"
    records = []
    for rule, figure in rules.items():
        by_method = {method: figure(of) for method, of in areas.items() if not math.isnan(figure(of))}
        record: Record = {"kind": "selection", "condition": condition, "rule": rule}
        if len(by_method) > 1 and rule in reasons:
            records.append(record | {"value": None, "chosen": [], "all": by_method, "reason": reasons[rule]})
        elif by_method:
            best = max(by_method.values())
            chosen = [method for method, area in by_method.items() if area > best - 5e-4]
            records.append(record | {"value": best, "chosen": chosen, "all": by_method})
    return records
