"""The verdict of a report: does the model perform at this site as on its internal test set?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from sga_monai.hospital.acceptance import LATE, limit_text
from sga_monai.hospital.certainty import auroc_with_limits, drop_with_limits
from sga_monai.hospital.formats import MODEL
from sga_monai.statistics.discrimination import hanley_mcneil_half_width

ENOUGH_POSITIVES, ENOUGH_PRECISION = 100, 0.05
# With fewer patients of a class an AUROC of 0 or 1 may be chance.
ENOUGH_FOR_CONTROLS = 10


def planning_half_width(summary: pd.Series) -> float | None:
    """Half of the 95 % interval that an AUROC of 0.8 would have with this many images; ``None`` without both classes."""
    if not summary["n_positive"] or not summary["n_negative"]:
        return None
    return hanley_mcneil_half_width(0.8, int(summary["n_positive"]), int(summary["n_negative"]))


def give_verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    """The conclusion of a report, the cautious reading first.

    Args:
        report: of ``make_report`` or ``report_scores``, without its verdict.

    Returns:
        ``code``, ``text`` and further ``notes``. The code is "not reportable"; with a protocol's acceptance limits "met", "not
        met" or "inconclusive"; else "worse", "holds" or "inconclusive" against the internal test set, and "no criterion"
        where there is neither.
    """
    model, cohort, audit = report["models"][MODEL], report["cohort"], report["shortcut_audit"]
    protocol = report.get("protocol", {})
    notes = []
    if not report["failures"]["reportable"]:
        code, text = "not reportable", "Too many images failed; no figure in this report is reliable."
    elif protocol.get("limits"):
        code, text = _by_limits(protocol["limits"])
        if model["internal"] is not None:
            notes.append(f"Outside the protocol: {against_internal(report)[1]}")
    else:
        code, text = against_internal(report)
    if protocol.get("status") in LATE:
        notes.append(protocol["text"])
    if auroc_with_limits(report)["high"] < 0.5:
        notes.append("The whole interval of the AUROC is below 0.5: are the labels swapped, or the scores reversed?")
    if alike := _called_alike(model["operating_point"]):
        scale = f", and on the scale of the column {report['scores']['scale']}" if report.get("scores") else ""
        notes.append(f"At the threshold every case is called {alike}: is it the right one{scale}?")
    # The mask is the better control where enough images have one.
    blanked = next((audit[name] for name in ("lungs_blank", "center_blank") if audit[name] and _has_enough(audit[name], cohort)), None)
    if blanked and _differs_from_chance(blanked):
        notes.append(f"Shortcut suspected: with the lungs blanked the AUROC is {blanked['value']:.2f}; about 0.5 is expected.")
    metadata = audit["metadata_only"]
    if metadata and _differs_from_chance(metadata):
        notes.append(f"Confounded cohort: view, manufacturer and sex alone give an AUROC of {metadata['value']:.2f}.")
    if any(line["flag"] for line in report["drift"]):
        notes.append('The images differ from the internal ones: see "Are the images like the internal ones?".')
    if report["prevalence"] is None:
        notes.append(f"PPV, NPV and net benefit are at the cohort's prevalence, {cohort['prevalence']:.3f}, not at a clinical one.")
    return {"code": code, "text": text, "notes": notes}


def against_internal(report: Mapping[str, Any]) -> tuple[str, str]:
    """Code and text by the difference from the internal test set."""
    cohort, area, internal = report["cohort"], auroc_with_limits(report), report["models"][MODEL]["internal"]
    if missing := missing_class(cohort):
        text = f"There is no AUROC: no patient is {missing}, and both classes are needed. The figures below are only indicative."
        return "inconclusive", text
    if tells_none_apart(report):
        return "inconclusive", "All cases have the same score, so nothing can be ranked; more patients would not change that."
    if unmet := _unmet(cohort, (area["high"] - area["low"]) / 2):
        text = f"The cohort is too small for a conclusion: {' and '.join(unmet)}. The figures below are only indicative."
        return "inconclusive", text
    if internal is None:
        text = (
            f"The AUROC is {area['value']:.2f} [{area['low']:.2f}, {area['high']:.2f}]. Nothing defines what would be good enough: there "
            "is no internal figure to compare it with, and no protocol with an acceptance limit for it."
        )
        return "no criterion", text
    drop = drop_with_limits(report)
    values = f"{area['value']:.2f} against {internal['auroc']:.2f}" if internal["auroc"] is not None else ""
    # The margin first: with many patients a drop too small to matter is significant.
    if drop["low"] > -ENOUGH_PRECISION:
        text = f"The site's AUROC is significantly lower than the internal one, but by less than {ENOUGH_PRECISION:.2f}"
        text = text if drop["high"] < 0 else f"A drop of {ENOUGH_PRECISION:.2f} or more from the internal AUROC is excluded"
        return "holds", f"{text}: {values}."
    if drop["high"] < 0:
        return "worse", f"The site's AUROC is significantly lower than the internal one: {values}."
    text = (
        f"The site's AUROC is not significantly different from the internal one. A drop of {ENOUGH_PRECISION:.2f} or more is not excluded."
    )
    return "inconclusive", text


def _by_limits(limits: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Code and text by a protocol's acceptance limits, all of which must be met."""
    by_outcome = {name: [line for line in limits if line["outcome"] == name] for name in ("not met", "undecided", "not estimable")}

    def listed(lines: Sequence[Mapping[str, Any]]) -> str:
        return "; ".join(map(limit_text, lines))

    if by_outcome["not met"]:
        return "not met", f"Acceptance limits of the protocol are not met: {listed(by_outcome['not met'])}."
    open_texts = {"undecided": "lie within the intervals", "not estimable": "cannot be judged here"}
    if said := [
        f"Acceptance limits of the protocol {text}: {listed(by_outcome[key])}." for key, text in open_texts.items() if by_outcome[key]
    ]:
        return "inconclusive", " ".join(said)
    return "met", f"All acceptance limits of the protocol are met: {listed(limits)}."


def missing_class(cohort: Mapping[str, Any]) -> str:
    """The class, "positive" or "negative", of which there is no patient; empty where there are both."""
    return next((name for name in ("positive", "negative") if not cohort[f"{name}_patients"]), "")


def tells_none_apart(report: Mapping[str, Any]) -> bool:
    """Whether the model has one score for all cases: the ROC is the diagonal, without a point in between."""
    model = report["models"][MODEL]
    points = (model.get("roc") or [])[:-1]
    return model["auroc"]["value"] == 0.5 and bool(points) and not any(sensitivity for _, sensitivity in points)


def _unmet(cohort: Mapping[str, Any], half: float) -> list[str]:
    """What a conclusion would need and this site does not have, in words.

    Args:
        cohort: of the report.
        half: half of the interval of the AUROC; NaN where not estimable.
    """
    unmet = []
    if cohort["positive_patients"] < ENOUGH_POSITIVES:
        unmet.append(f"{cohort['positive_patients']} positive patients (at least {ENOUGH_POSITIVES} are needed)")
    if math.isnan(half):
        unmet.append("the AUROC's interval cannot be estimated")
    elif half > ENOUGH_PRECISION:
        # More digits where two would show a number that meets the criterion.
        shown = f"{half:.2f}" if round(half, 2) > ENOUGH_PRECISION else f"{half:.4f}"
        unmet.append(f"the AUROC is known only to within +/- {shown} ({ENOUGH_PRECISION:.2f} or less is needed)")
    return unmet


def _called_alike(point: Mapping[str, Any] | None) -> str:
    """How a threshold calls all cases of both classes; empty where it tells some apart, or a class is missing."""
    rates = None if point is None else (point["sensitivity"]["value"], point["specificity"]["value"])
    return {(0, 1): "negative", (1, 0): "positive"}.get(rates, "") if rates else ""


def _has_enough(control: Mapping[str, Any], cohort: Mapping[str, Any]) -> bool:
    """Whether a control has enough patients of each class; those of the cohort count where a report of before has none."""
    return all(control.get(key, cohort[key]) >= ENOUGH_FOR_CONTROLS for key in ("positive_patients", "negative_patients"))


def _differs_from_chance(estimate: Mapping[str, float]) -> bool:
    """Whether the interval of an AUROC lies outside of 0.4 to 0.6; an AUROC of 0 or 1 has none, and differs."""
    if math.isnan(estimate["low"]):
        return estimate["value"] in (0.0, 1.0)
    return estimate["low"] > 0.6 or estimate["high"] < 0.4
