"""Figures beyond the AUROC, against other packages and by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from MLstatkit import Delong_test
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score, brier_score_loss
from statsmodels.stats.proportion import proportion_confint

from sga_monai.statistics.calibration import assess_calibration, expected_calibration_error
from sga_monai.statistics.decisions import net_benefit, operating_point, youden_threshold
from sga_monai.statistics.discrimination import (
    auroc,
    auroc_covariance,
    average_precision,
    difference_in_differences,
    hanley_mcneil_half_width,
    paired_difference,
)
from sga_monai.statistics.estimates import Estimate, cluster_bootstrap


@pytest.fixture
def cohort() -> pd.DataFrame:
    """400 images of 400 patients; ``q`` is a second model, ``p`` is overconfident."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=400)
    label = (rng.random(400) < expit(truth - 0.5)).astype(int)
    score = 2.0 * truth + rng.normal(size=400)
    return pd.DataFrame({"score": score, "other": truth + 1.5 * rng.normal(size=400), "label": label, "p": expit(score)})


@pytest.fixture
def clustered() -> pd.DataFrame:
    """80 patients with one to six images each, alike within a patient."""
    rng = np.random.default_rng(1)
    patient = np.repeat(np.arange(80), rng.integers(1, 7, 80))
    label = (patient % 3 == 0).astype(int)
    score = 1.2 * label + rng.normal(size=80)[patient] + 0.5 * rng.normal(size=len(patient))
    return pd.DataFrame({"patient": patient, "label": label, "score": score, "other": 0.7 * score + rng.normal(size=len(patient))})


def test_paired_delong(cohort):
    ours = paired_difference(cohort["score"], cohort["other"], cohort["label"])
    z, p, *_ = Delong_test(cohort["label"].to_numpy(), cohort["score"].to_numpy(), cohort["other"].to_numpy(), return_auc=False)
    assert ours.p == pytest.approx(p, abs=1e-9)
    assert abs(ours.value) / ((ours.high - ours.low) / 2 / 1.959963984540054) == pytest.approx(abs(z), rel=1e-9)


def test_covariance_with_itself_is_the_variance(clustered):
    figure = auroc(clustered["score"], clustered["label"], clustered["patient"])
    assert auroc_covariance(clustered["score"], clustered["score"], clustered["label"], clustered["patient"]) == figure.variance


def test_clustered_paired_interval_covers():
    rng = np.random.default_rng(3)
    hits, naive, n = 0, 0, 200
    for _ in range(n):
        patient = np.repeat(np.arange(80), rng.integers(1, 7, 80))
        label = patient % 2
        # Two models of equal worth whose errors belong to the patient.
        errors = rng.normal(size=(2, 80))[:, patient] + 0.3 * rng.normal(size=(2, len(patient)))
        scores = 1.2 * label + errors
        for kind, key in (("clustered", patient), ("naive", None)):
            estimate = paired_difference(*scores, label, key)
            hit = estimate.low <= 0 <= estimate.high
            hits, naive = hits + (hit and kind == "clustered"), naive + (hit and kind == "naive")
    assert 0.92 <= hits / n <= 0.98
    assert naive / n < 0.85


def test_difference_in_differences_by_hand():
    site, reference = Estimate(0.05, 0.01, 0.09), Estimate(0.01, -0.02, 0.04)
    result = difference_in_differences(site, reference)
    assert result.value == pytest.approx(0.04)
    assert result.high - result.low == pytest.approx(math.hypot(0.08, 0.06))
    assert math.isnan(difference_in_differences(site, Estimate(0.0, math.nan, math.nan)).low)


def test_average_precision(cohort, clustered):
    figure = average_precision(cohort["score"], cohort["label"], n_samples=200)
    assert figure.value == pytest.approx(average_precision_score(cohort["label"], cohort["score"]), abs=1e-12)
    assert figure.low < figure.value < figure.high
    wide = average_precision(clustered["score"], clustered["label"], clustered["patient"], n_samples=300)
    narrow = average_precision(clustered["score"], clustered["label"], n_samples=300)
    assert wide.high - wide.low > narrow.high - narrow.low


@pytest.mark.parametrize(
    ("positives", "negatives", "width"), [(25, 75, 0.111), (50, 150, 0.079), (100, 300, 0.056), (200, 600, 0.039), (300, 900, 0.032)]
)
def test_precision_to_expect(positives, negatives, width):
    assert hanley_mcneil_half_width(0.8, positives, negatives) == pytest.approx(width, abs=0.0007)


def test_bootstrap_repeats_and_covers_a_mean():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(100):
        patient = np.repeat(np.arange(60), 3)
        value = rng.normal(size=60)[patient]
        figure = cluster_bootstrap(lambda w, v=value: float(np.average(v, weights=w)), patient, 300, seed=trial)
        hits += figure.low <= 0 <= figure.high
    assert 88 <= hits <= 99
    assert cluster_bootstrap(lambda w: float(w[0]), [0, 1], 50) == cluster_bootstrap(lambda w: float(w[0]), [0, 1], 50)
    assert math.isnan(cluster_bootstrap(lambda w: math.nan if w[0] == 0 else 1.0, [0, 1], 50).low)


def test_operating_point_with_one_image_a_patient(cohort):
    point = operating_point(cohort["score"], cohort["label"], 0.3)
    called, label = cohort["score"] >= 0.3, cohort["label"] == 1
    tp, fp, fn, tn = ((called & label).sum(), (called & ~label).sum(), (~called & label).sum(), (~called & ~label).sum())
    assert point.counts == (tp, fp, fn, tn)
    rates = ((point.sensitivity, tp, tp + fn), (point.specificity, tn, tn + fp), (point.ppv, tp, tp + fp), (point.npv, tn, tn + fn))
    for estimate, k, n in rates:
        low, high = proportion_confint(k, n, method="wilson")
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((k / n, low, high), abs=1e-9)
    assert point.prevalence == pytest.approx(label.mean())


def test_predictive_values_follow_the_prevalence():
    label = np.repeat([1, 0], 100)
    score = np.r_[np.repeat([1.0, 0.0], [80, 20]), np.repeat([1.0, 0.0], [20, 80])]
    for prevalence, ppv in ((0.3, 0.6316), (0.1, 0.3077), (0.02, 0.0755)):
        point = operating_point(score, label, 0.5, prevalence=prevalence, n_samples=200)
        assert point.ppv.value == pytest.approx(ppv, abs=1e-4)
        assert point.ppv.low < ppv < point.ppv.high
        npv = 0.8 * (1 - prevalence) / (0.8 * (1 - prevalence) + 0.2 * prevalence)
        assert point.npv.value == pytest.approx(npv, abs=1e-12)
    with pytest.raises(ValueError, match="prevalence"):
        operating_point(score, label, 0.5, prevalence=1.5)


def test_clustered_rates_are_wider_and_extremes_count_patients(clustered):
    score, label, patient = (clustered[key] for key in ("score", "label", "patient"))
    wide, narrow = operating_point(score, label, 0.5, patient, n_samples=400), operating_point(score, label, 0.5)
    assert wide.specificity.high - wide.specificity.low > 1.3 * (narrow.specificity.high - narrow.specificity.low)
    all_called = operating_point(score, label, -99.0, patient)
    people = len(np.unique(patient[label == 1]))
    assert all_called.sensitivity.value == 1
    assert all_called.sensitivity.low == pytest.approx(proportion_confint(people, people, method="wilson")[0], abs=1e-9)
    assert math.isnan(all_called.npv.value)


def test_youden_threshold():
    score, label = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
    assert youden_threshold(score, label) in (pytest.approx((0.35 + 0.1) / 2), pytest.approx((0.8 + 0.4) / 2))
    rng = np.random.default_rng(0)
    for _ in range(20):
        label = rng.integers(0, 2, 40)
        score = rng.normal(size=40) + label
        best = youden_threshold(score, label)
        positive, negative = score[label == 1], score[label == 0]
        gain = [(positive >= t).mean() - (negative >= t).mean() for t in score]
        here = (positive >= best).mean() - (negative >= best).mean()
        assert here == pytest.approx(max(gain), abs=1e-12)
    with pytest.raises(ValueError, match="both classes"):
        youden_threshold([1.0], [1])


def test_calibration_against_statsmodels(cohort):
    ours = assess_calibration(cohort["p"], cohort["label"], n_samples=100)
    x = logit(cohort["p"])
    slope = sm.GLM(cohort["label"], sm.add_constant(x), family=sm.families.Binomial()).fit()
    assert (ours.slope.value, ours.slope.low, ours.slope.high) == pytest.approx((slope.params.iloc[1], *slope.conf_int().iloc[1]), abs=1e-6)
    in_large = sm.GLM(cohort["label"], np.ones((400, 1)), offset=x, family=sm.families.Binomial()).fit()
    assert ours.intercept.value == pytest.approx(in_large.params.iloc[0], abs=1e-9)
    assert ours.intercept.low == pytest.approx(in_large.conf_int().iloc[0, 0], abs=1e-6)
    assert ours.slope.value < 1
    assert ours.brier.value == pytest.approx(brier_score_loss(cohort["label"], cohort["p"]), abs=1e-12)
    assert ours.brier.low < ours.brier.value < ours.brier.high
    assert sum(n for _, _, n in ours.bins) == 400


def test_clustered_calibration_against_statsmodels(clustered):
    p = expit(clustered["score"])
    ours = assess_calibration(p, clustered["label"], clustered["patient"], n_samples=50)
    theirs = sm.GLM(clustered["label"], sm.add_constant(logit(p)), family=sm.families.Binomial()).fit(
        cov_type="cluster", cov_kwds={"groups": clustered["patient"]}
    )
    assert (ours.slope.low, ours.slope.high) == pytest.approx(tuple(theirs.conf_int().iloc[1]), abs=1e-6)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("spread", [0.0, 1e-9, 1e-3, 1.0, 30.0])
def test_calibration_of_saturated_and_constant_probabilities_is_a_figure_or_not_estimable(seed, spread):
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(20), 3)
    label = np.r_[np.zeros(30, int), np.ones(30, int)]
    fit = assess_calibration(expit(-12 + spread * rng.normal(size=60)), label, patient if seed % 2 else None, n_samples=5)
    for estimate in (fit.slope, fit.intercept):
        assert math.isnan(estimate.value) or estimate.low < estimate.value < estimate.high
    assert math.isfinite(fit.brier.value)


def test_calibration_error_by_hand_and_the_not_estimable():
    p, y = np.repeat([0.2, 0.8], 5), np.r_[0, 0, 0, 0, 1, 1, 1, 1, 1, 1]
    assert expected_calibration_error(p, y, 2) == pytest.approx((0 + 0.2) / 2)
    separated = assess_calibration([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], n_samples=20)
    assert math.isnan(separated.slope.value)
    assert math.isnan(assess_calibration([0.1, 0.2], [1, 1], n_samples=20).slope.value)


@pytest.mark.parametrize("prevalence", [None, 0.1])
def test_net_benefit_against_dcurves(cohort, prevalence):
    dcurves = pytest.importorskip("dcurves")
    thresholds = np.arange(0.05, 0.5, 0.05)
    ours = net_benefit(cohort["p"], cohort["label"], thresholds, prevalence)
    table = dcurves.dca(data=cohort[["label", "p"]], outcome="label", modelnames=["p"], thresholds=thresholds, prevalence=prevalence)
    for column, name in ((0, "p"), (1, "all")):
        theirs = table[table["model"] == name].sort_values("threshold")["net_benefit"].to_numpy()
        np.testing.assert_allclose(ours[:, column], theirs, atol=1e-9)
