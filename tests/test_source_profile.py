from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from sga_monai.embedding import along_axes, is_sound, moments
from sga_monai.probes import site_probe
from sga_monai.source_profile import N_AXES, source_profile, told_apart

N_FEATURES = 30
MIX = np.random.default_rng(0).normal(size=(N_FEATURES, N_FEATURES)) * np.exp(-np.arange(N_FEATURES) / 6)


def draw(rng: np.random.Generator, n_patients: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Features of patients with one to three images that are alike."""
    patient = np.repeat(np.arange(n_patients), rng.integers(1, 4, n_patients))
    own, of_image = rng.normal(size=(n_patients, N_FEATURES))[patient], rng.normal(size=(len(patient), N_FEATURES))
    return (0.7 * own + 0.7 * of_image) @ MIX.T + shift * MIX[:, 0], patient


def probe(inside: np.ndarray, patient: np.ndarray, outside: np.ndarray, other: np.ndarray) -> dict | None:
    embedding = moments(inside) | {"profile": source_profile(inside, patient)}
    assert is_sound(embedding)
    return told_apart(along_axes(outside, embedding), other, embedding["profile"])


def test_by_hand_in_one_axis():
    profile = {"axes": [[1.0]], "halves": [{"n_patients": 50, "mean": [0.0], "covariance": [[4.0]]}] * 2}
    along = np.linspace(0.5, 3, 40)[:, None]
    found = told_apart(along, np.arange(40), profile)
    assert found["value"] == pytest.approx(norm.cdf(along / 2).mean())
    assert found["n"] == 40
    # The direction is the site's: below the internal mean is as far as above.
    assert told_apart(-along, np.arange(40), profile)["value"] == pytest.approx(found["value"])


def test_equal_hospitals_cannot_be_told_apart_and_the_interval_covers():
    rng = np.random.default_rng(1)
    found = [probe(*draw(rng, 60), *draw(rng, 50)) for _ in range(200)]
    assert np.mean([line["value"] for line in found]) == pytest.approx(0.5, abs=0.02)
    # The two halves are taken as erring together, so it is a little too wide.
    assert 0.94 <= np.mean([line["low"] <= 0.5 <= line["high"] for line in found]) < 1


def test_it_is_what_a_probe_with_the_images_finds():
    rng = np.random.default_rng(2)
    for shift in (0.7, 1.5, 3.0):
        (inside, patient), (outside, other) = draw(rng, 300, 0), draw(rng, 300, shift)
        found = probe(inside, patient, outside, other)
        site = np.repeat([0, 1], [len(inside), len(outside)])
        # The same axes, with every image at hand.
        axes = np.asarray(source_profile(inside, patient)["axes"])
        oracle = site_probe(
            np.concatenate([inside, outside]) @ axes.T, site, np.concatenate([patient, other + 1000]), rng.integers(0, 2, len(site))
        )
        assert found["value"] == pytest.approx(oracle["value"], abs=0.03)
        assert found["low"] < found["value"] < found["high"]


def test_few_patients_have_few_axes_or_none():
    rng = np.random.default_rng(3)
    for n_patients, n_axes in ((100, N_AXES), (24, 2), (10, 1)):
        features, patient = draw(rng, n_patients)
        profile = source_profile(features, patient)
        assert np.shape(profile["axes"]) == (n_axes, N_FEATURES)
        assert sum(half["n_patients"] for half in profile["halves"]) == n_patients
    assert source_profile(*draw(rng, 9)) is None
    features, patient = draw(rng, 9)
    assert told_apart(features[:, :1], patient, {"halves": profile["halves"]}) is None
    flat = {"halves": [{"n_patients": 5, "mean": [0.0], "covariance": [[0.0]]}] * 2}
    assert told_apart(np.ones((20, 1)), np.arange(20), flat) is None
    assert along_axes(features, None).shape == (len(features), 0)
