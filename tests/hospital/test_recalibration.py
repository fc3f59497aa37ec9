"""Local recalibration: figures beside the locked ones, which do not move."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from sga_monai.hospital.recalibration import local_recalibration
from sga_monai.statistics.calibration import assess_calibration
from sga_monai.statistics.logistic_recalibration import recalibrate

TEMPERATURE = 2.0


def site(patients: int, seed: int = 0) -> pd.DataFrame:
    """Two images a patient; their probabilities are too far from 0.5, and too high."""
    rng = np.random.default_rng(seed)
    patient = np.repeat(np.arange(patients), 2)
    x = 1.2 * rng.normal(size=patients)[patient] + 0.5 * rng.normal(size=len(patient))
    label = (rng.random(len(x)) < expit(x)).astype(int)
    return pd.DataFrame({"patient": [f"k{i}" for i in patient], "label": label, "score": TEMPERATURE * (2 * x + 1.5)})


def locked(scored: pd.DataFrame) -> dict:
    probability = expit(scored["score"] / TEMPERATURE)
    return {"temperature": TEMPERATURE, "calibration": asdict(assess_calibration(probability, scored["label"], scored["patient"]))}


def test_the_planted_shift_is_taken_back_and_the_locked_figures_stay() -> None:
    scored = site(500)
    model = locked(scored)
    before = deepcopy(model)
    found = local_recalibration(scored, model)
    assert model == before
    assert found["exploratory"] is True
    assert (found["images"], found["patients"]) == (1000, 500)
    # Planted: logit = (logit of the probability - 1.5) / 2.
    for name, truth in (("intercept", -0.75), ("slope", 0.5)):
        estimate = found["fitted"][name]
        assert estimate["low"] < truth < estimate["high"]
    for key in ("slope", "intercept", "brier", "ece"):
        assert found["locked"][key] == model["calibration"][key]
    again = recalibrate(expit(scored["score"] / TEMPERATURE), scored["label"], scored["patient"])
    expected = asdict(assess_calibration(again.probability, scored["label"], scored["patient"]))
    assert {key: found["recalibrated"][key] for key in ("slope", "intercept", "brier", "ece")} == {
        key: expected[key] for key in ("slope", "intercept", "brier", "ece")
    }
    after, came = found["recalibrated"], found["locked"]
    assert came["slope"]["high"] < 0.7 < after["slope"]["low"] < 1 < after["slope"]["high"]
    assert came["observed_to_expected"]["high"] < 0.85
    assert after["observed_to_expected"]["value"] == pytest.approx(1, abs=0.02)
    for key in ("brier", "ece"):
        assert after[key]["value"] < came[key]["value"]


def test_without_enough_patients_there_is_none() -> None:
    scored = site(12)
    assert local_recalibration(scored, locked(scored)) is None
    assert local_recalibration(scored, {"temperature": 1.0, "calibration": None}) is None
