"""How far two sets of features are apart: moments and the Frechet distance of their Gaussians."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# Moments of fewer images come close to a case's own features.
FEWEST = 10


def moments(features: ArrayLike) -> dict[str, Any] | None:
    """``n``, and ``mean`` and ``variance`` (n - 1) of each column of ``[N, D]``; ``None`` below ``FEWEST`` images."""
    values = np.asarray(features, dtype=np.float64)
    if len(values) < FEWEST:
        return None
    return {"n": len(values), "mean": values.mean(axis=0).tolist(), "variance": values.var(axis=0, ddof=1).tolist()}


def frechet_distance(site: Mapping[str, Any], internal: Mapping[str, Any]) -> float:
    """Fréchet distance of two Gaussians with diagonal covariance, in units of the internal features' spread.

    sqrt((sum (m1 - m2)^2 + sum (s1 - s2)^2) / sum s2^2), with means m and standard deviations s: the distance of Dowson and
    Landau (Journal of Multivariate Analysis 12, 1982), whose trace term is sum (s1 - s2)^2 where both covariances are
    diagonal, divided by the root of the internal features' total variance. So it has no unit, is 0 for equal moments, 1 for
    a shift as large as the internal spread, and a feature that is always zero inside does no harm. A full covariance of 512
    features is not estimable from a few hundred images.

    Args:
        site: ``mean`` and ``variance`` of ``moments``.
        internal: the same of the internal images.

    Returns:
        NaN when the internal features have no variance.
    """
    (m1, v1), (m2, v2) = ((np.asarray(part["mean"]), np.asarray(part["variance"])) for part in (site, internal))
    total = float(v2.sum())
    squared = float(((m1 - m2) ** 2).sum() + ((np.sqrt(v1) - np.sqrt(v2)) ** 2).sum())
    return math.sqrt(squared / total) if total > 0 else math.nan


def chance_distance(n_site: int, n_internal: int) -> float:
    """The distance to expect of two samples of one Gaussian: sqrt(1.5 (1/n1 + 1/n2)).

    A mean's variance is s^2/n and a standard deviation's about s^2/(2n), both in units of s^2. Images are taken as
    independent; several of a patient make it larger.
    """
    return math.sqrt(1.5 * (1 / n_site + 1 / n_internal))
