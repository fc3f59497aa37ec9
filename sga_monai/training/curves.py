"""Learning curves inside and outside: how AUROC moves with the epochs at every test set. Logged, never used to choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys
from sklearn.metrics import roc_auc_score
from torch import nn

from sga_monai.core import checks as check
from sga_monai.core.files import write_csv
from sga_monai.evaluation.predictions import read_sets
from sga_monai.model.modes import autocast, device_of, frozen_statistics
from sga_monai.model.scores import logit_difference
from sga_monai.training.progress import optimizer_steps

COLUMNS = ("epoch", "optimizer_steps", "set", "n_positive", "n_negative", "auroc", "mean_score")


class LearningCurves:
    """After each epoch the AUROC of the network as it is on a fixed part of every test set, in ``curves.csv`` and TensorBoard.

    Which epoch becomes ``model.pt`` is decided by internal validation alone; the curves tell "learns faster" from "generalizes
    better". A resumed training goes on with the lines of its completed epochs.

    Args:
        output_dir: where ``curves.csv`` goes.
        network: the trained network; it is left as it was.
        dataset: the test sets: items with ``image, label, set``.
        curve_images: images of each set, half of each label where there are as many, evenly spaced; 0 writes no curves.
        batch_size: images at once.
        precision: "fp32", "bf16" or "fp16".
        summary_writer: TensorBoard writer of ``curve_auroc/<set>``.
    """

    def __init__(
        self,
        output_dir: str,
        network: nn.Module,
        dataset: Sequence[Mapping[str, Any]],
        curve_images: int = 0,
        batch_size: int = 64,
        precision: str = "fp32",
        summary_writer: Any = None,
    ) -> None:
        self.path = Path(output_dir) / "curves.csv"
        self.network, self.dataset, self.batch_size, self.precision = network, dataset, batch_size, precision
        self.writer = summary_writer
        self.chosen = _evenly_spaced(dataset, check.whole("curve_images", curve_images, low=0))
        self.lines: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after ``BatchNormStatistics``."""
        if self.chosen:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Any) -> None:
        """Score the chosen images and add a line for each set."""
        # Not when the training starts: handlers that come later have yet to say at which epoch it goes on.
        if not self.lines and self.path.is_file():
            lines = read_sets(self.path, float_precision="round_trip")
            self.lines = lines[lines["epoch"] < engine.state.epoch].to_dict("records")
        score, label = self._score()
        steps = optimizer_steps(engine)
        for name, indices in self.chosen.items():
            place = slice(self._first(name), self._first(name) + len(indices))
            y, s = label[place], score[place]
            auroc = float(roc_auc_score(y, s)) if 0 < y.sum() < len(y) else float("nan")
            counts = (int(y.sum()), int(len(y) - y.sum()))
            self.lines.append(dict(zip(COLUMNS, (engine.state.epoch, steps, name, *counts, auroc, float(s.mean())), strict=True)))
            if self.writer is not None:
                self.writer.add_scalar(f"curve_auroc/{name}", auroc, engine.state.epoch)
        write_csv(self.path, pd.DataFrame(self.lines, columns=list(COLUMNS)))

    def _first(self, name: str) -> int:
        names = list(self.chosen)
        return sum(len(self.chosen[other]) for other in names[: names.index(name)])

    def _score(self) -> tuple[np.ndarray, np.ndarray]:
        """Scores and labels of all chosen images, in the order of the sets."""
        indices = [i for chosen in self.chosen.values() for i in chosen]
        device = device_of(self.network)
        scores: list[np.ndarray] = []
        with frozen_statistics(self.network), torch.no_grad(), autocast(device, self.precision):
            for first in range(0, len(indices), self.batch_size):
                part = indices[first : first + self.batch_size]
                images = torch.stack([torch.as_tensor(np.asarray(self.dataset[i][Keys.IMAGE])) for i in part]).to(device)
                scores.append(logit_difference(self.network(images)).cpu().numpy())
        return np.concatenate(scores), np.array([int(self.dataset[i][Keys.LABEL]) for i in indices])


def _evenly_spaced(dataset: Sequence[Mapping[str, Any]], curve_images: int) -> dict[str, list[int]]:
    """Indices by set: at most half of ``curve_images`` of each label."""
    if curve_images == 0:
        return {}
    places: dict[tuple[str, int], list[int]] = {}
    for i, item in enumerate(dataset):
        places.setdefault((str(item["set"]), int(item[Keys.LABEL])), []).append(i)
    chosen: dict[str, list[int]] = {}
    for (name, _), indices in places.items():
        count = min(max(curve_images // 2, 1), len(indices))
        chosen.setdefault(name, []).extend(indices[k] for k in np.linspace(0, len(indices) - 1, count).round().astype(int))
    return chosen
