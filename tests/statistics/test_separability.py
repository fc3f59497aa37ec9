from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import norm

from sga_monai.evaluation.embedding import _is_sound
from sga_monai.statistics.feature_shift import moments
from sga_monai.statistics.folds import patient_folds
from sga_monai.statistics.probes import site_probe
from sga_monai.statistics.separability import FEWEST, N_AXES, coordinates, site_auroc, site_scores, source_profile

# More than images of a half, as with a real network.
N_FEATURES = 128
SPECTRA = {"flat": np.ones(N_FEATURES), "falling": 1 / np.arange(1, N_FEATURES + 1)}
Images = tuple[np.ndarray, np.ndarray, np.ndarray]


def draw(rng: np.random.Generator, n_patients: int, sd: np.ndarray, prevalence: float = 0.5, gap: float = 0.0) -> Images:
    """Features, label and patient; one or two images a patient, which are alike, and the diseased ``gap`` further."""
    patient = np.repeat(np.arange(n_patients), rng.integers(1, 3, n_patients))
    label = (rng.random(n_patients) < prevalence).astype(int)[patient]
    own, of_image = rng.normal(size=(n_patients, len(sd)))[patient], rng.normal(size=(len(patient), len(sd)))
    features = (0.7 * own + 0.7 * of_image) * sd
    features[:, 0] += gap * label
    return features, label, patient


def probe(inside: Images, outside: Images) -> dict:
    profile = source_profile(*inside)
    return site_auroc(site_scores(*outside, profile), *outside[1:], profile)


def test_by_hand():
    """Scores of 1 and 2 stand at these quantiles of the internal Gaussian, whatever the line was."""
    profile = [{"judge": {label: {"n_patients": 50} for label in ("0", "1")}}] * 2
    label = np.arange(40) % 2
    found = site_auroc(1.0 + label, label, np.arange(40), profile)
    assert found["value"] == pytest.approx((norm.cdf(1) + norm.cdf(2)) / 2)
    assert found["n"] == 40
    # Each half by itself: its own patients, and of each label the 50 internal ones, who lie above a score or not.
    half, error = patient_folds(np.arange(40), 2), 0.0
    for side in (0, 1):
        own = label[half == side]
        variance = norm.cdf(1.0 + own).var(ddof=1) / len(own)
        variance += sum(((own == value).mean() ** 2) * norm.cdf(1 + value) * norm.sf(1 + value) / 50 for value in (0, 1))
        error += len(own) / 40 * np.sqrt(variance)
    width = norm.ppf(0.975) * error / (found["value"] * (1 - found["value"]))
    assert (found["low"], found["high"]) == pytest.approx(expit(logit(found["value"]) + np.array([-width, width])), rel=1e-3)
    assert site_auroc(np.full(40, np.nan), label, np.arange(40), profile) is None


def test_coordinates_by_hand():
    part = {"center": [1.0, 0, 0], "axes": [[0, 1.0, 0]], "rest": [1.0, 1.0, 4.0]}
    found = coordinates([[3.0, 5.0, 2.0]], part)
    # Along the axis 5; of the rest (2, 0, 2) the mean of 4 / 1, 0 and 4 / 4.
    assert found == pytest.approx(np.array([[5.0, np.log(5 / 3)]]))


@pytest.mark.parametrize(("spectrum", "gap", "prevalence"), [("flat", 0, 0.5), ("falling", 0, 0.5), ("falling", 6, 0.2)])
def test_equal_hospitals_cannot_be_told_apart_whatever_their_prevalence(spectrum, gap, prevalence):
    rng, sd = np.random.default_rng(1), SPECTRA[spectrum]
    found = [probe(draw(rng, 90, sd, 0.5, gap), draw(rng, 100, sd, prevalence, gap)) for _ in range(30)]
    assert np.mean([line["value"] for line in found]) == pytest.approx(0.5, abs=0.02)
    # The halves are taken as erring together, so intervals are a little too wide.
    assert np.mean([line["low"] <= 0.5 <= line["high"] for line in found]) > 0.9


def test_it_is_what_a_probe_with_all_images_and_features_finds():
    rng, sd = np.random.default_rng(2), SPECTRA["falling"][:60]
    for shift in (0.5, 1.0, 2.0):
        inside, outside = draw(rng, 400, sd), draw(rng, 400, sd)
        outside[0][:, 1] += shift
        found = probe(inside, outside)
        site = np.repeat([0, 1], [len(inside[0]), len(outside[0])])
        joined = [np.concatenate(pair) for pair in zip(inside, outside, strict=True)]
        oracle = site_probe(joined[0], site, joined[2] + 1000 * site, joined[1])
        assert found["value"] == pytest.approx(oracle["value"], abs=0.04)
        assert found["low"] < found["value"] < found["high"]


def test_a_large_difference_off_the_axes_shows_in_the_rest():
    rng, sd = np.random.default_rng(3), SPECTRA["falling"]
    inside, outside = draw(rng, 200, sd), draw(rng, 200, sd)
    outside[0][:, 100:110] += 4 * sd[100:110]
    assert probe(inside, outside)["value"] > 0.9


def test_what_travels_is_of_ten_patients_or_more():
    rng, sd = np.random.default_rng(4), SPECTRA["flat"]
    inside = draw(rng, 60, sd)
    profile = source_profile(*inside)
    gaussians = [half[role][label] for half in profile for role in ("drawn", "judge") for label in ("0", "1")]
    assert min(gaussian["n_patients"] for gaussian in gaussians) >= FEWEST
    assert np.shape(profile[0]["axes"]) == (min(gaussian["n_patients"] for gaussian in gaussians) // 5, N_FEATURES)
    assert len(source_profile(*draw(rng, 300, sd))[0]["axes"]) == N_AXES
    # As written and read it is the same, and the schema's other half finds it sound.
    assert json.loads(json.dumps(profile)) == profile
    assert _is_sound(moments(inside[0]) | {"profile": profile})
    assert source_profile(*draw(rng, 30, sd)) is None
    assert source_profile(np.ones_like(inside[0]), *inside[1:]) is None


def test_a_site_of_one_label_or_few_patients():
    rng, sd = np.random.default_rng(5), SPECTRA["falling"]
    profile = source_profile(*draw(rng, 80, sd))
    features, label, patient = draw(rng, 60, sd)
    label[:] = 1
    label[patient == 3] = 0
    score = site_scores(features, label, patient, profile)
    assert np.isnan(score[patient == 3]).all()
    assert np.isfinite(score[patient != 3]).all()
    few = patient < 8
    assert np.isnan(site_scores(features[few], label[few], patient[few], profile)).all()
