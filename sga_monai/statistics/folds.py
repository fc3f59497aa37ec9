"""Patients in folds: what is fitted to some of them is tested on others."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

# With fewer patients of a class nothing is fitted.
ENOUGH_PATIENTS = 10
FOLDS = 5


def patient_folds(patient: ArrayLike, n_folds: int = FOLDS) -> NDArray[np.int64]:
    """The fold of each image, ``[N]``, from 0: the patients in folds of nearly equal numbers, the same each time."""
    keys, index = np.unique(np.asarray(patient), return_inverse=True)
    fold: NDArray[np.int64] = (np.random.default_rng(0).permutation(len(keys)) % n_folds)[index]
    return fold
