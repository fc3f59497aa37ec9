"""``monitor.html``: the periods and their control charts as one self-contained page with inline SVG and no scripts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sga_monai.core.display import estimate_text, figure_text, page_templates
from sga_monai.core.figures import ACCENT, BAD, GRAY, PANEL, page_style, page_svg, subplots
from sga_monai.core.files import write_utf8
from sga_monai.hospital.monitor import CHARTS

COLUMNS = 3
# More names would run into each other below a chart.
MOST_NAMES = 5


def write_monitor_page(content: Mapping[str, Any], out: str | Path) -> Path:
    """Write ``monitor.html`` beside ``monitor.json``.

    Args:
        content: of ``make_monitor``.
        out: the folder.

    Returns:
        The page's path.
    """
    environment = page_templates("hospital")
    environment.filters["figure"] = figure_text
    environment.filters["interval"] = partial(estimate_text, absent_interval="[not estimable]")
    with page_style():
        number, periods = len(content["control"]["charts"]), len(content["periods"])
        said = f"Control charts of {number} figures over {periods} periods; the alarms are in the table below"
        charts = page_svg(draw_charts(content), said)
    page = environment.get_template("monitor.html.jinja").render(monitor=content, charts=charts, names=CHARTS)
    path = Path(out) / "monitor.html"
    write_utf8(path, page)
    return path


def draw_charts(content: Mapping[str, Any]) -> Figure:
    """One small chart for each figure: the EWMA by period, its limits, alarms in red.

    Args:
        content: of ``make_monitor``.
    """
    control, periods = content["control"], content["periods"]
    rows = math.ceil(len(control["charts"]) / COLUMNS)
    figure, axes = subplots(rows, COLUMNS, size=(9.0, 2.1 * rows + 0.2), sharey=True)
    limit = control["limit"]
    points = {name: [line["chart"][name] for line in periods] for name in control["charts"]}
    highest = max([limit, *(abs(point["ewma"]) for line in points.values() for point in line if point["ewma"] is not None)])
    step = math.ceil(len(periods) / MOST_NAMES)
    longest = max(len(line["period"]) for line in periods)
    slant: dict[str, Any] = {"rotation": 30, "ha": "right"} if longest > len("2021H1") else {}
    for axis in axes.flat[len(points) :]:
        axis.set_visible(False)
    for axis, (name, line) in zip(axes.flat, points.items(), strict=False):
        axis.axhspan(-limit, limit, color=PANEL, lw=0, zorder=0)
        for y in (-limit, 0, limit):
            axis.axhline(y, color=GRAY, lw=0.8, ls="-" if y == 0 else "--", zorder=1)
        shown = [(x, point["ewma"], point["alarm"]) for x, point in enumerate(line) if point["ewma"] is not None]
        axis.plot([x for x, _, _ in shown], [y for _, y, _ in shown], color=ACCENT, lw=1.2, zorder=2)
        for alarm, color, marker, size in ((False, ACCENT, "o", 3), (True, BAD, "s", 5)):
            chosen = [(x, y) for x, y, raised in shown if raised == alarm]
            axis.plot([x for x, _ in chosen], [y for _, y in chosen], marker, color=color, ms=size, ls="none", zorder=3)
        axis.set(title=CHARTS[name], xlim=(-0.5, len(periods) - 0.5), ylim=(-1.12 * highest, 1.12 * highest))
        axis.set_xticks(range(0, len(periods), step), [line["period"] for line in periods[::step]], **slant)
    # Room between the last name of a chart and the first of the next.
    figure.set_layout_engine("constrained", wspace=0.06)
    for axis in axes[:, 0]:
        axis.set_ylabel("EWMA, in SD units")
    return figure
