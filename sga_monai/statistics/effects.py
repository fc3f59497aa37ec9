"""The effect of a method pooled over test sets, seeds and patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from sga_monai.statistics.seeds import SeedMean, mean_of

N_SAMPLES = 1000


class PairedScores(NamedTuple):
    """Scores of two methods on the images of one test set.

    Attributes:
        first: ``[S, N]``, one row a seed.
        second: ``[S, N]``, the method it is compared with, the same seeds.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    label: NDArray[np.int64]
    patient: NDArray[np.generic]

    @property
    def has_both_classes(self) -> bool:
        """Whether there is an AUROC."""
        return 0 < int(self.label.sum()) < len(self.label)


def pooled_effect(sets: Sequence[PairedScores], n_samples: int = N_SAMPLES, seed: int = 0) -> SeedMean:
    """Mean over test sets and seeds of the AUROC of ``first`` minus that of ``second``; every set counts the same.

    Two sources of chance, as in ``mean_difference``. Patients: in every set they are drawn with replacement, those with a positive
    image and the others apart (Davison and Hinkley, "Bootstrap Methods and their Application", 1997, section 3.8). Seeds: the
    sample variance of a seed's mean over the sets, since a network is tested on all of them; a bootstrap of three seeds would be
    far too narrow. ``seeds.combine`` puts both together. The sets are fixed: nothing is said of other hospitals.

    Args:
        sets: test sets, whose patients are drawn independently: a few common ones make the interval a little too narrow (for the 42
            of two of the six sets of ``docs/results``, by 0.2 to 0.5 %). Those with one class only are left out.
        n_samples: bootstrap samples.
        seed: of the samples.

    Returns:
        The mean, its 95 % interval and p against 0; NaN where no set has both classes.

    Example:
        >>> label = np.array([0, 0, 1, 1])
        >>> good, bad = np.array([[0.1, 0.2, 0.8, 0.9]]), np.array([[0.9, 0.2, 0.8, 0.1]])
        >>> pooled_effect([PairedScores(good, bad, label, np.arange(4))]).value
        0.75
    """
    usable = [given for given in sets if given.has_both_classes]
    if not usable:
        return SeedMean(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, 0)
    rng = np.random.default_rng(seed)
    by_seed = np.mean([_differences(given, np.arange(len(given.label))) for given in usable], axis=0)
    strata = [_strata(given) for given in usable]
    draws = [
        np.mean([_differences(given, _resample(groups, rng)).mean() for given, groups in zip(usable, strata, strict=True)])
        for _ in range(n_samples)
    ]
    return mean_of(by_seed, float(np.var(draws, ddof=1)))


def _strata(given: PairedScores) -> list[list[NDArray[np.int64]]]:
    """The rows of each patient, in two groups: patients with a positive image, and the others."""
    order = np.argsort(given.patient, kind="stable")
    _, starts = np.unique(given.patient[order], return_index=True)
    rows = np.split(order, starts[1:])
    positive = [bool(given.label[own].any()) for own in rows]
    return [[own for own, found in zip(rows, positive, strict=True) if found == wanted] for wanted in (True, False)]


def _resample(groups: Sequence[Sequence[NDArray[np.int64]]], rng: np.random.Generator) -> NDArray[np.int64]:
    return np.concatenate([group[k] for group in groups if group for k in rng.integers(len(group), size=len(group))])


def _differences(given: PairedScores, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """AUROC of ``first`` minus that of ``second`` on ``rows``, ``[S]``; 0 where a resample has one class only."""
    label = given.label[rows]
    positive = int(label.sum())
    if not 0 < positive < len(label):
        return np.zeros(len(given.first))
    ranks = rankdata(np.stack([given.first[:, rows], given.second[:, rows]]), axis=2)[:, :, label == 1].sum(axis=2)
    areas: NDArray[np.float64] = (ranks - positive * (positive + 1) / 2) / (positive * (len(label) - positive))
    return areas[0] - areas[1]
