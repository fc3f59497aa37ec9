"""Federated training against each site alone and against all images in one place, by the AUROC at a hospital that none of them has.

Sites and server are called one after the other, without NVFlare: test_nvflare.py shows that the weights are the same to the bit.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from fixtures.federation import split_manifest, write_site
from torch import nn

from sga_monai.cohorts.phantom import write_phantom
from sga_monai.data.datalist import load_manifest
from sga_monai.data.dataset import CXRDataset
from sga_monai.data.transforms import preprocessing
from sga_monai.evaluation.scoring import score_dataset
from sga_monai.integrations.federated.aggregation import average
from sga_monai.integrations.federated.local_training import LocalTraining, first_network, load_shared, shared_weights
from sga_monai.integrations.federated.plan import TrainingPlan
from sga_monai.integrations.federated.site import read_site_file
from sga_monai.model.preparation import Preparation
from sga_monai.statistics.discrimination import auroc

# The marker follows the label at the first, is absent at the second, random at the third, and reversed at the external one.
SITES, EXTERNAL = ("northgate", "harbor", "lakeside"), "summit"


def federate(sites: list[LocalTraining], plan: TrainingPlan) -> list[nn.Module]:
    """The networks after all rounds: the averaged one, or with ``fed_bn`` that of each site."""
    network = first_network(plan)
    weights = shared_weights(network, plan.fed_bn)
    for number in range(plan.rounds):
        weights = average([site.round(weights, number) for site in sites])
    if not plan.fed_bn:
        load_shared(network, weights)
        return [network]
    for site in sites:
        site.finish(weights)
    return [site.network for site in sites]


def compare(phantom: Path, folder: Path, seed: int, **options: object) -> list[dict[str, object]]:
    """The AUROC at the external site after the same number of epochs, by how was trained."""
    manifests = {name: folder / f"{name}.csv" for name in (*SITES, "pooled")}
    for name in SITES:
        if name == "northgate":
            table = pd.read_csv(phantom / f"{name}.csv", dtype=str, keep_default_na=False)
            table[table["split"] != "test"].to_csv(manifests[name], index=False)
        else:
            split_manifest(phantom, name, manifests[name])
    tables = [pd.read_csv(manifests[name], dtype=str, keep_default_na=False) for name in SITES]
    pd.concat(tables, ignore_index=True).to_csv(manifests["pooled"], index=False)
    external = CXRDataset(
        load_manifest(phantom / f"{EXTERNAL}.csv", phantom, "test"), preprocessing(Preparation(int(options["image_size"])))
    )
    ways = [(name, (name,), False) for name in manifests] + [("FedAvg", SITES, False), ("FedBN", SITES, True)]
    lines = []
    for way, names, fed_bn in ways:
        plan = TrainingPlan(seed=seed, fed_bn=fed_bn, **options)
        sites = []
        for name in names:
            section = {"manifest": manifests[name].name, "dataset_dir": str(phantom.resolve()), "out": f"{way}_{name}_{seed}"}
            sites.append(LocalTraining(read_site_file(write_site(folder / f"{name}.json", name, None, section)), plan))
        for name, network in zip(names if fed_bn else (way,), federate(sites, plan), strict=True):
            found = score_dataset(network, external).predictions
            area = auroc(found["score"], found["label"], found["patient"])
            figures = {"auroc": round(area.auroc, 3), "low": round(area.ci_low, 3), "high": round(area.ci_high, 3)}
            lines.append({"seed": seed, "way": way, "model": name, "images": sum(len(site.data["train"]) for site in sites), **figures})
            print(json.dumps(lines[-1]), flush=True)  # noqa: T201
    return lines


@pytest.mark.slow
def test_federated_training_is_better_outside_than_the_sites_alone_on_average(tmp_path: Path):
    """Prints what docs/federated.md says; SGA_SEEDS is the number of seeds."""
    write_phantom(tmp_path / "phantom", external_images=64)
    lines = []
    for seed in range(int(os.environ.get("SGA_SEEDS", "1"))):
        lines += compare(tmp_path / "phantom", tmp_path, seed, rounds=10, image_size=32, batch_size=32)
    table = pd.DataFrame(lines).groupby("way")["auroc"].mean()
    assert table["FedAvg"] > table[list(SITES)].mean()
