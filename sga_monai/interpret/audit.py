"""The measurements of the shortcut audit: what a model scores when lungs, border or markers are taken away or put in."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.data import DataLoader
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from sga_monai.core.display import track
from sga_monai.evaluation.predictions import row_columns
from sga_monai.interpret.controls import blank_border, blank_center, blank_lungs, crop_border, only_lungs, plant_tag
from sga_monai.model.features import forward_with_features
from sga_monai.model.scores import logit_difference
from sga_monai.statistics.discrimination import auroc, paired_difference
from sga_monai.statistics.estimates import mean_change
from sga_monai.statistics.probes import METADATA, metadata_auroc, site_probe

ALL = "all sets"
COLUMNS = (
    "set", "control", "n", "n_positive", "n_patients", "auroc", "low", "high", "difference", "difference_low", "difference_high",
    "shift", "shift_low", "shift_high", "plain_sd",
)  # fmt: skip
ALWAYS: dict[str, Callable[[Tensor], Tensor]] = {"border_blank": blank_border, "border_crop": crop_border, "tag": plant_tag}
WITH_LUNG: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"lungs_blank": blank_lungs, "only_lungs": only_lungs}


@dataclass(frozen=True)
class AuditSet:
    """One site's images.

    Attributes:
        dataset: gives ``image`` ``[1, H, W]`` in [0, 1], ``label``, ``patient``, ``row``, ``set``.
        lung: from a row's number to its lung, bool ``[1, H, W]``, or to ``None``; ``None`` itself where no image has a mask.
        facts: from a row's number to its cells; ``view``, ``manufacturer`` and ``sex`` are used.
    """

    dataset: Dataset
    lung: Callable[[int], Tensor | None] | None = None
    facts: Mapping[int, Mapping[str, str]] = field(default_factory=dict)


def audit_model(network: nn.Module, sets: Mapping[str, AuditSet], batch_size: int = 32) -> list[dict[str, Any]]:
    """Scores of every set under every control, and what can be read without the model's last layer.

    Controls: ``plain``; ``lungs_blank`` and ``only_lungs`` of the images with a lung mask, or ``center_blank`` (an ellipse)
    where a set has no mask at all; ``border_blank``; ``border_crop``; ``tag`` (a lead letter planted in every image). Then
    ``metadata_only`` of each set, and with two sets or more ``site_probe``, ``site_probe_label_0`` and ``site_probe_label_1``
    (see ``sga_monai.probes``), for which the network must have a last layer ``fc``.

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
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    was_training = network.training
    network.eval()
    try:
        for name, given in sets.items():
            scores, features = _score(network, given, batch_size, device, name)
            table += [_control_line(name, control, scores) for control in scores.columns if control not in ("label", "patient", "row")]
            columns = {key: [given.facts.get(row, {}).get(key, "") for row in scores["row"]] for key in METADATA}
            table.append(_probe_line(name, "metadata_only", scores, metadata_auroc(columns, scores["label"], scores["patient"])))
            # Numbers of patients are a manifest's own; one who is at two sites must be in one fold of the probe.
            people = [
                given.facts.get(row, {}).get("patient_id", f"{name}/{patient}").casefold()
                for row, patient in zip(scores["row"], scores["patient"], strict=True)
            ]
            every.append((scores.assign(site=name, patient=people), features))
    finally:
        network.train(was_training)
    return table + _site_lines(every)


def score_lungs(network: nn.Module, image: Tensor, lungs: Sequence[Tensor | None]) -> dict[str, NDArray[np.float64]]:
    """Scores ``[N]`` with the lungs blanked and of the lungs alone, ``lungs_blank`` and ``only_lungs``.

    Args:
        network: in eval mode, on the device of ``image``.
        image: ``[N, 1, H, W]``.
        lungs: bool ``[1, H, W]`` of each image; where ``None``, the scores are NaN.
    """
    known = [i for i, lung in enumerate(lungs) if lung is not None]
    scores = {control: np.full(len(image), np.nan) for control in WITH_LUNG}
    if known:
        lung = torch.stack([lung for lung in lungs if lung is not None]).to(image.device)
        with torch.no_grad():
            for control, change in WITH_LUNG.items():
                scores[control][known] = logit_difference(network(change(image[known], lung))).cpu().numpy()
    return scores


def _score(
    network: nn.Module, given: AuditSet, batch_size: int, device: torch.device, name: str
) -> tuple[pd.DataFrame, NDArray[np.float32] | None]:
    """A column of scores for each control, NaN where an image has no mask, and the features before the last layer."""
    frames, features = [], []
    loader = DataLoader(given.dataset, batch_size=batch_size)
    for batch in track(loader, f"auditing {name}"):
        image = batch["image"].to(device)
        rows = row_columns(batch)
        columns: dict[str, Any] = {key: rows[key] for key in ("row", "label", "patient")}
        with torch.no_grad():
            if isinstance(getattr(network, "fc", None), nn.Module):
                logits, part = forward_with_features(network, image)
                features.append(part)
            else:
                logits = network(image)
            columns["plain"] = logit_difference(logits).cpu().numpy()
            if given.lung is None:
                columns["center_blank"] = logit_difference(network(blank_center(image))).cpu().numpy()
            else:
                columns |= score_lungs(network, image, [given.lung(row) for row in columns["row"]])
            for control, change in ALWAYS.items():
                columns[control] = logit_difference(network(change(image))).cpu().numpy()
        frames.append(pd.DataFrame(columns))
    return pd.concat(frames, ignore_index=True), np.concatenate(features) if features else None


def _control_line(name: str, control: str, scores: pd.DataFrame) -> dict[str, Any]:
    rows = scores[scores[control].notna()]
    figure = auroc(rows[control], rows["label"], rows["patient"])
    line = _line(name, control, rows) | {"auroc": figure.auroc, "low": figure.ci_low, "high": figure.ci_high}
    line["plain_sd"] = float(rows["plain"].std(ddof=0))
    if control != "plain":
        change = paired_difference(rows[control], rows["plain"], rows["label"], rows["patient"])
        line |= {"difference": change.value, "difference_low": change.low, "difference_high": change.high}
        # It tells something of a set of one label, too, as where only the diseased have lung masks.
        shift = mean_change(rows[control], rows["plain"], rows["patient"])
        line |= {"shift": shift.value, "shift_low": shift.low, "shift_high": shift.high}
    return line


def _site_lines(every: Sequence[tuple[pd.DataFrame, NDArray[np.float32] | None]]) -> list[dict[str, Any]]:
    features = [part for _, part in every if part is not None]
    if len(every) < 2 or len(features) < len(every):
        return []
    rows = pd.concat([scores for scores, _ in every], ignore_index=True)
    found = site_probe(np.concatenate(features), rows["site"], rows["patient"], rows["label"])
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
