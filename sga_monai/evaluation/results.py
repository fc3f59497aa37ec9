"""The final table: every figure is computed from predictions, with n beside it and the patient as the unit."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
from rich import box
from rich.table import Table
from scipy.stats import rankdata

from sga_monai.core.display import figure_text, interval_text, table_text
from sga_monai.data.sets import VALIDATION
from sga_monai.statistics.discrimination import Auroc, auroc, auroc_difference

FAILURE_LIMIT = 0.01
COLUMNS = [
    "set", "n_rows", "n_positive", "n_negative", "n_patients", "n_failed", "n_failed_positive", "n_failed_negative",
    "reportable", "auroc", "ci_low", "ci_high", "auroc_worst_case", "auroc_difference", "difference_low", "difference_high",
]  # fmt: skip


def summarize(predictions: pd.DataFrame, internal: str | None = None, failure_limit: float = FAILURE_LIMIT) -> pd.DataFrame:
    """AUROC of each set.

    Args:
        predictions: columns ``set, patient, label, score``; a missing score is an image that failed.
        internal: set that the others' ``auroc_difference`` is taken against (external minus internal, the paper's
            sign); none when ``None``. The validation set gets no difference.
        failure_limit: see ``few_failed``; a set above it has no headline figure, since failures are seldom random.

    Returns:
        One row a set, in the order of first appearance: ``set, n_rows, n_positive, n_negative`` (evaluated images),
        ``n_patients, n_failed, n_failed_positive, n_failed_negative, reportable, auroc, ci_low, ci_high,
        auroc_worst_case, auroc_difference, difference_low, difference_high``; NaN where not estimable or not
        reportable. The worst case ranks every failed positive below and every failed negative above all others.
    """
    figures: dict[Any, tuple[Auroc, dict[str, Any]]] = {}
    for name, rows in predictions.groupby("set", sort=False):
        failed = rows["score"].isna()
        scored = rows[~failed]
        figure = auroc(scored["score"], scored["label"], scored["patient"])
        counts = {f"n_failed_{kind}": int((failed & (rows["label"] == label)).sum()) for kind, label in (("positive", 1), ("negative", 0))}
        line = {
            "set": name,
            "n_rows": len(rows),
            "n_positive": figure.n_positive,
            "n_negative": figure.n_negative,
            "n_patients": figure.n_patients,
            "n_failed": int(failed.sum()),
            **counts,
            "reportable": few_failed(int(failed.sum()), len(rows), failure_limit),
        }
        figures[name] = figure, line | {"auroc_worst_case": _worst_case(rows)}
    table = []
    for name, (figure, line) in figures.items():
        if line["reportable"]:
            line |= {"auroc": figure.auroc, "ci_low": figure.ci_low, "ci_high": figure.ci_high}
            other = figures.get(internal)
            if other and other[1]["reportable"] and name not in (internal, VALIDATION):
                names = ("auroc_difference", "difference_low", "difference_high")
                line |= dict(zip(names, auroc_difference(figure, other[0]), strict=True))
        table.append(line)
    return pd.DataFrame(table, columns=COLUMNS)


def few_failed(failed: int, images: int, failure_limit: float) -> bool:
    """Whether few enough images failed for a headline figure; one may, however small the set, unless the limit is 0.

    Args:
        failed: images without a score.
        images: all images.
        failure_limit: the share above which there are too many, in [0, 1].

    Example:
        >>> few_failed(1, 60, 0.01), few_failed(2, 60, 0.01), few_failed(1, 60, 0)
        (True, False, False)
    """
    return not failed or (failure_limit > 0 and (failed == 1 or failed / images <= failure_limit))


def _worst_case(rows: pd.DataFrame) -> float:
    """AUROC when every failed image is as wrong as it can be."""
    score = rows["score"].to_numpy(dtype=float)
    worst = np.where(rows["label"] == 1, -math.inf, math.inf)
    # Ranks, since an AUROC takes finite scores.
    score = rankdata(np.where(np.isnan(score), worst, score))
    return auroc(score, rows["label"]).auroc


def render(results: pd.DataFrame) -> str:
    """The table of ``summarize`` as text, 95 % intervals in brackets, "-" where not estimable.

    The worst case is shown where an image failed; a set above the failure limit says "not reportable".
    """
    any_failed = bool(results["n_failed"].any())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    worst = ("worst case",) if any_failed else ()
    for column in ("set", "n+", "n-", "patients", "failed", "AUROC", "95 % CI", *worst, "auroc_difference", "95 % CI"):
        table.add_column(column, justify="left" if column == "set" else "right")
    for line in results.to_dict("records"):
        failed = f"{line['n_failed']} ({line['n_failed_positive']}+, {line['n_failed_negative']}-)" if line["n_failed"] else "0"
        headline = figure_text(line["auroc"]) if line["reportable"] else "not reportable"
        table.add_row(
            str(line["set"]),
            *(str(line[key]) for key in ("n_positive", "n_negative", "n_patients")),
            failed,
            headline,
            interval_text(line["ci_low"], line["ci_high"]),
            *([figure_text(line["auroc_worst_case"])] if any_failed else []),
            figure_text(line["auroc_difference"], signed=True),
            interval_text(line["difference_low"], line["difference_high"], signed=True),
        )
    return table_text(table, 140)
