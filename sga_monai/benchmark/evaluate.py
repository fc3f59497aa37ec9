"""``benchmark evaluate``: from DICOM files to predictions.csv, with and without heat maps, beside a stock MONAI chain."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from monai.data import DataLoader, Dataset
from torch import nn

from sga_monai.benchmark.files import write_dicom_files
from sga_monai.benchmark.measure import Case, Machine, Result, compare
from sga_monai.benchmark.peers import authors_fullgrad, monai_chain, silence
from sga_monai.data.dataset import CXRDataset
from sga_monai.data.transforms import preprocessing
from sga_monai.evaluation.scoring import score_dataset
from sga_monai.interpret.saliency import fullgrad_map
from sga_monai.model.networks import build_network
from sga_monai.model.preparation import Preparation

NAME = "evaluate"
STOCK_AT_LEAST, STOCK_MAPS_AT_LEAST = 3.0, 10.0


def benchmark_evaluate(machine: Machine, n_images: int = 8) -> Result:
    """Seconds an image from uncompressed DICOM files to a table of predictions, and to that with a FullGrad map of every image."""
    network = build_network("resnet18").to(machine.device).eval()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_dicom_files(folder, "raw", n_images)
        out = folder / "predictions.csv"
        cases = []
        for maps, goal in ((False, STOCK_AT_LEAST), (True, STOCK_MAPS_AT_LEAST)):
            what = "with maps" if maps else "scores"
            ours = f"{what}: sga_monai"
            cases.append(Case(ours, _Ours(machine, network, rows, out, maps), ours, units=n_images))
            cases.append(Case(f"{what}: stock MONAI", _Stock(machine, network, rows, out, maps), ours, at_least=goal, units=n_images))
        return Result(compare(NAME, cases, machine))


class _Ours:
    """This package's way: read once, score in batches, maps in batches."""

    def __init__(self, machine: Machine, network: nn.Module, rows: Sequence[dict[str, Any]], out: Path, maps: bool) -> None:
        self.machine, self.network, self.rows, self.out, self.maps = machine, network, rows, out, maps
        self.number = itertools.count()

    def __call__(self) -> None:
        dataset = CXRDataset(self.rows, preprocessing(Preparation(self.machine.image_size)))
        score_dataset(self.network, dataset, self.machine.batch_size).predictions.to_csv(self.out)
        if self.maps:
            for batch in DataLoader(dataset, batch_size=self.machine.batch_size):
                fullgrad_map(self.network, batch["image"].to(self.machine.device))


class _Stock:
    """What MONAI's documentation shows: default chain, DataLoader, one eager pass, the authors' FullGrad."""

    def __init__(self, machine: Machine, network: nn.Module, rows: Sequence[dict[str, Any]], out: Path, maps: bool) -> None:
        self.machine, self.network, self.out, self.maps = machine, network, out, maps
        self.dataset = Dataset([{"image": row["image"], "label": row["label"]} for row in rows], monai_chain(machine.image_size))

    def __call__(self) -> None:
        with silence():
            self._predict()

    def _predict(self) -> None:
        scores = []
        for batch in DataLoader(self.dataset, batch_size=self.machine.batch_size):
            image = batch["image"].to(self.machine.device)
            with torch.no_grad():
                scores += self.network(image).softmax(1)[:, 1].tolist()
            if self.maps:
                authors_fullgrad(self.network, image)
        pd.DataFrame({"probability": scores}).to_csv(self.out)
