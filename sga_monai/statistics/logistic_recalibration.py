"""Recalibration at a site: a new slope and intercept of the probabilities' logit, tested on patients who did not fit them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from sga_monai.statistics.calibration import log_odds, logistic_coefficients, logistic_estimate
from sga_monai.statistics.estimates import Estimate
from sga_monai.statistics.folds import ENOUGH_PATIENTS, FOLDS, patient_folds


@dataclass(frozen=True)
class Recalibration:
    """What a site's own data say the probabilities should be.

    Attributes:
        intercept: a of logit(p') = a + b logit(p), fitted to all images; 0 where nothing is to be changed.
        slope: b; 1 where nothing is to be changed.
        probability: ``[N]``, p' of each image with an intercept and a slope that its patient had no part in.
    """

    intercept: Estimate
    slope: Estimate
    probability: NDArray[np.float64]


def recalibrate(probability: ArrayLike, label: ArrayLike, patient: ArrayLike) -> Recalibration | None:
    """Logistic recalibration (Cox, Biometrika 45, 1958), cross-fitted by patient in five folds.

    Fitted and judged on the same images, a slope of 1 and an intercept of 0 would be found whatever the model. Here each fold's
    images are recalibrated by what the other folds' patients say. Folds are drawn without regard to the label: with the same share
    of positives in each, the others would give away that of the fold.

    Args:
        probability: ``[N]``; clipped to [1e-6, 1 - 1e-6].
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys; a patient is in one fold.

    Returns:
        ``None`` with fewer than 10 patients of a class, or where the classes are separated and no coefficient is finite.
    """
    x, y, patient = log_odds(probability), np.asarray(label, dtype=np.float64), np.asarray(patient)
    if min(len(np.unique(patient[y == value])) for value in (0, 1)) < ENOUGH_PATIENTS:
        return None
    design, offset = np.stack([np.ones_like(x), x], axis=1), np.zeros_like(x)
    crossed = np.empty_like(x)
    fold = patient_folds(patient)
    for held_out in (fold == number for number in range(FOLDS)):
        beta = logistic_coefficients(design[~held_out], y[~held_out], offset[~held_out])
        if beta is None:
            return None
        crossed[held_out] = expit(design[held_out] @ beta)
    intercept, slope = (logistic_estimate(design, y, offset, patient, which) for which in (0, 1))
    return Recalibration(intercept, slope, crossed)
