"""Summaries of periods, against statsmodels, scipy and the interval of the AUROC."""

from __future__ import annotations

import math

import numpy as np
import pytest
import statsmodels.api as sm
from scipy.special import expit
from scipy.stats import norm, ttest_ind

from sga_monai.statistics.discrimination import auroc
from sga_monai.statistics.periods import auroc_summary, change, deviation_within, mean_summary


@pytest.fixture
def images() -> dict[str, np.ndarray]:
    """One to five images of 80 patients, alike within a patient, some with both labels."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(80), rng.integers(1, 6, 80))
    label = (rng.random(len(patient)) < np.where(patient < 30, 0.9, 0.1)).astype(int)
    return {"values": rng.normal(size=80)[patient] + rng.normal(size=len(patient)) + label, "stratum": label, "patient": patient}


def test_standardized_means_have_the_clustered_variance_of_a_regression(images) -> None:
    shares = {0: 0.7, 1: 0.3}
    design = np.stack([images["stratum"] == name for name in shares], axis=1).astype(float)
    kwds = {"groups": images["patient"], "use_correction": False}
    fit = sm.OLS(images["values"], design).fit(cov_type="cluster", cov_kwds=kwds)
    people = np.array([len(np.unique(images["patient"][images["stratum"] == name])) for name in shares])
    weights = np.array(list(shares.values()))
    corrected = weights * np.sqrt(people / (people - 1))
    found = mean_summary(**images, shares=shares)
    assert found.value == pytest.approx(weights @ fit.params)
    assert found.variance == pytest.approx(corrected @ fit.cov_params() @ corrected)
    assert min(people) - 1 < found.degrees < sum(people) - 2
    assert found.size == pytest.approx(1 / sum(share**2 / (images["stratum"] == name).sum() for name, share in shares.items()))


def test_a_wave_of_disease_alone_changes_nothing() -> None:
    patient = np.arange(200)
    value = np.where(patient % 2 == 0, 0.4, 0.6)
    means = []
    for diseased in (20, 100, 180):
        label = (patient < diseased).astype(int)
        means.append(mean_summary(value + 3 * label, label, patient, {0: 0.9, 1: 0.1}).value)
    assert means == pytest.approx([0.5 + 3 * 0.1] * 3)


@pytest.mark.parametrize(("values", "stratum"), [([1.0] * 6, [0, 0, 0, 1, 1, 1]), ([1.0, 2, 3, 4, 5, 6], [0, 0, 0, 0, 0, 1])])
def test_what_has_no_variance_is_not_usable(values: list[float], stratum: list[int]) -> None:
    assert not mean_summary(values, stratum, np.arange(6), {0: 0.5, 1: 0.5}).usable()


def test_an_auroc_has_the_interval_that_it_is_shown_with(images) -> None:
    figure = auroc(images["values"], images["stratum"], images["patient"])
    summary = auroc_summary(figure, 30)
    half = norm.ppf(0.975) * math.sqrt(summary.variance)
    assert expit([summary.value - half, summary.value, summary.value + half]) == pytest.approx(
        [figure.ci_low, figure.auroc, figure.ci_high]
    )
    assert not auroc_summary(auroc([0.0, 1.0, 2.0, 3.0], [0, 0, 1, 1]), 2).usable()


def test_a_change_has_welchs_interval() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(size=30), 1.5 * rng.normal(size=50) + 1
    one, two = (mean_summary(x, np.zeros(len(x)), np.arange(len(x)), {0: 1.0}) for x in (first, second))
    deviation = deviation_within(first, np.zeros(30), {0: 1.0})
    assert deviation == pytest.approx(first.std())
    expected = ttest_ind(second, first, equal_var=False).confidence_interval()
    found = change(two, one, deviation)
    assert (found.low, found.high) == pytest.approx((expected.low / deviation, expected.high / deviation))
    assert math.isnan(change(two, one, 0.0).value)
