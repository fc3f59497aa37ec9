"""One TensorBoard logdir for a whole experiment: hparams table, PR curves, ROC and calibration of the methods together."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_auc_score, roc_curve
from torch.utils.tensorboard import SummaryWriter

from sga_monai.core.figures import figure_image, subplots
from sga_monai.evaluation.predictions import FILE, VALIDATION, read_predictions
from sga_monai.experiments.plan import ALL, Cell
from sga_monai.experiments.selection import Record


def write_dashboards(records: list[Record], runs: Mapping[Cell, Path], out: Path) -> None:
    """Write ``out/tensorboard``, replacing what an earlier collection wrote there.

    Each cell is a run of the hparams dashboard with the settings that differ and the AUROC of each set, and has a PR curve for each
    set. The run "summary" has a figure for each set and condition in which the methods' ROC curves, and the calibration
    of their probabilities, lie over each other (first seed).

    Args:
        records: of ``experiment_records``.
        runs: folder of each finished cell.
        out: the experiment's folder.
    """
    folder = out / "tensorboard"
    shutil.rmtree(folder, ignore_errors=True)
    by_cell = {(record["method"], record["condition"], record["seed"]): record for record in records if record["kind"] == "cell"}
    # Thirty equal columns would hide the few that tell runs apart.
    every = [record["settings"] for record in by_cell.values()]
    varying = [key for key in (every[0] if every else {}) if any(settings.get(key) != every[0][key] for settings in every)]
    predictions = {cell: read_predictions(path / FILE).dropna(subset=["score"]) for cell, path in runs.items()}
    for cell, frame in predictions.items():
        record = by_cell[cell.method, cell.condition, cell.seed]
        settings = {key: record["settings"].get(key) for key in varying if key != "seed"}
        _write_cell(folder / cell.folder, cell, settings, record["sets"], frame)
    _write_summary(folder / "summary", records[0]["condition"], predictions)


def _write_cell(folder: Path, cell: Cell, settings: Mapping[str, Any], sets: Mapping[str, Any], frame: pd.DataFrame) -> None:
    writer = SummaryWriter(str(folder))
    metrics = {f"auroc/{name}": figures["auroc"] for name, figures in sets.items() if figures["auroc"] is not None}
    settings = {key: value if isinstance(value, (bool, int, float, str)) else str(value) for key, value in settings.items()}
    # "." keeps them in the cell's own run; the default would open one more, named by the time.
    writer.add_hparams({"method": cell.method, "condition": cell.condition, "seed": cell.seed, **settings}, metrics, run_name=".")
    for name, rows in frame.groupby("set", sort=False):
        if rows["label"].nunique() == 2:
            writer.add_pr_curve(f"pr/{name}", rows["label"].to_numpy(), rows["probability"].to_numpy())
    writer.close()


def _write_summary(folder: Path, conditions: Sequence[str], predictions: Mapping[Cell, pd.DataFrame]) -> None:
    writer = SummaryWriter(str(folder))
    for condition in conditions:
        first: dict[str, pd.DataFrame] = {}
        for cell, frame in predictions.items():
            if cell.condition == condition:
                first.setdefault(cell.method, frame)
        names = dict.fromkeys(name for frame in first.values() for name in frame["set"].unique() if name != VALIDATION)
        for name in names:
            figure = _roc_and_calibration({method: frame[frame["set"] == name] for method, frame in first.items()}, str(name))
            tag = f"roc_and_calibration/{name}" + ("" if condition == ALL else f"/{condition}")
            writer.add_image(tag, figure_image(figure), dataformats="HWC")
    writer.close()


def _roc_and_calibration(frames: Mapping[str, pd.DataFrame], name: str) -> Figure:
    """ROC curves of the methods, and beside them share of positives against predicted probability in ten equal groups."""
    figure, ((left, right),) = subplots(1, 2, size=(8.2, 3.9))
    for axis in (left, right):
        axis.plot([0, 1], [0, 1], color="#dddddd", lw=1)
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    for method, rows in frames.items():
        label: Any = rows["label"].to_numpy()
        if len(np.unique(label)) < 2:
            continue
        line = left.plot(*roc_curve(label, rows["score"])[:2], lw=1.4, label=f"{method}, {roc_auc_score(label, rows['score']):.3f}")[0]
        observed, predicted = calibration_curve(label, rows["probability"], n_bins=10, strategy="quantile")
        right.plot(predicted, observed, "o-", ms=3, lw=1, color=line.get_color())
    left.set(xlabel="1 - specificity", ylabel="sensitivity", title=f"{name}: ROC, AUROC")
    right.set(xlabel="predicted probability", ylabel="share of positives", title="calibration")
    left.legend(fontsize=8, frameon=False, loc="lower right")
    return figure
