"""Recalibration: a planted shift is recovered, statsmodels finds the same, and nobody is recalibrated by his own label."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit, logit

from sga_monai.statistics.calibration import assess_calibration, calibration_line, observed_to_expected
from sga_monai.statistics.estimates import cluster_bootstrap
from sga_monai.statistics.logistic_recalibration import patient_folds, recalibrate


def cohort(patients: int, intercept: float, slope: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of two images a patient, labels with logit = intercept + slope x logit of the probability, patients."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 2)
    x = 1.2 * rng.normal(size=patients)[patient] + 0.6 * rng.normal(size=len(patient)) - 0.5
    return expit(x), (rng.random(len(x)) < expit(intercept + slope * x)).astype(int), patient


@pytest.mark.parametrize("planted", [(0.8, 0.5), (-1.0, 1.6), (0.0, 1.0)])
def test_a_planted_shift_is_recovered_as_statsmodels_does(planted: tuple[float, float]) -> None:
    probability, label, patient = cohort(900, *planted)
    found = recalibrate(probability, label, patient)
    oracle = sm.GLM(label, sm.add_constant(logit(probability)), family=sm.families.Binomial())
    fit = oracle.fit(cov_type="cluster", cov_kwds={"groups": patient})
    for estimate, value, error, truth in zip((found.intercept, found.slope), fit.params, fit.bse, planted, strict=True):
        assert estimate.value == pytest.approx(value, abs=1e-7)
        assert (estimate.high - estimate.low) / 2 == pytest.approx(1.959964 * error, rel=1e-4)
        assert abs(estimate.value - truth) < 4 * error
    slope, intercept = calibration_line(found.probability, label, patient)
    assert slope.low < 1 < slope.high
    assert intercept.low < 0 < intercept.high
    assert observed_to_expected(found.probability, label, patient).value == pytest.approx(1, abs=0.02)


def test_cross_fitting_is_that_of_statsmodels_on_the_other_patients() -> None:
    probability, label, patient = cohort(60, 0.5, 0.6, 1)
    found, x = recalibrate(probability, label, patient), sm.add_constant(logit(probability))
    fold = patient_folds(patient)
    assert sorted(np.bincount(fold)) == [24] * 5
    assert len(set(zip(patient, fold, strict=True))) == 60
    for number in range(5):
        params = sm.Logit(label[fold != number], x[fold != number]).fit(disp=0).params
        assert found.probability[fold == number] == pytest.approx(expit(x[fold == number] @ params), abs=1e-7)


def test_a_patients_own_labels_do_not_recalibrate_him() -> None:
    probability, label, patient = cohort(60, 0.5, 0.6, 1)
    before = recalibrate(probability, label, patient).probability
    for chosen in range(0, 60, 7):
        other = np.where(patient == chosen, 1 - label, label)
        after = recalibrate(probability, other, patient).probability
        assert after[patient == chosen] == pytest.approx(before[patient == chosen], abs=1e-12)
        assert abs(after - before).max() > 1e-4


def test_labels_that_say_nothing_gain_nothing() -> None:
    gain, apparent = [], []
    for seed in range(20):
        probability, _, patient = cohort(40, 0.0, 1.0, seed)
        label = np.random.default_rng(100 + seed).integers(0, 2, len(patient))
        found = recalibrate(probability, label, patient)
        # Fitted and judged on the same images, any recalibration looks better than it is.
        same = expit(found.intercept.value + found.slope.value * logit(probability))
        brier = [float(np.mean((p - label) ** 2)) for p in (found.probability, same)]
        gain.append(0.25 - brier[0])
        apparent.append(0.25 - brier[1])
    assert min(apparent) > 0
    assert np.mean(gain) < 0


def test_the_order_of_rows_does_not_matter() -> None:
    probability, label, patient = cohort(80, 0.5, 0.6)
    order = np.random.default_rng(0).permutation(len(label))
    there, here = recalibrate(probability, label, patient), recalibrate(probability[order], label[order], patient[order])
    assert here.probability == pytest.approx(there.probability[order], abs=1e-9)


def test_too_few_patients_or_separated_classes_have_none() -> None:
    label = np.repeat([1, 0], [9, 60])
    assert recalibrate(np.full(69, 0.3), label, np.arange(69)) is None
    label = np.repeat([1, 0], 30)
    assert recalibrate(np.where(label == 1, 0.9, 0.1), label, np.arange(60)) is None


def test_the_calibration_line_is_that_of_the_whole_assessment() -> None:
    probability, label, patient = cohort(200, 0.3, 0.8)
    whole = assess_calibration(probability, label, patient, n_samples=10)
    assert calibration_line(probability, label, patient) == (whole.slope, whole.intercept)


def test_observed_to_expected_by_hand_and_by_resampled_patients() -> None:
    probability, label, patient = cohort(400, 0.5, 1.0)
    found = observed_to_expected(probability, label, patient)
    assert found.value == pytest.approx(label.sum() / probability.sum())
    resampled = cluster_bootstrap(lambda w: math.log((w * label).sum() / (w * probability).sum()), patient, 1000)
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((resampled.low, resampled.high), abs=0.02)
    # Each patient twice is as certain as each patient once.
    doubled = observed_to_expected(*(np.repeat(values, 2) for values in (probability, label, patient)))
    assert (doubled.low, doubled.high) == pytest.approx((found.low, found.high))
    assert math.isnan(observed_to_expected([0.2, 0.4], [0, 0]).low)
    assert math.isnan(observed_to_expected([], []).value)
