"""The allow-list of networks, and that all who read features or names agree on it."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import TinyNet
from torch import nn

from sga_monai.core.errors import InputError
from sga_monai.interpret.saliency import METHODS
from sga_monai.model.features import forward_with_features
from sga_monai.model.networks import NETWORKS, architecture, build_network, last_layer, network_name
from sga_monai.model.weights import load_trained_models, trained_network


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_is_what_its_entry_says(name):
    network = build_network(name, num_classes=3).eval()
    assert network_name(network) == name
    image = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        logits, features = forward_with_features(network, image)
        assert logits.shape == (2, 3)
        assert features.shape == (2, NETWORKS[name].n_features)
        assert torch.allclose(last_layer(network)(torch.from_numpy(features)), logits)
    network = build_network(name)
    for method in METHODS.values():
        assert method(network, image).shape == image.shape


@pytest.mark.parametrize("name", ["vgg16", "", None, 18, ["resnet18"], "torch.hub.load"])
def test_nothing_else_is_built(name):
    with pytest.raises(InputError, match="network must be one of resnet18"):
        build_network(name)
    with pytest.raises(InputError, match="network must be one of"):
        architecture(name)


def test_networks_outside_of_the_list():
    tiny = TinyNet()
    assert network_name(tiny) is None
    assert last_layer(tiny) is tiny.fc
    tiny.architecture = "something"
    assert network_name(tiny) is None
    assert last_layer(nn.Flatten()) is None


def write_run(folder, identity: object) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(build_network("resnet18").state_dict(), folder / "model.pt")
    (folder / "run.json").write_text(json.dumps({"identity": identity}))
    return str(folder / "model.pt")


def test_a_checkpoint_is_loaded_into_the_network_that_its_run_names(tmp_path):
    settings = {"image_size": 32, "voi": "none"}
    named = write_run(tmp_path / "named", {"settings": settings, "network": "resnet18"})
    unnamed = write_run(tmp_path / "unnamed", {"settings": settings})
    models = load_trained_models({"a": named, "b": unnamed})
    assert (models.image_size, models.voi) == (32, "none")
    assert [network_name(network) for network in models.networks.values()] == ["resnet18"] * 2
    assert not any(network.training for network in models.networks.values())
    for name in (None, "vgg16"):
        with pytest.raises(InputError, match="network must be one of"):
            load_trained_models({"a": write_run(tmp_path / "other", {"settings": settings, "network": name})})
    for identity in (None, [], "x"):
        with pytest.raises(InputError, match=r"run\.json beside the checkpoint is damaged"):
            trained_network(write_run(tmp_path / "damaged", identity))
    (tmp_path / "damaged/run.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        load_trained_models({"a": tmp_path / "damaged/model.pt"})
