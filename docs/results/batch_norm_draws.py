"""How much BatchNorm's statistics depend on which training images they are estimated from: writes ``batch_norm_draws.csv``.

    python docs/results/batch_norm_draws.py MANIFEST DATA RUN...

RUN is the output folder of a training on MANIFEST. For each number of images, statistics are estimated from thirty random draws; a line has
the standard deviations over the draws of validation's mean score and AUROC, and the cost as a share of an epoch of natural training,
counting a backward pass as two forward passes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from sga_monai.evaluation.cohort import list_cohort, read_cohorts
from sga_monai.model.modes import autocast, recalibrate
from sga_monai.model.scores import logit_difference
from sga_monai.model.weights import load_trained_models

COUNTS, DRAWS, BATCH = (48, 64, 128, 256), 30, 16


def scores(network: nn.Module, images: Tensor) -> NDArray[np.float64]:
    """The network's scores of ``images``, in bfloat16 as in the training."""
    with torch.no_grad(), autocast(torch.device("cpu"), "bf16"):
        return np.concatenate([logit_difference(network(batch)).double().numpy() for batch in images.split(64)])


def lines(run: Path, network: nn.Module, train: Tensor, validation: Tensor, label: NDArray[np.int64]) -> list[dict[str, object]]:
    """The lines of one network."""
    found: list[dict[str, object]] = []
    for count in COUNTS:
        drawn = []
        for draw in range(DRAWS):
            chosen = np.random.default_rng(draw).permutation(len(train))[:count]
            with autocast(torch.device("cpu"), "bf16"):
                recalibrate(network, train[chosen].split(BATCH))
            drawn.append(scores(network, validation))
        means, areas = [float(given.mean()) for given in drawn], [roc_auc_score(label, given) for given in drawn]
        found.append(
            {
                "run": "/".join(run.parts[-3:]),
                "images": count,
                "share_of_epoch": count / (3 * len(train)),
                "mean_score": np.mean(means),
                "mean_score_sd": np.std(means, ddof=1),
                "auroc": np.mean(areas),
                "auroc_sd": np.std(areas, ddof=1),
            }
        )
    return found


def main(manifest: str, data: str, *runs: str) -> None:
    """Write the table of the networks in ``runs``."""
    paths = [Path(run) for run in runs]
    models = load_trained_models({str(run): run / "model.pt" for run in paths})
    cohorts = [list_cohort(manifest, data, models.preparation, split) for split in ("train", "val")]
    train, validation = ([dataset[i] for i in range(len(dataset))] for dataset in read_cohorts(cohorts))
    pictures = [torch.stack([torch.as_tensor(np.asarray(item["image"])) for item in items]) for items in (train, validation)]
    label = np.array([int(item["label"]) for item in validation])
    table = [line for run in paths for line in lines(run, models.networks[str(run)], pictures[0], pictures[1], label)]
    pd.DataFrame(table).to_csv(Path(__file__).with_name("batch_norm_draws.csv"), index=False, float_format="%.6g", lineterminator="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
