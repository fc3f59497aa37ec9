"""The same on a GPU as on the CPU. The first tests run on both, so that they are run where there is no GPU too."""

from __future__ import annotations

import copy
import json
import math
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ROOT, TinyNet, batches, iteration, randomized, train
from fixtures import warm
from monai.engines import SupervisedTrainer
from torch import nn

from sga_monai.benchmark.engine import benchmark_engine
from sga_monai.benchmark.measure import Machine
from sga_monai.interpret.saliency import fullgrad_map, grad_cam
from sga_monai.model.networks import build_network

CUDA = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")])
both, gpu = pytest.mark.parametrize("device", ["cpu", CUDA]), pytest.mark.parametrize("device", [CUDA])


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    """Convolutions in float32, not in the TF32 of newer GPUs."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


class Losses(list[float]):
    """The cross-entropy of each step, as a handler."""

    def attach(self, engine: SupervisedTrainer) -> None:
        engine.add_event_handler("MODEL_COMPLETED", lambda engine: self.append(float(engine.state.output["ce_loss"])))


def trained(network: nn.Module, device: str, epochs: int = 2, **options: object) -> tuple[nn.Module, list[float]]:
    """A copy of the network after a few steps on a device, back on the CPU, and the loss of each step."""
    network, losses = copy.deepcopy(network).to(device), Losses()
    # One class is brighter, so that there is something to learn.
    data = [{"image": item["image"] / 2 + 0.5 * item["label"].view(-1, 1, 1, 1), "label": item["label"]} for item in batches(3)]
    train(network, iteration(**options), data, epochs, device, optim_set_to_none=True, train_handlers=[losses])
    return network.cpu(), losses


@both
@pytest.mark.parametrize("attack_mode", ["eval", "train"])
@pytest.mark.parametrize("method", [{"kl_weight": 0}, {"mask_fraction": 0}, {"epsilon_range": (0, 0)}, {"epsilon_range": (0.03, 0.03)}])
def test_the_four_methods_train_as_on_the_cpu(device, attack_mode, method):
    # A mean instead of random pixels: generators of two devices draw different numbers.
    options = {"fill": "image_mean", "attack_mode": attack_mode} | method
    torch.manual_seed(0)
    start = TinyNet(dropout=0.0)
    here, _ = trained(start, "cpu", **options)
    there, _ = trained(start, device, **options)
    for (key, a), b in zip(here.named_parameters(), there.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4, msg=key)


@both
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(device, precision):
    torch.manual_seed(0)
    _, losses = trained(TinyNet(dropout=0.0), device, epochs=25, precision=precision)
    assert all(map(math.isfinite, losses))
    assert losses[-1] < 0.5 * losses[0]


@both
def test_maps_are_those_of_the_cpu(device):
    network, image = randomized(build_network("resnet18")).eval(), torch.rand(2, 1, 64, 64)
    for draw in (fullgrad_map, grad_cam):
        here, there = draw(network, image), draw(network.to(device), image.to(device)).cpu()
        network.cpu()
        torch.testing.assert_close(here, there, rtol=1e-3, atol=1e-3 * float(here.max()))


@pytest.mark.slow
def test_the_literal_training_in_float16_goes_on_after_a_stop(few, tmp_path):
    """On the GPU where there is one."""
    given = {"image_size": 32, "batch_size": 4, "manifest": few, "dataset_dir": few.parent, "output_dir": tmp_path / "o"}
    given |= {"precision": "fp16", "review_interval": 0, "external_manifests": "[]"}
    command = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", "bundles/sga/train.json"]
    command += [part for key, value in given.items() for part in (f"--{key}", str(value))]
    for more in (["--max_epochs", "1"], ["--max_epochs", "2", "--resume", "true"]):
        result = warm.run([*command, *more], ROOT)
        assert result.returncode == 0, result.stderr[-2000:]
    assert json.loads((tmp_path / "o/run.json").read_text())["identity"]["settings"]["precision"] == "fp16"
    assert list(pd.read_csv(tmp_path / "o/results.csv")["set"]) == ["internal (validation)", "internal"]
    weights = torch.load(tmp_path / "o/model.pt", weights_only=True)
    assert all(value.dtype != torch.float16 and bool(value.isfinite().all()) for value in weights.values())


@gpu
def test_an_iteration_waits_for_the_gpu_once(device):
    facts = benchmark_engine(Machine(image_size=32, batch_size=4, device=device, rounds=1)).facts
    (waits,) = (fact for fact in facts if fact.name.startswith("waits"))
    assert waits.value <= 1


@gpu
def test_a_bundle_gives_the_scores_of_the_cpu(device, bundle, phantom_dir, tmp_path):
    scores = []
    for where in ("cpu", device):
        out: Path = tmp_path / where
        command = ["evaluate", str(bundle), "--manifest", str(phantom_dir / "harbor.csv"), "--dataset-dir", str(phantom_dir)]
        result = warm.run([sys.executable, "-m", "sga_monai", *command, "--output-dir", str(out), "--device", where], ROOT)
        assert result.returncode == 0, result.stderr[-2000:]
        scores.append(pd.read_csv(out / "predictions.csv")["score"])
    assert (scores[0] - scores[1]).abs().max() < 1e-3 * scores[0].abs().max()
