from __future__ import annotations

import pytest
import torch
from conftest import TinyNet, batches, iteration
from monai.engines import SupervisedTrainer
from torch import nn

from sga_monai.benchmark import count_flops
from sga_monai.core.errors import InputError
from sga_monai.model.network import CXRResNet18
from sga_monai.sga.options import Attack, Domain, Masking
from sga_monai.sga.steps import input_gradient


class ThreeConvolutions(nn.Module):
    """Convolutions of equal cost, so that passes can be counted by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layers(x)
        return torch.stack([x.mean((1, 2, 3)), x.square().mean((1, 2, 3))], dim=1)


def flops(network: nn.Module, channels: int, size: int, **options) -> int:
    batch = [{"image": torch.rand(2, channels, size, size), "label": torch.tensor([0, 1])}]
    trainer = SupervisedTrainer(
        torch.device("cpu"), 1, batch, network, torch.optim.SGD(network.parameters(), lr=0.01), nn.CrossEntropyLoss(),
        iteration_update=iteration(**options), decollate=False,
    )  # fmt: skip
    return count_flops(trainer.run)


REUSE = {"saliency_target": "difference", "gradient_reuse": True}


def test_flops_are_exact():
    """F is a forward pass of n equal layers; gradients of all inputs or of all weights cost F each, the first layer's input f."""
    network, n = ThreeConvolutions(), 3
    layer = 2 * 2 * 4 * 4 * 9 * 16 * 16
    forward = n * layer
    natural = flops(network, 4, 16, kl_weight=0)
    assert natural == 3 * forward - layer
    # Saliency and attack: a forward pass and the gradient of its input, 2 F each; the last backward pass covers both branches.
    branch = 3 * forward - layer
    assert flops(network, 4, 16) == 4 * forward + 2 * branch
    assert flops(network, 4, 16, mask_fraction=0) == flops(network, 4, 16, epsilon_range=(0, 0)) == 2 * forward + 2 * branch
    assert flops(network, 4, 16, **REUSE) == 2 * forward + 2 * branch
    # In train mode saliency shares f(X) with the loss, whose backward pass then also reaches the image.
    assert flops(network, 4, 16, attack_mode="train") == 4 * forward + 2 * branch - forward + layer == 9 * forward - layer
    for options in ({"mask_fraction": 0}, {"epsilon_range": (0, 0)}, REUSE):
        assert flops(network, 4, 16, attack_mode="train", **options) == 7 * forward - layer


def test_ratios_of_the_papers_network():
    network = CXRResNet18()
    natural = flops(network, 1, 64, kl_weight=0)
    methods = ({}, {"mask_fraction": 0}, {"epsilon_range": (0, 0)}, REUSE)
    ratios = [flops(network, 1, 64, **options) / natural for options in methods]
    assert ratios == pytest.approx([3.37, 2.69, 2.69, 2.69], abs=0.03)
    ratios = [flops(network, 1, 64, attack_mode="train", **options) / natural for options in methods]
    assert ratios == pytest.approx([3.03, 2.36, 2.36, 2.36], abs=0.03)


def test_where_nothing_is_masked_the_direction_is_that_of_fgsm():
    torch.manual_seed(0)
    network, (batch,) = TinyNet(dropout=0).eval(), batches(1)
    image, label = batch["image"], batch["label"]
    epsilon = torch.full((1, 1, 1, 1), 0.03)
    gradient = input_gradient(network, image, label, "difference")
    reused = Attack()(network, image, label, epsilon, Domain(), slope=-gradient)
    assert torch.equal(reused, Attack()(network, image, label, epsilon))


def test_the_difference_is_of_the_two_logits():
    network, (batch,) = TinyNet(dropout=0).eval(), batches(1)
    image, label = batch["image"], batch["label"]
    gradients = [input_gradient(network, image, torch.full_like(label, value)) for value in (0, 1)]
    sign = torch.where(label == 1, 1.0, -1.0).view(-1, 1, 1, 1)
    torch.testing.assert_close(input_gradient(network, image, label, "difference"), sign * (gradients[1] - gradients[0]))


def test_it_masks_like_the_plain_step():
    network, (batch,) = TinyNet(dropout=0).eval(), batches(1)
    given = (network, batch["image"], batch["label"], torch.Generator().manual_seed(0))
    plain = iteration(saliency_target="difference").views(*given)
    reused = iteration(**REUSE).views(*given[:3], torch.Generator().manual_seed(0))
    assert torch.equal(plain.mask, reused.mask)
    assert torch.equal(plain.masked, Masking(saliency_target="difference")(*given[:3], Domain(), torch.Generator().manual_seed(0))[2])
    agree = (plain.adversarial == reused.adversarial).float().mean()
    assert 0.5 < float(agree) <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_reuse": True},
        REUSE | {"attack_steps": 2},
        REUSE | {"random_start": True},
        REUSE | {"mask_fraction": 0},
        REUSE | {"saliency_order": "random"},
        REUSE | {"attack": "noise"},
    ],
)
def test_what_does_not_go_together_is_refused(options):
    with pytest.raises(InputError, match="gradient_reuse needs saliency_target difference"):
        iteration(**options)
