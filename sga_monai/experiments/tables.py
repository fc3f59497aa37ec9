"""An experiment's records as text and Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import pandas as pd
from rich import box
from rich.table import Table

from sga_monai.core.display import estimate_text, p_text, table_text
from sga_monai.core.source import NAME, find_file
from sga_monai.evaluation.predictions import INTERNAL
from sga_monai.experiments.plan import ALL
from sga_monai.experiments.selection import ORACLE, Record, is_reported

# Below this a training says of itself that its results are preliminary.
FEW_STEPS = 500
CALIBRATION = {"slope": "+.2f", "intercept": "+.2f", "ece": ".3f"}

NOTE = (
    "AUROC is the mean over seeds. The 95 % intervals cover the variation between patients and, with several seeds S, between seeds (t "
    "distribution, S - 1 degrees of freedom). n+ and n- count images. difference = external minus internal; average = mean of the internal "
    "AUROC and the mean external AUROC, as in the paper. An AUROC of exactly 0 or 1 has no interval, and neither have differences from it. "
    '"-": not computed, since the set has only one class or does not exist.'
)


def markdown(records: Sequence[Record], pictures: Sequence[str] = ()) -> str:
    """One experiment as a Markdown section, with its pictures where given."""
    head = records[0]
    parts = [f"## {head['title']}", head["question"]]
    parts += [f"![{head['title']}]({quote(picture)})" for picture in pictures]
    for title, columns, rows in tables(records):
        lines = [_line(columns), "|" + "---|" * len(columns), *map(_line, rows)]
        parts += [f"**{title}**", "\n".join(lines)]
    parts.append("\n".join(f"- {line}" for line in rows_of(records)))
    return "\n\n".join(parts) + "\n"


def _line(cells: Sequence[str]) -> str:
    """A line of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def render_text(records: Sequence[Record]) -> str:
    """The tables for a terminal."""
    texts = []
    for title, columns, rows in tables(records):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=title, title_justify="left")
        for i, column in enumerate(columns):
            table.add_column(column, justify="left" if i == 0 else "right")
        for row in rows:
            table.add_row(*row)
        texts.append(table_text(table, 240))
    return "\n".join([*texts, *rows_of(records)])


def tables(records: Sequence[Record]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows of each table."""
    head, means = records[0], [record for record in records if record["kind"] == "mean"]
    if not means:
        return []
    sets = {mean["set"]: mean for mean in means}
    outside = [name for name in sets if is_reported(name, head.get("selection_set", ""))]
    conditions = head["condition"] != [ALL]
    first = ["method", *([head["axis"] or "condition"] if conditions else []), "seeds"]
    columns = [*first, *(set_title(means, name) for name in sets)]
    columns += [*(f"difference {name}" for name in outside), *(["average"] if outside else [])]
    rows, compared = [], []
    for condition in head["condition"]:
        for method in head["method"]:
            of = {mean["set"]: mean for mean in means if (mean["method"], mean["condition"]) == (method, condition)}
            if not of:
                continue
            start = [method, *([condition] if conditions else [])]
            rows.append([*start, str(next(iter(of.values()))["auroc"]["n_seeds"]), *_areas(of, list(sets), outside)])
            compared += [[*start, *line] for line in _against_baseline(of, outside)]
    for method, areas in (head.get("published") or {}).items():
        row = [f"{method}, the paper", *([""] if conditions else []), "-"]
        row += [f"{areas[name]:.2f}" if name in areas else "-" for name in sets]
        row += [f"{areas[name] - areas[INTERNAL]:+.2f}" if name in areas and INTERNAL in areas else "-" for name in outside]
        rows.append([*row, *(["-"] if outside else [])])
    tables = [("AUROC", columns, rows)]
    if compared:
        tables.append((f"AUROC minus that of {head['baseline']}", [*first[:-1], "set", "minus", "p", "p (Holm)"], compared))
    tables += _effect_table(records, conditions)
    tables += _calibration_table(records, conditions)
    return tables


def _areas(of: Mapping[str, Record], sets: Sequence[str], outside: Sequence[str]) -> list[str]:
    """A method's AUROC of each set, what the sets outside differ by, and the average."""
    cells = [_auroc(of[name]["auroc"]) if name in of else "-" for name in sets]
    cells += [estimate_text(of[name]["auroc_difference"], signed=True) if name in of else "-" for name in outside]
    if outside:
        values = [of[name]["auroc"]["value"] for name in (INTERNAL, *outside) if name in of]
        known = len(values) > 1 and None not in values and INTERNAL in of
        cells.append(f"{(values[0] + sum(values[1:]) / len(values[1:])) / 2:.3f}" if known else "-")
    return cells


def _against_baseline(of: Mapping[str, Record], outside: Sequence[str]) -> list[list[str]]:
    """A method's AUROC minus the baseline's at each set outside where there are both: set, difference, p values."""
    lines = []
    for name in outside:
        other = of[name]["against_baseline"] if name in of else None
        if other:
            minus = estimate_text(other, signed=True) + _common_seeds(other["n_seeds"], of[name]["auroc"]["n_seeds"])
            lines.append([name, minus, p_text(other["p"]), p_text(other.get("p_holm"))])
    return lines


def _effect_table(records: Sequence[Record], conditions: bool) -> list[tuple[str, list[str], list[list[str]]]]:
    effects = [record for record in records if record["kind"] == "effect"]
    if not effects:
        return []
    names: list[str] = records[0]["pooled_sets"]
    columns = ["method", *(["condition"] if conditions else []), "minus", "seeds", "difference of AUROC", "p"]
    rows = []
    for record in effects:
        row = [record["method"], *([record["condition"]] if conditions else []), record["against"], str(record["effect"]["n_seeds"])]
        # Records of earlier versions do not name their sets.
        n_used, n_sets = len(record.get("sets") or names), len(names)
        fewer = f" ({n_used} of {n_sets} sets)" if n_used < n_sets else ""
        rows.append([*row, estimate_text(record["effect"], signed=True) + fewer, p_text(record["effect"]["p"])])
    return [(f"Effect pooled over {', '.join(names)}", columns, rows)]


def _calibration_table(records: Sequence[Record], conditions: bool) -> list[tuple[str, list[str], list[list[str]]]]:
    """Slope, intercept and expected calibration error of each set, means over seeds; records of earlier versions have none."""
    cells = [record for record in records if record["kind"] == "cell" and any("slope" in figures for figures in record["sets"].values())]
    if not cells:
        return []
    # Of all cells: conditions may have test sets of their own.
    names = list(dict.fromkeys(name for cell in cells for name in cell["sets"]))
    rows = []
    for method, condition in dict.fromkeys((cell["method"], cell["condition"]) for cell in cells):
        of = [cell["sets"] for cell in cells if (cell["method"], cell["condition"]) == (method, condition)]
        row = [method, *([condition] if conditions else [])]
        for name in names:
            figures = [sets[name] for sets in of if "slope" in sets.get(name, {})]
            row.append(" / ".join(_mean(figures, key, form) for key, form in CALIBRATION.items()) if figures else "-")
        rows.append(row)
    return [
        (
            "Calibration: slope (1 is right) / intercept (0) / expected calibration error, each a mean over seeds",
            ["method", *(["condition"] if conditions else []), *names],
            rows,
        )
    ]


def _machine(machine: Mapping[str, Any]) -> str:
    """Where a cell was trained; earlier versions did not record the processor."""
    parts = [machine["platform"], machine["device"], machine.get("processor"), f"{machine['threads']} threads"]
    return ", ".join(str(part) for part in parts if part)


def _mean(figures: Sequence[Mapping[str, Any]], key: str, form: str) -> str:
    """A mean over the seeds in which the figure can be estimated, and how many they are where it is not all."""
    known = [one[key] for one in figures if one[key] is not None]
    if not known:
        return "-"
    return f"{sum(known) / len(known):{form}}" + _common_seeds(len(known), len(figures))


def _common_seeds(used: int, seeds: int) -> str:
    """Of how many seeds a figure is, where it is not all; one of a single seed says nothing of another training."""
    return f" ({used} of {seeds} seeds)" if used < seeds else ""


def rows_of(records: Sequence[Record]) -> list[str]:
    """What must be said beside the tables: selection, extent, command, versions."""
    head, cells = records[0], [record for record in records if record["kind"] == "cell"]
    means = [record for record in records if record["kind"] == "mean" and is_reported(record["set"], head.get("selection_set", ""))]
    lines = [_chosen(record, means) for record in records if record["kind"] == "selection"]
    if head.get("selection_set"):
        lines.append(f"{head['selection_set']} is used only to choose a method: it is left out of the average and the comparisons.")
    seeds = sorted({cell["seed"] for cell in cells})
    lines.append(f"{head['n_finished']} of {head['n_cells']} cells, seeds {', '.join(map(str, seeds)) or 'none'}.")
    if any(mean["auroc"]["n_seeds"] == 1 for mean in means):
        where = "" if len(seeds) == 1 else ' where "seeds" is 1'
        lines.append(f"One seed{where}: intervals and p are over patients alone and say nothing of how much another training would differ.")
    if cells:
        lines += _trainings(cells)
    file = f"{head['name']}.json"
    # A plan of one's own lies elsewhere, and records do not say where.
    known = f"{NAME}/experiments/{file}"
    command = f"sga-monai experiment {known if find_file(known).is_file() else file}"
    lines.append(f"Repeat: `{command}`, with `--dataset-dir` where it reads collections; hashes of data and models are in the records.")
    return lines


def _chosen(record: Record, means: Sequence[Record]) -> str:
    """What a rule chose, or why nothing, and the chosen method's AUROC at sets that took no part in the choice; the oracle has none."""
    where = f" at {record['condition']}" if record["condition"] != ALL else ""
    if not record["chosen"]:
        return f"Chosen{where} by {record['rule']}: none, since {record['reason']}."
    tie = " (a tie: this rule cannot tell them apart)" if len(record["chosen"]) > 1 else ""
    unseen = ORACLE not in record["rule"]
    key = [*record["chosen"], record["condition"]]
    others = [f"{mean['set']} {_auroc(mean['auroc'])}" for mean in means if unseen and [mean["method"], mean["condition"]] == key]
    outside = "; " * bool(others) + ", ".join(others)
    uneven = len({mean["auroc"]["n_seeds"] for mean in means if mean["condition"] == record["condition"]}) > 1
    unequal = " (among methods with unequal numbers of seeds)" * uneven
    return f"Chosen{where} by {record['rule']}{unequal}: {', '.join(record['chosen'])}, {record['value']:.3f}{tie}{outside}."


def _trainings(cells: Sequence[Record]) -> list[str]:
    """Length and common settings of the trainings; code, versions and machines that they ran with."""
    settings = cells[0]["settings"]
    same = {key: value for key, value in settings.items() if key != "seed" and all(cell["settings"].get(key) == value for cell in cells)}
    steps = sorted({cell["optimizer_steps"] for cell in cells if cell.get("optimizer_steps")})
    few = f"; with fewer than {FEW_STEPS} results are preliminary" if steps and steps[0] < FEW_STEPS else ""
    taken = f"Optimizer steps of a training: {', '.join(map(str, steps))} (the paper: about 1,700){few}."
    epochs = sorted({cell["epochs"] for cell in cells})
    codes = sorted({f"{cell['git_revision'] or 'no revision'} (code {cell['code']['digest']})" for cell in cells})
    packages = sorted({", ".join(f"{name} {number}" for name, number in cell["code"]["versions"].items()) for cell in cells})
    machines = sorted({_machine(cell["machine"]) for cell in cells})
    return [
        taken if steps else "Optimizer steps were not recorded by the version that ran this.",
        f"Epochs {', '.join(map(str, epochs))}; " + ", ".join(f"{key} {value}" for key, value in same.items()) + ".",
        f"Code: {'; '.join(codes)}. Versions: {'; '.join(packages)}. Machine: {'; '.join(machines)}.",
    ]


def set_title(means: Sequence[Record], name: str) -> str:
    """A set's name with its numbers of positives and negatives, which conditions may differ in."""
    counts = dict.fromkeys(f"{mean['n_positive']}+, {mean['n_negative']}-" for mean in means if mean["set"] == name)
    return f"{name} ({' or '.join(counts)})"


def flat_rows(records: Sequence[Record]) -> pd.DataFrame:
    """One row for each run and set, for those who want to calculate."""
    rows: list[dict[str, Any]] = [
        {"method": record["method"], "condition": record["condition"], "seed": record["seed"], "set": name, **figures}
        for record in records
        if record["kind"] == "cell"
        for name, figures in record["sets"].items()
    ]
    return pd.DataFrame(rows)


def _auroc(estimate: Mapping[str, Any]) -> str:
    """An AUROC with its interval, whose ends over seeds can lie beyond 0 and 1."""
    low, high = estimate["low"], estimate["high"]
    known = low is not None and high is not None
    return estimate_text({**estimate, "low": max(low, 0), "high": min(high, 1)} if known else estimate)
