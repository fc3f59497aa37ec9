"""Are the images like the internal ones, and is the label read in the lungs: neither is said of chance at a small site."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from sga_monai.evaluation.predictions import FEATURES
from sga_monai.hospital.checks import drift, shortcut_audit
from sga_monai.hospital.reference import _histogram


def inside(values: np.ndarray, **facts: object) -> dict:
    """A reference of internal images, of whom every patient has ``images`` with the same features."""
    images = facts.pop("images", 1)
    n = len(values) * images
    counts = {"n_positive": n // 2, "n_negative": n - n // 2, "n_patients": len(values)}
    features = {name: _histogram(pd.Series(np.repeat(values, images))) for name in FEATURES[:1]}
    return {"image_features": features, "models": {"model": counts}, **facts}


def site(values: np.ndarray, images: int = 1) -> pd.DataFrame:
    return pd.DataFrame({FEATURES[0]: values, "patient": np.arange(len(values))}).loc[np.repeat(np.arange(len(values)), images)]


@pytest.mark.parametrize(("n_inside", "n_here", "images"), [(48, 60, 1), (100, 50, 1), (200, 100, 1), (500, 100, 1), (100, 60, 3)])
def test_unchanged_images_are_rarely_called_different_and_shifted_ones_are(n_inside, n_here, images):
    rng, n = np.random.default_rng(0), 300
    flagged = dict.fromkeys((0.0, 1.0), 0)
    for _ in range(n):
        reference = inside(rng.normal(size=n_inside), images=images)
        here = rng.normal(size=n_here)
        for shift in flagged:
            flagged[shift] += drift(site(here + shift, images), reference)[0]["flag"]
    # One in a hundred by the limit, and chance of the simulation.
    assert flagged[0.0] / n <= 0.03, flagged
    assert flagged[1.0] / n >= 0.85, flagged


def test_the_limit_is_that_of_the_numbers_of_patients_and_a_fifth_at_least():
    rng = np.random.default_rng(0)
    values, here = rng.normal(size=100), rng.normal(size=50)
    # 21.666 is the 99 % quantile of chi squared with nine degrees of freedom, of ten bins.
    for reference, table in (
        (inside(values), site(here)),
        (inside(values, images=3), site(here, 2)),
        # The images that are compared are of the test set and of the validation set.
        (inside(values[:80], images=2, embedding={"n": 200}), site(here)),
    ):
        assert drift(table, reference)[0]["chance"] == pytest.approx(21.666 * (1 / 100 + 1 / 50), rel=1e-4)
    assert drift(site(here), inside(values, embedding={"n": 300}))[0]["chance"] == pytest.approx(21.666 * (1 / 300 + 1 / 50), rel=1e-4)
    # So many patients show a smaller change, which does not count.
    many = drift(site(rng.normal(size=20000) + 0.2), inside(rng.normal(size=20000)))[0]
    assert many["chance"] < many["psi"] < 0.2
    assert not many["flag"]


def test_the_controls_count_the_patients_of_each_class_among_their_own_images():
    n = 12
    table = pd.DataFrame({"patient": np.repeat(np.arange(n), 2), "label": np.repeat(np.arange(n) % 3 == 0, 2).astype(int)})
    table = table.assign(score=0.1 * table.index, score_center_blank=-table.index, score_lungs_blank=table.index)
    table.loc[table["patient"] > 4, "score_lungs_blank"] = np.nan
    audit = shortcut_audit(table)
    keys = ("n", "n_patients", "positive_patients", "negative_patients")
    assert [audit["center_blank"][key] for key in keys] == [24, 12, 4, 8]
    assert [audit["lungs_blank"][key] for key in keys] == [10, 5, 2, 3]
