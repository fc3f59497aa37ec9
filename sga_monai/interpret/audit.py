"""The measurements of the shortcut audit: scores with lungs, border or markers taken away or put in, and probes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from sga_monai.data.identity import same_id
from sga_monai.evaluation.predictions import control_column
from sga_monai.evaluation.scoring import Control, LungReader, score_dataset
from sga_monai.interpret.controls import BORDER_BLANK, BORDER_CROP, CENTER_BLANK, LUNGS_BLANK, ONLY_LUNGS, TAG
from sga_monai.statistics.discrimination import auroc, paired_difference
from sga_monai.statistics.estimates import mean_change
from sga_monai.statistics.probes import METADATA, metadata_auroc, site_probe
from sga_monai.statistics.shortcuts import SHORTCUTS, pixel_auroc

ALL = "all sets"
COLUMNS = (
    "set", "control", "n", "n_positive", "n_patients", "auroc", "low", "high", "difference", "difference_low", "difference_high",
    "shift", "shift_low", "shift_high", "plain_sd",
)  # fmt: skip
PLAIN = "plain"


@dataclass(frozen=True)
class AuditSet:
    """One site's images.

    Attributes:
        dataset: gives ``image`` ``[1, H, W]`` in [0, 1], ``label``, ``patient``, ``row``, ``set``.
        lung: from a row's number to its lung, bool ``[1, H, W]``, or to ``None``; ``None`` itself where no image has a mask.
        cells: from a row's number to its cells; ``view``, ``manufacturer``, ``sex`` and ``patient_id`` are used.
    """

    dataset: Dataset[Any]
    lung: LungReader | None = None
    cells: Mapping[int, Mapping[str, str]] = field(default_factory=dict)


def audit_model(network: nn.Module, sets: Mapping[str, AuditSet], batch_size: int = 32) -> list[dict[str, Any]]:
    """Score every set under every control; probe the metadata for the label and the model's features for the site.

    Controls: ``plain``; ``lungs_blank`` and ``only_lungs`` of the images with a lung mask, or ``center_blank`` (an ellipse)
    where a set has no mask at all; ``border_blank``; ``border_crop``; ``tag`` (a lead letter planted in every image). Then
    ``metadata_only``, ``frame_only`` and ``thumbnail`` of each set, in which the label is read without the network (see
    ``sga_monai.statistics.probes`` and ``shortcuts``), and with two sets or more ``site_probe``, ``site_probe_label_0`` and
    ``site_probe_label_1`` of the network's features, for which it must have some (see ``FeatureRecorder``).

    Args:
        network: images ``[N, 1, H, W]`` to logits ``[N, 2]``; evaluated in eval mode, on the device where it is.
        sets: by name. A patient's key means nothing in another set.
        batch_size: images at once.

    Returns:
        A line for each set and control with the keys of ``COLUMNS``: ``auroc`` with its interval; ``difference`` from the plain
        AUROC on the same images; ``shift``, the mean change of the logit difference from the plain one; ``plain_sd``, the standard
        deviation of the plain scores, to compare it with. NaN where not estimable or not of that control.
    """
    table, every = [], []
    for name, given in sets.items():
        controls = _controls(given)
        scored = score_dataset(network, given.dataset, batch_size, controls, given.lung, f"auditing {name}")
        scores = scored.predictions
        table += [_control_line(name, control, scores) for control in (PLAIN, *(control.name for control in controls))]
        columns = {key: [given.cells.get(row, {}).get(key, "") for row in scores["row"]] for key in METADATA}
        table.append(_probe_line(name, "metadata_only", scores, metadata_auroc(columns, scores["label"], scores["patient"])))
        table += _shortcut_lines(name, given.dataset, scores)
        # Numbers of patients are a manifest's own; one who is at two sites must be in one fold of the probe.
        people = [
            same_id(given.cells.get(row, {}).get("patient_id", f"{name}/{patient}"))
            for row, patient in zip(scores["row"], scores["patient"], strict=True)
        ]
        every.append((scores.assign(site=name, patient=people), scored.features))
    return table + _site_lines(every)


def _controls(given: AuditSet) -> tuple[Control, ...]:
    """Lungs by their masks where there are any, or by an ellipse; then the border and the marker."""
    return (*((CENTER_BLANK,) if given.lung is None else (LUNGS_BLANK, ONLY_LUNGS)), BORDER_BLANK, BORDER_CROP, TAG)


def _control_line(name: str, control: str, scores: pd.DataFrame) -> dict[str, Any]:
    column = "score" if control == PLAIN else control_column(control)
    rows = scores[scores[column].notna()]
    figure = auroc(rows[column], rows["label"], rows["patient"])
    line = _line(name, control, rows) | {"auroc": figure.auroc, "low": figure.ci_low, "high": figure.ci_high}
    line["plain_sd"] = float(rows["score"].std(ddof=0))
    if control != PLAIN:
        change = paired_difference(rows[column], rows["score"], rows["label"], rows["patient"])
        line |= {"difference": change.value, "difference_low": change.low, "difference_high": change.high}
        # Estimable in a set of one label, too, as where only the diseased have lung masks.
        shift = mean_change(rows[column], rows["score"], rows["patient"])
        line |= {"shift": shift.value, "shift_low": shift.low, "shift_high": shift.high}
    return line


def _shortcut_lines(name: str, dataset: Dataset[Any], scores: pd.DataFrame) -> list[dict[str, Any]]:
    lines = []
    for control, take in SHORTCUTS.items():
        pixels = [take(dataset[i]["image"][0].numpy()) for i in range(len(scores))]
        lines.append(_probe_line(name, control, scores, pixel_auroc(pixels, scores["label"], scores["patient"])))
    return lines


def _site_lines(every: Sequence[tuple[pd.DataFrame, NDArray[np.float32]]]) -> list[dict[str, Any]]:
    features = np.concatenate([part for _, part in every]) if every else np.zeros((0, 0))
    if len(every) < 2 or not features.shape[1]:
        return []
    rows = pd.concat([scores for scores, _ in every], ignore_index=True)
    found = site_probe(features, rows["site"], rows["patient"], rows["label"])
    lines = [_probe_line(ALL, "site_probe", rows, found)]
    for name, figure in (found or {}).get("sites", {}).items():
        lines.append(_probe_line(name, "site_probe", rows, figure))
    for label in (0, 1):
        within = found["within_label"].get(label) if found else None
        lines.append(_probe_line(ALL, f"site_probe_label_{label}", rows[rows["label"] == label], within))
    return lines


def _probe_line(name: str, control: str, rows: pd.DataFrame, found: Mapping[str, Any] | None) -> dict[str, Any]:
    figure = found or {"value": math.nan, "low": math.nan, "high": math.nan}
    return _line(name, control, rows) | {"auroc": figure["value"], "low": figure["low"], "high": figure["high"]}


def _line(name: str, control: str, rows: pd.DataFrame) -> dict[str, Any]:
    counts = {"n": len(rows), "n_positive": int((rows["label"] == 1).sum()), "n_patients": int(rows["patient"].nunique())}
    return dict.fromkeys(COLUMNS, math.nan) | {"set": name, "control": control} | counts
