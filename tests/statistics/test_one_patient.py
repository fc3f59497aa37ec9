"""One patient for all images, as an anonymizer leaves it: figures without intervals instead of a division by zero."""

from __future__ import annotations

import math

import numpy as np

from sga_monai.statistics.calibration import assess_calibration
from sga_monai.statistics.decisions import operating_point
from sga_monai.statistics.discrimination import auroc, average_precision, paired_difference
from sga_monai.statistics.estimates import cluster_bootstrap, mean_change, patient_mean

RNG = np.random.default_rng(0)
LABEL = np.arange(24) % 2
SCORE = LABEL + RNG.normal(0, 1, 24)
PATIENT = ["ANONYMOUS"] * 24


def assert_no_interval(estimate, value: float | None = None) -> None:
    assert math.isfinite(estimate.value)
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    if value is not None:
        assert estimate.value == value


def test_no_interval_of_one_patient():
    figure = auroc(SCORE, LABEL, PATIENT)
    assert 0.5 < figure.auroc < 1
    assert math.isnan(figure.ci_low)
    assert figure.n_patients == 1
    assert_no_interval(average_precision(SCORE, LABEL, PATIENT))
    assert_no_interval(paired_difference(SCORE, SCORE[::-1].copy(), LABEL, PATIENT))
    assert_no_interval(mean_change(SCORE, SCORE - 1, PATIENT))
    assert_no_interval(patient_mean(SCORE, PATIENT), float(SCORE.mean()))
    assert_no_interval(cluster_bootstrap(lambda counts: float(counts.sum()), PATIENT), 24)
    fit = assess_calibration(1 / (1 + np.exp(-SCORE)), LABEL, PATIENT)
    for name in ("slope", "intercept", "brier", "ece"):
        assert_no_interval(getattr(fit, name))
    for prevalence in (None, 0.1):
        point = operating_point(SCORE, LABEL, 0.5, PATIENT, prevalence)
        for name in ("sensitivity", "specificity", "ppv", "npv"):
            assert_no_interval(getattr(point, name))
    perfect = operating_point(LABEL.astype(float), LABEL, 0.5, PATIENT)
    assert_no_interval(perfect.sensitivity, 1.0)
