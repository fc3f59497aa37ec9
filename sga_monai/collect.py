"""Tables, a page and a picture of an experiment, made from its records alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from markupsafe import Markup
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from sga_monai.dashboards import write_dashboards
from sga_monai.errors import InputError
from sga_monai.experiment import is_finished
from sga_monai.files import write_csv, write_whole
from sga_monai.plan import ALL, Plan
from sga_monai.records import INTERNAL, ORACLE, VALIDATION, Record, experiment_records, is_reported, read_records, write_records
from sga_monai.rendering import inline_svg, page_templates, table_text

# Okabe and Ito's colors, which the color-blind can tell apart.
COLORS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8a8a")
PAGE = "# Results\n\nWritten by `sga-monai collect` from the records (`*.jsonl`) in this folder."
NOTE = (
    "AUROC is the mean over seeds; 95 % intervals are over patients and, with several seeds, over seeds (with Satterthwaite's degrees of "
    "freedom); n+ and n- are images. difference = external minus internal, average = of internal and the mean of the external sets, "
    "as in the paper. A figure without an interval has none that can be estimated: inside or outside no pair of images is in the wrong "
    'order. "-" is no figure: one class only, or no such set.'
)
LOOK: dict[Any, Any] = {
    "svg.hashsalt": "sga_monai",
    "svg.fonttype": "none",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def collect_experiment(plan: Plan, output_dir: str | Path) -> list[Record]:
    """Write ``records.jsonl``, ``results.csv``, ``results.md``, ``results.html`` and ``tensorboard/`` of an experiment.

    It may be unfinished; the tables then say so.

    Returns:
        The records; see ``experiment_records``.
    """
    out = Path(output_dir)
    runs = {cell: out / cell.folder for cell in plan.cells if is_finished(out / cell.folder)}
    records = experiment_records(plan, runs)
    write_whole(out / "records.jsonl", lambda path: write_records(path, records))
    write_csv(out / "results.csv", _flat(records))
    write_whole(out / "results.md", lambda path: path.write_text(markdown(records), encoding="utf-8"))
    page = (
        page_templates()
        .get_template("experiment.html.jinja")
        .render(head=records[0], tables=_tables(records), lines=_lines(records), note=NOTE, picture=svg(records))
    )
    write_whole(out / "results.html", lambda path: path.write_text(page, encoding="utf-8"))
    write_dashboards(records, runs, out)
    return records


def write_page(sources: Sequence[str | Path], out: str | Path) -> list[str]:
    """Write ``README.md``, ``<name>.jsonl`` and ``<name>.svg`` of several experiments into ``out``.

    Args:
        sources: folders of ``collect_experiment``, records files, or ``out`` itself for what is there already.
        out: the folder.

    Returns:
        Names of the experiments on the page: all whose records are in ``out`` afterwards.

    Raises:
        InputError: when there are no records, or ``out`` has another ``README.md``.
    """
    out = Path(out)
    if (out / "README.md").is_file() and not (out / "README.md").read_text(encoding="utf-8").startswith(PAGE):
        raise InputError("out has a README.md that sga-monai collect did not write; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    for source in map(Path, sources):
        if source.resolve() == out.resolve():
            continue
        records = read_records(source / "records.jsonl" if source.is_dir() else source)
        write_whole(out / f"{records[0]['name']}.jsonl", partial(write_records, records=records))
    found = [read_records(path) for path in sorted(out.glob("*.jsonl"))]
    if not found:
        raise InputError("no records in this folder; give the folders of sga-monai experiment")
    for records in found:
        write_whole(out / f"{records[0]['name']}.svg", partial(Path.write_text, data=svg(records), encoding="utf-8"))
    write_whole(out / "README.md", lambda path: path.write_text(page(found), encoding="utf-8"))
    return [records[0]["name"] for records in found]


def page(found: Sequence[Sequence[Record]]) -> str:
    """The Markdown page of several experiments."""
    parts = [PAGE, NOTE]
    parts += [markdown(records, f"{records[0]['name']}.svg") for records in found]
    return "\n\n".join(parts).rstrip() + "\n"


def markdown(records: Sequence[Record], picture: str | None = None) -> str:
    """One experiment as a Markdown section, with a link to ``picture`` where given."""
    head = records[0]
    parts = [f"## {head['title']}", head["question"]]
    if picture:
        parts.append(f"![{head['title']}]({picture})")
    for title, columns, rows in _tables(records):
        lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        parts += [f"**{title}**", "\n".join(lines)]
    parts.append("\n".join(f"- {line}" for line in _lines(records)))
    return "\n\n".join(parts) + "\n"


def render_text(records: Sequence[Record]) -> str:
    """The tables for a terminal."""
    texts = []
    for title, columns, rows in _tables(records):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i == 0 else "right")
        for row in rows:
            table.add_row(*row)
        texts.append(table_text(table, 240))
    return "\n".join([*texts, *_lines(records)])


def _tables(records: Sequence[Record]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows of each table."""
    head, means = records[0], [record for record in records if record["kind"] == "mean"]
    if not means:
        return []
    sets = {mean["set"]: mean for mean in means}
    outside = [name for name in sets if is_reported(name, head.get("selection_set", ""))]
    conditions = head["condition"] != [ALL]
    first = ["method", *([head["axis"] or "condition"] if conditions else []), "seeds"]
    columns = [*first, *(f"{name} ({sets[name]['n_positive']}+, {sets[name]['n_negative']}-)" for name in sets)]
    columns += [*(f"difference {name}" for name in outside), *(["average"] if outside else [])]
    rows, compared = [], []
    for condition in head["condition"]:
        for method in head["method"]:
            of = {mean["set"]: mean for mean in means if (mean["method"], mean["condition"]) == (method, condition)}
            if not of:
                continue
            start = [method, *([condition] if conditions else [])]
            row = [*start, str(next(iter(of.values()))["auroc"]["n_seeds"])]
            row += [_estimate(of[name]["auroc"]) if name in of else "-" for name in sets]
            row += [_estimate(of[name]["auroc_difference"], True) if name in of else "-" for name in outside]
            if outside:
                values = [of[name]["auroc"]["value"] for name in (INTERNAL, *outside) if name in of]
                known = len(values) > 1 and None not in values and INTERNAL in of
                row.append(f"{(values[0] + sum(values[1:]) / len(values[1:])) / 2:.3f}" if known else "-")
            rows.append(row)
            for name in outside:
                other = of[name]["against_baseline"] if name in of else None
                if other:
                    compared.append([*start, name, _estimate(other, True), _p(other["p"]), _p(other.get("p_holm"))])
    tables = [("AUROC", columns, rows)]
    if compared:
        tables.append((f"AUROC minus that of {head['baseline']}", [*first[:-1], "set", "minus", "p", "p (Holm)"], compared))
    return tables


def _lines(records: Sequence[Record]) -> list[str]:
    """What must be said beside the tables: selection, extent, command, versions."""
    head, cells = records[0], [record for record in records if record["kind"] == "cell"]
    means = [record for record in records if record["kind"] == "mean" and is_reported(record["set"], head.get("selection_set", ""))]
    lines = []
    for record in records:
        if record["kind"] == "selection":
            where = f" at {record['condition']}" if record["condition"] != ALL else ""
            tie = " (a tie: this rule cannot tell them apart)" if len(record["chosen"]) > 1 else ""
            # What the choice is worth where it was not made; the oracle has no such place.
            honest = ORACLE not in record["rule"]
            worth = [mean for mean in means if honest and [mean["method"], mean["condition"]] == [*record["chosen"], record["condition"]]]
            outside = "; " * bool(worth) + ", ".join(f"{mean['set']} {_estimate(mean['auroc'])}" for mean in worth)
            lines.append(f"Chosen{where} by {record['rule']}: {', '.join(record['chosen'])}, {record['value']:.3f}{tie}{outside}.")
    if head.get("selection_set"):
        lines.append(f"{head['selection_set']} chooses and is no result: not in the average, nor among the comparisons.")
    seeds = sorted({cell["seed"] for cell in cells})
    lines.append(f"{head['n_finished']} of {head['n_cells']} cells, seeds {', '.join(map(str, seeds)) or 'none'}.")
    if any(mean["auroc"]["n_seeds"] == 1 for mean in means):
        where = "" if len(seeds) == 1 else ' where "seeds" is 1'
        lines.append(f"One seed{where}: intervals and p are over patients alone and say nothing of how much another training would differ.")
    if cells:
        settings = cells[0]["settings"]
        same = {
            key: value for key, value in settings.items() if key != "seed" and all(cell["settings"].get(key) == value for cell in cells)
        }
        epochs = sorted({cell["epochs"] for cell in cells})
        lines.append(f"Epochs {', '.join(map(str, epochs))}; " + ", ".join(f"{key} {value}" for key, value in same.items()) + ".")
        codes = sorted({f"{cell['git_revision'] or 'no revision'} (code {cell['code']['digest']})" for cell in cells})
        packages = sorted({", ".join(f"{name} {number}" for name, number in cell["code"]["versions"].items()) for cell in cells})
        machines = sorted(
            {f"{cell['machine']['platform']}, {cell['machine']['device']}, {cell['machine']['threads']} threads" for cell in cells}
        )
        lines.append(f"Code: {'; '.join(codes)}. Versions: {'; '.join(packages)}. Machine: {'; '.join(machines)}.")
    command = f"sga-monai experiment bundles/sga/experiments/{head['name']}.json --jobs 2"
    lines.append(f"Repeat: `{command}`, with `--dataset-dir` where it reads collections; hashes of data and models are in the records.")
    return lines


def svg(records: Sequence[Record]) -> Markup:
    """The picture: curves along the axis, or intervals by method where there is none. Equal records give equal bytes."""
    with matplotlib.rc_context(LOOK):
        return inline_svg(_curves(records) if records[0]["axis"] else _intervals(records))


def _curves(records: Sequence[Record]) -> Figure:
    """One panel a set, one curve a method: AUROC against the axis."""
    head, means = records[0], [record for record in records if record["kind"] == "mean" and record["set"] != VALIDATION]
    names = list(dict.fromkeys(mean["set"] for mean in means))
    figure, axes = plt.subplots(
        1, max(len(names), 1), figsize=(2.6 * max(len(names), 1) + 0.9, 2.9), sharey=True, squeeze=False, layout="constrained"
    )
    places = [float(condition) for condition in head["condition"]]
    # Side by side, or the intervals hide each other.
    step = 0.008 * ((max(places) - min(places)) or 1.0)
    for axis, name in zip(axes[0], names, strict=False):
        for i, method in enumerate(head["method"]):
            line = [mean for mean in means if mean["set"] == name and mean["method"] == method and mean["auroc"]["value"] is not None]
            x = [float(mean["condition"]) + step * (i - len(head["method"]) / 2) for mean in line]
            color = COLORS[i % len(COLORS)]
            axis.plot(x, [mean["auroc"]["value"] for mean in line], "o-", ms=3, lw=1.3, color=color, label=method)
            for place, mean in zip(x, line, strict=True):
                if mean["auroc"]["low"] is not None:
                    axis.plot([place, place], [max(mean["auroc"]["low"], 0), min(mean["auroc"]["high"], 1)], lw=0.7, color=color)
        axis.axhline(0.5, color="#dddddd", lw=1, zorder=0)
        axis.set(title=_title(means, name), xlabel=head["axis"], ylim=(-0.02, 1.03))
    axes[0][0].set_ylabel("AUROC, mean over seeds, 95 % interval")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def _intervals(records: Sequence[Record]) -> Figure:
    """One panel a set: mean and interval of each method, and each seed as a small dot."""
    head, means = records[0], [record for record in records if record["kind"] == "mean" and record["set"] != VALIDATION]
    names = list(dict.fromkeys(mean["set"] for mean in means))
    rows = list(dict.fromkeys((mean["method"], mean["condition"]) for mean in means))
    size = (2.3 * max(len(names), 1) + 1.2, 0.9 + 0.25 * len(rows))
    figure, axes = plt.subplots(1, max(len(names), 1), figsize=size, sharey=True, squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], names, strict=False):
        for mean in (mean for mean in means if mean["set"] == name and mean["auroc"]["value"] is not None):
            y = len(rows) - rows.index((mean["method"], mean["condition"]))
            color = COLORS[head["method"].index(mean["method"]) % len(COLORS)]
            area = mean["auroc"]
            if area["low"] is not None:
                axis.plot([max(area["low"], 0), min(area["high"], 1)], [y, y], lw=1.3, color=color)
            axis.plot(list(mean["each_seed"].values()), [y] * len(mean["each_seed"]), "|", ms=6, color=color, alpha=0.6)
            axis.plot(area["value"], y, "o", ms=4, color=color)
        axis.axvline(0.5, color="#dddddd", lw=1, zorder=0)
        axis.set(title=_title(means, name), xlabel="AUROC", xlim=(-0.02, 1.03))
    axes[0][0].set_yticks(range(len(rows), 0, -1), [method if condition == ALL else f"{method}, {condition}" for method, condition in rows])
    return figure


def _title(means: Sequence[Record], name: str) -> str:
    mean = next(mean for mean in means if mean["set"] == name)
    return f"{name} ({mean['n_positive']}+, {mean['n_negative']}-)"


def _flat(records: Sequence[Record]) -> pd.DataFrame:
    """One row for each run and set, for those who want to calculate."""
    rows: list[dict[str, Any]] = [
        {"method": record["method"], "condition": record["condition"], "seed": record["seed"], "set": name, **figures}
        for record in records
        if record["kind"] == "cell"
        for name, figures in record["sets"].items()
    ]
    return pd.DataFrame(rows)


def _estimate(estimate: Mapping[str, Any] | None, signed: bool = False) -> str:
    if estimate is None or estimate["value"] is None:
        return "-"
    form = "+.3f" if signed else ".3f"
    if estimate["low"] is None:
        return f"{estimate['value']:{form}}"
    ends = (estimate["low"], estimate["high"]) if signed else (max(estimate["low"], 0), min(estimate["high"], 1))
    return f"{estimate['value']:{form}} [{ends[0]:{form}}, {ends[1]:{form}}]"


def _p(p: float | None) -> str:
    if p is None or math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
