"""``report.html``: the report as one self-contained page with inline SVG, no scripts and nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sga_monai.core.display import estimate_text, figure_text, p_text, page_templates
from sga_monai.core.figures import figure_style, inline_svg, subplots
from sga_monai.core.files import write_whole
from sga_monai.hospital.acceptance import limit_text
from sga_monai.hospital.formats import MODEL
from sga_monai.hospital.protocol import MEASURES
from sga_monai.hospital.readers_figure import readers_roc

BLUE, GRAY, RED = "#1f5a99", "#8a8a8a", "#b3402a"


def write_html(report: Mapping[str, Any], output_dir: str | Path) -> Path:
    """Write ``report.html`` beside ``report.json``; heat maps are taken from ``heatmaps/``.

    Returns:
        The page's path.
    """
    out = Path(output_dir)
    environment = page_templates("hospital")
    environment.filters["figure"] = figure_text
    environment.filters["p_value"] = p_text
    environment.filters["limit"] = limit_text
    environment.filters["probability"] = probability_text
    environment.filters["interval"] = partial(estimate_text, absent="not estimable", absent_interval="[not estimable]")
    with figure_style():
        drawn = {name: draw(report) for name, draw in FIGURES.items()}
        figures = {name: inline_svg(figure) for name, figure in drawn.items() if figure is not None}
    names = {name: label for name, (_, _, label) in MEASURES.items()}
    heat_maps = [base64.b64encode(path.read_bytes()).decode() for path in sorted((out / "heatmaps").glob("row_*.png"))]
    page = environment.get_template("report.html.jinja").render(report=report, figures=figures, heat_maps=heat_maps, names=names)
    write_whole(out / "report.html", lambda path: path.write_text(page, encoding="utf-8"))
    return out / "report.html"


def probability_text(value: float) -> str:
    """A probability, of which none is shown as 0 or 1.

    Example:
        >>> probability_text(0.62), probability_text(0.0002), probability_text(0.9999)
        ('0.62', '< 0.01', '> 0.99')
    """
    return "< 0.01" if value < 0.005 else "> 0.99" if value > 0.995 else f"{value:.2f}"


def _roc(report: Mapping[str, Any]) -> Figure | None:
    model = report["models"][MODEL]
    if model["roc"] is None:
        return None
    figure, ((axis,),) = subplots(size=(3.1, 2.9))
    axis.plot([0, 1], [0, 1], color="#dddddd", lw=1)
    if model["internal_roc"] is not None:
        axis.plot(*zip(*model["internal_roc"], strict=True), color=GRAY, lw=1.2, ls="--", label="internal")
    axis.plot(*zip(*model["roc"], strict=True), color=BLUE, lw=1.6, label="this site")
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(0, 1), ylim=(0, 1.01), aspect="equal")
    axis.legend(frameon=False, loc="lower right")
    return figure


def _calibration(report: Mapping[str, Any]) -> Figure | None:
    fit = report["models"][MODEL]["calibration"]
    if fit is None:
        return None
    figure, ((axis,),) = subplots(size=(3.1, 2.9))
    axis.plot([0, 1], [0, 1], color="#dddddd", lw=1)
    for line in fit["bins"]:
        if line["positives"]["low"] is not None:
            axis.plot([line["probability"]] * 2, [line["positives"]["low"], line["positives"]["high"]], color=BLUE, lw=1)
    axis.plot([line["probability"] for line in fit["bins"]], [line["positives"]["value"] for line in fit["bins"]], "o", color=BLUE, ms=4)
    axis.set(xlabel="predicted probability", ylabel="share of positives", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    return figure


def _decision(report: Mapping[str, Any]) -> Figure | None:
    lines, locked = report["models"][MODEL]["net_benefit"], report["models"][MODEL]["threshold_probability"]
    if lines is None:
        return None
    figure, ((axis,),) = subplots(size=(3.1, 2.9))
    thresholds, model, treat_all = zip(*lines, strict=True)
    axis.axhline(0, color=GRAY, lw=1, label="treat none")
    axis.plot(thresholds, treat_all, color=GRAY, ls="--", lw=1.2, label="treat all")
    axis.plot(thresholds, model, color=BLUE, lw=1.6, label="by the model")
    if locked is not None:
        axis.axvline(locked, color=RED, ls=":", lw=1.2, label=f"locked threshold ({probability_text(locked)})")
        axis.plot(locked, model[thresholds.index(locked)], "o", color=RED, ms=4)
    prevalence = report["cohort"]["prevalence"] if report["prevalence"] is None else report["prevalence"]
    # Treating all falls without limit towards a threshold of 1, and with it nothing else would be seen.
    bottom, top = max(min(-0.05, *model), -prevalence), max(*model, *treat_all, 0.02)
    axis.set(xlabel="threshold probability", ylabel="net benefit", xlim=(0, max(0.5, locked or 0) + 0.02))
    # Room for the legend above the curves.
    axis.set_ylim(bottom - 0.05 * (top - bottom), top + 0.45 * (top - bottom))
    axis.legend(frameon=False, loc="upper right")
    return figure


def _forest(report: Mapping[str, Any]) -> Figure | None:
    rows = [("all", report["models"][MODEL]["auroc"])]
    rows += [(f"{line['by']}: {line['level']}", line["auroc"]) for line in report["subgroups"]]
    rows = [(name, estimate) for name, estimate in rows if estimate["value"] is not None]
    if not rows:
        return None
    figure, ((axis,),) = subplots(size=(6.6, 0.5 + 0.22 * len(rows)))
    for y, (name, estimate) in enumerate(reversed(rows)):
        color = RED if name == "all" else BLUE
        if estimate["low"] is not None:
            axis.plot([estimate["low"], estimate["high"]], [y, y], color=color, lw=1.2)
        axis.plot(estimate["value"], y, "s", color=color, ms=4)
    axis.axvline(0.5, color="#dddddd", lw=1, zorder=0)
    axis.set(yticks=range(len(rows)), yticklabels=[name for name, _ in reversed(rows)], xlabel="AUROC, 95 % interval", xlim=(0, 1.02))
    return figure


FIGURES = {"roc": _roc, "calibration": _calibration, "decision": _decision, "forest": _forest, "readers": readers_roc}
