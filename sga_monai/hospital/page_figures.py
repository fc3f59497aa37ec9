"""The figures of a report: ROC, calibration, score distributions, net benefit, readers. All that they draw is in ``report.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import logit

from sga_monai.core.display import estimate_text
from sga_monai.core.figures import ACCENT, BAD, GRAY, RULE, page_style, page_svg, subplots
from sga_monai.hospital.formats import MODEL
from sga_monai.hospital.readers_figure import readers_roc

SIZE = (2.9, 2.75)
# Where a logit axis has its marks.
MARKS = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)
EDGE = 7.3


def probability_text(value: float) -> str:
    """A probability, of which none is shown as 0 or 1.

    Example:
        >>> probability_text(0.62), probability_text(0.0002), probability_text(0.9999)
        ('0.62', '< 0.01', '> 0.99')
    """
    return "< 0.01" if value < 0.005 else "> 0.99" if value > 0.995 else f"{value:.2f}"


def draw_figures(report: Mapping[str, Any]) -> dict[str, Markup]:
    """The figures that the report has numbers for, by name, as inline SVG with a text for those who do not see them."""
    drawn = {}
    with page_style():
        for name, (draw, describe) in FIGURES.items():
            figure = draw(report)
            if figure is not None:
                drawn[name] = page_svg(figure, describe(report))
    return drawn


def draw_roc(report: Mapping[str, Any]) -> Figure | None:
    """Sensitivity against 1 - specificity, the internal curve behind it, the locked threshold on it."""
    model = report["models"][MODEL]
    if model["roc"] is None:
        return None
    figure, axis = _empty()
    axis.plot([0, 1], [0, 1], color=RULE, lw=1)
    if model["internal_roc"] is not None:
        axis.plot(*zip(*model["internal_roc"], strict=True), color=GRAY, lw=1.2, ls="--", label="internal")
    axis.plot(*zip(*model["roc"], strict=True), color=ACCENT, lw=1.6, label="this site")
    point = model["operating_point"]
    if point is not None:
        axis.plot(1 - point["specificity"]["value"], point["sensitivity"]["value"], "o", color=BAD, ms=5, label="locked threshold")
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.01, 1), ylim=(0, 1.01))
    axis.legend(frameon=False, loc="lower right")
    return figure


def draw_calibration(report: Mapping[str, Any]) -> Figure | None:
    """Share of positives against the probability with its band, and below it how the probabilities are spread."""
    shown = report["models"][MODEL]["calibration_curve"]
    if shown is None:
        return None
    figure = Figure(figsize=SIZE, layout="constrained")
    axis, below = figure.subplots(2, 1, height_ratios=(4, 1), sharex=True)
    place = _logit if shown["axis"] == "logit" else np.asarray
    line = np.array([[math.nan if value is None else value for value in row] for row in shown["curve"]], dtype=float)
    ends = (-EDGE, EDGE) if shown["axis"] == "logit" else (0.0, 1.0)
    axis.plot(ends, ends, color=RULE, lw=1)
    axis.fill_between(place(line[:, 0]), place(line[:, 2]), place(line[:, 3]), color=ACCENT, alpha=0.22, lw=0)
    axis.plot(place(line[:, 0]), place(line[:, 1]), color=ACCENT, lw=1.6)
    fit = report["models"][MODEL]["calibration"]
    bins = [one for one in fit["bins"] if one["positives"]["low"] is not None]
    points = place(np.array([one["probability"] for one in bins]))
    axis.plot(points, place(np.array([one["positives"]["value"] for one in bins])), "o", color=ACCENT, ms=2.6)
    _histogram(below, [(one["low"], one["high"], one["images"]) for one in shown["histogram"]], place)
    axis.set(ylabel="observed frequency", xlim=ends, ylim=ends)
    below.set(xlabel="predicted probability", yticks=[])
    below.spines["left"].set_visible(False)
    if shown["axis"] == "logit":
        axis.set_yticks(_logit(np.array(MARKS)), [f"{mark:g}" for mark in MARKS])
        below.set_xticks(
            _logit(np.array(MARKS)), [f"{mark:g}" if mark in (0.001, 0.01, 0.2, 0.5, 0.8, 0.99, 0.999) else "" for mark in MARKS]
        )
    return figure


def draw_distributions(report: Mapping[str, Any]) -> Figure | None:
    """Histograms of the scores of each outcome, and the locked threshold."""
    model = report["models"][MODEL]
    shown = model["distributions"]
    if shown is None or not (shown["positive"] or shown["negative"]):
        return None
    figure, axis = _empty()
    highest = 1e-9
    for name, color in (("negative", GRAY), ("positive", ACCENT)):
        x, y = _steps(shown[name], shown["low"] - shown["step"], shown["high"] + shown["step"])
        if x:
            highest = max(highest, *y)
            axis.fill_between(x, y, color=color, alpha=0.22, lw=0)
            axis.plot(x, y, color=color, lw=1.5, ls="-" if name == "positive" else "--", label=name)
    point = model["operating_point"]
    if point is not None:
        axis.axvline(point["threshold"], color=BAD, ls=":", lw=1.4)
    axis.set(xlabel="score (dotted: locked threshold)" if point else "score", ylabel="share of images", ylim=(0, 1.4 * highest), yticks=[])
    axis.legend(frameon=False)
    return figure


def draw_decision(report: Mapping[str, Any]) -> Figure | None:
    """Net benefit by threshold probability with its band, beside treating all and none; the locked threshold is marked."""
    model = report["models"][MODEL]
    lines, locked = model["net_benefit"], model["threshold_probability"]
    if lines is None:
        return None
    figure, axis = _empty()
    thresholds, value, treat_all = zip(*lines, strict=True)
    axis.axhline(0, color=GRAY, lw=1, label="treat none")
    axis.plot(thresholds, treat_all, color=GRAY, ls="--", lw=1.2, label="treat all")
    band = [line for line in model["net_benefit_band"] or [] if None not in line]
    if band:
        x, low, high = zip(*band, strict=True)
        axis.fill_between(x, low, high, color=ACCENT, alpha=0.22, lw=0)
    axis.plot(thresholds, value, color=ACCENT, lw=1.6, label="treat by model")
    if locked is not None:
        axis.axvline(locked, color=BAD, ls=":", lw=1.2, label=f"locked threshold ({probability_text(locked)})")
        axis.plot(locked, value[thresholds.index(locked)], "o", color=BAD, ms=4)
    prevalence = report["cohort"]["prevalence"] if report["prevalence"] is None else report["prevalence"]
    # Treating all falls without limit towards a threshold of 1, and with it nothing else would be seen.
    bottom, top = max(min(-0.05, *value), -prevalence), max(*value, *treat_all, *(high for _, _, high in band), 0.02)
    axis.set(xlabel="threshold probability", ylabel="net benefit", xlim=(0, max(0.5, locked or 0) + 0.02))
    # Room for the legend above the curves.
    axis.set_ylim(bottom - 0.05 * (top - bottom), top + 0.6 * (top - bottom))
    axis.legend(frameon=False, loc="upper right")
    return figure


def _empty() -> tuple[Figure, Axes]:
    figure, ((axis,),) = subplots(size=SIZE)
    return figure, axis


def _logit(probability: Any) -> Any:
    return np.clip(logit(np.clip(np.asarray(probability, dtype=float), 1e-6, 1 - 1e-6)), -EDGE, EDGE)


def _histogram(axis: Axes, bins: Sequence[tuple[float, float, int]], place: Any) -> None:
    """Bars whose area is the number of images."""
    edges = [(float(place(low)), float(place(high))) for low, high, _ in bins]
    heights = [images / max(high - low, 1e-9) for (low, high), (_, _, images) in zip(edges, bins, strict=True)]
    axis.bar([low for low, _ in edges], heights, [high - low for low, high in edges], align="edge", color=GRAY, lw=0)


def _steps(bins: Sequence[Mapping[str, Any]], low: float, high: float) -> tuple[list[float], list[float]]:
    """Outline of a histogram whose open ends are drawn as far as ``low`` and ``high``."""
    x: list[float] = []
    y: list[float] = []
    for line in bins:
        begin = low if line["low"] is None else max(line["low"], low)
        end = high if line["high"] is None else min(line["high"], high)
        if x and begin > x[-1]:
            x += [x[-1], begin]
            y += [0.0, 0.0]
        x += [begin, end]
        y += [line["share"] / (end - begin)] * 2
    return ([x[0], *x, x[-1]], [0.0, *y, 0.0]) if x else (x, y)


def _say_roc(report: Mapping[str, Any]) -> str:
    return f"ROC curve; AUROC {estimate_text(report['models'][MODEL]['auroc'], 2)}"


def _say_calibration(report: Mapping[str, Any]) -> str:
    curve = report["models"][MODEL]["calibration_curve"]["curve"]
    some = [curve[round(i * (len(curve) - 1) / 4)] for i in range(5)] if len(curve) > 4 else curve
    pairs = ", ".join(f"{p:.2g}: {value:.2g}" for p, value, *_ in some if value is not None)
    return f"Calibration curve, predicted probability and observed frequency: {pairs}"


def _say_distributions(report: Mapping[str, Any]) -> str:
    point = report["models"][MODEL]["operating_point"]
    where = "" if point is None else f"; the locked threshold is at {point['threshold']:.2f}"
    return f"Histograms of the scores of positive and of negative images{where}"


def _say_decision(report: Mapping[str, Any]) -> str:
    lines = report["models"][MODEL]["net_benefit"]
    pairs = ", ".join(f"{t:.2g}: {value:.2g}, treating all {treat_all:.2g}" for t, value, treat_all in lines[::3])
    return f"Net benefit by threshold probability: {pairs}"


def _say_readers(report: Mapping[str, Any]) -> str:
    return f"ROC curve of the model and operating points of {len(report['readers']['readers'])} readers; the figures are in the tables"


FIGURES = {
    "roc": (draw_roc, _say_roc),
    "calibration": (draw_calibration, _say_calibration),
    "distributions": (draw_distributions, _say_distributions),
    "decision": (draw_decision, _say_decision),
    "readers": (readers_roc, _say_readers),
}
