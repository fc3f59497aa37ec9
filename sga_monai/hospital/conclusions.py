"""The first screen of a report in words: ranking, threshold and probabilities, each with its reason, and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sga_monai.core.display import estimate_text
from sga_monai.hospital.acceptance import limit_text
from sga_monai.hospital.certainty import auroc_with_limits, drop_with_limits
from sga_monai.hospital.formats import MODEL
from sga_monai.hospital.protocol import MEASURES as MEASURED
from sga_monai.hospital.verdict import (
    ENOUGH_POSITIVES,
    ENOUGH_PRECISION,
    against_internal,
    give_verdict,
    missing_class,
    tells_none_apart,
)

# Which of a protocol's limits answer which question.
MEASURES = {
    "ranking": ("auroc", "auroc_difference"),
    "threshold": ("sensitivity", "specificity", "ppv", "npv"),
    "probabilities": ("slope", "intercept"),
}
# How much lower sensitivity and specificity may be than inside.
MARGIN = 0.10
# Slope and observed to expected: off where outside of the first with an interval that leaves out 1, right where inside the second.
OFF, RIGHT = (0.8, 1.25), (2 / 3, 1.5)
BAD = ("worse", "not met", "shifted", "off")

Conclusion = dict[str, str]


def draw_conclusions(report: Mapping[str, Any]) -> dict[str, Any]:
    """The parts ``verdict``, ``conclusions`` and ``advice`` of a report that has all others."""
    verdict = give_verdict(report)
    conclusions = conclude(report)
    return {"verdict": verdict, "conclusions": conclusions, "advice": advise({**report, "verdict": verdict, "conclusions": conclusions})}


def conclude(report: Mapping[str, Any]) -> list[Conclusion]:
    """Three answers: does the model rank, does its threshold work, do its probabilities mean what they say?

    Args:
        report: of ``make_report`` or ``report_scores``, with its protocol.

    Returns:
        Of "ranking", "threshold" and "probabilities", in this order: ``name, code, text, reason``. Codes are those of the verdict,
        and "shifted" where a threshold finds more of one class and fewer of the other, "off" for probabilities, "absent" where there is
        no threshold or no probability.
    """
    if not report["failures"]["reportable"]:
        return [_answer(name, "not reportable", "Not known.", "Too many images failed.") for name in MEASURES]
    answers = {"ranking": _ranking, "threshold": _threshold, "probabilities": _probabilities}
    limits = report.get("protocol", {}).get("limits") or []
    found = []
    for name, answer in answers.items():
        own = [line for line in limits if line["measure"] in MEASURES[name]]
        given = answer(report)
        found.append(_by_limits(name, own, given) if own else given)
    return found


def advise(report: Mapping[str, Any]) -> list[str]:
    """What the site should do next, the most important first.

    Args:
        report: with ``verdict`` and ``conclusions``.
    """
    ranking, threshold, probabilities = (line["code"] for line in report["conclusions"])
    advice = []
    if ranking == "not reportable":
        return ["Correct the images that failed, using the reasons listed, and evaluate again; do not use any figure on this page."]
    if any(note.startswith("Shortcut suspected") for note in report["verdict"]["notes"]):
        advice.append("Find out what the model reads outside the lungs before relying on any figure.")
    if ranking in BAD:
        advice.append("Do not use the model here as it is. Look at the errors, and report it to the developers with the release.")
    elif ranking == "inconclusive" or report["verdict"]["code"] == "inconclusive":
        advice.append(f"Do not decide yet: {_what_is_open(report, ranking)}.")
    elif report["verdict"]["code"] == "no criterion":
        advice.append("Write down what would be good enough (sga-monai protocol), then evaluate again on patients seen after that.")
    if ranking not in BAD:
        if threshold in BAD:
            advice.append(
                "Do not use the locked threshold as it is; a threshold for this site must be chosen and tested on other patients."
            )
        if probabilities in BAD:
            advice.append("Do not take the probabilities at face value; recalibrate them, and test the result on other patients.")
    if not advice:
        advice.append(
            "Nothing here argues against the next step, a prospective study at this site. This report alone is not enough for use."
        )
        unknown = [name for name, code in (("the threshold", threshold), ("the probabilities", probabilities)) if code == "inconclusive"]
        if unknown:
            advice.append(f"These data do not settle whether {' and '.join(unknown)} will hold up here; that study should.")
    return advice


def _ranking(report: Mapping[str, Any]) -> Conclusion:
    code, reason = against_internal(report)
    texts = {
        "holds": "It ranks diseased patients above healthy ones as well as on the developers' test set.",
        "worse": "It ranks diseased patients above healthy ones less well than on the developers' test set.",
        "inconclusive": "Whether it ranks as well as on the developers' test set is not yet known.",
        "no criterion": "It ranks patients, but nothing defines what would be good enough.",
    }
    if report["models"][MODEL]["internal"] is None:
        texts["inconclusive"] = "How well it ranks patients is not yet known."
    area = auroc_with_limits(report)
    if code == "holds" and drop_with_limits(report)["high"] < 0:
        texts["holds"] = "It ranks diseased patients above healthy ones nearly as well as on the developers' test set."
    reason = reason.removesuffix(" The figures below are only indicative.")
    if code != "no criterion" and not missing_class(report["cohort"]):
        reason = f"AUROC {_text(area)}. {reason}"
    return _answer("ranking", code, texts[code], reason)


def _threshold(report: Mapping[str, Any]) -> Conclusion:
    model = report["models"][MODEL]
    point = model["operating_point"]
    if point is None:
        return _answer("threshold", "absent", "There is no locked threshold.", "Without one, no patient is called positive or negative.")
    rates = {name: point[name] for name in ("sensitivity", "specificity")}
    said = f"Sensitivity {_text(rates['sensitivity'])}, specificity {_text(rates['specificity'])}."
    inside: dict[str, Any] = {name: (model["internal"] or {}).get(name) for name in rates}
    if None in inside.values():
        reason = f"{said} The corresponding figures on the developers' data are not known here."
        return _answer("threshold", "no criterion", "It classifies patients, but nothing defines what would be good enough.", reason)
    said = f"{said} Internal test set: {inside['sensitivity']['value']:.2f} and {inside['specificity']['value']:.2f}."
    drops = [_difference(rates[name], inside[name]) for name in rates]
    if any(math.isnan(end) for drop in drops for end in drop):
        return _answer("threshold", "inconclusive", "Whether it works as well as on the developers' test set is not yet known.", said)
    # The margin first, as for the AUROC.
    if all(low > -MARGIN for low, _ in drops):
        nearly = "nearly " if any(high < 0 for _, high in drops) else ""
        return _answer(
            "threshold", "holds", f"It detects disease and clears healthy patients {nearly}as well as on the developers' test set.", said
        )
    lower, higher = [high < 0 and low <= -MARGIN for low, high in drops], [low > 0 for low, _ in drops]
    if any(lower) and any(higher):
        missed, more = ("misses more", "fewer") if lower[0] else ("misses fewer", "more")
        return _answer(
            "threshold",
            "shifted",
            f"Its operating point has shifted here: it {missed} diseased patients and raises {more} false alarms.",
            said,
        )
    if any(lower):
        what = " and ".join(
            text for text, is_lower in zip(("misses more diseased patients", "raises more false alarms"), lower, strict=True) if is_lower
        )
        return _answer("threshold", "worse", f"It {what} than on the developers' test set.", said)
    return _answer("threshold", "inconclusive", f"A drop of {MARGIN:.2f} or more in sensitivity or specificity is not excluded.", said)


def _probabilities(report: Mapping[str, Any]) -> Conclusion:
    model = report["models"][MODEL]
    fit, curve = model["calibration"], model["calibration_curve"]
    few = "All cases have the same probability." if tells_none_apart(report) else "There are too few patients to assess calibration."
    why = few if fit is not None and curve is None else ""
    if missing := missing_class(report["cohort"]):
        why = f"No patient is {missing}, and calibration can be assessed only with both classes."
    if why:
        return _answer("probabilities", "inconclusive", "Whether they match observed frequencies is not yet known.", why)
    if fit is None or curve is None:
        return _answer("probabilities", "absent", "There are no probabilities to assess.", "Scores alone do not say how likely disease is.")
    figures = [curve["observed_to_expected"], fit["slope"]]
    names = ("observed-to-expected ratio", "slope")
    said = ", ".join(f"{name} {_text(figure)}" for name, figure in zip(names, figures, strict=True))
    prevalence = f"{report['cohort']['prevalence']:.2f}"
    said = f"{said[0].upper()}{said[1:]}; ideally both are 1. Assessed at the cohort's prevalence of {prevalence}."
    if any(_is_off(figure) for figure in figures):
        ratio = figures[0]
        what = "too high" if _is_off(ratio) and ratio["value"] < 1 else "too low" if _is_off(ratio) else ""
        what = what or ("too extreme" if figures[1]["value"] < 1 else "too moderate")
        return _answer("probabilities", "off", f"They are {what} at this site.", said)
    if all(_is_known(figure) and RIGHT[0] < figure["low"] and figure["high"] < RIGHT[1] for figure in figures):
        return _answer("probabilities", "holds", "They roughly match observed frequencies.", said)
    return _answer("probabilities", "inconclusive", "Whether they match observed frequencies is not yet known.", said)


def _by_limits(name: str, limits: Sequence[Mapping[str, Any]], given: Conclusion) -> Conclusion:
    outcomes = {line["outcome"] for line in limits}
    reason = f"{given['text']} {given['reason']}" if given["code"] == "absent" else given["reason"]
    if name == "ranking" and given["code"] == "no criterion":
        reason = "There is no internal figure to compare it with."
    texts = {
        "not met": "An acceptance limit of the protocol is not met.",
        "undecided": "An acceptance limit of the protocol lies within the interval.",
        "not estimable": "An acceptance limit of the protocol is for a measure that cannot be estimated here.",
        "met": "The protocol's limits are met.",
    }
    outcome = next(key for key in texts if key in outcomes)
    code = outcome if outcome in ("met", "not met") else "inconclusive"
    return _answer(name, code, texts[outcome], f"{'; '.join(map(limit_text, limits))}. {reason}")


def _answer(name: str, code: str, text: str, reason: str) -> Conclusion:
    return {"name": name, "code": code, "text": text, "reason": reason}


def _difference(here: Mapping[str, float], inside: Mapping[str, float]) -> tuple[float, float]:
    """Limits of here minus inside, two independent rates (Newcombe, Statistics in Medicine 17, 1998, method 10)."""
    values = (here["value"], here["low"], here["high"], inside["value"], inside["low"], inside["high"])
    a, a_low, a_high, b, b_low, b_high = (math.nan if value is None else value for value in values)
    return a - b - math.hypot(a - a_low, b_high - b), a - b + math.hypot(a_high - a, b - b_low)


def _is_known(figure: Mapping[str, float]) -> bool:
    return not any(figure[end] is None or math.isnan(figure[end]) for end in ("value", "low", "high"))


def _is_off(figure: Mapping[str, float]) -> bool:
    beyond = _is_known(figure) and not OFF[0] <= figure["value"] <= OFF[1]
    return beyond and not figure["low"] <= 1 <= figure["high"]


def _text(figure: Mapping[str, Any]) -> str:
    return estimate_text(figure, 2, absent="not estimable")


def _what_is_open(report: Mapping[str, Any], ranking: str) -> str:
    """Why the site must wait: too few patients, or a limit of the protocol that these figures cannot answer."""
    if missing := missing_class(report["cohort"]):
        needed = f"diseased patients, and at least {ENOUGH_POSITIVES} are needed"
        return f"there are no {needed if missing == 'positive' else 'healthy patients to compare with'}"
    by_outcome: dict[str, list[str]] = {"undecided": [], "not estimable": []}
    for line in report.get("protocol", {}).get("limits") or []:
        by_outcome.get(line["outcome"], []).append(line["measure"])
    undecided, unknown = (list(dict.fromkeys(names)) for names in by_outcome.values())
    reasons = []
    if ranking == "inconclusive" and not set(unknown) & set(MEASURES["ranking"]):
        reasons.append(_how_many(report))
    if others := [MEASURED[name][2] for name in undecided if name not in MEASURES["ranking"]]:
        reasons.append(f"more patients would narrow the interval{'s' if len(others) > 1 else ''} of {' and '.join(others)}")
    reasons += [f"{MEASURED[name][2]}, for which the protocol has a limit, cannot be estimated {_why(report, name)}" for name in unknown]
    return "; ".join(reasons)


def _why(report: Mapping[str, Any], measure: str) -> str:
    """Why a measure is not estimable."""
    model = report["models"][MODEL]
    if measure in MEASURES["threshold"] and model["operating_point"] is None:
        return "since no threshold was given (--threshold, or in the protocol)"
    if measure in MEASURES["probabilities"] and model["calibration"] is None:
        return "since the model gives no probabilities"
    if measure == "auroc_difference" and model["internal"] is None:
        return "since the internal AUROC is not known"
    return "with these patients"


def _how_many(report: Mapping[str, Any]) -> str:
    """How many patients a conclusion would need, by the precision here.

    Half-widths fall with the root of their number; that of an AUROC of 1 falls with their number.
    """
    if tells_none_apart(report):
        return "find out why all cases have the same score"
    area, cohort = auroc_with_limits(report), report["cohort"]
    factors = [ENOUGH_POSITIVES / cohort["positive_patients"]]
    if _is_known(area):
        factors.append(((area["high"] - area["low"]) / 2 / ENOUGH_PRECISION) ** (1 if area["value"] in (0, 1) else 2))
    if max(factors) <= 1:
        return "more patients would narrow the interval" if _is_known(area) else "more patients would allow an interval for the AUROC"
    wanted = math.ceil(cohort["patients"] * max(factors) / 10) * 10
    return f"about {wanted} patients are needed in total ({cohort['patients']} so far), with the same share of diseased patients"
