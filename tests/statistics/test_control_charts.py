"""EWMA charts: run lengths against published ones and simulation, self-starting differences against Welch's test."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm, ttest_ind

from sga_monai.statistics.control_charts import (
    Summary,
    chart,
    ewma_limit,
    false_alarm_probability,
    run_length,
    survival,
    z_score,
)
from sga_monai.statistics.periods import NOT_ESTIMABLE, mean_summary

# Steiner (Journal of Quality Technology 31, 1999), table 2: shift and average run length, weight 0.05, limits of 3 that vary with time.
STEINER = [
    (0, 1353.0),
    (0.25, 127.0),
    (0.5, 32.5),
    (0.75, 15.6),
    (1, 9.0),
    (1.5, 4.5),
    (2, 2.8),
    (2.5, 2.0),
    (3, 1.6),
    (3.5, 1.3),
    (4, 1.1),
]


def simulated_lengths(limit: float, weight: float, normal: NDArray[np.float64]) -> NDArray[np.float64]:
    """Number of periods to the first alarm of ``[R, T, K]`` figures: R series of K charts; T where there was none."""
    mean, lengths = np.zeros((normal.shape[0], normal.shape[2])), np.full(normal.shape[0], normal.shape[1], dtype=float)
    inside = np.ones(normal.shape[0], dtype=bool)
    for i in range(normal.shape[1]):
        mean = (1 - weight) * mean + weight * normal[:, i]
        spread = math.sqrt(sum(weight**2 * (1 - weight) ** (2 * j) for j in range(i + 1)))
        out = inside & (abs(mean) > limit * spread).any(axis=1)
        lengths[out], inside = i + 1, inside & ~out
    return lengths


@pytest.mark.parametrize(("shift", "expected"), STEINER)
def test_run_lengths_are_the_published_ones(shift: float, expected: float) -> None:
    # The published ones are of a Markov chain with few states, and rounded.
    assert run_length(3.0, 0.05, shift) == pytest.approx(expected, rel=0.045, abs=0.1)


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0])
def test_with_a_weight_of_one_it_is_shewharts_chart(shift: float) -> None:
    p = norm.sf(3 - shift) + norm.cdf(-3 - shift)
    assert run_length(3.0, 1.0, shift) == pytest.approx(1 / p, rel=1e-9)
    assert run_length(3.0, 1.0, shift, charts=4) == pytest.approx(1 / (1 - (1 - p) ** 4), rel=1e-9)
    assert list(islice(survival(3.0, 1.0, shift), 5)) == pytest.approx([(1 - p) ** n for n in range(1, 6)], rel=1e-9)


@pytest.mark.parametrize(("weight", "charts", "length"), [(0.2, 6, 20.0), (0.05, 1, 30.0)])
def test_false_alarms_are_as_rare_as_stated(weight: float, charts: int, length: float) -> None:
    limit = ewma_limit(length, weight, charts)
    assert run_length(limit, weight, charts=charts) == pytest.approx(length)
    normal = np.random.default_rng(3).normal(size=(4000, 15 * int(length), charts))
    lengths = simulated_lengths(limit, weight, normal)
    # Four standard errors of a mean of 4,000 nearly exponential figures.
    assert lengths.mean() == pytest.approx(length, rel=4 / math.sqrt(4000))
    for periods in (1, 5, 12):
        stated = false_alarm_probability(limit, periods, weight, charts)
        assert (lengths <= periods).mean() == pytest.approx(stated, abs=4 * math.sqrt(stated / 4000))


@pytest.mark.slow
@pytest.mark.parametrize("charts", [1, 6])
def test_false_alarms_are_as_rare_as_stated_by_default(charts: int) -> None:
    limit, rng = ewma_limit(200.0, charts=charts), np.random.default_rng(4)
    lengths = np.concatenate([simulated_lengths(limit, 0.2, rng.normal(size=(500, 2500, charts))) for _ in range(20)])
    assert lengths.mean() == pytest.approx(200, rel=3 / math.sqrt(10_000))


def test_dependent_charts_raise_no_more_false_alarms() -> None:
    limit = ewma_limit(20.0, charts=6)
    rng = np.random.default_rng(5)
    common = 0.8 * rng.normal(size=(2000, 300, 1)) + 0.6 * rng.normal(size=(2000, 300, 6))
    assert simulated_lengths(limit, 0.2, common).mean() > 20


@pytest.mark.parametrize("n", [(12, 40), (300, 200)])
def test_the_second_period_is_compared_by_welchs_test(n: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=n[0]), 2 * rng.normal(size=n[1]) + 0.4
    summaries = [mean_summary(x, np.zeros(len(x)), np.arange(len(x)), {0: 1.0}) for x in (first, second)]
    test = ttest_ind(second, first, equal_var=False)
    z = z_score(summaries[1], summaries[:1])
    assert z == pytest.approx(math.copysign(norm.isf(test.pvalue / 2), test.statistic), rel=1e-9)


def test_differences_of_unequal_periods_are_independent_and_standard() -> None:
    rng, sizes = np.random.default_rng(1), (20, 200, 50, 50, 400, 10)
    deviates = []
    for _ in range(500):
        summaries = [Summary(5 + rng.normal() / math.sqrt(n), 1 / n, 1e9, n) for n in sizes]
        deviates.append([z_score(summaries[i], summaries[:i]) for i in range(1, len(sizes))])
    # Four standard errors of a correlation.
    assert np.cov(np.transpose(deviates)) == pytest.approx(np.eye(5), abs=4 * math.sqrt(2 / 500))


def test_a_change_that_stays_keeps_its_alarm_and_does_not_become_normal() -> None:
    values = [0.0, 0.1, -0.1, 0.05, 2.0, 2.1, 1.9, 2.0, 2.0, 2.0]
    summaries = [Summary(value, 0.04, 1e9, 25.0) for value in values]
    points = chart(summaries, ewma_limit(200.0))
    assert [point.alarm for point in points] == [False] * 4 + [True] * 6
    assert min(point.z for point in points[4:]) > 8
    # A mirror image raises the same alarms below.
    mirrored = chart([Summary(-value, 0.04, 1e9, 25.0) for value in values], ewma_limit(200.0))
    assert [point.ewma for point in mirrored[1:]] == pytest.approx([-point.ewma for point in points[1:]])


def test_a_period_that_is_not_estimable_is_passed_over() -> None:
    summaries = [Summary(value, 0.04, 50.0, 25.0) for value in (0.3, 0.0, -0.2, 0.5)]
    points = chart([NOT_ESTIMABLE, summaries[0], NOT_ESTIMABLE, *summaries[1:], NOT_ESTIMABLE], 3.0)
    whole = chart(summaries, 3.0)
    assert [points[i] for i in (3, 4, 5)] == whole[1:]
    assert all(math.isnan(points[i].z) and math.isnan(points[i].ewma) and not points[i].alarm for i in (0, 1, 2, 6))


def test_a_huge_change_is_a_finite_figure() -> None:
    points = chart([Summary(value, 1e-9, 1e9, 1.0) for value in (0.0, 1e6)], 3.0)
    assert points[1].alarm
    assert math.isfinite(points[1].z)
