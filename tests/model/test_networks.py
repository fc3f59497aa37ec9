"""The allow-list of networks, and that all who read features or names agree on it."""

from __future__ import annotations

import json
import re

import pytest
import torch
from conftest import ROOT, TinyNet, randomized
from torch import nn

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256
from sga_monai.interpret.saliency import METHODS, fullgrad
from sga_monai.model.architectures import NETWORKS, find_architecture
from sga_monai.model.features import forward_with_features
from sga_monai.model.modes import norms
from sga_monai.model.networks import CLASSES, build_network, last_layer, network_name
from sga_monai.model.preparation import Preparation
from sga_monai.model.weights import load_trained_models, trained_network


@pytest.mark.parametrize("name", ["train", "evaluate", "inference"])
def test_the_smallest_image_is_that_of_the_network_in_every_workflow(name):
    first = json.loads((ROOT / f"bundles/sga/{name}.json").read_text())["initialize"]
    (prepare,) = (step for step in first if isinstance(step, dict) and step["_target_"] == "sga_monai.bundle.prepare")
    assert prepare["architecture"] == "@architecture"


@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_map_of_small_images_is_what_the_entry_says(name):
    found, maps = find_architecture(name), []
    network = build_network(name).eval()
    network.get_submodule(found.cam_layer).register_forward_hook(lambda *given: maps.append(given[2].shape[-1]))
    sizes = [found.smallest, *([found.one_pixel, found.one_pixel + 1] if norms(network) else [])]
    with torch.no_grad():
        for size in sizes:
            network(torch.zeros(1, 1, size, size))
    assert maps == [1, 1, 2][: len(sizes)]
    if name == "densenet121":
        with pytest.raises(RuntimeError), torch.no_grad():
            network(torch.zeros(1, 1, found.smallest - 1, found.smallest - 1))


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
    for kind, method in METHODS.items():
        if kind == "fullgrad" and name == "resnet18_group_norm":
            with pytest.raises(ValueError, match="and GroupNorm is not; use input gradients"):
                method(network, image)
        else:
            assert method(network, image).shape == image.shape


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
def test_fullgrad_is_exact_for_each_piecewise_affine_network(name):
    network = randomized(build_network(name)).double().eval()
    result = fullgrad(network, torch.rand(2, 1, 48, 48, dtype=torch.float64))
    assert result.completeness.abs().max() < 1e-9 * result.value.abs().max()


# Parameters and entries of torchvision's networks of 1,000 classes.
@pytest.mark.parametrize(("name", "parameters"), [("resnet18", 11_689_512), ("resnet50", 25_557_032), ("densenet121", 7_978_856)])
def test_parameters_are_torchvisions(name, parameters):
    assert sum(parameter.numel() for parameter in build_network(name, 1000).parameters()) == parameters


@pytest.mark.parametrize("name", [name for name, found in NETWORKS.items() if found.pretrained])
def test_imagenet_weights_of_each_network(name, tmp_path):
    source = randomized(build_network(name, 1000))
    # torchvision's names, and in its older files of DenseNet a point between "norm" and its number.
    weights = {re.sub(r"\.layers\.(norm|conv)([12])", r".\1.\2", key): value for key, value in source.state_dict().items()}
    weights = {key.replace("class_layers.out", "classifier"): value for key, value in weights.items() if "num_batches" not in key}
    path = tmp_path / "weights.pth"
    torch.save(weights, path)
    with pytest.raises(InputError, match="pretrained_weights: SHA-256 is"):
        build_network(name, 2, str(path))
    network = CLASSES[name](2, str(path), sha256=file_sha256(path)[:8])
    expected = source.state_dict()
    unlike = ("fc.", "class_layers.")
    own = {key: value for key, value in network.state_dict().items() if not key.startswith(unlike) and "num_batches" not in key}
    assert all(torch.equal(value, expected[key]) for key, value in own.items())
    assert len(own) > 90
    other = "resnet50" if name != "resnet50" else "densenet121"
    with pytest.raises(InputError, match="not the parameters of"):
        CLASSES[other](2, str(path), sha256=file_sha256(path)[:8])


def test_a_network_without_imagenet_weights(tmp_path):
    with pytest.raises(InputError, match="pretrained_weights: there are none of resnet18_group_norm"):
        build_network("resnet18_group_norm", 2, str(tmp_path / "any.pth"))


def test_group_norm_does_not_see_the_other_images_of_a_batch():
    network, image = build_network("resnet18_group_norm").train(), torch.rand(4, 1, 64, 64)
    assert not norms(network)
    # Another number of groups has the same parameters: the weights of a training would load and mean something else.
    assert [layer.num_groups for layer in network.modules() if isinstance(layer, nn.GroupNorm)] == [32] * 20
    torch.testing.assert_close(network(image)[:1], network(image[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vgg16", "", None, 18, ["resnet18"], "torch.hub.load"])
def test_nothing_else_is_built(name):
    with pytest.raises(InputError, match="architecture must be one of resnet18"):
        build_network(name)
    with pytest.raises(InputError, match=rf"architecture must be one of .*, got {re.escape(repr(name))}$"):
        find_architecture(name)


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
    assert models.preparation == Preparation(32, "none", "stored")
    assert [network_name(network) for network in models.networks.values()] == ["resnet18"] * 2
    assert not any(network.training for network in models.networks.values())
    for name in (None, "vgg16"):
        with pytest.raises(InputError, match=r"architecture must be one of .*; use a version of sga_monai that has the one"):
            load_trained_models({"a": write_run(tmp_path / "other", {"settings": settings, "network": name})})
    # No run.json beside it is no other preparation.
    with pytest.raises(InputError, match=r"^checkpoint b: no such file; train first, or give the path of a model\.pt$"):
        load_trained_models({"a": named, "b": tmp_path / "nope/model.pt"})
    for identity in (None, [], "x"):
        with pytest.raises(InputError, match=r"run\.json beside the checkpoint is damaged"):
            trained_network(write_run(tmp_path / "damaged", identity))
    (tmp_path / "damaged/run.json").write_text("{")
    with pytest.raises(InputError, match="is damaged"):
        load_trained_models({"a": tmp_path / "damaged/model.pt"})
