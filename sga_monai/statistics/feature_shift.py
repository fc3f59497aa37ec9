"""How far two sets of features are apart: moments and the Frechet distance of their Gaussians."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

# Moments of fewer images come close to a case's own features.
FEWEST = 10


@dataclass(frozen=True)
class Moments:
    """Number, means and sums of squared deviations of features, which can be joined: no image's features need be kept.

    Attributes:
        n: images.
        mean: ``[D]``; empty without images.
        squares: ``[D]``, sums of squared deviations from the mean.

    Example:
        >>> joined = Moments.of([[1.0], [2.0]]).joined(Moments.of([[6.0]]))
        >>> joined.n, float(joined.mean[0]), float(joined.squares[0])
        (3, 3.0, 14.0)
    """

    n: int = 0
    mean: ArrayLike = ()
    squares: ArrayLike = ()

    @classmethod
    def of(cls, features: ArrayLike) -> Moments:
        """Those of ``[N, D]``."""
        values = np.asarray(features, dtype=np.float64)
        return cls(len(values), values.mean(axis=0), ((values - values.mean(axis=0)) ** 2).sum(axis=0))

    def joined(self, other: Moments) -> Moments:
        """Those of both sets together (Chan, Golub and LeVeque, The American Statistician 37, 1983)."""
        if not self.n or not other.n:
            return self if self.n else other
        n, step = self.n + other.n, np.asarray(other.mean) - np.asarray(self.mean)
        squares = np.asarray(self.squares) + np.asarray(other.squares) + step**2 * (self.n * other.n / n)
        return Moments(n, np.asarray(self.mean) + step * (other.n / n), squares)

    def plain(self) -> dict[str, Any]:
        """The attributes as lists."""
        return {"n": self.n, "mean": np.asarray(self.mean).tolist(), "squares": np.asarray(self.squares).tolist()}

    def summary(self) -> dict[str, Any] | None:
        """What ``moments`` gives for all images at once."""
        if self.n < FEWEST:
            return None
        return {"n": self.n, "mean": np.asarray(self.mean).tolist(), "variance": (np.asarray(self.squares) / (self.n - 1)).tolist()}


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
