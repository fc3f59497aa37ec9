"""A site's part of a federated training, without NVFlare: what leaves, what stays, and that every number is the same again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.federation import write_site
from torch import nn

from sga_monai.core.errors import InputError
from sga_monai.integrations.federated.aggregation import METRICS, average, read_update
from sga_monai.integrations.federated.local_training import (
    LocalTraining,
    first_network,
    load_shared,
    local_keys,
    shared_weights,
    write_model,
)
from sga_monai.integrations.federated.plan import TrainingPlan
from sga_monai.integrations.federated.refusals import Refusal
from sga_monai.integrations.federated.site import read_site_file
from sga_monai.model.networks import build_network
from sga_monai.model.preparation import Preparation, trained_preparation
from sga_monai.model.weights import load_best_model

PLAN = TrainingPlan(rounds=2, image_size=16, batch_size=16)
BN = TrainingPlan(rounds=2, image_size=16, batch_size=16, fed_bn=True)


@pytest.fixture
def site(phantom_dir: Path, tmp_path: Path):
    """A site that trains with 20 images of 20 patients, and validates with as many."""
    rows = pd.read_csv(phantom_dir / "northgate.csv", dtype=str, keep_default_na=False)
    rows = rows[(rows["split"] != "test") & ~rows["patient_id"].duplicated()]
    # Ten patients of each label in each split.
    rows[rows.groupby(["split", "label"]).cumcount() < 10].to_csv(tmp_path / "few.csv", index=False)
    section = {"manifest": "few.csv", "dataset_dir": str(phantom_dir), "out": "training"}
    return read_site_file(write_site(tmp_path / "harbor.json", "Harbor", None, section))


def test_fed_bn_keeps_every_weight_and_statistic_of_batch_norm_and_nothing_else():
    network = first_network(BN)
    kept = local_keys(network)
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    expected = {f"{name}.{key}" for name, module in layers.items() for key in module.state_dict()}
    assert kept == expected
    assert len(kept) == 5 * len(layers) == 100
    shared = shared_weights(network, True)
    assert shared.keys() == network.state_dict().keys() - kept
    assert shared_weights(network, False).keys() == network.state_dict().keys()
    with pytest.raises(InputError, match="no BatchNorm"):
        first_network(TrainingPlan(architecture="resnet18_group_norm", fed_bn=True))


def test_weights_that_arrive_leave_batch_norm_of_the_site_alone():
    network, other = first_network(BN), build_network("resnet18")
    for value in network.state_dict().values():
        value.copy_(torch.ones_like(value) * 3)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    load_shared(network, shared_weights(other, True))
    kept = local_keys(network)
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key] if key in kept else other.state_dict()[key]), key


@pytest.mark.parametrize("spoil", ["name", "shape", "dtype", "nan", "variance"])
def test_a_site_takes_only_weights_of_its_network(spoil: str):
    network = first_network(PLAN)
    weights = shared_weights(network, False)
    if spoil == "name":
        weights["__class__"] = weights["fc.bias"]
    elif spoil == "shape":
        weights["fc.bias"] = weights["fc.bias"][:1]
    elif spoil == "dtype":
        weights["fc.bias"] = weights["fc.bias"].astype(np.float64)
    elif spoil == "variance":
        weights["bn1.running_var"] = -weights["bn1.running_var"]
    else:
        weights["fc.bias"] = np.full_like(weights["fc.bias"], np.nan)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(Refusal):
        load_shared(network, weights)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_first_weights_are_the_same_everywhere_and_draw_from_no_global_state():
    state = torch.get_rng_state()
    one, two = first_network(PLAN), first_network(PLAN)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one.state_dict()[key], value) for key, value in two.state_dict().items())
    other = first_network(TrainingPlan(seed=1))
    assert not torch.equal(other.fc.weight, one.fc.weight)


def test_a_round_is_the_same_again_and_what_it_sends_is_an_update(site):
    training = LocalTraining(site, PLAN)
    sent = shared_weights(training.network, False)
    first = training.round(sent, 0)
    checked = read_update(dict(first.weights), first.images, dict(first.metrics), sent)
    assert checked.images == 20
    assert set(checked.metrics) == set(METRICS)
    assert not np.array_equal(first.weights["fc.weight"], sent["fc.weight"])
    again = training.round(sent, 0)
    assert all(np.array_equal(first.weights[key], again.weights[key]) for key in sent)
    assert first.metrics == again.metrics
    later = training.round(sent, 1)
    assert not np.array_equal(first.weights["fc.weight"], later.weights["fc.weight"])
    # Of one site alone the mean is its own weights.
    assert all(np.array_equal(average([first])[key], first.weights[key]) for key in sent)
    metrics = training.finish(first.weights)
    path = site.train.out / "model.pt"
    assert metrics == {METRICS[0]: first.metrics[METRICS[1]]}
    assert trained_preparation(path) == Preparation(16)
    loaded = load_best_model(build_network("resnet18"), str(path), image_size=16)
    assert all(np.array_equal(value.numpy(), first.weights[key]) for key, value in loaded.state_dict().items())


def test_a_site_with_too_few_patients_sends_no_weights(site, tmp_path: Path):
    section = {"manifest": "few.csv", "dataset_dir": str(site.train.dataset_dir), "out": "training", "min_cell": 11}
    with pytest.raises(Refusal) as refused:
        LocalTraining(read_site_file(write_site(tmp_path / "harbor.json", "Harbor", None, section)), PLAN)
    assert refused.value.code == "too few"
    with pytest.raises(Refusal) as refused:
        LocalTraining(read_site_file(write_site(tmp_path / "harbor.json", "Harbor", None, section | {"manifest": "absent.csv"})), PLAN)
    assert refused.value.code == "data"


def test_the_written_model_names_its_network(tmp_path: Path):
    write_model(first_network(PLAN), tmp_path / "model.pt", PLAN)
    with pytest.raises(InputError, match="architecture resnet18"):
        load_best_model(build_network("resnet50"), str(tmp_path / "model.pt"))
