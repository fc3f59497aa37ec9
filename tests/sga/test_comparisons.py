from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from conftest import LinearNet, TinyNet, batches, equal, iteration, train

from sga_monai.core.errors import InputError
from sga_monai.sga.comparisons import BORDER, CORNER, GroupWeights, border_and_marker, mixup
from sga_monai.sga.options import Attack
from sga_monai.sga.steps import kl_divergence


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_mixup_mixes_images_and_labels_by_the_same_weight():
    image = torch.arange(6.0).view(6, 1, 1, 1) / 5
    label = torch.tensor([0, 0, 0, 1, 1, 1])
    state = torch.get_rng_state()
    mixed, target = mixup(image, label, generator(3))
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close(target.sum(1), torch.ones(6))
    # Linear in both: what was done to the class must have been done to any image that is a function of the class.
    as_image, _ = mixup(label.float().view(6, 1, 1, 1), label, generator(3))
    torch.testing.assert_close(as_image.flatten(), target[:, 1])
    assert 0 <= float(mixed.min()) <= float(mixed.max()) <= 1
    again = mixup(image, label, generator(3))
    assert torch.equal(mixed, again[0])


def test_border_and_marker_cuts_covers_and_keeps_the_rest():
    # A ramp, so that the place a pixel comes from can be read off its value.
    ramp = torch.linspace(0, 1, 100).view(1, 1, 1, 100).expand(400, 1, 100, 100).clone()
    state = torch.get_rng_state()
    out, label = border_and_marker(ramp, torch.zeros(400), generator())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(label, torch.zeros(400))
    # The lower half is never covered: a monotone piece of the ramp, mirrored in about half of the images.
    row = out[:, 0, 80]
    mirrored = row[:, 0] > row[:, -1]
    assert 0.4 < float(mirrored.float().mean()) < 0.6
    low, high = row.amin(1), row.amax(1)
    assert float(low.max()) <= BORDER + 0.02
    assert float(high.min()) >= 1 - BORDER - 0.02
    steps = row.diff(dim=1) * torch.where(mirrored, -1.0, 1.0)[:, None]
    assert float(steps.min()) >= -1e-6
    # A covered corner is the image's mean; no cover reaches further than its share of a side.
    mean = out[:, 0, 60:].mean((1, 2))
    corner = (out[:, 0, 0, 0] - mean).abs() < 0.02
    assert 0.3 < float(corner.float().mean()) < 0.6
    torch.testing.assert_close(out[:, 0, math.ceil(100 * CORNER) + 1], out[:, 0, 80])


def test_group_weights_by_hand():
    groups = GroupWeights(0.5)
    losses = torch.tensor([1.0, 3.0, 2.0], requires_grad=True)
    loss = groups.loss(losses, [0, 0, 1], torch.tensor([0, 0, 1]))
    # Two groups, means 2 and 2: weights stay equal.
    assert float(loss.detach()) == pytest.approx(2.0)
    loss = groups.loss(torch.tensor([4.0, 0.0]), torch.tensor([0, 1]), torch.tensor([0, 1]))
    grown = math.exp(0.5 * 4)
    assert groups.state_dict() == pytest.approx({"0-0": grown / (grown + 1), "1-1": 1 / (grown + 1)})
    assert float(loss) == pytest.approx(4 * grown / (grown + 1))
    huge = GroupWeights(100.0)
    assert math.isfinite(float(huge.loss(torch.tensor([90.0, 1.0]), torch.tensor([0, 1]), torch.tensor([0, 1]))))
    assert huge.state_dict() == pytest.approx({"0-0": 1.0, "1-1": 0.0})
    # A step in 16 bits that overflows is not taken, and the weights are not those of its losses.
    before = groups.state_dict()
    assert not math.isfinite(float(groups.loss(torch.tensor([math.inf, 1.0]), torch.tensor([0, 1]), torch.tensor([0, 1]))))
    assert groups.state_dict() == before
    other = GroupWeights(0.5)
    other.load_state_dict(groups.state_dict())
    assert other.state_dict() == groups.state_dict()


def test_a_group_enters_with_the_mean_weight_and_one_that_is_absent_keeps_its_own():
    groups = GroupWeights(0.5)
    groups.load_state_dict({"0-0": 0.9, "1-1": 0.1})
    loss = groups.loss(torch.tensor([1.0, 3.0, 2.0]), [0, 0, 2], torch.tensor([0, 0, 1]))
    grown = {"0-0": 0.9 * math.exp(0.5 * 2), "1-1": 0.1, "2-1": 0.5 * math.exp(0.5 * 2)}
    expected = {key: value / sum(grown.values()) for key, value in grown.items()}
    assert groups.state_dict() == pytest.approx(expected)
    assert float(loss) == pytest.approx(2 * expected["0-0"] + 2 * expected["2-1"])


def test_group_dro_trains_and_its_weights_are_state():
    data = [batch | {"site": torch.tensor([0, 0, 1, 1])} for batch in batches()]
    step = iteration(kl_weight=0, group_dro_step=0.1)
    train(TinyNet(), step, data)
    weights = step.state_dict()["groups"]
    assert set(weights) == {"0-0", "0-1", "1-0", "1-1"}
    assert sum(weights.values()) == pytest.approx(1)
    with pytest.raises(InputError, match="needs the site"):
        train(TinyNet(), iteration(kl_weight=0, group_dro_step=0.1), batches())


def test_random_mask_is_exact_and_blind_to_the_network():
    data = batches(1)[0]
    step = iteration(mask_fraction=0.25, saliency_order="random", epsilon_range=[0, 0])
    masks = [step.views(network, data["image"], data["label"], generator(1)).mask for network in (TinyNet(), TinyNet())]
    assert torch.equal(*masks)
    assert (masks[0].sum((1, 2, 3)) == 36).all()


@pytest.mark.parametrize("attack_steps", [1, 10])
def test_noise_has_the_size_of_the_attack_and_not_its_direction(attack_steps):
    network, image, label = LinearNet(torch.full((1, 1, 12, 12), 0.01)), torch.full((2, 1, 12, 12), 0.5), torch.tensor([1, 1])
    epsilon = torch.full((1, 1, 1, 1), 0.03)
    for norm in (math.inf, 2):
        attack, noise = (
            Attack(norm=norm, attack=kind, attack_steps=attack_steps)(network, image, label, epsilon, generator=generator()) - image
            for kind in ("ce", "noise")
        )
        torch.testing.assert_close(*(d.flatten(1).norm(2, dim=1) for d in (attack, noise)))
        assert float(attack.sign().unique()[0]) == -1
        assert abs(float(noise.sign().mean())) < 0.25


def test_trades_raises_kl_more_than_noise():
    torch.manual_seed(0)
    network, image, label = TinyNet(dropout=0).eval(), torch.rand(8, 1, 12, 12), torch.zeros(8, dtype=torch.int64)
    clean = network(image).detach()
    values = {}
    for kind in ("kl", "noise"):
        attack = Attack(attack=kind, attack_steps=5, random_start=True)
        out = attack(network, image, label, torch.full((1, 1, 1, 1), 0.05), generator=generator(), clean_logits=clean)
        values[kind] = float(kl_divergence(clean, network(out)))
        assert float((out - image).abs().max()) <= 0.05 + 1e-6
    assert values["kl"] > 3 * values["noise"]


def test_adversarial_ce_is_the_loss_of_the_attacked_image_alone():
    torch.manual_seed(0)
    network, data = TinyNet(batch_norm=False, dropout=0), batches(1)
    before = copy.deepcopy(network)
    step = iteration(mask_fraction=0, objective="adversarial_ce", epsilon_range=[0.05, 0.05])
    trainer = train(network, step, data, epochs=1)
    d = Attack()(before, data[0]["image"], data[0]["label"], torch.full((1, 1, 1, 1), 0.05))
    torch.testing.assert_close(trainer.state.output["loss"].detach(), F.cross_entropy(before(d), data[0]["label"]).detach())


def test_augmented_training_repeats():
    for options in ({"augmentation": "mixup"}, {"augmentation": "border_and_marker"}):
        states = []
        for _ in range(2):
            torch.manual_seed(0)
            network = TinyNet(dropout=0)
            train(network, iteration(kl_weight=0, **options), batches())
            states.append(network.state_dict())
        assert equal(*states)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attack": "kl", "mask_fraction": 0}, "random_start"),
        ({"augmentation": "mixup"}, "set kl_weight to 0"),
        ({"augmentation": "standard", "value_range": (0, 4)}, r"standard is of images in \[0, 1\]"),
        ({"augmentation": "cutout"}, "augmentation must be one of None, mixup"),
        ({"group_dro_step": -1}, "group_dro_step"),
        ({"group_dro_step": 0.1, "objective": "adversarial_ce"}, "weighs the CE on X"),
        ({"objective": "ce"}, "objective must be one of"),
        ({"objective": "adversarial_ce", "kl_weight": 0}, "needs an attack"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        iteration(**arguments)
