"""Curves with pointwise bands from resampled patients: smooth calibration and net benefit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

SPAN = 2 / 3
N_SAMPLES = 500
# Samples that are drawn at once, so that memory does not grow with their number.
_TOGETHER = 50


def smooth_calibration(
    probability: ArrayLike, label: ArrayLike, patient: ArrayLike, grid: ArrayLike, span: float = SPAN, n_samples: int = N_SAMPLES
) -> NDArray[np.float64]:
    """Share of positives as a smooth function of the probability, with a pointwise 95 % band from resampled patients.

    A local line through the share of ``span`` nearest images with tricube weights: lowess without robustness iterations
    (Cleveland, JASA 74, 1979), as in calibration plots of Austin and Steyerberg (Statistics in Medicine 33, 2014). A line in the
    probability itself is without bias where the probabilities are right. Widths stay those of the cohort in every sample.

    Args:
        probability: ``[N]``.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys; a patient is drawn with all images.
        grid: ``[G]``, probabilities at which the curve is computed.
        span: share of the images that each local line sees.
        n_samples: of patients.

    Returns:
        ``[G, 3]`` in [0, 1]: value, low, high.

    Example:
        >>> p = np.linspace(0, 1, 200)
        >>> smooth_calibration(p, p > 0.5, np.arange(200), [0.05, 0.95])[:, 0].round()
        array([0., 1.])
    """
    x, y = np.asarray(probability, dtype=np.float64), np.asarray(label, dtype=np.float64)
    points = np.asarray(grid, dtype=np.float64)
    patients = _Patients(patient)
    # By point, so that memory grows with the number of patients alone.
    sums = np.concatenate([patients.sums(_moments(x, y, point, span)) for point in points])
    samples = [_local_lines(drawn.reshape(len(points), 5, -1)) for drawn in patients.resampled(sums, n_samples)]
    value = _local_lines(sums.sum(axis=1).reshape(len(points), 5, 1))[:, 0]
    low, high = _band(np.concatenate(samples, axis=1))
    return np.clip(np.stack([value, low, high], axis=1), 0, 1)


def net_benefit_band(
    probability: ArrayLike,
    label: ArrayLike,
    patient: ArrayLike,
    thresholds: ArrayLike,
    prevalence: float | None = None,
    n_samples: int = N_SAMPLES,
) -> NDArray[np.float64]:
    """Pointwise 95 % band of ``net_benefit`` of the model from resampled patients; the prevalence is taken as known.

    Args:
        probability: ``[N]`` in [0, 1].
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys; a patient is drawn with all images.
        thresholds: ``[T]`` in (0, 1).
        prevalence: of the population; the cohort's when ``None``.
        n_samples: of patients.

    Returns:
        ``[T, 2]``: low, high.
    """
    p, positive = np.asarray(probability, dtype=np.float64), np.asarray(label) == 1
    pt = np.asarray(thresholds, dtype=np.float64)
    share = float(positive.mean()) if prevalence is None else prevalence
    called = p >= pt[:, None]
    rows = np.concatenate([[positive], [~positive], called & positive, called & ~positive]).astype(np.float64)
    odds = (pt / (1 - pt))[:, None]
    patients = _Patients(patient)
    samples = []
    for sums in patients.resampled(patients.sums(rows), n_samples):
        n_positive, n_negative, rates = sums[0], sums[1], sums[2:].reshape(2, len(pt), -1)
        with np.errstate(invalid="ignore", divide="ignore"):
            samples.append(rates[0] / n_positive * share - rates[1] / n_negative * (1 - share) * odds)
    return np.stack(_band(np.concatenate(samples, axis=1)), axis=1)


def _moments(x: NDArray[np.float64], y: NDArray[np.float64], point: float, span: float) -> NDArray[np.float64]:
    """What a local line at ``point`` needs of each image, ``[5, N]``: w, w d, w d^2, w y, w d y."""
    d = x - point
    nearest = min(max(int(span * len(x) + 1e-10), 2), len(x))
    width = max(float(np.partition(np.abs(d), nearest - 1)[nearest - 1]), 1e-12)
    w = np.clip(1 - np.abs(d / width) ** 3, 0, 1) ** 3
    return np.stack([w, w * d, w * d * d, w * y, w * d * y])


def _local_lines(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """The lines' values from sums ``[G, 5, S]``, ``[G, S]``; the weighted mean where all images are in one place."""
    s0, s1, s2, t0, t1 = (sums[:, i] for i in range(5))
    determinant = s0 * s2 - s1 * s1
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(determinant > 1e-9 * s0 * s2, (s2 * t0 - s1 * t1) / determinant, t0 / s0)


class _Patients:
    """Sums over patients, and over samples of them.

    Args:
        patient: ``[N]``, any keys.
    """

    def __init__(self, patient: ArrayLike) -> None:
        keys, cluster = np.unique(np.asarray(patient), return_inverse=True)
        self.number = len(keys)
        self.order = np.argsort(cluster, kind="stable")
        self.starts = np.searchsorted(cluster[self.order], np.arange(len(keys)))

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums of ``values`` ``[K, N]`` by patient, ``[K, P]``."""
        found: NDArray[np.float64] = np.add.reduceat(values[:, self.order], self.starts, axis=1)
        return found

    def resampled(self, sums: NDArray[np.float64], n_samples: int, seed: int = 0) -> Iterator[NDArray[np.float64]]:
        """Sums ``[K, S]`` over samples of patients, some samples at a time, of ``sums`` ``[K, P]``."""
        rng = np.random.default_rng(seed)
        for first in range(0, n_samples, _TOGETHER):
            size = min(_TOGETHER, n_samples - first)
            yield sums @ rng.multinomial(self.number, np.full(self.number, 1 / self.number), size=size).T


def _band(samples: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """2.5 and 97.5 % of samples ``[P, S]``; NaN where more than one in twenty is not estimable."""
    usable = ~np.isnan(samples)
    enough = usable.mean(axis=1) >= 0.95
    # A row without any sample would only warn.
    filled = np.where(enough[:, None], samples, 0.0)
    low, high = np.nanquantile(filled, (0.025, 0.975), axis=1)
    return np.where(enough, low, np.nan), np.where(enough, high, np.nan)
