"""Figures beyond the AUROC, against other packages and by hand."""

from __future__ import annotations

import math
import tracemalloc
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from MLstatkit import Delong_test
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn.metrics import average_precision_score, brier_score_loss
from statsmodels.stats.proportion import proportion_confint

from sga_monai.statistics.calibration import assess_calibration, calibration_line, expected_calibration_error, fit_temperature
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


@pytest.mark.parametrize("decimals", [12, 1, 0, -2])
def test_average_precision(cohort, clustered, decimals):
    """Also with ties, down to one score for all."""
    figure = average_precision(cohort["score"].round(decimals), cohort["label"], n_samples=50)
    assert figure.value == pytest.approx(average_precision_score(cohort["label"], cohort["score"].round(decimals)), abs=1e-12)
    assert figure.low < figure.value < figure.high
    # An image counts as often as its patient was drawn.
    score, label, patient = (clustered[name].to_numpy() for name in ("score", "label", "patient"))
    score = score.round(decimals)
    draws = np.random.default_rng(0).multinomial(80, np.full(80, 1 / 80), size=40)[:, patient]
    samples = [average_precision_score(np.repeat(label, times), np.repeat(score, times)) for times in draws]
    found = average_precision(score, label, patient, n_samples=40)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(samples, (0.025, 0.975))), abs=1e-12)


def test_average_precision_of_one_class():
    assert math.isnan(average_precision([0.1, 0.9], [1, 1]).value)
    assert math.isnan(average_precision([0.1, 0.9], [0, 0]).value)
    # Half of the samples of two patients have one class.
    assert average_precision([0.1, 0.9], [0, 1], n_samples=20).value == 1
    assert math.isnan(average_precision([0.1, 0.9], [0, 1], n_samples=20).low)


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


def test_the_samples_of_many_patients_are_not_in_memory_together():
    patient, value = np.arange(5000), np.random.default_rng(0).normal(size=5000)
    tracemalloc.start()
    figure = cluster_bootstrap(lambda counts: float(np.average(value, weights=counts)), patient, 200)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * patient.nbytes / 10
    # The same samples as drawn at once.
    counts = np.random.default_rng(0).multinomial(5000, np.full(5000, 1 / 5000), size=200)
    assert (figure.low, figure.high) == tuple(np.quantile([np.average(value, weights=one) for one in counts], (0.025, 0.975)))


def test_operating_point_with_one_image_a_patient(cohort):
    point = operating_point(cohort["score"], cohort["label"], 0.3)
    called, label = cohort["score"] >= 0.3, cohort["label"] == 1
    tp, fp, fn, tn = ((called & label).sum(), (called & ~label).sum(), (~called & label).sum(), (~called & ~label).sum())
    assert point.counts == (tp, fp, fn, tn)
    assert point.patient_counts == point.counts
    for estimate, k, n in ((point.sensitivity, tp, tp + fn), (point.specificity, tn, tn + fp)):
        low, high = proportion_confint(k, n, method="wilson")
        assert (estimate.value, estimate.low, estimate.high) == pytest.approx((k / n, low, high), abs=1e-9)
    assert point.prevalence == pytest.approx(label.mean())
    # At the cohort's prevalence Bayes' formula gives the plain shares.
    assert (point.ppv.value, point.npv.value) == pytest.approx((tp / (tp + fp), tn / (tn + fn)), abs=1e-12)


def test_predictive_values_follow_the_prevalence():
    label = np.repeat([1, 0], 100)
    score = np.r_[np.repeat([1.0, 0.0], [80, 20]), np.repeat([1.0, 0.0], [20, 80])]
    for prevalence, ppv in ((0.3, 0.6316), (0.1, 0.3077), (0.02, 0.0755)):
        point = operating_point(score, label, 0.5, prevalence=prevalence)
        assert point.ppv.value == pytest.approx(ppv, abs=1e-4)
        assert point.ppv.low < ppv < point.ppv.high
        npv = 0.8 * (1 - prevalence) / (0.8 * (1 - prevalence) + 0.2 * prevalence)
        assert point.npv.value == pytest.approx(npv, abs=1e-12)
    with pytest.raises(ValueError, match="prevalence"):
        operating_point(score, label, 0.5, prevalence=1.5)


def test_clustered_rates_are_wider_and_extremes_count_patients(clustered):
    score, label, patient = (clustered[key] for key in ("score", "label", "patient"))
    wide, narrow = operating_point(score, label, 0.5, patient), operating_point(score, label, 0.5)
    assert wide.specificity.high - wide.specificity.low > 1.3 * (narrow.specificity.high - narrow.specificity.low)
    all_called = operating_point(score, label, -99.0, patient)
    images = np.unique(patient[label == 1], return_counts=True)[1]
    alike = images.sum() ** 2 / (images**2).sum()
    assert len(images) > alike > len(images) / 2
    assert all_called.sensitivity.value == all_called.sensitivity.high == 1
    assert all_called.sensitivity.low == pytest.approx(proportion_confint(alike, alike, method="wilson")[0], abs=1e-9)
    assert all_called.patient_counts == (len(images), len(np.unique(patient)) - len(images), 0, 0)
    assert math.isnan(all_called.npv.value)


def mover_npv(se: tuple[float, float, float], sp: tuple[float, float, float], prevalence: float) -> tuple[float, float]:
    """NPV's limits by the published formula for a ratio (Donner and Zou 2012, equation 9), written down independently."""
    (a, l1, u1), (b, l2, u2) = (1 - se[0], 1 - se[2], 1 - se[1]), sp
    ab = a * b
    low = (ab - math.sqrt(ab**2 - l1 * u2 * (2 * a - l1) * (2 * b - u2))) / (u2 * (2 * b - u2))
    high = (ab + math.sqrt(ab**2 - u1 * l2 * (2 * a - u1) * (2 * b - l2))) / (l2 * (2 * b - l2))
    odds = prevalence / (1 - prevalence)
    return 1 / (1 + odds * high), 1 / (1 + odds * low)


@pytest.mark.parametrize("prevalence", [None, 0.02, 0.3])
@pytest.mark.parametrize("counts", [(80, 20, 20, 80), (57, 3, 40, 100), (30, 0, 10, 90), (100, 0, 20, 180)])
def test_npv_has_the_published_limits(counts, prevalence):
    tp, fn, fp, tn = counts
    label, called = np.repeat([1, 1, 0, 0], counts), np.repeat([1.0, 0.0, 1.0, 0.0], counts)
    point = operating_point(called, label, 0.5, prevalence=prevalence)
    rates = [(k / n, *proportion_confint(k, n, method="wilson")) for k, n in ((tp, tp + fn), (tn, tn + fp))]
    at = (tp + fn) / len(label) if prevalence is None else prevalence
    assert (point.npv.low, point.npv.high) == pytest.approx(mover_npv(*rates, at), abs=1e-9)
    # PPV is the NPV of the opposite question.
    other = operating_point(-called, 1 - label, -0.5, prevalence=1 - at)
    assert asdict(other.npv) == pytest.approx(asdict(point.ppv), nan_ok=True)


def test_npv_without_a_false_negative_is_not_certain():
    label, called = np.repeat([1, 0, 0], [60, 30, 110]), np.repeat([1.0, 1.0, 0.0], [60, 30, 110])
    for patient in (None, np.arange(200) // 2):
        for prevalence in (None, 0.3, 0.1):
            npv = operating_point(called, label, 0.5, patient, prevalence).npv
            assert npv.value == npv.high == 1
            assert 0.9 < npv.low < 0.995
    assert operating_point(called, label, 0.5, prevalence=0.3).npv.low == pytest.approx(0.97, abs=0.005)
    perfect = operating_point(label.astype(float), label, 0.5)
    assert perfect.ppv.value == perfect.npv.value == 1
    assert 0.8 < perfect.ppv.low < perfect.npv.low < 1
    none = operating_point(label - 9.0, label, 0.5)
    assert math.isnan(none.ppv.value)
    assert none.npv.value == pytest.approx(0.7)
    missing = operating_point(called, np.zeros(200), 0.5)
    assert math.isnan(missing.ppv.value)
    assert math.isnan(missing.sensitivity.value)


@pytest.mark.parametrize(
    ("sizes", "rates", "prevalence", "images", "alike"),
    [
        ((100, 300), (0.9, 0.9), 0.1, 1, 0.0),
        ((50, 200), (0.95, 0.8), 0.1, 1, 0.0),
        ((60, 120), (0.9, 0.8), 0.2, 4, 0.5),
        ((60, 120), (0.97, 0.95), 0.2, 4, 0.5),
    ],
)
def test_rates_and_predictive_values_cover(sizes, rates, prevalence, images, alike):
    """Patients with one to ``images`` images, whose calls within a patient have the correlation ``alike``."""
    rng, n = np.random.default_rng(0), 600
    (se, sp), label = rates, np.repeat([1, 0], sizes)
    truth = {"sensitivity": se, "specificity": sp}
    truth["ppv"] = se * prevalence / (se * prevalence + (1 - sp) * (1 - prevalence))
    truth["npv"] = sp * (1 - prevalence) / (sp * (1 - prevalence) + (1 - se) * prevalence)
    called = np.where(label == 1, se, 1 - sp)
    hits = dict.fromkeys(truth, 0)
    for _ in range(n):
        patient = np.repeat(np.arange(len(label)), rng.integers(1, images + 1, len(label)))
        own = rng.beta(called * (1 - alike) / alike, (1 - called) * (1 - alike) / alike) if alike else called
        score = (rng.random(len(patient)) < own[patient]).astype(float)
        point = operating_point(score, label[patient], 0.5, patient, prevalence)
        for name, value in truth.items():
            estimate = getattr(point, name)
            hits[name] += estimate.low <= value <= estimate.high
    assert all(0.92 <= count / n <= 0.985 for count in hits.values()), hits


def test_bins_of_the_calibration_are_clustered_by_patient(clustered):
    p, label = expit(clustered["score"]), clustered["label"]
    clusters = assess_calibration(p, label, clustered["patient"], n_samples=2).bins
    images = assess_calibration(p, label, n_samples=2).bins
    order = np.array_split(np.argsort(p.to_numpy(), kind="stable"), 10)
    assert [line.patients for line in clusters] == [clustered["patient"].iloc[rows].nunique() for rows in order]
    for line, alone, rows in zip(clusters, images, order, strict=True):
        k = int(label.iloc[rows].sum())
        assert (alone.positives.low, alone.positives.high) == pytest.approx(proportion_confint(k, len(rows), method="wilson"), abs=1e-9)
        assert line.positives.value == alone.positives.value
        assert line.positives.high - line.positives.low >= alone.positives.high - alone.positives.low - 1e-12
    width = [sum(line.positives.high - line.positives.low for line in bins) for bins in (clusters, images)]
    assert width[0] > 1.1 * width[1]


@pytest.mark.parametrize("scale", [0.01, 0.5, 3.0, 500.0])
def test_temperature_against_statsmodels_and_scipy(cohort, scale):
    score, label = scale * cohort["score"].to_numpy(), cohort["label"].to_numpy()
    ours = fit_temperature(score, label)
    theirs = sm.GLM(label, score[:, None] / scale, family=sm.families.Binomial()).fit(tol=1e-12)
    assert ours == pytest.approx(scale / theirs.params[0], rel=1e-6)

    def loss(logarithm: float) -> float:
        return float(np.logaddexp(0, score / math.exp(logarithm)).sum() - (label * score / math.exp(logarithm)).sum())

    best = minimize_scalar(loss, bounds=(math.log(scale) - 5, math.log(scale) + 5), method="bounded", options={"xatol": 1e-10})
    assert ours == pytest.approx(math.exp(best.x), rel=1e-5)


@pytest.mark.parametrize(
    ("score", "label", "message"),
    [
        ([-2, -1, 1, 2], [0, 0, 1, 1], "separate the classes"),
        ([2, 1, -1, -2], [0, 0, 1, 1], "do not rise with the label"),
        ([1, 1, 1, 1], [0, 0, 1, 1], "do not rise with the label"),
        ([0, 0, 0, 0], [0, 0, 1, 1], "do not rise with the label"),
        ([1, 2, 3, 4], [1, 1, 1, 1], "both classes"),
    ],
)
def test_no_temperature_where_none_is_the_best(score, label, message):
    with pytest.raises(ValueError, match=message):
        fit_temperature(score, label)


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
    robust = {"cov_type": "cluster", "cov_kwds": {"groups": np.arange(400)}}
    slope = sm.GLM(cohort["label"], sm.add_constant(x), family=sm.families.Binomial()).fit(**robust)
    assert (ours.slope.value, ours.slope.low, ours.slope.high) == pytest.approx((slope.params.iloc[1], *slope.conf_int().iloc[1]), abs=1e-6)
    in_large = sm.GLM(cohort["label"], np.ones((400, 1)), offset=x, family=sm.families.Binomial()).fit(**robust)
    assert ours.intercept.value == pytest.approx(in_large.params.iloc[0], abs=1e-9)
    assert ours.intercept.low == pytest.approx(in_large.conf_int().iloc[0, 0], abs=1e-6)
    assert ours.slope.value < 1
    assert ours.brier.value == pytest.approx(brier_score_loss(cohort["label"], cohort["p"]), abs=1e-12)
    assert ours.brier.low < ours.brier.value < ours.brier.high
    assert math.isnan(ours.ece.low)
    assert sum(line.images for line in ours.bins) == 400


def test_the_interval_of_the_intercept_holds_for_an_overconfident_model():
    """The share of 95 % intervals that hold what would be found in a large cohort; that of the model's own variance is 0.80."""
    rng = np.random.default_rng(0)

    def cohort(n: int):
        x = rng.normal(0, 3, n)
        return expit(x), rng.random(n) < expit(0.3 * x)

    truth = calibration_line(*cohort(400_000), np.arange(400_000))[1].value
    intervals = [calibration_line(*cohort(300), np.arange(300))[1] for _ in range(400)]
    assert np.mean([one.low < truth < one.high for one in intervals]) > 0.92


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


def test_bins_never_part_equal_probabilities():
    # A thousand cases of five probabilities, perfectly calibrated, in the order of the labels.
    p = np.repeat([0.1, 0.3, 0.5, 0.7, 0.9], 200)
    y = (np.tile(np.arange(200), 5) < 200 * p).astype(int)
    order = np.argsort(y, kind="stable")
    assert expected_calibration_error(p[order], y[order]) == pytest.approx(0, abs=1e-12)
    bins = assess_calibration(p[order], y[order], n_samples=2).bins
    assert [(line.probability, line.positives.value, line.images) for line in bins] == [
        (pytest.approx(value), pytest.approx(value), 200) for value in (0.1, 0.3, 0.5, 0.7, 0.9)
    ]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_calibration_does_not_depend_on_the_order_of_the_rows(data):
    rows = st.tuples(st.sampled_from([0.0, 0.05, 0.2, 0.21, 0.5, 0.9, 1.0]), st.integers(0, 1), st.integers(0, 9))
    given_rows = data.draw(st.lists(rows, min_size=1, max_size=40))
    other_rows = data.draw(st.permutations(given_rows))
    first, second = (assess_calibration(*zip(*table, strict=True), n_samples=5) for table in (given_rows, other_rows))
    for one, other in zip([first, *first.bins], [second, *second.bins], strict=True):
        assert _figures(one) == pytest.approx(_figures(other), rel=1e-6, abs=1e-6, nan_ok=True)


def _figures(fit: object) -> list[float]:
    """Every number of a calibration or of one of its bins."""
    parts = [part for name, part in asdict(fit).items() if name != "bins"]
    return [float(number) for part in parts for number in (part.values() if isinstance(part, dict) else [part])]


@pytest.mark.parametrize("prevalence", [None, 0.1])
def test_net_benefit_against_dcurves(cohort, prevalence):
    dcurves = pytest.importorskip("dcurves")
    thresholds = np.arange(0.05, 0.5, 0.05)
    ours = net_benefit(cohort["p"], cohort["label"], thresholds, prevalence)
    table = dcurves.dca(data=cohort[["label", "p"]], outcome="label", modelnames=["p"], thresholds=thresholds, prevalence=prevalence)
    for column, name in ((0, "p"), (1, "all")):
        theirs = table[table["model"] == name].sort_values("threshold")["net_benefit"].to_numpy()
        np.testing.assert_allclose(ours[:, column], theirs, atol=1e-9)
