from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sga_monai.sga import lp_ball as P

NORMS = (0.0, 1.0, 1.5, 2.0, 3.0, 50.0, math.inf)


def case(seed: int, batch: int, height: int, width: int, epsilon: float, norm: float):
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(batch, 1, height, width, generator=generator)
    image = torch.where(torch.rand(image.shape, generator=generator) < 0.2, image.round(), image)
    gradient = torch.randn(image.shape, generator=generator) * (torch.rand(image.shape, generator=generator) < 0.8)
    radius = P.radius(torch.full((batch, 1, 1, 1), epsilon), norm, height * width)
    return image, gradient, radius, generator


def inside(image: torch.Tensor, d: torch.Tensor, radius: torch.Tensor, norm: float) -> bool:
    length = torch.tensor([np.linalg.norm(sample.double().flatten().numpy(), norm) for sample in d]).view(-1, 1, 1, 1)
    ball = bool((length <= radius.double() * (1 + 1e-5) + 1e-7).all())
    moved = image + d
    return ball and float(moved.min()) >= -1e-6 and float(moved.max()) <= 1 + 1e-6


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    batch=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    epsilon=st.floats(0, 0.6),
    norm=st.sampled_from(NORMS),
)
def test_steps_projections_and_starts_stay_in_ball_and_box(seed, batch, height, width, epsilon, norm):
    image, gradient, radius, generator = case(seed, batch, height, width, epsilon, norm)
    step = P.steepest_step(gradient, image, radius, norm)
    assert inside(image, step, radius, norm)
    assert float((step * gradient).sum()) >= 0
    assert (step[gradient == 0] == 0).all()
    assert inside(image, P.project(torch.randn(image.shape, generator=generator), image, radius, norm), radius, norm)
    assert inside(image, P.random_start(image, radius, norm, generator), radius, norm)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(4))
def test_step_beats_every_feasible_point(norm, seed):
    image, gradient, radius, generator = case(seed, 1, 2, 2, 0.2, norm)
    best = float((P.steepest_step(gradient, image, radius, norm) * gradient).sum())
    # A grid over the box, thinned to the ball: brute force in four dimensions.
    axes = [torch.linspace(-float(x), 1 - float(x), 17) for x in image.flatten()]
    axes = [torch.cat([axis, torch.zeros(1)]) for axis in axes]
    points = torch.tensor(list(itertools.product(*(axis.tolist() for axis in axes))))
    feasible = points[torch.linalg.vector_norm(points.double(), norm, dim=1) <= float(radius) + 1e-6]
    gain = (feasible * gradient.flatten()).sum(1).max()
    assert best >= float(gain) - 1e-5
    # Points on the boundary of the ball come closer to the optimum than a grid.
    direction = torch.randn(20000, 4, generator=generator) * gradient.abs().flatten().clamp(min=1e-3)
    if norm > 0:
        direction = (direction / torch.linalg.vector_norm(direction.double(), norm, dim=1, keepdim=True)).float() * float(radius)
        clipped = (image.flatten() + direction).clamp(0, 1) - image.flatten()
        assert best >= float((clipped * gradient.flatten()).sum(1).max()) - 1e-5


@pytest.mark.parametrize("norm", [1.0, 2.0])
def test_box_aware_optimum_satisfies_kkt(norm):
    image, gradient, radius, _ = case(3, 2, 6, 6, 0.15, norm)
    d = P.steepest_step(gradient, image, radius, norm)
    room = torch.where(gradient > 0, 1 - image, image)
    for g, size, space, r in zip(gradient.abs(), d.abs(), room, radius, strict=True):
        free = (size > 1e-7) & (size < space - 1e-6)
        full = size >= space - 1e-6
        assert math.isclose(float(P.lp_norm(size[None], norm)), float(r), rel_tol=1e-4)
        if norm == 2.0:
            ratio = size[free] / g[free]
            assert float(ratio.max() - ratio.min()) <= 1e-3 * float(ratio.max())
        else:
            assert int(free.sum()) <= 1
            unused = (size <= 1e-7) & (space > 0)
            if full.any() and unused.any():
                assert float(g[full & (space > 0)].min()) >= float(g[unused].max()) - 1e-6


def test_projection_leaves_inside_points_alone_also_beside_outside_ones():
    image = torch.full((2, 1, 2, 2), 0.5)
    d = torch.tensor([[0.01, 0.0, -0.02, 0.0], [0.4, -0.4, 0.4, 0.4]]).view(2, 1, 2, 2)
    for norm in (1.0, 2.0, 3.0, math.inf):
        out = P.project(d, image, torch.full((2, 1, 1, 1), 0.1), norm)
        torch.testing.assert_close(out[0], d[0])
        assert not torch.equal(out[1], d[1])


def test_l1_projection_by_hand():
    d = torch.tensor([0.5, -0.3, 0.1, 0.0]).view(1, 1, 2, 2)
    out = P.project(d, torch.full_like(d, 0.5), torch.tensor(0.4), 1.0)
    torch.testing.assert_close(out.flatten(), torch.tensor([0.3, -0.1, 0.0, 0.0]))


@pytest.mark.parametrize(("norm", "expected"), [(1.0, [0.0, 0.5]), (2.0, [0.0, 0.5]), (math.inf, [0.0, 0.5])])
def test_projection_spends_nothing_on_saturated_pixels(norm, expected):
    out = P.project(torch.full((1, 1, 1, 2), 0.5), torch.tensor([[[[1.0, 0.5]]]]), torch.tensor(0.5), norm)
    torch.testing.assert_close(out.flatten(), torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("norm", [0.0, 1.0, 2.0, math.inf])
@pytest.mark.parametrize("seed", range(4))
def test_projection_is_the_nearest_point_of_ball_and_box(norm, seed):
    image, _, radius, generator = case(seed, 1, 1, 3, 0.25, norm)
    d = torch.randn(image.shape, generator=generator)
    out = P.project(d, image, radius, norm)
    axes = [torch.cat([torch.linspace(-float(x), 1 - float(x), 41), torch.zeros(1)]).tolist() for x in image.flatten()]
    points = torch.tensor(list(itertools.product(*axes)))
    feasible = points[torch.linalg.vector_norm(points.double(), norm, dim=1) <= float(radius) + 1e-6]
    nearest = torch.linalg.vector_norm(feasible - d.flatten(), dim=1).min()
    assert float(torch.linalg.vector_norm(out - d)) <= float(nearest) + 1e-5


def test_p_0_keeps_what_comes_nearest_after_the_clipping():
    """0.9 is the larger move, but ends 0.1 away, at the box; 0.5 saves more of the distance."""
    out = P.project(torch.tensor([[[[0.9, 0.5]]]]), torch.tensor([[[[0.9, 0.2]]]]), torch.tensor(1.0), 0.0)
    torch.testing.assert_close(out, torch.tensor([[[[0.0, 0.5]]]]))


def test_other_norms_clip_to_the_box_and_then_shorten():
    image, _, radius, generator = case(1, 3, 3, 3, 0.1, 3.0)
    d = torch.randn(image.shape, generator=generator) * torch.tensor([1.0, 1.0, 0.01]).view(3, 1, 1, 1)
    clipped = (image + d).clamp(0, 1) - image
    share = radius.flatten() / torch.tensor([np.linalg.norm(sample.flatten().numpy(), 3) for sample in clipped])
    assert (share < 1).tolist() == [True, True, False]
    torch.testing.assert_close(P.project(d, image, radius, 3.0), clipped * share.clamp(max=1).view(3, 1, 1, 1))


@pytest.mark.parametrize("norm", NORMS)
def test_the_norm_of_a_sample_is_its_own(norm):
    """Also of zeros, and of small values beside large ones."""
    values = torch.rand(1, 1, 5, 5, generator=torch.Generator().manual_seed(0)) + 0.1
    found = P.lp_norm(torch.cat([values, 1e-3 * values, 0 * values]), norm)
    assert found.shape == (3, 1, 1, 1)
    own = float(np.linalg.norm(values.flatten().double().numpy(), norm))
    assert found.flatten().tolist() == pytest.approx([own, own * (1 if norm == 0 else 1e-3), 0.0], rel=1e-5)


def test_radius_scales_with_the_norm():
    epsilon = torch.tensor(0.05)
    assert float(P.radius(epsilon, math.inf, 50176)) == pytest.approx(0.05)
    assert float(P.radius(epsilon, 2.0, 50176)) == pytest.approx(11.2)
    assert float(P.radius(epsilon, 1.0, 50176)) == pytest.approx(2508.8)
    assert float(P.radius(epsilon, 0.0, 50176)) == 2509


@pytest.mark.parametrize(
    ("epsilon", "n", "count"), [(0.0, 100, 0), (0.15, 100, 15), (0.1501, 100, 16), (0.09, 2500, 225), (0.18, 40_000, 7200)]
)
def test_the_ceiling_is_the_one_a_reader_expects(epsilon, n, count):
    assert float(P.radius(torch.full((1, 1, 1, 1), epsilon), 0.0, n)) == count


def test_random_start_of_p_0_spends_its_count_inside_the_region():
    image, region = torch.full((50, 1, 4, 10), 0.5), torch.arange(10)[None, None, None] < 2
    d = P.random_start(image, torch.tensor(3.0), 0.0, torch.Generator().manual_seed(0), region=region)
    assert P.lp_norm(d, 0.0).flatten().tolist() == [3.0] * 50
    assert not d[..., 2:].any()


@pytest.mark.parametrize("bad", [0.5, -1, "two", None, float("nan")])
def test_bad_norm(bad):
    with pytest.raises(ValueError, match="norm must be"):
        P.parse_norm(bad)


@pytest.mark.parametrize("norm", [9.0, 10.0, 50.0, 1000.0, math.inf])
def test_a_random_start_of_a_large_p_is_nearly_uniform_in_each_value(norm):
    """The ball is nearly a box, whose values are independent."""
    image = torch.full((2, 1, 64, 64), 0.5)
    d = P.random_start(image, torch.tensor(0.2), norm, torch.Generator().manual_seed(0))
    assert float((d > 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    d = d.abs()
    for share in (0.01, 0.1, 0.5):
        assert float(d.quantile(share) / d.quantile(0.8)) == pytest.approx(share / 0.8, abs=0.03)


def test_a_random_start_of_a_large_p_stays_in_its_region():
    image, region = torch.full((20, 1, 4, 10), 0.5), torch.arange(10)[None, None, None] < 2
    d = P.random_start(image, torch.tensor(0.2), 50.0, torch.Generator().manual_seed(0), region=region)
    assert not d[..., 2:].any()
    assert (d[..., :2] != 0).all()


@pytest.mark.parametrize("columns", [3, 40])
def test_random_start_is_uniform_in_the_l2_ball(columns):
    image = torch.full((4000, 1, 1, columns), 0.5)
    # The ball of three values, whatever lies beside them.
    region = torch.arange(columns)[None, None, None] < 3 if columns > 3 else None
    d = P.random_start(image, torch.tensor(0.4), 2.0, torch.Generator().manual_seed(0), region=region)
    assert not d[..., 3:].any()
    length = P.lp_norm(d, 2.0).flatten() / 0.4
    # In three dimensions the share within a fraction t of the radius is t^3.
    for t in (0.5, 0.8):
        assert float((length <= t).float().mean()) == pytest.approx(t**3, abs=0.03)
