"""What the figures of a page draw, as numbers: curves on fixed grids, and histograms whose bins hold ten patients or more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit

from sga_monai.hospital.formats import MIN_PATIENTS
from sga_monai.statistics.calibration import observed_to_expected
from sga_monai.statistics.curves import N_SAMPLES, SPAN, net_benefit_band, smooth_calibration

# Probabilities at equal distances on the logit scale, 0.001 to 0.999.
GRID = tuple(round(float(p), 6) for p in expit(np.arange(-7, 7.01, 0.25)))
LINEAR_EDGES = tuple(round(0.05 * i, 2) for i in range(21))
LOGIT_EDGES = (0.0, *(round(float(p), 6) for p in expit(np.arange(-7, 7.01, 0.5))), 1.0)
# With fewer of the images between 0.1 and 0.9, a linear axis shows two corners.
ENOUGH_BETWEEN = 0.2
N_BINS = 20


def calibration_figures(
    probability: NDArray[np.float64], label: ArrayLike, patient: ArrayLike, n_samples: int = N_SAMPLES
) -> dict[str, Any] | None:
    """A smooth calibration curve with its band, the histogram beside it, and observed to expected.

    Args:
        probability: ``[N]``.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys.
        n_samples: of patients, for the band.

    Returns:
        ``axis`` ("linear" or "logit"), ``curve`` with ``[probability, value, low, high]`` where ten patients or more lie on either
        side, ``histogram`` of ``merged_bins``, ``observed_to_expected``, ``span`` and ``samples``; ``None`` with too few patients.
    """
    keys = np.asarray(patient)
    ends = pd.DataFrame({"patient": keys, "p": probability}).groupby("patient")["p"].agg(["min", "max"])
    grid = [p for p in GRID if (ends["min"] <= p).sum() >= MIN_PATIENTS <= (ends["max"] >= p).sum()]
    if not grid:
        return None
    between = float(((probability >= 0.1) & (probability <= 0.9)).mean())
    axis = "linear" if between >= ENOUGH_BETWEEN else "logit"
    curve = smooth_calibration(probability, label, keys, grid, SPAN, n_samples)
    return {
        "axis": axis,
        "curve": [[p, *map(float, line)] for p, line in zip(grid, curve, strict=True)],
        "histogram": merged_bins(probability, keys, LINEAR_EDGES if axis == "linear" else LOGIT_EDGES),
        "observed_to_expected": asdict(observed_to_expected(probability, label, keys)),
        "span": SPAN,
        "samples": n_samples,
    }


def score_distributions(cases: pd.DataFrame) -> dict[str, Any]:
    """Histograms of the scores by outcome.

    Args:
        cases: ``score, label, patient``.

    Returns:
        ``step``, the width of a bin before small ones were merged; ``low`` and ``high``, where the bins with an open end begin;
        ``positive`` and ``negative``, each of ``merged_bins`` with the
        ``share`` of the class, and empty with fewer than ten patients.
    """
    classes = [rows["score"].to_numpy() for _, rows in cases.groupby("label") if rows["patient"].nunique() >= MIN_PATIENTS]
    edges, step = even_edges(*(classes or [cases["score"].to_numpy()]))
    parts: dict[str, Any] = {"step": step, "low": edges[0], "high": edges[-1]}
    for name, label in (("positive", 1), ("negative", 0)):
        rows = cases[cases["label"] == label]
        bins = merged_bins(rows["score"].to_numpy(), rows["patient"].to_numpy(), (-math.inf, *edges, math.inf))
        parts[name] = [line | {"share": line["images"] / len(rows)} for line in bins]
    return parts


def decision_band(
    probability: NDArray[np.float64], cases: pd.DataFrame, thresholds: Sequence[float], prevalence: float | None, n_samples: int = N_SAMPLES
) -> list[list[float]]:
    """``[threshold probability, low, high]`` of the model's net benefit.

    Args:
        probability: ``[N]``.
        cases: ``label, patient`` of the same cases.
        thresholds: of ``decision_thresholds``.
        prevalence: of the population; the cohort's when ``None``.
        n_samples: of patients.
    """
    band = net_benefit_band(probability, cases["label"], cases["patient"], thresholds, prevalence, n_samples)
    return [[t, *map(float, line)] for t, line in zip(thresholds, band, strict=True)]


def merged_bins(value: NDArray[np.float64], patient: NDArray[Any], edges: Sequence[float]) -> list[dict[str, Any]]:
    """A histogram whose neighboring bins are put together until each holds ten patients.

    Args:
        value: ``[N]``, within ``edges``.
        patient: ``[N]``, any keys.
        edges: rising; a value on an edge belongs to the bin above.

    Returns:
        ``low, high, images, patients`` of each bin; infinite ends are open, and there may be gaps without an image. Empty with fewer
        than ten patients in all.
    """
    place = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(edges) - 2)
    bins: list[dict[str, Any]] = []
    low, inside = 0, np.zeros(len(value), dtype=bool)
    for i in range(len(edges) - 1):
        inside |= place == i
        if not inside.any():
            low = i + 1
        elif len(np.unique(patient[inside])) >= MIN_PATIENTS:
            bins.append(_bin(edges[low], edges[i + 1], inside, patient))
            low, inside = i + 1, np.zeros(len(value), dtype=bool)
    if inside.any() and bins:
        # What is left at the upper end is too small for a bin of its own.
        start = bins.pop()["low"]
        bins.append(_bin(start, edges[-1], place >= list(edges).index(start), patient))
    return bins


def _bin(low: float, high: float, inside: NDArray[np.bool_], patient: NDArray[Any]) -> dict[str, Any]:
    return {"low": low, "high": high, "images": int(inside.sum()), "patients": len(np.unique(patient[inside]))}


def even_edges(*values: NDArray[np.float64]) -> tuple[list[float], float]:
    """About twenty round numbers at equal distances over the middle 95 % of each of the arrays, and their distance.

    The smallest and the largest value, each of a single case, do not show.

    Example:
        >>> even_edges(np.linspace(-10, 10, 1000))
        ([-10.0, -9.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0], 1.0)
    """
    ends = [np.quantile(one, (0.025, 0.975)) for one in values]
    low, high = float(np.min(ends)), float(np.max(ends))
    # Values that are nearly the same would show themselves at full precision.
    raw = max((high - low) / N_BINS, 0.005 * max(abs(low), abs(high)), 1e-9)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * k for k in (1, 2, 5, 10) if power * k >= raw * (1 - 1e-9))
    digits = max(0, 1 - math.floor(math.log10(step)))
    return [round(k * step, digits) for k in range(math.floor(low / step), math.ceil(high / step) + 1)], round(step, digits)
