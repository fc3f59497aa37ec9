"""How much BatchNorm's statistics depend on which training images they are estimated from: writes ``batch_norm_draws.csv``.

    python docs/results/batch_norm_draws.py MANIFEST DATA RUN

RUN is the output folder of a training on MANIFEST in bfloat16. For each number of images, statistics are estimated from thirty random
draws; a line has mean and standard deviation over the draws of validation's mean score and AUROC, and the cost as a share of an epoch of
natural training, counting a backward pass as two forward passes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from sga_monai.data import CXRDataset
from sga_monai.evaluation.cohort import list_cohort, read_cohorts
from sga_monai.evaluation.scoring import score_dataset
from sga_monai.model.weights import load_trained_models
from sga_monai.statistics.discrimination import auroc
from sga_monai.training.statistics import BatchNormStatistics

COUNTS, DRAWS, BATCH = (48, 64, 128, 256), 30, 16


def line(network: nn.Module, train: Sequence[Mapping[str, Any]], validation: CXRDataset, count: int) -> dict[str, float]:
    """The line of statistics from ``count`` images."""
    means, areas = [], []
    for draw in range(DRAWS):
        statistics = BatchNormStatistics(network, train, batch_size=BATCH, precision="bf16", seed=draw)
        statistics.chosen = statistics.chosen[:count]
        statistics()
        scored = score_dataset(network, validation).predictions
        means.append(scored["score"].mean())
        areas.append(auroc(scored["score"], scored["label"], scored["patient"]).auroc)
    return {
        "images": count,
        "share_of_epoch": count / (3 * len(train)),
        "mean_score": float(np.mean(means)),
        "mean_score_sd": float(np.std(means, ddof=1)),
        "auroc": float(np.mean(areas)),
        "auroc_sd": float(np.std(areas, ddof=1)),
    }


def main(manifest: str, data: str, run: str) -> None:
    """Write the table of the network of a run."""
    models = load_trained_models({"model": Path(run) / "model.pt"})
    train, validation = read_cohorts([list_cohort(manifest, data, models.preparation, split) for split in ("train", "val")])
    items = [train[i] for i in range(len(train))]
    table = pd.DataFrame([line(models.networks["model"], items, validation, count) for count in COUNTS])
    table.to_csv(Path(__file__).with_name("batch_norm_draws.csv"), index=False, float_format="%.6g", lineterminator="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
