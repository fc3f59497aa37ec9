"""Readers and a model on the same cases: the published analysis of Van Dyke's study, simulations, identities."""

from __future__ import annotations

import math
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sga_monai.statistics.discrimination import auroc, paired_difference
from sga_monai.statistics.readers import auroc_covariances, average_readers, compare_with_readers, share_covariances

# Ratings of five readers, 1 to 5, of 45 patients with aortic dissection and 69 without, by cine (1) and spin-echo (2) MRI: Van
# Dyke et al., 79th meeting of the RSNA, 1993; as distributed with MRMCaov (Smith and Hillis, SPIE 11316, 2020). The expected
# figures are those that MRMCaov 0.3.0 prints for them in its user guide, with DeLong's covariances.
STUDY = pd.read_csv(Path(__file__).parents[1] / "fixtures/van_dyke.csv")
LABEL = STUDY["label"].to_numpy()
RATINGS = [STUDY.filter(like=f"treatment{i}").to_numpy().T for i in (1, 2)]


def areas(ratings: np.ndarray) -> np.ndarray:
    return np.array([auroc(one, LABEL).auroc for one in ratings])


@pytest.mark.parametrize(
    ("treatment", "published"),
    [
        (0, (0.8970370, 0.8253461, 0.9687280, 0.03307642, 12.59597)),
        (1, (0.9408374, 0.8942155, 0.9874592, 0.02150464, 12.56530)),
    ],
)
def test_the_average_of_the_readers_is_the_published_one(treatment, published):
    ratings = RATINGS[treatment]
    found = average_readers(areas(ratings), auroc_covariances(ratings, LABEL))
    assert (found.value, found.low, found.high, found.standard_error) == pytest.approx(published[:4], abs=6e-8)
    assert found.degrees_of_freedom == pytest.approx(published[4], abs=6e-6)


def of_differences(covariance: np.ndarray) -> np.ndarray:
    """Covariance of the differences of two blocks of figures."""
    n = len(covariance) // 2
    return covariance[:n, :n] - covariance[:n, n:] - covariance[n:, :n] + covariance[n:, n:]


def test_the_difference_of_two_modalities_is_the_published_one():
    covariance = of_differences(auroc_covariances(np.concatenate(RATINGS), LABEL))
    found = average_readers(areas(RATINGS[0]) - areas(RATINGS[1]), covariance)
    assert (found.value, found.low, found.high) == pytest.approx((-0.04380032, -0.0878671960, 0.0002665519), abs=6e-9)
    assert (found.standard_error, found.degrees_of_freedom, found.p) == pytest.approx((0.0206825, 15.06611, 0.05123303), rel=2e-6)


def test_sensitivities_at_a_cutoff_are_the_published_ones():
    called = np.concatenate(RATINGS)[:, LABEL == 1] >= 3
    shares, covariance = called.mean(axis=1), share_covariances(called)
    first = average_readers(shares[:5], covariance[:5, :5])
    assert (first.value, first.low, first.high, first.standard_error) == pytest.approx(
        (0.8222222, 0.6961876, 0.9482568, 0.05893747), abs=6e-8
    )
    assert first.degrees_of_freedom == pytest.approx(14.456811, abs=6e-7)
    both = average_readers(shares[:5] - shares[5:], of_differences(covariance))
    assert (both.value, both.low, both.high, both.p) == pytest.approx((-0.09777778, -0.1780371, -0.0175185, 0.02008822), abs=6e-8)


def test_the_covariances_are_near_those_of_the_jackknife():
    """Printed for jackknifed covariances: 0.8022883e-3, 0.3440748e-3 and 0.3466137e-3."""
    matrix = auroc_covariances(np.concatenate(RATINGS), LABEL)
    within = np.stack([matrix[:5, :5], matrix[5:, 5:]])
    off = ~np.eye(5, dtype=bool)
    assert np.diag(matrix).mean() == pytest.approx(0.0008022883, rel=0.02)
    assert within[:, off].mean() == pytest.approx(0.0003440748, rel=0.02)
    assert np.diag(matrix[:5, 5:]).mean() == pytest.approx(0.0003466137, rel=0.02)


def test_a_model_is_compared_as_one_more_modality_of_every_reader():
    rng = np.random.default_rng(0)
    model, readers = LABEL + rng.normal(size=len(LABEL)), RATINGS[0]
    found = compare_with_readers(auroc(model, LABEL).auroc, areas(readers), auroc_covariances([model, *readers], LABEL))
    # By the longer way: the model's score repeated for each reader, as a second modality.
    repeated = of_differences(auroc_covariances([*[model] * 5, *readers], LABEL))
    by_differences = average_readers(auroc(model, LABEL).auroc - areas(readers), repeated)
    assert astuple(found.difference) == pytest.approx(astuple(by_differences), rel=1e-10)
    assert found.average == average_readers(areas(readers), auroc_covariances(readers, LABEL))
    for one, reader in zip(found.each, readers, strict=True):
        assert one.low == pytest.approx(paired_difference(model, reader, LABEL).low, abs=1e-12)
    # These readers only: DeLong's variance of a mean; who stands for others is less certain.
    weights = np.array([1, *[-1 / 5] * 5])
    variance = weights @ auroc_covariances([model, *readers], LABEL) @ weights
    assert found.these_readers.high - found.these_readers.value == pytest.approx(1.959963984540054 * math.sqrt(variance), rel=1e-12)
    assert found.difference.high - found.difference.low > found.these_readers.high - found.these_readers.low


def test_two_images_of_a_patient_count_as_one_patient():
    readers, twice = RATINGS[0], np.repeat(np.arange(len(LABEL)), 2)
    alone = auroc_covariances(readers, LABEL)
    doubled = auroc_covariances([np.repeat(one, 2) for one in readers], np.repeat(LABEL, 2), twice)
    np.testing.assert_allclose(doubled, alone, rtol=1e-12)
    hits = readers[:, LABEL == 1] >= 3
    np.testing.assert_allclose(
        share_covariances(np.repeat(hits, 2, axis=1), np.repeat(np.arange(45), 2)), share_covariances(hits), rtol=1e-12
    )
    np.testing.assert_allclose(share_covariances(hits), np.cov(hits.astype(float)) / 45, rtol=1e-12)


def test_what_cannot_be_estimated_has_no_interval():
    readers = RATINGS[0]
    one = average_readers(areas(readers[:1]), auroc_covariances(readers[:1], LABEL))
    assert one.value == auroc(readers[0], LABEL).auroc
    assert math.isnan(one.low)
    # A model without a wrong order has no variance; the readers' average does not need one.
    perfect = compare_with_readers(1.0, areas(readers), auroc_covariances([LABEL, *readers], LABEL))
    assert math.isnan(perfect.difference.low)
    assert math.isnan(perfect.these_readers.low)
    assert perfect.average.low < perfect.average.value
    # Readers who agree in every case: the cases alone decide, by the normal distribution.
    same = average_readers([0.9, 0.9], np.full((2, 2), 0.01))
    assert (same.degrees_of_freedom, same.high) == (math.inf, pytest.approx(0.9 + 0.1 * 1.959963984540054))


# Mean AUROC over all readers of the simulation below, Phi(1.5 / sqrt(2.09)), and the model's, Phi(1.5 / sqrt(2)).
EXPECTED = 0.5 * (math.erf(1.5 / 2) - math.erf(1.5 / math.sqrt(2 * 2.09)))


def coverage(simulations: int) -> np.ndarray:
    """How often the interval of model minus readers covers the true difference: for all readers, and for these only.

    Roe and Metz (Academic Radiology 4, 1997): a rating is the separation that its reader sees between the classes, an effect of
    the case that all observers share, and noise.
    """
    rng, n, readers, covered = np.random.default_rng(0), 60, 5, np.zeros(2)
    label = np.repeat([0, 1], n // 2)
    for _ in range(simulations):
        separation = np.array([1.5, *(1.5 + rng.normal(scale=0.3, size=readers))])
        shared, noise = rng.normal(scale=math.sqrt(0.5), size=n), rng.normal(scale=math.sqrt(0.5), size=(readers + 1, n))
        observers = list(separation[:, None] * label + shared + noise)
        values = [auroc(one, label).auroc for one in observers]
        found = compare_with_readers(values[0], values[1:], auroc_covariances(observers, label))
        covered += [one.low <= EXPECTED <= one.high for one in (found.difference, found.these_readers)]
    return covered / simulations


def test_intervals_cover_the_difference_for_all_readers():
    everyone, these = coverage(100)
    assert 0.9 <= everyone <= 1
    # Where these readers are taken for all that there are, the interval is too short.
    assert these < everyone


@pytest.mark.slow
def test_intervals_cover_the_difference_in_a_thousand_simulations():
    everyone, these = coverage(1000)
    assert 0.93 <= everyone <= 0.98
    assert these < everyone
