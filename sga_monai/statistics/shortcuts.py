"""A cheap check for shortcuts: can the label be read from the image's frame, or from a tiny picture, without any network?

The frame holds collimation, markers and the detector's edge, but hardly any lung; the thumbnail shows exposure, positioning and
the shape of the body, but no fine finding. A logistic regression that reads the label from either warns of a shortcut that a
network may take as well (DeGrave et al., Nature Machine Intelligence 3, 2021). What it finds is a set's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sga_monai.statistics.folds import ENOUGH_PATIENTS, FOLDS
from sga_monai.statistics.probes import out_of_fold_auroc

# The frame's share of a side is two cells of 25.
FRAME_SHARE, FRAME_GRID, THUMBNAIL_GRID = 0.08, 25, 20
PERCENTILES = (0.5, 99.5)
# A few hundred correlated pixels of a few hundred images.
INVERSE_PENALTY = 0.01


def frame_only_auroc(images: Iterable[ArrayLike], label: ArrayLike, patient: ArrayLike) -> dict[str, Any] | None:
    """How well the label is read from the outer 8 % of each image; see ``pixel_auroc``.

    Args:
        images: two-dimensional, of any sizes and gray scales.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys.
    """
    return pixel_auroc([frame_pixels(image) for image in images], label, patient)


def thumbnail_auroc(images: Iterable[ArrayLike], label: ArrayLike, patient: ArrayLike) -> dict[str, Any] | None:
    """How well the label is read from 20 x 20 pixels of each image; see ``frame_only_auroc``."""
    return pixel_auroc([thumbnail_pixels(image) for image in images], label, patient)


def frame_pixels(image: ArrayLike) -> NDArray[np.float32]:
    """The outer 8 % of every side of an image, ``[184]``: what lies outside the inner 21 x 21 cells of 25 x 25."""
    width = round(FRAME_SHARE * FRAME_GRID)
    outside = np.ones((FRAME_GRID, FRAME_GRID), dtype=bool)
    outside[width:-width, width:-width] = False
    return _scaled(_cells(image, FRAME_GRID)[outside])


def thumbnail_pixels(image: ArrayLike) -> NDArray[np.float32]:
    """An image as 20 x 20 means, ``[400]``."""
    return _scaled(_cells(image, THUMBNAIL_GRID).ravel())


def pixel_auroc(pixels: ArrayLike, label: ArrayLike, patient: ArrayLike) -> dict[str, Any] | None:
    """AUROC of a cross-validated logistic regression on standardized pixels, patients kept together in one of five folds.

    Args:
        pixels: ``[N, D]`` of ``frame_pixels`` or ``thumbnail_pixels``.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys.

    Returns:
        As ``out_of_fold_auroc``; ``None`` when a class has fewer than 10 patients.
    """
    pixels, label, patient = np.asarray(pixels), np.asarray(label), np.asarray(patient)
    if min(len(np.unique(patient[label == value])) for value in (0, 1)) < ENOUGH_PATIENTS:
        return None
    model = make_pipeline(StandardScaler(), LogisticRegression(C=INVERSE_PENALTY, max_iter=1000))
    # Tables are often in order of the label or of the date, so folds are drawn at random.
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    score = cross_val_predict(model, pixels, label, groups=patient, cv=folds, method="decision_function")
    return out_of_fold_auroc(score, label, patient)


def _cells(image: ArrayLike, grid: int) -> NDArray[np.float64]:
    """An image as ``[grid, grid]`` means over the area; its size and aspect ratio are lost."""
    values = np.asarray(image, dtype=np.float64)
    return _area_weights(values.shape[0], grid) @ values @ _area_weights(values.shape[1], grid).T


def _area_weights(size: int, grid: int) -> NDArray[np.float64]:
    """``[grid, size]``: the share of each of ``size`` pixels in each of ``grid`` cells; rows sum to 1."""
    edges, pixel = np.arange(grid + 1) * size / grid, np.arange(size)
    overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights: NDArray[np.float64] = np.clip(overlap, 0, None) * grid / size
    return weights


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Values between two of their own percentiles as [0, 1], so that nothing comes in by way of the gray scale."""
    low, high = np.percentile(values, PERCENTILES)
    return np.clip((values - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1).astype(np.float32)


# What the label is read from, by name.
SHORTCUTS: dict[str, Callable[[ArrayLike], NDArray[np.float32]]] = {"frame_only": frame_pixels, "thumbnail": thumbnail_pixels}
