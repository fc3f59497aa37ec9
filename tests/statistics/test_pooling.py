"""Several sites' AUROCs as one: against statsmodels, and never surer than the sites' own intervals allow."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import t
from statsmodels.stats.meta_analysis import combine_effects

from sga_monai.core.errors import InputError
from sga_monai.statistics.pooling import MIN_WIDTH, can_be_pooled, pool_aurocs, pool_effects


@pytest.mark.filterwarnings("ignore:invalid value encountered in sqrt:RuntimeWarning")
def test_pooling_against_statsmodels():
    bound = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        k = 3 + seed % 5
        variances = rng.uniform(0.01, 0.08, k)
        effects = rng.normal(1.2, 0.4 if seed % 2 else 0.1, k)
        mean, error, tau2, q = pool_effects(effects.tolist(), variances.tolist())
        theirs = combine_effects(effects, variances, method_re="chi2")
        assert q == pytest.approx(theirs.q, abs=1e-9)
        # Theirs goes on with a variance below 0; it is then the fixed effect.
        apart = theirs.tau2 > 0
        assert tau2 == pytest.approx(theirs.tau2 if apart else 0, abs=1e-9)
        assert mean == pytest.approx(theirs.mean_effect_re if apart else theirs.mean_effect_fe, abs=1e-9)
        plain = theirs.sd_eff_w_re if apart else theirs.sd_eff_w_fe
        factor = math.sqrt(theirs.scale_hksj_re if apart else theirs.scale_hksj_fe)
        assert error == pytest.approx(plain * max(factor, 1), abs=1e-9)
        if apart and factor > 1:
            assert error == pytest.approx(theirs.sd_eff_w_re_hksj, abs=1e-9)
        bound.append((apart, factor > 1))
    assert set(bound) == {(False, False), (True, False), (True, True)}


def test_sites_that_agree_by_chance_give_no_certainty():
    site = {"value": 0.85, "low": 0.78, "high": 0.90}
    pooled = pool_aurocs([site] * 3)
    half = (logit(0.90) - logit(0.78)) / (2 * 1.959963984540054)
    for ends, quantile, error in (
        ((pooled.low, pooled.high), t.ppf(0.975, 2), half / math.sqrt(3)),
        ((pooled.prediction_low, pooled.prediction_high), t.ppf(0.975, 1), half / math.sqrt(3)),
    ):
        assert ends == pytest.approx((expit(logit(0.85) - quantile * error), expit(logit(0.85) + quantile * error)), abs=1e-9)
    assert pooled.auroc == pytest.approx(0.85)


def test_no_interval_is_so_narrow_that_the_other_sites_are_lost_in_rounding():
    site, sharp = {"value": 0.9, "low": 0.8, "high": 0.95}, {"value": 0.5, "low": 0.5 - MIN_WIDTH, "high": 0.5 + MIN_WIDTH}
    pooled = pool_aurocs([site, sharp, {"value": 5e-324, "low": 5e-324, "high": 1 - 1e-16}])
    assert all(math.isfinite(value) for value in (pooled.auroc, pooled.low, pooled.high, pooled.tau2, pooled.q))
    # As narrow as rounding leaves one.
    assert can_be_pooled({"value": 0.9995, "low": 0.999, "high": 0.9995})
    narrow = {"value": 0.5, "low": 0.4999999999, "high": 0.5000000001}
    with pytest.raises(InputError, match="an interval of some width"):
        pool_aurocs([site, narrow])
