from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from sga_monai.statistics.effects import PairedScores, pooled_effect
from sga_monai.statistics.estimates import patient_mean
from sga_monai.statistics.seeds import combine, mean_difference, mean_over_seeds


def simulate(seed: int, n_sets: int = 2, n_seeds: int = 3, n: int = 120, effect: float = 0.5, between: float = 0.3) -> list[PairedScores]:
    """Two methods, whose scores differ in how far they separate; a seed's networks are better or worse at every set."""
    rng = np.random.default_rng(seed)
    strength = 1 + between * rng.standard_normal((2, n_seeds, 1))
    sets = []
    for _ in range(n_sets):
        label, common = np.arange(n) % 2, rng.standard_normal(n)
        scores = strength * label + common + 0.5 * rng.standard_normal((2, n_seeds, n))
        sets.append(PairedScores(scores[0] + effect * label, scores[1], label, np.arange(n) // 2 * 2 + label))
    return sets


def test_value_is_the_mean_of_scikit_learns_differences():
    sets = simulate(0)
    expected = np.mean(
        [roc_auc_score(s.label, a) - roc_auc_score(s.label, b) for s in sets for a, b in zip(s.first, s.second, strict=True)]
    )
    assert pooled_effect(sets, 2).value == pytest.approx(expected, abs=1e-12)


def test_one_set_agrees_with_the_analytic_interval():
    (given,) = simulate(1, n_sets=1, n=400)
    boot, exact = pooled_effect([given], 2000), mean_difference(given.first, given.second, given.label, given.patient)
    assert boot.value == pytest.approx(exact.value, abs=1e-12)
    assert (boot.sd_patients, boot.sd_seeds) == pytest.approx((exact.sd_patients, exact.sd_seeds), rel=0.1)
    assert (boot.low, boot.high) == pytest.approx((exact.low, exact.high), abs=0.02)


def test_a_mixed_model_gives_the_same_effect():
    statsmodels = pytest.importorskip("statsmodels.formula.api")
    import pandas as pd

    sets = simulate(2, n_sets=4, n_seeds=5)
    rows = [
        {"auroc": roc_auc_score(given.label, scores), "method": method, "set": i, "seed": k}
        for i, given in enumerate(sets)
        for method, block in ((1, given.first), (0, given.second))
        for k, scores in enumerate(block)
    ]
    model = statsmodels.mixedlm("auroc ~ method + C(set)", pd.DataFrame(rows), groups="seed", re_formula="~method").fit()
    assert pooled_effect(sets, 100).value == pytest.approx(model.params["method"], abs=1e-6)


def test_intervals_cover_the_true_effect():
    truth = float(np.mean([pooled_effect(simulate(seed, n_seeds=40, n=1000, effect=0.0), 2).value for seed in range(6)]))
    assert truth == pytest.approx(0, abs=0.02)
    covered = [pooled_effect(simulate(1000 + seed, effect=0.0), 50) for seed in range(100)]
    assert 0.9 <= np.mean([effect.low <= 0 <= effect.high for effect in covered]) <= 1.0
    found = pooled_effect(simulate(3, n_seeds=6, effect=1.5), 200)
    assert found.p < 0.05
    assert found.low > 0


def test_patients_with_several_images_are_drawn_whole():
    given = simulate(4, n_sets=1, n=60)[0]
    repeated = PairedScores(*(np.repeat(part, 5, axis=-1) for part in given[:3]), np.repeat(given.patient, 5))
    one, many = pooled_effect([given], 800), pooled_effect([repeated], 800)
    assert many.value == pytest.approx(one.value)
    assert many.sd_patients == pytest.approx(one.sd_patients, rel=0.1)


def test_sets_without_both_classes_are_left_out():
    given = simulate(5, n_sets=1)[0]
    lonely = given._replace(label=np.ones_like(given.label))
    assert pooled_effect([given, lonely], 20) == pooled_effect([given], 20)
    assert math.isnan(pooled_effect([lonely]).value)


def test_a_mean_over_seeds_has_both_sources_of_chance():
    rng = np.random.default_rng(0)
    values, patient = rng.normal(size=(3, 40)), np.arange(40) // 2
    found = mean_over_seeds(values, patient)
    assert found.value == pytest.approx(values.mean())
    assert found.sd_seeds == pytest.approx(values.mean(1).std(ddof=1) / math.sqrt(3))
    # By hand: sums of residuals of each patient's two images.
    residuals = (values.mean(0) - values.mean()).reshape(20, 2).sum(1)
    assert found.sd_patients == pytest.approx(math.sqrt(20 / 19 * (residuals**2).sum()) / 40)
    # One seed has the patients' part alone.
    one, plain = mean_over_seeds(values[:1], patient), patient_mean(values[0], patient)
    assert (one.low, one.high) == pytest.approx((plain.low, plain.high))
    assert math.isnan(mean_over_seeds(np.ones((2, 5)), np.arange(5)).low)


@pytest.mark.parametrize("n_patients", [None, 6])
@pytest.mark.parametrize("n_seeds", [1, 3])
def test_interval_and_p_of_both_parts_by_hand(n_seeds, n_patients):
    """p is the level of the interval that ends at ``null``."""
    of_patients = stats.norm() if n_patients is None else stats.t(n_patients - 1)

    def half(level: float) -> float:
        return math.hypot(0.03 * of_patients.isf(level / 2), 0.02 * stats.t(n_seeds - 1).isf(level / 2) if n_seeds > 1 else 0.0)

    given = (0.03**2, 0.02**2 if n_seeds > 1 else math.nan, n_seeds, 0.5, n_patients)
    above, below = combine(0.58, *given), combine(0.42, *given)
    assert (above.low, above.high) == pytest.approx((0.58 - half(0.05), 0.58 + half(0.05)))
    assert half(above.p) == pytest.approx(0.08)
    assert below.p == pytest.approx(above.p)
    assert combine(0.5, *given).p == pytest.approx(1)
    # The search for p ends at this level.
    assert combine(1e9, *given).p == 1e-12


def test_intervals_of_a_mean_over_seeds_cover_it():
    rng = np.random.default_rng(1)
    found = [
        mean_over_seeds(rng.normal(size=(3, 1)) * 0.3 + rng.normal(size=60) + rng.normal(size=(3, 60)), np.arange(60)) for _ in range(400)
    ]
    assert 0.93 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.995


def test_intervals_of_a_mean_over_seeds_of_few_patients_cover_it():
    rng = np.random.default_rng(0)
    found = [mean_over_seeds(rng.normal(size=4) + 0.1 * rng.normal(size=(3, 4)), np.arange(4)) for _ in range(800)]
    assert 0.92 <= np.mean([one.low <= 0 <= one.high for one in found]) <= 0.99


@pytest.mark.parametrize(("n_seeds", "ratio"), [(2, 4.0), (3, 8.0), (3, 1.0), (5, 0.5)])
def test_p_of_a_few_seeds_holds_its_level(n_seeds, ratio):
    """Without a difference, the seeds' part of the variance ``ratio`` times the patients'; seeds that agree by chance are no evidence."""
    rng = np.random.default_rng(0)
    p = []
    for _ in range(2000):
        seeds = ratio * rng.chisquare(n_seeds - 1) / (n_seeds - 1)
        p.append(combine(rng.normal() * math.sqrt(1 + ratio), 1.0, seeds, n_seeds).p)
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.065
    # Where Holm's first step of 15 comparisons is.
    assert np.mean(np.array(p) < 0.05 / 15) <= 2 * 0.05 / 15


def test_p_is_the_level_at_which_the_interval_ends_at_the_null():
    found = combine(0.2, 0.01, 0.004, 3)
    assert found.low < 0 < found.p < 1
    assert combine(0.2, 0.01, 0.004, 3, null=found.low).p == pytest.approx(0.05, abs=1e-9)
    # The squares of both halves add up.
    own, seeds = (combine(0.2, *parts, n).high - 0.2 for parts, n in (((0.01, math.nan), 1), ((1e-18, 0.004), 3)))
    assert found.high - 0.2 == pytest.approx(math.hypot(own, seeds), rel=1e-6)
    assert combine(0.0, 0.01, 0.004, 3).p == 1
    assert combine(9.0, 0.01, math.nan, 1).p == pytest.approx(1e-12)
