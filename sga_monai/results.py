"""The final table: every figure is computed from predictions, with n beside it and the patient as the unit."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table

from sga_monai.statistics import Auroc, auroc, auroc_difference


def summarize(predictions: pd.DataFrame, internal: str | None = None) -> pd.DataFrame:
    """AUROC of each set.

    Args:
        predictions: columns ``set, patient, label, score``; a missing score is an image that failed.
        internal: set that the others' ``auroc_difference`` is taken against (external minus internal, the paper's
            sign); none when ``None``. Sets whose name ends in "(validation)" get no difference.

    Returns:
        One row a set, in the order of first appearance: ``set, n_positive, n_negative, n_patients, n_failed, auroc,
        ci_low, ci_high, auroc_difference, difference_low, difference_high``; NaN where not estimable.
    """
    figures: dict[Any, tuple[Auroc, int]] = {}
    for name, rows in predictions.groupby("set", sort=False):
        scored = rows[rows["score"].notna()]
        figures[name] = auroc(scored["score"], scored["label"], scored["patient"]), int(rows["score"].isna().sum())
    table = []
    for name, (figure, n_failed) in figures.items():
        line = {
            "set": name,
            "n_positive": figure.n_positive,
            "n_negative": figure.n_negative,
            "n_patients": figure.n_patients,
            "n_failed": n_failed,
            "auroc": figure.auroc,
            "ci_low": figure.ci_low,
            "ci_high": figure.ci_high,
        }
        if internal in figures and name != internal and not str(name).endswith("(validation)"):
            names = ("auroc_difference", "difference_low", "difference_high")
            line |= dict(zip(names, auroc_difference(figure, figures[internal][0]), strict=True))
        table.append(line)
    columns = [*table[0], "auroc_difference", "difference_low", "difference_high"]
    return pd.DataFrame(table, columns=list(dict.fromkeys(columns)))


def render(results: pd.DataFrame) -> str:
    """The table of ``summarize`` as text, 95 % intervals in brackets, "-" where not estimable."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("set", "n+", "n-", "patients", "failed", "AUROC", "95 % CI", "auroc_difference", "95 % CI"):
        table.add_column(column, justify="left" if column == "set" else "right")
    for line in results.to_dict("records"):
        counts = [str(line[key]) for key in ("n_positive", "n_negative", "n_patients", "n_failed")]
        difference = line["auroc_difference"]
        table.add_row(
            str(line["set"]),
            *counts,
            _figure(line["auroc"], ".3f"),
            _interval(line["ci_low"], line["ci_high"], ".3f"),
            _figure(difference, "+.3f"),
            _interval(line["difference_low"], line["difference_high"], "+.3f"),
        )
    stream = io.StringIO()
    Console(file=stream, width=120, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines() if line.strip())


def _figure(value: float, form: str) -> str:
    return "-" if pd.isna(value) else format(value, form)


def _interval(low: float, high: float, form: str) -> str:
    return "-" if pd.isna(low) or pd.isna(high) else f"[{low:{form}}, {high:{form}}]"
