"""``benchmark evaluate``: from DICOM files to predictions.csv, with and without heat maps, beside a stock MONAI chain."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
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
        stock = Dataset([{"image": row["image"], "label": row["label"]} for row in rows], monai_chain(machine.image_size))
        out = folder / "predictions.csv"
        cases = []
        for maps, goal in ((False, STOCK_AT_LEAST), (True, STOCK_MAPS_AT_LEAST)):
            what = "with maps" if maps else "scores"
            ours = f"{what}: sga_monai"
            cases.append(Case(ours, partial(_ours, machine, network, rows, out, maps), ours, units=n_images))
            run = partial(_stock, machine, network, stock, out, maps)
            cases.append(Case(f"{what}: stock MONAI", run, ours, at_least=goal, units=n_images))
        return Result(compare(NAME, cases, machine))


def _ours(machine: Machine, network: nn.Module, rows: Sequence[dict[str, Any]], out: Path, maps: bool) -> None:
    """This package's way: read once, score in batches, maps in batches."""
    dataset = CXRDataset(rows, preprocessing(Preparation(machine.image_size)))
    score_dataset(network, dataset, machine.batch_size).predictions.to_csv(out)
    if maps:
        for batch in DataLoader(dataset, batch_size=machine.batch_size):
            fullgrad_map(network, batch["image"].to(machine.device))


def _stock(machine: Machine, network: nn.Module, dataset: Dataset, out: Path, maps: bool) -> None:
    """What MONAI's documentation shows: default chain, DataLoader, one eager pass, the authors' FullGrad."""
    scores = []
    with silence():
        for batch in DataLoader(dataset, batch_size=machine.batch_size):
            image = batch["image"].to(machine.device)
            with torch.no_grad():
                scores += network(image).softmax(1)[:, 1].tolist()
            if maps:
                authors_fullgrad(network, image)
        pd.DataFrame({"probability": scores}).to_csv(out)
