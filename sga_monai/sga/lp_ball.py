"""Lp geometry of an attack: radius, steepest step, projection and random start, inside the image's value range.

Every function works per sample on a batch ``[B, C, H, W]`` and is pure. ``norm`` is p: 0, 1, 2, ``math.inf`` or any
p > 1. An attack of radius ``r`` moves ``image`` by ``d`` with ``||d||_p <= r`` and ``image + d`` in ``value_range``.
For p = 0 the radius is a number of values that may change.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sga_monai.core.errors import InputError

# Halvings of the multiplier's logarithm; more change nothing that float32 can hold.
BISECTION_STEPS = 40
# From here on float32 holds no gamma variate of shape 1/p whose p-th root is below 0.0001.
LARGE_NORM = 10.0


def parse_norm(norm: float | str) -> float:
    """Return p as a float; accepts numbers and the strings JSON needs ("inf", "2").

    Raises:
        InputError: unless p is 0, 1 or greater than 1.
    """
    try:
        p = float(norm)
    except (TypeError, ValueError):
        p = math.nan
    if not (p == 0 or p >= 1):
        raise InputError(f"norm must be 0, 1, 2, 'inf' or a number above 1, got {norm!r}")
    return p


def radius(epsilon: Tensor, norm: float, n_values: int, value_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """Radius of the Lp ball in which every value may move by ``epsilon``: epsilon * n^(1/p), for p = 0 ceil(epsilon * n).

    So one ``epsilon`` has a comparable size under every norm (0.03 of 224 x 224 is 6.7 in L2, 1505 in L1). It is in units of
    ``value_range``; a number of values has none.
    """
    if norm == 0:
        # 0.15 * 100 is 15.0000006 in float32; without the rounding of epsilon the ceiling is the one a reader expects.
        count = epsilon.double() * n_values * (1 - torch.finfo(epsilon.dtype).eps)
        return torch.ceil(count).to(epsilon.dtype)
    return epsilon * (value_range[1] - value_range[0]) * n_values ** (0.0 if math.isinf(norm) else 1.0 / norm)


def lp_norm(d: Tensor, norm: float) -> Tensor:
    """||d||_p of each sample, shape ``[B, 1, 1, 1]``; for p = 0 the number of values that are not zero."""
    dims = tuple(range(1, d.ndim))
    if norm == 0 or math.isinf(norm):
        return torch.linalg.vector_norm(d, norm, dim=dims, keepdim=True)
    # Divided by the largest value first: |d|^p of small values is zero in float32 when p is large.
    largest = d.abs().amax(dim=dims, keepdim=True)
    return largest * torch.linalg.vector_norm(d / largest.clamp(min=torch.finfo(d.dtype).tiny), norm, dim=dims, keepdim=True)


def steepest_step(gradient: Tensor, image: Tensor, radius: Tensor, norm: float, value_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """The ``d`` that maximizes ``gradient . d`` over ``||d||_p <= radius`` and ``image + d`` in ``value_range``.

    Exact for every p, with the box: the sign step for p = inf, the values with the largest gain for p = 0, a greedy
    budget for p = 1, and for 1 < p < inf the KKT point ``|d_i| = min(room_i, (mu |g_i|)^(1/(p-1)))`` whose multiplier
    ``mu`` is found by bisection. Values with gradient zero stay.

    Args:
        gradient: ``[B, C, H, W]``, ascent direction.
        image: ``[B, C, H, W]``, inside ``value_range``.
        radius: broadcastable to ``[B, 1, 1, 1]``, not negative.
        norm: p.
        value_range: lowest and highest value of ``image + d``.

    Returns:
        ``d``, ``[B, C, H, W]``.
    """
    slope = gradient.abs()
    # How far each value can go before it meets the end of the value range.
    room = torch.where(gradient > 0, value_range[1] - image, image - value_range[0]).clamp(min=0)
    room = torch.where(slope > 0, room, 0.0)
    radius = torch.as_tensor(radius, dtype=image.dtype, device=image.device).broadcast_to(image.shape[0], 1, 1, 1)
    if math.isinf(norm):
        size = torch.minimum(room, radius)
    elif norm == 0:
        size = _keep_largest(room, slope * room, radius)
    elif norm == 1:
        size = _greedy_budget(room, slope, radius)
    else:
        size = _bisect_multiplier(room, slope, radius, norm)
    return gradient.sign() * size


def project(d: Tensor, image: Tensor, radius: Tensor, norm: float, value_range: tuple[float, float] = (0.0, 1.0)) -> Tensor:
    """The point nearest to ``d`` with ``||.||_p <= radius`` and ``image + .`` in ``value_range``.

    Euclidean and exact onto ball and box together for p = 0, 1, 2 and inf: with ``room`` the way to the box's end,
    ``|d_i|`` becomes ``min(room_i, max(|d_i| - t, 0))`` for p = 1 and ``min(room_i, s |d_i|)`` for p = 2, where t and s
    are found by bisection. For other p, ``d`` is clipped to the box and then shortened to ``radius``.
    """
    radius = torch.as_tensor(radius, dtype=image.dtype, device=image.device).broadcast_to(image.shape[0], 1, 1, 1)
    if math.isinf(norm):
        d = torch.clamp(d, -radius, radius)
    clipped = (image + d).clamp(*value_range) - image
    if math.isinf(norm):
        return clipped
    if norm == 0:
        # Keeping a value saves the squared distance of its zero over that of its clipped value.
        return _keep_largest(clipped, d**2 - (d - clipped) ** 2, radius)
    if norm in (1, 2):
        return clipped.sign() * _shrink(d.abs(), clipped.abs(), radius, norm)
    length = lp_norm(clipped, norm)
    return torch.where(length > radius, clipped * (radius / length.clamp(min=torch.finfo(d.dtype).tiny)), clipped)


def random_start(
    image: Tensor,
    radius: Tensor,
    norm: float,
    generator: torch.Generator | None = None,
    value_range: tuple[float, float] = (0.0, 1.0),
    region: Tensor | None = None,
) -> Tensor:
    """A point drawn uniformly from the Lp ball, then clipped to the box (for p = 0: random values at random places).

    With ``region``, bool and broadcastable to ``image``, the ball is that of its values; the others stay.

    For 0 < p < inf: with xi_i of density ~ exp(-|t|^p) and z ~ Exp(1), xi / (sum |xi|^p + z)^(1/p) is uniform in the
    unit ball (Barthe, Guedon, Mendelson and Naor, Annals of Probability 33(2), 2005, theorem 1).
    """
    radius = torch.as_tensor(radius, dtype=image.dtype, device=image.device).broadcast_to(image.shape[0], 1, 1, 1)
    inside = torch.ones_like(image[:1], dtype=torch.bool) if region is None else region
    uniform = torch.rand(image.shape, generator=generator, dtype=image.dtype, device=image.device)
    if norm == 0:
        d = value_range[0] + uniform * (value_range[1] - value_range[0]) - image
        place = torch.rand(image.shape, generator=generator, dtype=image.dtype, device=image.device)
        return _keep_largest(d, place.masked_fill(~inside, -1.0), radius)
    sign = torch.where(uniform < 0.5, -1.0, 1.0).to(image.dtype)
    if math.isinf(norm):
        magnitude = inside * torch.rand(image.shape, generator=generator, dtype=image.dtype, device=image.device)
        return project(sign * magnitude * radius, image, radius, norm, value_range)
    # |xi|^p is a gamma variate of shape 1/p, and that of shape 1 + 1/p times the p-th power of a uniform one.
    shape, factor = 1.0 / norm, torch.ones_like(image)
    if norm >= LARGE_NORM:
        shape, factor = 1 + shape, torch.rand(image.shape, generator=generator, dtype=image.dtype, device=image.device)
    gamma = inside * torch._standard_gamma(torch.full_like(image, shape), generator=generator)
    z = torch._standard_gamma(torch.ones_like(radius), generator=generator)
    power = gamma * factor**norm
    unit = sign * factor * (gamma / (power.sum(dim=(1, 2, 3), keepdim=True) + z)) ** (1.0 / norm)
    return project(unit * radius, image, radius, norm, value_range)


def _keep_largest(values: Tensor, score: Tensor, count: Tensor) -> Tensor:
    """``values`` where ``score`` is among the ``count`` largest of its sample (the first of equals), zero elsewhere."""
    order = score.flatten(1).argsort(dim=1, descending=True, stable=True)
    position = torch.arange(order.shape[1], device=order.device).broadcast_to(order.shape)
    chosen = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order, position < count.flatten(1))
    return torch.where(chosen.view_as(values), values, 0.0)


def _greedy_budget(room: Tensor, slope: Tensor, radius: Tensor) -> Tensor:
    """Spend an L1 budget on the steepest values first, each up to its room (a fractional knapsack, hence optimal)."""
    order = slope.flatten(1).argsort(dim=1, descending=True, stable=True)
    # In float64, since float32 sums of 50,000 values are off by more than one value is worth.
    ordered_room = room.flatten(1).double().gather(1, order)
    spent_before = ordered_room.cumsum(1) - ordered_room
    spent = torch.minimum((radius.flatten(1) - spent_before).clamp(min=0), ordered_room)
    return torch.zeros_like(spent).scatter_(1, order, spent).to(room.dtype).view_as(room)


def _bisect_multiplier(room: Tensor, slope: Tensor, radius: Tensor, norm: float) -> Tensor:
    """``min(room, (mu * slope)^(1/(p-1)))`` with the largest ``mu`` whose p-norm is within ``radius``."""
    # Logarithms, since for p near 1 the powers of small gradients leave the range of float32.
    log_slope = slope.log2() / (norm - 1.0)
    log_slope = torch.where(slope > 0, log_slope - log_slope.amax(dim=(1, 2, 3), keepdim=True), -math.inf)
    # Without the box the answer is `low`, which fits the ball with it too; at `high` every value is at its bound.
    low = radius.log2() - lp_norm(log_slope.exp2(), norm).log2()
    high = torch.where(room > 0, room.log2() - log_slope, -math.inf).amax(dim=(1, 2, 3), keepdim=True)
    low = torch.where(low.isfinite(), low, 0.0)
    high = torch.maximum(torch.where(high.isfinite(), high, 0.0), low)
    fits = lp_norm(room, norm) <= radius
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        inside = lp_norm(torch.minimum(room, (log_slope + middle).exp2()), norm) <= radius
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    size = torch.where(fits, room, torch.minimum(room, (log_slope + low).exp2()))
    return torch.where(radius > 0, size, 0.0)


def _shrink(size: Tensor, room: Tensor, radius: Tensor, norm: float) -> Tensor:
    """``min(room, max(size - t, 0))`` (p = 1) or ``min(room, size * (1 - t))`` (p = 2), the least t that fits the ball."""
    low = torch.zeros_like(radius)
    high = size.amax(dim=(1, 2, 3), keepdim=True) if norm == 1 else torch.ones_like(radius)
    fits = lp_norm(room, norm) <= radius
    for _ in range(BISECTION_STEPS):
        middle = (low + high) / 2
        inside = lp_norm(torch.minimum(room, _shorter(size, middle, norm)), norm) <= radius
        low, high = torch.where(inside, low, middle), torch.where(inside, middle, high)
    return torch.where(fits, room, torch.minimum(room, _shorter(size, high, norm)))


def _shorter(size: Tensor, t: Tensor, norm: float) -> Tensor:
    return (size - t).clamp(min=0) if norm == 1 else size * (1 - t)
