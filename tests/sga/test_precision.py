from __future__ import annotations

import copy

import pytest
import torch
from conftest import TinyNet, batches, iteration, train
from torch import nn

from sga_monai.core.errors import InputError, NumericError
from sga_monai.model.modes import autocast
from sga_monai.sga.precision import GradientScale
from sga_monai.sga.steps import input_gradient

CPU = torch.device("cpu")


class Faint(nn.Module):
    """A network whose gradient of the image is about 1e-9, less than float16 has."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(1e-3 * torch.randn(144, 8, generator=draw))
        self.second = nn.Parameter(1e-6 * torch.randn(8, 2, generator=draw))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.flatten(1) @ self.first @ self.second


def test_faint_gradients_do_not_vanish():
    network, (batch,) = Faint(), batches(1)
    exact = input_gradient(network, batch["image"], batch["label"])
    with autocast(CPU, "fp16"):
        plain = input_gradient(network, batch["image"], batch["label"])
        scaled = input_gradient(GradientScale("fp16").network(network), batch["image"], batch["label"])
    assert 0 < float(exact.abs().max()) < 1e-7
    assert float((plain == 0).float().mean()) > 0.9
    assert torch.nn.functional.cosine_similarity(scaled.flatten(), exact.flatten(), dim=0) > 0.999
    torch.testing.assert_close(scaled.norm(), exact.norm(), rtol=0.02, atol=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_have_no_scale(precision):
    scale, network = GradientScale(precision), TinyNet()
    assert scale.network(network) is network
    assert not scale.can_fall
    assert scale.state_dict() == {}
    with pytest.raises(InputError, match="precision must be one of fp32, bf16, fp16"):
        GradientScale("half")


@pytest.mark.parametrize("options", [{}, {"attack_mode": "train"}, {"kl_weight": 0}, {"attack": "kl"}])
def test_a_training_is_near_that_in_float32(options):
    half, full = TinyNet(dropout=0.0), TinyNet(dropout=0.0)
    full.load_state_dict(half.state_dict())
    start = copy.deepcopy(half.state_dict())
    # What is masked, and where FGSM goes, changes with the last bits: random pixels are masked, and the attack is weak.
    fixed = {"saliency_order": "random", "epsilon_range": (0.001, 0.001)}
    train(half, iteration(precision="fp16", **fixed, **options), batches(2))
    train(full, iteration(**fixed, **options), batches(2))
    for (key, a), b in zip(half.named_parameters(), full.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.01)
        assert not torch.equal(a, start[key])
    assert all(parameter.dtype == torch.float32 for parameter in half.parameters())


def test_a_step_that_overflows_is_left_out_and_the_scale_halved(caplog):
    network, step = TinyNet(dropout=0.0), iteration(precision="fp16")
    before = copy.deepcopy(dict(network.named_parameters()))
    step.scale.load_state_dict(torch.amp.GradScaler("cpu", init_scale=2.0**60).state_dict())
    with caplog.at_level("INFO"):
        train(network, step, batches(1), epochs=1)
    assert all(torch.equal(value, before[key]) for key, value in network.named_parameters())
    assert step.scale.state_dict()["scale"] == 2.0**59
    assert "iteration 1 was left out" in caplog.text
    train(network, step, batches(1), epochs=60)
    assert 1 < step.scale.state_dict()["scale"] < 2.0**25
    assert not torch.equal(network.fc.weight, before["fc.weight"])


@pytest.mark.parametrize("norm", ["inf", 2])
def test_an_attack_that_overflows_is_no_step_and_leaves_batch_norm_alone(norm):
    """The attack's loss is a sum over the mini-batch and overflows before the weights' gradients do: NaN has the sign 0."""
    network, step = TinyNet(dropout=0.0), iteration(precision="fp16", mask_fraction=0, norm=norm)
    overflow = step.attack._slope
    object.__setattr__(step.attack, "_slope", lambda *a: torch.full_like(overflow(*a), torch.nan))
    before = copy.deepcopy(dict(network.named_parameters()))
    train(network, step, batches(1), epochs=1)
    assert all(torch.equal(value, before[key]) for key, value in network.named_parameters())
    assert step.scale.state_dict()["scale"] == 2.0**11
    assert all(buffer.isfinite().all() for buffer in network.buffers())


def test_an_accumulated_step_that_is_left_out_leaves_the_weights_of_groups_alone():
    data = [batch | {"site": torch.tensor([0, 0, 1, 1])} for batch in batches(2)]
    network, step = TinyNet(dropout=0.0), iteration(precision="fp16", group_dro_step=0.5)
    train(network, step, data, epochs=1, accumulation_steps=2)
    before = step.state_dict()["groups"]
    slope, calls = step.attack._slope, []

    def overflow_once(*given):
        calls.append(1)
        return slope(*given) * (torch.nan if len(calls) == 1 else 1)

    object.__setattr__(step.attack, "_slope", overflow_once)
    train(network, step, data, epochs=1, accumulation_steps=2)
    assert step.state_dict()["groups"] == before
    train(network, step, data, epochs=1, accumulation_steps=2)
    assert step.state_dict()["groups"] != before


@pytest.mark.parametrize("norm", ["inf", 2])
def test_a_gradient_of_the_attack_that_is_not_finite_is_an_error_without_a_scale(norm):
    step = iteration(mask_fraction=0, norm=norm)
    object.__setattr__(step.attack, "_slope", lambda _, image, *a: torch.full_like(image, torch.inf))
    with pytest.raises(NumericError, match="the perturbation is NaN or infinite"):
        train(TinyNet(), step, batches(1))


def test_what_is_not_finite_by_itself_is_an_error():
    network, step = TinyNet(dropout=0.0), iteration(precision="fp16")
    nn.init.constant_(network.fc.weight, torch.nan)
    with pytest.raises(NumericError, match="is NaN or infinite"):
        train(network, step, batches(1), epochs=20)
    assert step.scale.state_dict()["scale"] <= 1


@pytest.mark.parametrize("used", [False, True])
def test_the_scale_is_restored(used):
    straight, halves = TinyNet(dropout=0.0), TinyNet(dropout=0.0)
    halves.load_state_dict(straight.state_dict())
    step = iteration(precision="fp16")
    train(straight, step, batches(3), epochs=1)
    saved = step.state_dict()
    again = iteration(precision="fp16")
    if used:
        train(halves, again, batches(1), epochs=1)
    again.load_state_dict(saved)
    assert again.state_dict() == saved
    assert saved["scale"]["_growth_tracker"] == 3


def test_a_checkpoint_from_before_the_scale_is_taken():
    step = iteration(precision="fp16")
    step.load_state_dict({"groups": {}})
    assert step.state_dict() == {"groups": {}, "scale": {}}


def test_accumulated_gradients_are_unscaled_once():
    large = batches(1, batch=8)
    small = [{key: value[i : i + 2] for key, value in large[0].items()} for i in range(0, 8, 2)]
    one = TinyNet(False, 0.0)
    many = copy.deepcopy(one)
    options = {"mask_fraction": 0, "epsilon_range": (0.001, 0.001), "precision": "fp16"}
    train(one, iteration(**options), large, epochs=2)
    train(many, iteration(**options), small, epochs=2, accumulation_steps=4)
    for a, b in zip(one.parameters(), many.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0.02, atol=0.005)
