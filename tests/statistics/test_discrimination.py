from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from sga_monai.evaluation.results import few_failed, render, summarize
from sga_monai.statistics.discrimination import auroc, auroc_difference, placements


@pytest.mark.parametrize("seed", range(20))
def test_auroc_equals_scikit_learn_with_ties(seed):
    rng = np.random.default_rng(seed)
    label = np.r_[0, 1, rng.integers(0, 2, rng.integers(2, 80))]
    score = rng.integers(0, 6, len(label)).astype(float) + label
    assert auroc(score, label).auroc == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_variance_is_delongs_up_to_the_small_sample_factor():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], [60, 40])
    score = rng.normal(size=100) + label
    v10, v01 = placements(score, label)
    delong = v10.var(ddof=1) / 40 + v01.var(ddof=1) / 60
    assert auroc(score, label).variance == pytest.approx(delong, rel=1e-9)


def test_clustered_interval_covers_where_the_naive_one_does_not():
    rng = np.random.default_rng(0)
    covered, naive, n = 0, 0, 250
    truth = 0.5 * (1 + math.erf(1.2 / math.sqrt(2 * 1.25) / math.sqrt(2)))
    for _ in range(n):
        patient = np.repeat(np.arange(100), rng.integers(1, 7, 100))
        label = (patient % 2).astype(int)
        score = 1.2 * label + rng.normal(size=100)[patient] + 0.5 * rng.normal(size=len(patient))
        for kind in ("clustered", "naive"):
            figure = auroc(score, label, patient if kind == "clustered" else None)
            hit = figure.ci_low <= truth <= figure.ci_high
            covered, naive = covered + (hit and kind == "clustered"), naive + (hit and kind == "naive")
    assert 0.92 <= covered / n <= 0.98
    assert naive / n < 0.85


def test_duplicating_every_image_changes_nothing_when_clustered():
    rng = np.random.default_rng(1)
    label, score = np.repeat([0, 1], 30), rng.normal(size=60) + np.repeat([0, 1], 30)
    one = auroc(score, label, np.arange(60))
    two = auroc(np.r_[score, score], np.r_[label, label], np.r_[np.arange(60), np.arange(60)])
    assert two.variance == pytest.approx(one.variance)
    assert two.n_patients == 60


def test_not_estimable_and_bad_input():
    perfect = auroc([0, 1, 2, 3], [0, 0, 1, 1])
    assert perfect.auroc == 1
    assert math.isnan(perfect.variance)
    assert math.isnan(auroc([1.0, 2.0], [1, 1]).auroc)
    with pytest.raises(ValueError, match="finite"):
        auroc([0, math.nan], [0, 1])
    with pytest.raises(ValueError, match="labels"):
        auroc([0, 1], [0, 2])
    with pytest.raises(ValueError, match="length"):
        auroc([0, 1], [0, 1], [1])


def test_difference_by_hand():
    rng = np.random.default_rng(2)
    label = np.repeat([0, 1], 50)
    a, b = (auroc(rng.normal(size=100) + shift * label, label) for shift in (0.5, 1.5))
    difference, low, high = auroc_difference(a, b)
    assert difference == pytest.approx(a.auroc - b.auroc)
    assert high - low == pytest.approx(2 * 1.959964 * math.sqrt(a.variance + b.variance), rel=1e-6)


PREDICTIONS = pd.DataFrame(
    {
        "set": ["internal"] * 6 + ["site"] * 5,
        "patient": [0, 1, 2, 3, 4, 4, 0, 1, 2, 3, 4],
        "label": [0, 1, 0, 1, 0, 1, 0, 0, 1, 1, 0],
        "score": [0.1, 0.9, 0.8, 0.7, 0.2, 0.4, 0.0, 1.0, 2.0, None, None],
    }
)


def test_table_counts_failures_and_shows_what_is_not_estimable():
    results = summarize(PREDICTIONS, "internal", failure_limit=0.5)
    assert results["n_rows"].tolist() == [6, 5]
    assert results["n_failed"].tolist() == [0, 2]
    assert results[["n_failed_positive", "n_failed_negative"]].to_numpy().tolist() == [[0, 0], [1, 1]]
    assert results["n_positive"].tolist() == [3, 1]
    assert results["auroc"].tolist() == pytest.approx([7 / 9, 1.0])
    assert results["auroc_difference"].iloc[1] == pytest.approx(2 / 9)
    text = render(results)
    assert "+0.222" in text
    assert "nan" not in text


def test_failures_as_the_worst_case():
    worst = summarize(PREDICTIONS, "internal", failure_limit=0.5)["auroc_worst_case"].tolist()
    # By hand: the scored positive is above 2 of 3 negatives, the failed one above none.
    assert worst == pytest.approx([7 / 9, 2 / 6], abs=1e-12)


def test_above_the_failure_limit_there_is_no_headline_figure():
    results = summarize(PREDICTIONS, "internal")
    assert results["reportable"].tolist() == [True, False]
    assert results.loc[1, ["auroc", "ci_low", "ci_high", "auroc_difference"]].isna().all()
    text = render(results)
    assert "not reportable" in text
    assert "2 (1+, 1-)" in text
    assert "1.000" not in text
    exact = pd.concat([PREDICTIONS[PREDICTIONS["set"] == "internal"]] * 17, ignore_index=True).iloc[:100].copy()
    exact.loc[0, "score"] = None
    assert summarize(exact)["reportable"].tolist() == [True]
    exact.loc[1, "score"] = None
    assert summarize(exact)["reportable"].tolist() == [False]


def test_a_share_at_the_failure_limit_is_not_above_it():
    assert few_failed(29, 100, 0.29)
    assert not few_failed(30, 100, 0.29)
