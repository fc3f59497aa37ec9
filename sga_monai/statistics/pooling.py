"""Random-effects meta-analysis of several sites' AUROCs, on the logit scale."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import chdtrc, expit, logit, ndtri, stdtrit

from sga_monai.core.errors import InputError

# A narrower interval needs a hundred million patients, and a release rounds to steps of 0.0005. Beside one of 1e-9 the weights of other
# sites are lost in rounding.
MIN_WIDTH = 1e-4


@dataclass(frozen=True)
class Pooled:
    """A random-effects summary on the logit scale, given as AUROC.

    Attributes:
        auroc: pooled.
        low: of its 95 % interval.
        high: of its 95 % interval.
        prediction_low: lower end of the interval for a new site; NaN with fewer than three sites.
        prediction_high: upper end.
        tau2: variance between sites, on the logit scale.
        q: Cochran's Q.
        q_p: its p-value.
        i2: share of the variance that is between sites, in [0, 1].
        n_sites: number of sites.
    """

    auroc: float
    low: float
    high: float
    prediction_low: float
    prediction_high: float
    tau2: float
    q: float
    q_p: float
    i2: float
    n_sites: int


def pool_effects(effects: Sequence[float], variances: Sequence[float]) -> tuple[float, float, float, float]:
    """Random-effects mean, its standard error, tau2 and Q (DerSimonian and Laird, Controlled Clinical Trials 7, 1986).

    With three sites or more the standard error is Hartung and Knapp's (Statistics in Medicine 20, 2001), and never below the one without
    their factor: few sites that agree by chance would otherwise give an interval of almost no width (Röver, Knapp and Friede, BMC
    Medical Research Methodology 15:99, 2015).
    """
    fixed = [1 / variance for variance in variances]
    center = sum(w * e for w, e in zip(fixed, effects, strict=True)) / sum(fixed)
    q = sum(w * (e - center) ** 2 for w, e in zip(fixed, effects, strict=True))
    scale = sum(fixed) - sum(w * w for w in fixed) / sum(fixed)
    tau2 = max(0.0, (q - (len(effects) - 1)) / scale)
    weights = [1 / (variance + tau2) for variance in variances]
    mean = sum(w * e for w, e in zip(weights, effects, strict=True)) / sum(weights)
    error = math.sqrt(1 / sum(weights))
    if len(effects) > 2:
        spread = sum(w * (e - mean) ** 2 for w, e in zip(weights, effects, strict=True)) / (len(effects) - 1)
        error *= math.sqrt(max(1.0, spread))
    return mean, error, tau2, q


def can_be_pooled(estimate: Mapping[str, float]) -> bool:
    """Whether an AUROC lies in an interval that is at least ``MIN_WIDTH`` wide, inside of 0 and 1."""
    value, low, high = (estimate[key] for key in ("value", "low", "high"))
    return 0 < low <= value <= high < 1 and high - low >= MIN_WIDTH


def pool_aurocs(estimates: Sequence[Mapping[str, float]]) -> Pooled:
    """Pool AUROCs given with 95 % intervals that were made on the logit scale.

    Args:
        estimates: ``value, low, high`` of each site, ``0 < low <= value <= high < 1`` and ``high - low >= MIN_WIDTH``.

    Raises:
        InputError: with fewer than two sites, or when an estimate is not in this order.
    """
    if len(estimates) < 2:
        raise InputError("pooling needs at least two sites with an estimable AUROC")
    if not all(can_be_pooled(estimate) for estimate in estimates):
        raise InputError("pooling needs an interval of some width around each AUROC, inside of 0 and 1; leave the others out")
    effects = [float(logit(estimate["value"])) for estimate in estimates]
    z = float(ndtri(0.975))
    variances = [(float(logit(estimate["high"]) - logit(estimate["low"])) / (2 * z)) ** 2 for estimate in estimates]
    mean, error, tau2, q = pool_effects(effects, variances)
    k = len(effects)
    quantile = float(stdtrit(k - 1, 0.975)) if k > 2 else z
    prediction = (math.nan, math.nan)
    if k > 2:
        half = float(stdtrit(k - 2, 0.975)) * math.sqrt(tau2 + error**2)
        prediction = (float(expit(mean - half)), float(expit(mean + half)))
    return Pooled(
        float(expit(mean)), float(expit(mean - quantile * error)), float(expit(mean + quantile * error)), *prediction,
        tau2, q, float(chdtrc(k - 1, q)), max(0.0, (q - (k - 1)) / q) if q > 0 else 0.0, k,
    )  # fmt: skip
