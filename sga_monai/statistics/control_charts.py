"""EWMA control charts of figures by period: limits with a known false-alarm rate, and a chart that starts without a known normal state.

A chart has one figure a period, each with its variance. The first period is compared with nothing; every later one with all that
came before it (a self-starting chart, Quesenberry, Journal of Quality Technology 23, 1991). The differences, in standard errors, are
independent of each other while nothing changes, however few periods there are, so that no "known" state has to be estimated first.
They are averaged with weights that fall with age: an exponentially weighted moving average (Roberts, Technometrics 1, 1959), with
limits that vary with time (Steiner, Journal of Quality Technology 31, 1999).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm, t

# Weight of the newest period (Lucas and Saccucci, Technometrics 32, 1990, recommend 0.05 to 0.25).
WEIGHT = 0.2
# Nodes of the quadrature: ARLs are right to six digits.
N_NODES = 64


@dataclass(frozen=True)
class Summary:
    """A figure of one period with what a comparison needs.

    Attributes:
        value: NaN where it is not estimable.
        variance: of ``value``.
        degrees: degrees of freedom of ``variance``.
        size: how much the period counts beside others; proportional to 1 / ``variance`` where all periods are alike.
    """

    value: float
    variance: float
    degrees: float
    size: float

    def usable(self) -> bool:
        """Whether it can be compared."""
        return math.isfinite(self.value) and self.variance > 0 and self.degrees > 0 and self.size > 0


@dataclass(frozen=True)
class Point:
    """One period on a chart; NaN where the period is not on it.

    Attributes:
        z: difference from the earlier periods in standard errors, transformed to a normal distribution.
        ewma: weighted mean of the ``z`` up to here, in its own standard deviations: the limits are the same for all periods.
        alarm: whether ``ewma`` is outside of the limits.
    """

    z: float
    ewma: float
    alarm: bool


def chart(summaries: Sequence[Summary], limit: float, weight: float = WEIGHT) -> list[Point]:
    """The chart of one figure.

    Args:
        summaries: one a period, in the order of time. A period that is not usable is passed over.
        limit: of ``ewma_limit``.
        weight: of the newest period, in (0, 1].

    Returns:
        One point a period. The first usable period is on no chart. A period that raises an alarm is not added to those with which
        later ones are compared, so that a change that stays does not become the normal state.
    """
    points: list[Point] = []
    earlier: list[Summary] = []
    mean, n = 0.0, 0
    for summary in summaries:
        if not summary.usable() or not earlier:
            points.append(Point(math.nan, math.nan, False))
            earlier += [summary] if summary.usable() else []
            continue
        z, n = z_score(summary, earlier), n + 1
        mean = (1 - weight) * mean + weight * z
        ewma = mean / _spread(n, weight)
        points.append(Point(z, ewma, abs(ewma) > limit))
        if not points[-1].alarm:
            earlier.append(summary)
    return points


def z_score(now: Summary, earlier: Sequence[Summary]) -> float:
    """Difference of a period from the mean of earlier ones, as a normal deviate.

    The mean counts each earlier period by its size. The difference over its standard error is taken as t with Satterthwaite's degrees
    of freedom (Biometrics Bulletin 2, 1946), and the normal deviate of the same probability is returned.

    Example:
        >>> round(z_score(Summary(1.0, 0.04, 1e9, 1.0), [Summary(0.0, 0.04, 1e9, 1.0)] * 4), 3)
        4.472
    """
    total = sum(one.size for one in earlier)
    mean = sum(one.size * one.value for one in earlier) / total
    parts = [(now.variance, now.degrees), *(((one.size / total) ** 2 * one.variance, one.degrees) for one in earlier)]
    variance = sum(part for part, _ in parts)
    degrees = variance**2 / sum(part**2 / freedom for part, freedom in parts)
    difference = now.value - mean
    # The tail on the near side keeps its digits where the other would round to 1; below 1e-300 every tail would be 0.
    return math.copysign(float(norm.isf(max(t.sf(abs(difference) / math.sqrt(variance), degrees), 1e-300))), difference)


def survival(limit: float, weight: float = WEIGHT, shift: float = 0.0) -> Iterator[float]:
    """Probability that a chart has raised no alarm after 1, 2, ... periods, without end.

    The density of the EWMA inside of the limits is carried from period to period by Gauss-Legendre quadrature (Crowder, Technometrics
    29, 1987; for limits that vary with time: Knoth, Sequential Analysis 22, 2003).

    Args:
        limit: in standard deviations of the EWMA at each period.
        weight: of the newest period, in (0, 1].
        shift: mean of every z; 0 while nothing changes.
    """
    nodes, weights = np.polynomial.legendre.leggauss(N_NODES)
    nodes, weights = nodes * limit, weights * limit
    # The first EWMA, in its own standard deviations, is z itself.
    density: NDArray[np.float64] = norm.pdf(nodes - shift)
    yield float(norm.cdf(limit - shift) - norm.cdf(-limit - shift))
    n = 2
    while True:
        carried = (1 - weight) * _spread(n - 1, weight) / _spread(n, weight)
        added = weight / _spread(n, weight)
        kernel = norm.pdf((nodes[:, None] - carried * nodes[None, :]) / added - shift) / added
        density = kernel @ (weights * density)
        yield float(weights @ density)
        n += 1


def run_length(limit: float, weight: float = WEIGHT, shift: float = 0.0, charts: int = 1) -> float:
    """Average run length: the mean number of periods up to the first alarm of any of several independent charts.

    Charts of the same patients are dependent. While nothing changes their EWMAs are normal together with mean 0, and all stay inside
    of their limits at least as often as independent ones would (the Gaussian correlation inequality: Royen, Far East Journal of
    Theoretical Statistics 48, 2014), so that the true figure is this one or larger.

    Args:
        limit: of each chart.
        weight: of the newest period, in (0, 1].
        shift: mean of every z; 0 while nothing changes: the false alarms.
        charts: number of charts.

    Example:
        >>> round(run_length(3.0, weight=1.0), 1)
        370.4
    """
    total, before, ratio = 1.0, 1.0, 0.0
    for n, now in enumerate(survival(limit, weight, shift), 1):
        total += now**charts
        last, ratio, before = ratio, now / before, now
        # From here on the probability falls by the same factor each period.
        if now < 1e-12 or (n > 5 and abs(ratio - last) < 1e-7 * (1 - ratio)):
            break
    return total + before**charts * ratio**charts / (1 - ratio**charts)


@lru_cache(maxsize=64)
def ewma_limit(length: float, weight: float = WEIGHT, charts: int = 1) -> float:
    """The limit with which ``charts`` charts raise a false alarm once in ``length`` periods on average, or more rarely.

    Args:
        length: from 2 to a million periods.
        weight: of the newest period, in (0, 1].
        charts: number of charts.

    Example:
        >>> round(ewma_limit(370.4, weight=1.0), 2)
        3.0
    """
    return float(brentq(lambda limit: run_length(limit, weight, charts=charts) - length, 0.1, 5.8, xtol=1e-8))


def false_alarm_probability(limit: float, periods: int, weight: float = WEIGHT, charts: int = 1) -> float:
    """Probability of a false alarm of any of ``charts`` independent charts in so many periods."""
    curve = survival(limit, weight)
    inside = 1.0
    for _ in range(periods):
        inside = next(curve)
    return float(1 - inside**charts)


def _spread(n: int, weight: float) -> float:
    """Standard deviation of the EWMA of ``n`` independent standard normal figures."""
    return math.sqrt(weight / (2 - weight) * (1 - (1 - weight) ** (2 * n)))
