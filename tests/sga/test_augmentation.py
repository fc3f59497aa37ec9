from __future__ import annotations

import math

import pytest
import torch
from conftest import TinyNet, batches, equal, iteration, train
from monai.transforms import Affine, GaussianSmooth

from sga_monai.sga.augmentation import (
    BLUR,
    BLUR_SHARE,
    BRIGHTNESS,
    CONTRAST,
    GAMMA,
    ROTATION,
    SCALE,
    SHIFT,
    Parameters,
    _blur,
    draw_parameters,
    standard,
    warp,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc(n: int, size: int = 64) -> torch.Tensor:
    """Images of a bright disc that lies in the upper left quarter."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return (((x - size * 0.4) ** 2 + (y - size * 0.4) ** 2) < (size / 8) ** 2).float().expand(n, 1, size, size).clone()


def test_draws_follow_the_generator_alone_and_differ_by_sample():
    image, label, state = torch.rand(6, 1, 32, 32, generator=generator(9)), torch.arange(6), torch.get_rng_state()
    first, same, other = (standard(image, label, generator(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
    repeated = standard(image[:1].expand(6, -1, -1, -1), label, generator(1))[0]
    assert all(not torch.equal(repeated[0], one) for one in repeated[1:])


def test_labels_and_range_stay_and_masks_follow():
    image, label = disc(200), torch.arange(200) % 2
    augmented, same = standard(image, label, generator())
    assert same is label
    assert 0 <= float(augmented.min()) <= float(augmented.max()) <= 1
    # Where the mask goes, the disc goes: the brightest tenth lies in the warped mask.
    parameters = draw_parameters(image, generator())
    mask = warp(image, parameters, "nearest").bool()
    for one, moved in zip(augmented, mask, strict=True):
        inside, outside = one[moved].mean(), one[~moved].mean()
        assert inside > outside + 0.2


def test_no_flip_and_the_stated_limits():
    theta = draw_parameters(torch.zeros(4000, 1, 8, 8), generator()).theta
    rotation = torch.rad2deg(torch.atan2(theta[:, 1, 0], theta[:, 0, 0]))
    scale = theta[:, 0, 0].square().add(theta[:, 1, 0].square()).sqrt()
    assert float(rotation.abs().max()) <= ROTATION
    assert float(rotation.abs().max()) > 0.95 * ROTATION
    assert 1 / (1 + SCALE) - 1e-6 <= float(scale.min()) < float(scale.max()) <= 1 + SCALE + 1e-6
    assert float(theta[:, :, 2].abs().max()) <= 2 * SHIFT
    assert float(torch.linalg.det(theta[:, :, :2]).min()) > 0


def test_parameters_fill_their_ranges_evenly_and_each_has_a_draw_of_its_own():
    image = torch.zeros(4000, 1, 112, 224)
    drawn = draw_parameters(image, generator())
    scale = drawn.theta[:, 0, 0].square().add((drawn.theta[:, 1, 0] / 2).square()).sqrt()
    blurred = drawn.blur.flatten() > 0
    assert float(blurred.float().mean()) == pytest.approx(BLUR_SHARE, abs=0.03)
    # The blur of an image with half the shorter side is half as wide.
    assert 0.95 * BLUR / 2 < float(drawn.blur.max()) <= BLUR / 2
    even = [
        torch.atan2(drawn.theta[:, 1, 0] / 2, drawn.theta[:, 0, 0]).rad2deg() / ROTATION,
        scale.log() / math.log(1 + SCALE),
        drawn.theta[:, 0, 2] / (2 * SHIFT),
        drawn.theta[:, 1, 2] / (2 * SHIFT),
        drawn.brightness.flatten() / BRIGHTNESS,
        (drawn.contrast.flatten() - 1) / CONTRAST,
        drawn.gamma.flatten().log2() / GAMMA,
    ]
    quarters = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    for values in even:
        torch.testing.assert_close(values.quantile(quarters), 2 * quarters - 1, rtol=0, atol=0.05)
    torch.testing.assert_close(torch.corrcoef(torch.stack(even)), torch.eye(7), rtol=0, atol=0.06)


def test_contrast_about_the_mean_then_brightness_then_gamma():
    image = 0.3 + 0.4 * torch.rand(5, 2, 48, 48, generator=generator(2))
    parameters = draw_parameters(image, generator(3))
    moved = _blur(warp(image, parameters), parameters.blur)
    expected = []
    for values, contrast, brightness, gamma in zip(moved, parameters.contrast, parameters.brightness, parameters.gamma, strict=True):
        mean = values.flatten(1).mean(1)[:, None, None]
        expected.append(((1 - contrast) * mean + contrast * values + brightness).clamp(0, 1) ** gamma)
    torch.testing.assert_close(standard(image, torch.zeros(5), generator(3))[0], torch.stack(expected))


@pytest.mark.parametrize("shape", [(48, 48), (40, 64)])
def test_warp_is_monais_affine(shape):
    image = torch.rand(1, 1, *shape, generator=generator(3))
    theta = draw_parameters(image, generator(4)).theta
    ours = warp(image, Parameters(theta, *[torch.zeros(1)] * 4))
    # MONAI's matrix maps centered pixel coordinates (row, column); theta maps [-1, 1] coordinates (x, y).
    height, width = shape
    a, b, c = (float(value) for value in theta[0, 0])
    d, e, f = (float(value) for value in theta[0, 1])
    affine = torch.tensor([[e, d * height / width, f * height / 2], [b * width / height, a, c * width / 2], [0, 0, 1.0]])
    theirs = Affine(affine=affine, padding_mode="border", image_only=True)(image[0])
    torch.testing.assert_close(ours[0], torch.as_tensor(theirs), rtol=0, atol=1e-4)


def test_blur_is_a_gaussian_and_zero_is_nothing():
    image = torch.zeros(3, 1, 65, 65)
    image[:, :, 32, 32] = 1
    blurred = _blur(image, torch.tensor([0.0, 1.0, BLUR]).view(3, 1, 1, 1) * 65 / 224)
    assert torch.equal(blurred[0], image[0])
    wide = torch.zeros(1, 1, 448, 448)
    wide[..., 224, 224] = 1
    expected = torch.as_tensor(GaussianSmooth(sigma=1.5, approx="sampled")(wide[0]))
    torch.testing.assert_close(_blur(wide, torch.full((1, 1, 1, 1), 1.5))[0], expected, rtol=0, atol=2e-3)


def test_blur_is_each_images_own_and_keeps_what_is_even_up_to_the_edges():
    image, sigma = torch.rand(3, 2, 20, 24, generator=generator(5)), torch.tensor([0.4, 0.0, 0.1]).view(3, 1, 1, 1)
    blurred = _blur(image, sigma)
    for i in range(3):
        for channel in range(2):
            alone = _blur(image[i : i + 1, channel : channel + 1], sigma[i : i + 1])
            torch.testing.assert_close(blurred[i, channel], alone[0, 0])
    assert not torch.equal(blurred[0], image[0])
    even = torch.full((1, 1, 300, 300), 0.7)
    torch.testing.assert_close(_blur(even, torch.full((1, 1, 1, 1), 2.0)), even)


def test_it_combines_with_sga_and_repeats():
    states = []
    for _ in range(2):
        torch.manual_seed(0)
        network = TinyNet(dropout=0)
        trainer = train(network, iteration(augmentation="standard"), batches(3))
        states.append(network.state_dict())
    assert equal(*states)
    assert float(trainer.state.output["kl_loss"]) > 0
