from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from conftest import LinearNet, TinyNet, batches, iteration, train
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import SlidingWindowInferer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from sga_monai.core.errors import InputError, NumericError
from sga_monai.model.modes import frozen_statistics
from sga_monai.sga import lp_ball
from sga_monai.sga.engine import Step
from sga_monai.sga.options import FILLS, Attack, Domain
from sga_monai.sga.steps import border, fill_masked, input_gradient, kl_divergence, lowest_mask, mask_size


def test_mask_and_fgsm_on_a_linear_net_by_hand():
    weight = torch.tensor([[4.0, -3.0], [0.0, 1.0]])
    network = LinearNet(weight)
    image = torch.tensor([[[[0.2, 0.98], [0.5, 0.0]]]])
    label = torch.tensor([1])
    gradient = input_gradient(network, image, label)
    assert torch.equal(gradient[0, 0], weight)
    mask = lowest_mask(gradient, 0.5)
    assert mask[0, 0].tolist() == [[False, True], [True, False]]
    assert lowest_mask(gradient, 0.5, "magnitude")[0, 0].tolist() == [[False, False], [True, True]]
    # CE of label 1 falls with w . x, so FGSM goes against w, and stops at the ends of [0, 1].
    adversarial = Attack()(network, image, label, torch.full((1, 1, 1, 1), 0.05))
    torch.testing.assert_close(adversarial[0, 0], torch.tensor([[0.15, 1.0], [0.5, 0.0]]))
    assert network.weight.grad is None


def test_saliency_target_predicted():
    network = LinearNet(torch.tensor([[1.0, 2.0]]))
    image = torch.ones(1, 1, 1, 2)
    assert torch.equal(input_gradient(network, image, torch.tensor([0])), torch.zeros_like(image))
    assert torch.equal(input_gradient(network, image, torch.tensor([0]), "predicted")[0, 0, 0], torch.tensor([1.0, 2.0]))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 3),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    fraction=st.floats(0, 0.99),
    fill=st.sampled_from(FILLS),
)
def test_only_the_lowest_pixels_change(seed, batch, height, width, fraction, fill):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 1, height, width, generator=generator) * 0.5 + 0.2
    gradient = torch.randint(-3, 4, image.shape, generator=generator).float()
    mask = lowest_mask(gradient, fraction)
    n = math.floor(round(fraction * height * width, 6))
    assert mask.flatten(1).sum(1).tolist() == [n] * batch
    for values, chosen in zip(gradient.flatten(1), mask.flatten(1), strict=True):
        assert n == 0 or n == height * width or values[chosen].max() <= values[~chosen].min()
    masked = fill_masked(image, mask, fill, generator)
    assert torch.equal(masked[~mask], image[~mask])
    if fill == "image_range":
        assert (masked.amin((2, 3)) >= image.amin((2, 3))).all()
        assert (masked.amax((2, 3)) <= image.amax((2, 3))).all()


def test_masked_pixels_are_drawn_from_the_whole_range_or_are_the_mean():
    image, everywhere = 0.2 + 0.5 * torch.rand((2, 3, 8, 8), generator=torch.Generator().manual_seed(1)), torch.ones(2, 1, 8, 8) > 0
    mean = image.flatten(2).mean(2)[:, :, None, None]
    torch.testing.assert_close(fill_masked(image, everywhere, "image_mean"), mean.expand_as(image))
    own = image.flatten(2).amin(2)[:, :, None, None], image.flatten(2).amax(2)[:, :, None, None]
    uniform = torch.rand(image.shape, generator=torch.Generator().manual_seed(2))
    for fill, (low, high) in (("image_range", own), ("value_range", (-1.0, 3.0))):
        filled = fill_masked(image, everywhere, fill, torch.Generator().manual_seed(2), (-1.0, 3.0))
        torch.testing.assert_close(filled, low + uniform * (high - low))


def test_robustness_is_measured_by_the_strongest_attack_of_the_range():
    attack = Attack((0.01, 0.04), "sample", norm=2, attack="kl", random_start=True)
    assert attack.strongest(7) == Attack((0.04, 0.04), "sample", norm=2, attack="ce", attack_steps=7)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), levels=st.integers(1, 40), fraction=st.floats(0, 0.99), border_width=st.sampled_from([0.2, 0.5]))
def test_masked_pixels_are_the_first_of_a_stable_sort(seed, levels, fraction, border_width):
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randint(-levels, levels, (2, 1, 9, 11), generator=generator).float() * 0.1
    gradient[0, 0, 0, :2] = torch.tensor([0.0, -0.0])
    region = border(gradient, border_width) if border_width < 0.5 else None
    mask = lowest_mask(gradient, fraction, region=region)
    value = gradient if region is None else gradient.masked_fill(~region, math.inf)
    order = value.flatten(1).argsort(dim=1, stable=True)[:, : mask_size(gradient, fraction, region)]
    assert torch.equal(mask.flatten(1), torch.zeros(2, 99, dtype=torch.bool).scatter_(1, order, True))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_waits_for_the_device_once(precision, monkeypatch):
    class Reads(TorchDispatchMode):
        """Counts what brings a value of a tensor to the host, on a GPU a wait for all that was queued before."""

        total = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.total += function._overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.nonzero)
            return function(*args, **(kwargs or {}))

    transfers = []
    settle = Step.settle
    monkeypatch.setattr(Step, "settle", lambda self, *given: transfers.append(settle(self, *given)) or True)
    trainer = train(TinyNet(), iteration(precision=precision), batches(1), epochs=1)
    # Beyond the first iteration, where the images are compared with value_range.
    trainer.state.iteration, trainer.state.epoch_length = 2, 4
    transfers.clear()
    with Reads() as reads:
        trainer._process_function(trainer, batches(1)[0])
    assert (reads.total, len(transfers)) == (0, 1)


def test_a_sum_that_overflows_is_no_nan():
    trainer = train(TinyNet(), iteration(), batches(1), epochs=1)
    step = Step(trainer, batches(1)[0], Domain())
    step.check_finite(saliency=torch.full((2, 1, 2, 2), 2e38))
    step.settle()
    step.check_finite(saliency=torch.full((2, 1, 2, 2), math.inf))
    with pytest.raises(NumericError, match="the saliency is NaN or infinite"):
        step.settle()


def test_ties_are_masked_in_raster_order():
    mask = lowest_mask(torch.zeros(1, 1, 4, 5), 0.29)
    assert mask.flatten().nonzero().flatten().tolist() == [0, 1, 2, 3, 4]


def test_floor_is_the_one_a_reader_expects():
    assert int(lowest_mask(torch.zeros(1, 1, 10, 10), 0.29).sum()) == 29


def test_kl_direction():
    p, q = torch.tensor([0.9, 0.1]), torch.tensor([0.5, 0.5])
    expected = 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5)
    other = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    value = float(kl_divergence(p.log().repeat(3, 1), q.log().repeat(3, 1)))
    assert value == pytest.approx(expected, rel=1e-6)
    assert abs(value - other) > 0.1


@pytest.mark.parametrize("norm", ["inf", 0, 1, 2, 3.5])
@pytest.mark.parametrize("attack_steps", [1, 3])
@pytest.mark.parametrize("random_start", [False, True])
def test_adversarial_stays_in_ball_and_box(norm, attack_steps, random_start):
    network = TinyNet().eval()
    image, label = batches(1)[0].values()
    image = (image * 1.4 - 0.2).clamp(0, 1)
    step = iteration(mask_fraction=0.2, epsilon_range=(0.03, 0.03), norm=norm, attack_steps=attack_steps, random_start=random_start)
    views = step.views(network, image, label, torch.Generator().manual_seed(0))
    d = (views.adversarial - views.masked).double()
    radius = float(lp_ball.radius(torch.tensor(0.03), step.attack.norm, image[0].numel()))
    assert float(lp_ball.lp_norm(d, step.attack.norm).max()) <= radius * (1 + 1e-5) + 1e-6
    assert float(views.adversarial.min()) >= 0
    assert float(views.adversarial.max()) <= 1
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(network(getattr(views, key)), label) for key in ("masked", "adversarial")]
    assert losses[1] > losses[0]


class Watched(LinearNet):
    """Keeps the images that it is given."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = [*getattr(self, "seen", []), x.detach()]
        return super().forward(x)


def test_the_lengths_of_the_attacks_steps():
    """PGD of four steps: 2.5 / 4 of the radius each; after a random start one step of 1.25 radii (here downhill for label 1)."""
    network, image = Watched(torch.full((1, 1, 40, 40), 1e-3)), torch.full((1, 1, 40, 40), 0.5)
    given = (network, image, torch.tensor([1]), torch.full((1, 1, 1, 1), 0.08))
    out = Attack(attack_steps=4)(*given)
    moved = [0.5 - float(seen.mean()) for seen in network.seen]
    assert moved == pytest.approx([0.0, 0.05, 0.08, 0.08], abs=1e-6)
    torch.testing.assert_close(out, image - 0.08)
    d = Attack(random_start=True)(*given, generator=torch.Generator().manual_seed(0)) - image
    start = network.seen[-1] - image
    torch.testing.assert_close(d, (start - 0.1).clamp(min=-0.08))
    assert float(start.min()) < -0.07 < 0.07 < float(start.max())


class Scaled(nn.Module):
    """A network whose images have values from ``low`` to ``high``."""

    def __init__(self, network: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.network, self.low, self.high = network, low, high

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network((x - self.low) / (self.high - self.low))


@pytest.mark.parametrize("norm", ["inf", 0, 1, 2, 3.5])
@pytest.mark.parametrize("value_range", [(0, 4), (-1, 3)])
@pytest.mark.parametrize("random_start", [False, True])
def test_value_range_is_only_a_unit(norm, value_range, random_start):
    """Its width scales the radius; where it begins changes nothing."""
    network = TinyNet().eval()
    image, label = batches(1)[0].values()
    # Values that keep all their bits in both units.
    image = (256 * image).round() / 256
    views = []
    for low, high in ((0, 1), value_range):
        options = {"fill": "value_range", "norm": norm, "random_start": random_start, "attack_steps": 1 + random_start}
        step = iteration(mask_fraction=0.2, epsilon_range=(0.03, 0.03), value_range=(low, high), **options)
        scaled = Scaled(network, low, high)
        views.append(step.views(scaled, low + (high - low) * image, label, torch.Generator().manual_seed(0)))
    assert torch.equal(views[0].epsilon, views[1].epsilon)
    low, high = value_range
    for ours, theirs in ((views[1].masked, views[0].masked), (views[1].adversarial, views[0].adversarial)):
        torch.testing.assert_close((ours - low) / (high - low), theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"epsilon_per": "sample"},
        {"fill": "value_range"},
        {"saliency_order": "random", "fill": "image_mean"},
        {"attack": "noise", "mask_fraction": 0},
        *({"random_start": True, "mask_fraction": 0, "norm": norm} for norm in ("inf", 0, 1, 2, 50)),
    ],
)
def test_every_draw_is_of_the_generator(options):
    """The global random state is restored after each step: what is drawn of it is the same in every step."""
    network, step = TinyNet().eval(), iteration(**options)
    image, label = batches(1)[0].values()
    views = []
    for state, seed in ((0, 0), (1, 0), (1, 1)):
        torch.manual_seed(state)
        views.append(step.views(network, image, label, torch.Generator().manual_seed(seed)))
    assert all(map(torch.equal, views[0], views[1]))
    assert not torch.equal(views[0].adversarial, views[2].adversarial)


def test_a_mask_of_no_pixel_is_refused():
    image, label = batches(1)[0].values()
    with pytest.raises(InputError, match="less than one pixel"):
        iteration(mask_fraction=1e-4).views(TinyNet(), image, label)


def test_border_by_hand():
    image = torch.zeros(1, 1, 5, 8)
    assert border(image, 0.25)[0, 0].int().tolist() == [[1] * 8, [1] * 8, [1, 1, 0, 0, 0, 0, 1, 1], [1] * 8, [1] * 8]
    assert border(image, 0.5).all()
    # A share of the border: floor(0.3 * 36) of the lowest, none of them inside.
    gradient = torch.ones_like(image)
    gradient[..., 2, 2:6] = -1
    mask = lowest_mask(gradient, 0.3, region=border(image, 0.25))
    assert int(mask.sum()) == 10
    assert not mask[..., 2, 2:6].any()


@pytest.mark.parametrize("norm", ["inf", 0, 1, 2, 3.5])
@pytest.mark.parametrize("attack", ["ce", "noise"])
def test_nothing_changes_inside_the_border(norm, attack):
    network = TinyNet().eval()
    image, label = batches(1)[0].values()
    step = iteration(
        mask_fraction=0.5,
        epsilon_range=(0.3, 0.3),
        norm=norm,
        attack_steps=3,
        random_start=True,
        attack=attack,
        border_width=0.2,
    )
    views = step.views(network, image, label, torch.Generator().manual_seed(0))
    region = border(image, 0.2).expand_as(image)
    assert torch.equal(views.adversarial[~region], image[~region])
    assert not torch.equal(views.adversarial[region], views.masked[region])
    d = (views.adversarial - views.masked).double()
    radius = float(lp_ball.radius(torch.tensor(0.3), step.attack.norm, int(region[0].sum())))
    assert float(lp_ball.lp_norm(d, step.attack.norm).max()) <= radius * (1 + 1e-5) + 1e-6


def test_kl_weight_zero_is_plain_training_bit_for_bit():
    data = batches()
    plain = TinyNet()
    natural = copy.deepcopy(plain)
    torch.manual_seed(1)
    train(plain, None, data)
    torch.manual_seed(1)
    trainer = train(natural, iteration(kl_weight=0), data)
    for key, value in plain.state_dict().items():
        assert torch.equal(value, natural.state_dict()[key]), key
    assert "kl_loss" not in trainer.state.output


def test_at_and_sg_limits():
    network = TinyNet()
    image, label = batches(1)[0].values()
    at = iteration(mask_fraction=0).views(network, image, label)
    assert torch.equal(at.masked, image)
    assert not at.mask.any()
    assert not torch.equal(at.adversarial, image)
    sg = iteration(epsilon_range=(0, 0)).views(network, image, label)
    assert torch.equal(sg.adversarial, sg.masked)
    assert not torch.equal(sg.masked, image)


@pytest.mark.parametrize("attack_mode", ["eval", "train"])
@pytest.mark.parametrize("fails", [False, True])
def test_saliency_and_attack_leave_no_trace(attack_mode, fails):
    network = TinyNet()
    network.conv.eval()
    network.norm.train()
    image, label = batches(1)[0].values()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    state = torch.get_rng_state()
    kept = image.clone()
    if fails:
        network.fc.register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("boom")))
    step = iteration(attack_mode=attack_mode, attack_steps=2, random_start=True)
    try:
        step.views(network, image, label, torch.Generator().manual_seed(0))
    except RuntimeError:
        assert fails
    assert all(parameter.grad is None for parameter in network.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert network.norm.track_running_stats
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(image, kept)


def test_train_mode_attack_uses_batch_statistics():
    network = TinyNet(dropout=0.0)
    network.norm.running_mean += 5
    image, label = batches(1)[0].values()
    gradients = []
    for mode in ("eval", "train"):
        with frozen_statistics(network, mode):
            gradients.append(input_gradient(network, image, label))
    assert not torch.allclose(*gradients)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"mask_fraction": 0},
        {"epsilon_range": (0, 0)},
        {"saliency_target": "predicted"},
        {"saliency_target": "difference", "gradient_reuse": True},
        {"saliency_order": "random"},
        {"attack": "kl"},
        {"attack_steps": 3, "random_start": True, "mask_fraction": 0},
        {"adversarial_statistics": "clean", "detach_clean": True},
        {"precision": "bf16"},
    ],
)
def test_one_pass_of_x_serves_all_steps_in_train_mode(options, monkeypatch):
    def views_apart(network, image, label, generator, clean):
        """Steps 1 to 3 with forward passes of their own."""
        assert clean is not None
        return views(network, image, label, generator)

    data = batches(2)
    one = TinyNet(dropout=0.0)
    own = copy.deepcopy(one)
    train(one, iteration(attack_mode="train", **options), data)
    apart = iteration(attack_mode="train", **options)
    views = apart.views
    monkeypatch.setattr(apart, "views", views_apart)
    train(own, apart, data)
    for key, value in one.state_dict().items():
        assert torch.equal(value, own.state_dict()[key]), key


def test_accumulation_equals_a_large_batch():
    large = batches(1, batch=8)
    small = [{key: value[i : i + 2] for key, value in large[0].items()} for i in range(0, 8, 2)]
    one = TinyNet(False, 0.0)
    many = copy.deepcopy(one)
    step = iteration(mask_fraction=0, epsilon_range=(0.03, 0.03))
    train(one, step, large, epochs=3)
    train(many, step, small, epochs=3, accumulation_steps=4)
    for key, value in one.state_dict().items():
        torch.testing.assert_close(value, many.state_dict()[key], rtol=1e-5, atol=1e-7)


def test_epoch_end_closes_an_accumulated_step():
    network = TinyNet(False, 0.0)
    before = copy.deepcopy(network.state_dict())
    train(network, iteration(), batches(3), epochs=1, accumulation_steps=4)
    assert any(not torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_events_and_output():
    fired = []
    data = batches(1)
    data[0]["image"] = MetaTensor(data[0]["image"])
    network = TinyNet()
    trainer = SupervisedTrainer(
        torch.device("cpu"),
        1,
        data,
        network,
        torch.optim.SGD(network.parameters(), lr=0.1),
        nn.CrossEntropyLoss(),
        iteration_update=iteration(kl_weight=2.0),
        decollate=False,
    )
    for event in (
        IterationEvents.FORWARD_COMPLETED,
        IterationEvents.LOSS_COMPLETED,
        IterationEvents.BACKWARD_COMPLETED,
        IterationEvents.MODEL_COMPLETED,
    ):
        trainer.add_event_handler(event, lambda _, event=event: fired.append(event.name))
    trainer.run()
    assert fired == ["FORWARD_COMPLETED", "LOSS_COMPLETED", "BACKWARD_COMPLETED", "MODEL_COMPLETED"]
    output = trainer.state.output
    assert type(output["image"]) is torch.Tensor
    assert float(output["loss"]) == pytest.approx(float(output["ce_loss"] + 2 * output["kl_loss"]), rel=1e-6)
    assert 0.01 <= float(output["epsilon"]) <= 0.05
    assert 0 <= float(output["adversarial_accuracy"]) <= 1


def test_runs_repeat_and_draws_follow_seed_and_iteration():
    start = TinyNet(dropout=0.0)
    results = []
    for seed in (0, 0, 1):
        network = copy.deepcopy(start)
        train(network, iteration(seed=seed), batches())
        results.append(network.state_dict())
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())
    assert any(not torch.equal(value, results[2][key]) for key, value in results[0].items())


def test_draws_are_a_function_of_seed_iteration_and_rank():
    trainer = train(TinyNet(), iteration(kl_weight=0), batches(1), epochs=1)
    step = Step(trainer, batches(1)[0], Domain())

    def draw(seed: int, number: int, rank: int) -> int:
        trainer.state.iteration, trainer.state.rank = number, rank
        return int(torch.randint(2**60, (1,), generator=step.generator(seed)))

    drawn = {given: draw(*given) for given in itertools.product((0, 1), (1, 2), (0, 1))}
    assert len(set(drawn.values())) == 8
    assert all(draw(*given) == value for given, value in drawn.items())


def test_epsilon_per_sample():
    image, label = batches(1)[0].values()
    step = iteration(epsilon_per="sample")
    epsilon = step.views(TinyNet(), image, label, torch.Generator().manual_seed(0)).epsilon
    assert epsilon.shape == (4, 1, 1, 1)
    assert len(epsilon.unique()) == 4


def test_detach_clean_changes_gradients_only():
    start = TinyNet(False, 0.0)
    states = []
    for detach_clean in (False, True):
        network = copy.deepcopy(start)
        train(network, iteration(detach_clean=detach_clean, kl_weight=50.0, epsilon_range=(0.5, 0.5)), batches(1), epochs=1)
        states.append(network.fc.weight.detach())
    assert not torch.equal(*states)


def test_bf16_trains_in_float32_parameters():
    network = TinyNet()
    trainer = train(network, iteration(precision="bf16"), batches())
    assert math.isfinite(float(trainer.state.output["loss"]))
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_fraction": 1.0}, "mask_fraction"),
        ({"mask_fraction": -0.1}, "mask_fraction"),
        ({"kl_weight": -1}, "kl_weight"),
        ({"kl_weight": float("nan")}, "kl_weight"),
        ({"epsilon_range": (0.05, 0.01)}, "epsilon_range"),
        ({"epsilon_range": (0.01,)}, "epsilon_range"),
        ({"attack_steps": 0}, "attack_steps"),
        ({"norm": 0.5}, "norm"),
        ({"fill": "noise"}, "fill"),
        ({"precision": "fp8"}, "precision"),
        ({"saliency_order": "abs"}, "saliency_order"),
        ({"mask_fraction": "abc"}, "mask_fraction"),
        ({"epsilon_range": 0.03}, "epsilon_range"),
        ({"random_start": "maybe"}, "random_start"),
        ({"seed": -1}, "seed"),
        ({"border_width": 0}, "border_width"),
        ({"border_width": 0.6}, "border_width"),
        ({"value_range": (1, 0)}, "value_range"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        iteration(**arguments)


def test_refuses_images_outside_the_value_range():
    data = batches(1)
    data[0]["image"] = data[0]["image"] * 255
    with pytest.raises(ValueError, match="outside value_range"):
        train(TinyNet(), iteration(), data)


def test_refuses_amp():
    with pytest.raises(ValueError, match="precision"):
        train(TinyNet(), iteration(), batches(1), amp=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compile": True}, "leave compile off"),
        ({"inferer": SlidingWindowInferer((8, 8))}, "must be SimpleInferer"),
        ({"prepare_batch": lambda batch, *_, **__: (batch["image"], batch["label"], [], {})}, "image and label only"),
    ],
)
def test_what_a_step_would_ignore_is_refused(options, message):
    trainer = train(TinyNet(), iteration(kl_weight=0), batches(1), epochs=1)
    for name, value in options.items():
        setattr(trainer, name, value)
    with pytest.raises(InputError, match=message):
        Step(trainer, batches(1)[0], Domain())
