"""An experiment's records as SVG figures."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.figure import Figure

from sga_monai.core.figures import figure_style, inline_svg, subplots
from sga_monai.evaluation.predictions import VALIDATION
from sga_monai.experiments.plan import ALL
from sga_monai.experiments.selection import Record
from sga_monai.experiments.tables import set_title

# Okabe and Ito's colors, which the color-blind can tell apart.
COLORS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a")
DASHES = ("-", "--", ":", "-.")
MOST_COLUMNS = 4


def svg(records: Sequence[Record]) -> Markup:
    """The picture: curves along the axis, or intervals by method where there is none. Equal records give equal bytes."""
    with figure_style():
        return inline_svg(_curves(records) if records[0]["axis"] else _intervals(records))


def cells_with_curves(records: Sequence[Record]) -> list[Record]:
    """The runs that have a ``curves.csv``."""
    return [record for record in records if record["kind"] == "cell" and record.get("curves")]


def learning_curves(records: Sequence[Record]) -> Markup | None:
    """AUROC after each epoch against optimizer steps, mean over seeds: a panel a set, a line a method and condition.

    ``None`` without ``curves.csv``.

    A method that learns faster is ahead early and at every set; one that generalizes better is ahead outside at the end.
    """
    cells = cells_with_curves(records)
    if not cells:
        return None
    # Of all cells: conditions may have test sets of their own.
    names = [name for name in dict.fromkeys(line["set"] for cell in cells for line in cell["curves"]) if name != VALIDATION]
    head = records[0]
    run = {(cell["method"], cell["condition"]) for cell in cells}
    curves = [(method, condition) for condition in head["condition"] for method in head["method"] if (method, condition) in run]
    columns, lines = _grid(names)
    lowest = 0.22
    with figure_style():
        figure, axes = subplots(lines, columns, size=(2.5 * columns + 1.2, 2.4 * lines), sharey=True)
        for axis, name in zip(axes.flat, names, strict=False):
            for method, condition in curves:
                values: dict[int, list[float]] = {}
                for cell in (cell for cell in cells if (cell["method"], cell["condition"]) == (method, condition)):
                    for line in (line for line in cell["curves"] if line["set"] == name and line["auroc"] is not None):
                        values.setdefault(line["optimizer_steps"], []).append(line["auroc"])
                # Up to where the first seed was stopped: a mean of those that are left would jump.
                seeds = max(map(len, values.values()), default=0)
                steps = sorted(step for step in values if len(values[step]) == seeds)
                color, dashes = _look(head, method, condition)
                mean = [sum(values[step]) / len(values[step]) for step in steps]
                axis.plot(steps, mean, dashes, lw=1.3, color=color, label=_label(method, condition))
                lowest = min([lowest, *mean])
            axis.axhline(0.5, color="#dddddd", lw=1, zorder=0)
            axis.set(title=name, xlabel="optimizer steps")
        axes[0, 0].set_ylim(lowest - 0.02, 1.02)
        for axis in axes.flat[len(names) :]:
            axis.set_axis_off()
        axes[0, 0].set_ylabel("AUROC")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False)
        return inline_svg(figure)


def _look(head: Record, method: str, condition: str) -> tuple[str, str]:
    """Color and dashes of a line: of another method with the same color, and of another condition, the dashes are others."""
    i, rounds = head["method"].index(method), -(-len(head["method"]) // len(COLORS))
    return COLORS[i % len(COLORS)], DASHES[(head["condition"].index(condition) * rounds + i // len(COLORS)) % len(DASHES)]


def _grid(names: Sequence[str]) -> tuple[int, int]:
    """Columns and lines of one panel a set, so that a page shows the figure without shrinking it."""
    return max(min(len(names), MOST_COLUMNS), 1), max(-(-len(names) // MOST_COLUMNS), 1)


def _curves(records: Sequence[Record]) -> Figure:
    """One panel a set, one curve a method: AUROC against the axis."""
    head, means = records[0], [record for record in records if record["kind"] == "mean" and record["set"] != VALIDATION]
    names = list(dict.fromkeys(mean["set"] for mean in means))
    figure, axes = subplots(1, max(len(names), 1), size=(2.6 * max(len(names), 1) + 0.9, 2.9), sharey=True)
    places = [float(condition) for condition in head["condition"]]
    # Side by side, or the intervals hide each other.
    step = 0.008 * ((max(places) - min(places)) or 1.0)
    for axis, name in zip(axes[0], names, strict=False):
        for i, method in enumerate(head["method"]):
            line = [mean for mean in means if mean["set"] == name and mean["method"] == method and mean["auroc"]["value"] is not None]
            line.sort(key=lambda mean: float(mean["condition"]))
            x = [float(mean["condition"]) + step * (i - len(head["method"]) / 2) for mean in line]
            color, dashes = _look(head, method, head["condition"][0])
            axis.plot(x, [mean["auroc"]["value"] for mean in line], dashes, marker="o", ms=3, lw=1.3, color=color, label=method)
            for place, mean in zip(x, line, strict=True):
                if mean["auroc"]["low"] is not None:
                    axis.plot([place, place], [max(mean["auroc"]["low"], 0), min(mean["auroc"]["high"], 1)], lw=0.7, color=color)
        axis.axhline(0.5, color="#dddddd", lw=1, zorder=0)
        axis.set(title=set_title(means, name), xlabel=head["axis"], ylim=(-0.02, 1.03))
    axes[0][0].set_ylabel("AUROC, mean over seeds, 95 % interval")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def _intervals(records: Sequence[Record]) -> Figure:
    """One panel a set: mean and interval of each method, and each seed as a small dot."""
    head, means = records[0], [record for record in records if record["kind"] == "mean" and record["set"] != VALIDATION]
    names = list(dict.fromkeys(mean["set"] for mean in means))
    rows = list(dict.fromkeys((mean["method"], mean["condition"]) for mean in means))
    columns, lines = _grid(names)
    figure, axes = subplots(lines, columns, size=(2.3 * columns + 1.2, (0.9 + 0.25 * len(rows)) * lines), sharey=True)
    for axis, name in zip(axes.flat, names, strict=False):
        for mean in (mean for mean in means if mean["set"] == name and mean["auroc"]["value"] is not None):
            y = len(rows) - rows.index((mean["method"], mean["condition"]))
            color, _ = _look(head, mean["method"], mean["condition"])
            area = mean["auroc"]
            if area["low"] is not None:
                axis.plot([max(area["low"], 0), min(area["high"], 1)], [y, y], lw=1.3, color=color)
            axis.plot(list(mean["each_seed"].values()), [y] * len(mean["each_seed"]), "|", ms=6, color=color, alpha=0.6)
            axis.plot(area["value"], y, "o", ms=4, color=color)
        axis.axvline(0.5, color="#dddddd", lw=1, zorder=0)
        axis.set(title=set_title(means, name), xlabel="AUROC", xlim=(-0.02, 1.03))
    for axis in axes.flat[len(names) :]:
        axis.set_axis_off()
    axes[0][0].set_yticks(range(len(rows), 0, -1), [_label(method, condition) for method, condition in rows])
    return figure


def _label(method: str, condition: str) -> str:
    return method if condition == ALL else f"{method}, {condition}"
