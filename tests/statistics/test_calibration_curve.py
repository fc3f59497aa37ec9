"""Curves with bands: lowess against statsmodels, known truths, bands against resampling by hand, patients as the unit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit
from statsmodels.nonparametric.smoothers_lowess import lowess

from sga_monai.statistics.curves import net_benefit_band, smooth_calibration
from sga_monai.statistics.decisions import net_benefit

GRID = np.array([0.03, 0.1, 0.3, 0.5, 0.7, 0.9])


def cohort(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    probability = expit(2 * rng.normal(size=n))
    return probability, (rng.random(n) < probability**2).astype(int), np.arange(n)


@pytest.mark.parametrize(("n", "span"), [(37, 0.5), (300, 2 / 3), (301, 0.9)])
def test_the_curve_is_lowess(n, span):
    probability, label, patient = cohort(n)
    expected = lowess(label, probability, frac=span, it=0, xvals=GRID)
    found = smooth_calibration(probability, label, patient, GRID, span, n_samples=20)
    assert found[:, 0] == pytest.approx(np.clip(expected, 0, 1), abs=1e-6)


def test_the_curve_finds_the_planted_miscalibration():
    probability, label, patient = cohort(4000)
    found = smooth_calibration(probability, label, patient, GRID, n_samples=200)
    assert found[:, 0] == pytest.approx(GRID**2, abs=0.06)
    assert (found[:, 2] - found[:, 1] < 0.12).all()
    # The identity is excluded where the truth is far from it.
    assert (found[2:5, 2] < GRID[2:5]).all()


def test_right_probabilities_lie_on_the_diagonal_within_the_band():
    rng = np.random.default_rng(3)
    inside = []
    for _ in range(40):
        probability = expit(1.5 * rng.normal(size=400))
        label = (rng.random(400) < probability).astype(int)
        found = smooth_calibration(probability, label, np.arange(400), GRID, n_samples=100)
        inside.append((found[:, 1] <= GRID) & (found[:, 2] >= GRID))
    # 240 points of pointwise 95 % bands.
    assert 0.88 < np.mean(inside) <= 1


def test_a_second_image_that_is_the_same_adds_nothing():
    probability, label, patient = cohort(150)
    once = smooth_calibration(probability, label, patient, GRID, n_samples=100)
    twice = smooth_calibration(*(np.repeat(column, 2) for column in (probability, label, patient)), GRID, n_samples=100)
    assert twice == pytest.approx(once, abs=1e-9)
    again = net_benefit_band(probability, label, patient, GRID, n_samples=100)
    doubled = net_benefit_band(*(np.repeat(column, 2) for column in (probability, label, patient)), GRID, n_samples=100)
    assert doubled == pytest.approx(again, abs=1e-12)


def test_equal_probabilities_and_one_class_give_what_there_is():
    flat = smooth_calibration(np.full(30, 0.4), np.arange(30) % 2, np.arange(30), [0.4], n_samples=50)
    assert flat[0, 0] == pytest.approx(0.5)
    assert flat[0, 1] < 0.5 < flat[0, 2]
    assert np.isnan(net_benefit_band(np.linspace(0, 1, 9), np.ones(9), np.arange(9), [0.5], 0.2, 20)).all()


@pytest.mark.parametrize("prevalence", [None, 0.1])
def test_the_band_of_the_net_benefit_is_that_of_resampled_patients(prevalence):
    probability, label, _ = cohort(200)
    patient = np.arange(200) // 2
    at = label.mean() if prevalence is None else prevalence
    rng = np.random.default_rng(9)
    samples = []
    for _ in range(1000):
        rows = (2 * rng.integers(100, size=100)[:, None] + [0, 1]).ravel()
        samples.append(net_benefit(probability[rows], label[rows], GRID, at)[:, 0])
    low, high = np.quantile(samples, (0.025, 0.975), axis=0)
    found = net_benefit_band(probability, label, patient, GRID, prevalence, 1000)
    width = high - low
    assert (np.abs(found[:, 0] - low) < 0.15 * width + 1e-3).all()
    assert (np.abs(found[:, 1] - high) < 0.15 * width + 1e-3).all()
    value = net_benefit(probability, label, GRID, prevalence)[:, 0]
    assert ((found[:, 0] <= value) & (value <= found[:, 1])).all()
