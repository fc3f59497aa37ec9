"""The numbers behind a page: bins that hold ten patients, per 1,000 patients, cutoffs, shares beside development; no single case."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures.evaluations import text_of, write_evaluation
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import average_precision_score

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256
from sga_monai.data.manifest_writer import write_manifest
from sga_monai.evaluation.results import summarize
from sga_monai.hospital.curves import LOGIT_EDGES, calibration_figures, even_edges, merged_bins, score_distributions
from sga_monai.hospital.cutoffs import cutoff_table, per_thousand
from sga_monai.hospital.development import cohort_shares, development_shares
from sga_monai.hospital.html import write_html
from sga_monai.hospital.page_figures import FIGURES
from sga_monai.hospital.performance import cohort_figures, failure_figures, flow, locked_threshold, model_figures, subgroups
from sga_monai.hospital.reference import read_reference
from sga_monai.hospital.report import make_report
from sga_monai.statistics.decisions import operating_point
from sga_monai.statistics.discrimination import auroc

RATE = st.tuples(*[st.floats(0, 1)] * 3).map(sorted).map(lambda three: {"low": three[0], "value": three[1], "high": three[2]})


@given(st.lists(st.tuples(st.floats(-3, 3), st.integers(0, 40)), min_size=1, max_size=200), st.integers(2, 12))
def test_every_bin_holds_ten_patients_and_no_image_is_lost(images, n_edges):
    value, patient = (np.array(column) for column in zip(*images, strict=True))
    bins = merged_bins(value, patient, (-math.inf, *np.linspace(-3, 3, n_edges), math.inf))
    if len(set(patient)) < 10:
        assert bins == []
        return
    assert bins
    assert sum(line["images"] for line in bins) == len(images)
    assert all(line["patients"] >= 10 for line in bins)
    assert all(first["high"] <= second["low"] for first, second in pairwise(bins))
    for line in bins:
        inside = (value >= line["low"]) & (value < line["high"])
        assert inside.sum() == line["images"]
        assert len(set(patient[inside])) == line["patients"]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300))
def test_edges_are_round_few_and_none_of_the_values(values):
    edges, step = even_edges(np.array(values))
    assert 1 <= len(edges) <= 24
    assert float(f"{step:.0e}") == pytest.approx(step)
    assert all(abs(edge / step - round(edge / step)) < 1e-6 for edge in edges)


@given(RATE, RATE, st.floats(0.001, 0.999))
@settings(max_examples=200)
def test_a_thousand_patients_follow_from_the_rates(sensitivity, specificity, prevalence):
    found = per_thousand({"sensitivity": sensitivity, "specificity": specificity, "prevalence": prevalence})
    diseased, healthy = 1000 * prevalence, 1000 * (1 - prevalence)
    assert (found["diseased"], found["healthy"]) == (diseased, healthy)
    for end, other in (("value", "value"), ("low", "high"), ("high", "low")):
        assert found["found"][end] == pytest.approx(diseased * sensitivity[end], abs=1e-8)
        assert found["missed"][end] == pytest.approx(diseased * (1 - sensitivity[other]), abs=1e-8)
        assert found["cleared"][end] == pytest.approx(healthy * specificity[end], abs=1e-8)
        assert found["false_alarms"][end] == pytest.approx(healthy * (1 - specificity[other]), abs=1e-8)
    assert sum(found["dots"].values()) == 1000
    assert min(found["dots"].values()) >= 0
    assert all(abs(found["dots"][name] - found[name]["value"]) <= 1.5 for name in found["dots"])


def test_without_a_class_nothing_is_said_of_a_thousand():
    nothing = dict.fromkeys(("value", "low", "high"), math.nan)
    rate = {"value": 0.9, "low": 0.8, "high": 0.95}
    assert per_thousand({"sensitivity": nothing, "specificity": rate, "prevalence": 0.1}) is None


def cases(n: int, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    label = np.arange(n) % 2
    score = 2.5 * label - 1.2 + rng.normal(size=n)
    return pd.DataFrame({"score": score, "label": label, "patient": np.arange(n) // 2}), 1 / (1 + np.exp(-score))


def test_cutoffs_are_operating_points_and_the_locked_one_is_among_them():
    table, probability = cases(200)
    locked = operating_point(table["score"], table["label"], 0.3, table["patient"], 0.1)
    point = {name: vars(getattr(locked, name)) for name in ("sensitivity", "specificity", "ppv", "npv")} | {
        "threshold": 0.3,
        "prevalence": 0.1,
    }
    found = cutoff_table(table, probability, point, threshold=0.57, prevalence=0.1)
    assert found["scale"] == "probability"
    assert [row["cutoff"] for row in found["rows"]] == sorted(row["cutoff"] for row in found["rows"])
    (marked,) = [row for row in found["rows"] if row["locked"]]
    assert (marked["cutoff"], marked["sensitivity"]) == (0.57, point["sensitivity"])
    for row in found["rows"]:
        called = probability >= row["cutoff"] if not row["locked"] else table["score"] >= 0.3
        rates = called[table["label"] == 1].mean(), (~called)[table["label"] == 0].mean()
        assert (row["sensitivity"]["value"], row["specificity"]["value"]) == pytest.approx(rates)
        assert row["called"] == pytest.approx(0.1 * rates[0] + 0.9 * (1 - rates[1]))
        if not row["locked"]:
            assert min(table["patient"][called].nunique(), table["patient"][~called].nunique()) >= 10
    # Few are below 0.01, so that this cutoff would show what single patients scored.
    assert found["rows"][0]["cutoff"] > 0.01
    # A cutoff that is the locked one stands there once.
    same = cutoff_table(table, probability, point, threshold=0.5, prevalence=0.1)
    assert [row["locked"] for row in same["rows"] if row["cutoff"] == 0.5] == [True]
    by_score = cutoff_table(table, None, None, threshold=None, prevalence=None)
    assert by_score["scale"] == "score"
    assert {row["cutoff"] for row in by_score["rows"]} <= set(even_edges(table["score"].to_numpy())[0])


def test_a_rare_disease_gets_a_logit_axis():
    rng = np.random.default_rng(0)
    probability = np.exp(rng.normal(-5, 1, 600)).clip(0, 0.9)
    label = (rng.random(600) < probability).astype(int)
    found = calibration_figures(probability, label, np.arange(600), 50)
    assert found["axis"] == "logit"
    assert {line["low"] for line in found["histogram"]} <= set(LOGIT_EDGES)
    assert max(p for p, *_ in found["curve"]) < 0.1
    assert calibration_figures(rng.random(600), label, np.arange(600), 50)["axis"] == "linear"
    assert calibration_figures(probability[:9], label[:9], np.arange(9), 50) is None


def test_a_class_of_few_patients_has_no_histogram():
    table, _ = cases(200)
    found = score_distributions(table[(table["label"] == 0) | (table.index < 16)])
    assert found["positive"] == []
    assert sum(line["share"] for line in found["negative"]) == pytest.approx(1)


def test_the_histograms_reach_as_far_as_the_smaller_class():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"score": np.r_[rng.normal(0, 1, 980), rng.normal(30, 1, 20)], "label": [0] * 980 + [1] * 20})
    found = score_distributions(table.assign(patient=table.index))
    assert found["low"] < -1
    assert 31 < found["high"] < 36
    assert found["positive"][0]["low"] > 20


def numbers(value: object) -> list[float]:
    if isinstance(value, dict):
        return [number for inner in value.values() for number in numbers(inner)]
    if isinstance(value, list):
        return [number for inner in value for number in numbers(inner)]
    return [value] if isinstance(value, float) else []


@pytest.mark.usefixtures("few_samples")
def test_the_report_holds_every_figure_that_is_drawn_and_no_single_case(tmp_path):
    out = write_evaluation(tmp_path, patients=60)
    make_report(out, 0.1)
    report = json.loads((out / "report.json").read_text())
    for draw, describe in (drawn for name, drawn in FIGURES.items() if name != "readers"):
        assert draw(report) is not None
        assert describe(report)
    predictions = pd.read_csv(out / "predictions.csv")
    known = {round(number, 9) for number in numbers(report)}
    for column in ("score", "probability"):
        assert not known & {round(value, 9) for value in predictions[column]}
    for name in ("positive", "negative"):
        assert all(line["patients"] >= 10 for line in report["models"]["model"]["distributions"][name])
    assert all(line["patients"] >= 10 for line in report["models"]["model"]["calibration_curve"]["histogram"])


def mixed_cases() -> pd.DataFrame:
    """60 patients with one to three images, some of both classes, three that failed; two kinds of negatives and some of no kind."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(60), rng.integers(1, 4, 60))
    label = (patient + np.arange(len(patient)) // 7) % 2
    table = pd.DataFrame({"patient": patient, "label": label, "score": rng.normal(size=len(patient)).round(1) + label})
    table["sex"] = np.array(["F", "M", None], dtype=object)[patient % 3]
    table["age"] = np.array(["39", "40", "40-64"], dtype=object)[patient % 3]
    kinds = np.array(["healthy", "other", None], dtype=object)[rng.integers(0, 3, len(patient))]
    table["negative_type"] = np.where(label == 1, None, kinds)
    table["error"] = ""
    table.loc[[3, 4, 20], ["score", "error"]] = [[np.nan, "truncated"], [np.nan, "bits"], [np.nan, "truncated"]]
    return table


def counted(rows: pd.DataFrame) -> dict[str, int]:
    sides = {"positive": rows[rows["label"] == 1], "negative": rows[rows["label"] == 0]}
    counts = {"images": len(rows), "patients": len(set(rows["patient"]))}
    for name, side in sides.items():
        counts |= {f"{name}_images": len(side), f"{name}_patients": len(set(side["patient"]))}
    return counts


def test_subgroups_are_figures_of_their_own_rows():
    scored = mixed_cases().dropna(subset="score")
    threshold = float(scored["score"].iloc[5])
    found = {(line["by"], line["level"]): line for line in subgroups(scored, threshold)}
    positive, negative = scored["label"] == 1, scored["label"] == 0
    kind = {None: scored["negative_type"].isna()} | {name: scored["negative_type"] == name for name in ("healthy", "other")}
    expected = {("sex", "missing"): scored["sex"].isna()} | {("sex", level): scored["sex"] == level for level in "FM"}
    expected |= {("age", "18-39"): scored["age"] == "39", ("age", "40-64"): scored["age"] != "39"}
    # Each kind of negatives beside all positives, who have none.
    expected |= {("negative_type", name or "missing"): negative & rows | positive for name, rows in kind.items()}
    assert found.keys() == expected.keys()
    for key, chosen in expected.items():
        rows, line = scored[chosen], found[key]
        assert counted(rows).items() <= line.items(), key
        assert line["auroc"] == auroc(rows["score"], rows["label"], rows["patient"]).estimate
        point = operating_point(rows["score"], rows["label"], threshold, rows["patient"])
        for name in ("sensitivity", "specificity"):
            assert line[name] == {end: getattr(getattr(point, name), end) for end in ("value", "low", "high")}, (key, name)
    assert all(line["sensitivity"] is line["specificity"] is None for line in subgroups(scored))
    # Where every negative has its kind, the positives alone are no group.
    assert {line["level"] for line in subgroups(scored[positive | ~kind[None]]) if line["by"] == "negative_type"} == {"healthy", "other"}


def test_the_flow_and_the_cohort_count_every_row_once():
    table = mixed_cases()
    steps = {line.pop("step"): line for line in flow(table)}
    assert list(steps) == ["listed", "failed: bits", "failed: truncated", "scored"]
    scored = table.dropna(subset="score")
    for name, rows in (("listed", table), ("failed: bits", table.loc[[4]]), ("failed: truncated", table.loc[[3, 20]]), ("scored", scored)):
        assert steps[name] == counted(rows)
    assert cohort_figures(scored) == counted(scored) | {"prevalence": scored["label"].mean(), "clustered": True}
    assert cohort_figures(scored.drop_duplicates("patient"))["clustered"] is False
    summary = summarize(table.assign(set="site"), failure_limit=0.1).iloc[0]
    failures = failure_figures(table, 0.1, summary)
    lost = table[table["score"].isna()]
    assert (failures["failed"], failures["failed_patients"], failures["share"]) == (3, lost["patient"].nunique(), 3 / len(table))
    assert (failures["failed_positive"], failures["failed_negative"]) == (lost["label"].sum(), (1 - lost["label"]).sum())
    assert (failures["limit"], failures["reportable"], failures["auroc_worst_case"]) == (0.1, True, summary["auroc_worst_case"])


@pytest.mark.usefixtures("few_samples")
def test_the_figures_of_a_model_are_those_of_its_cases():
    table = mixed_cases().dropna(subset="score")
    score, label, patient = (table[name].to_numpy() for name in ("score", "label", "patient"))
    probability, locked = expit(score - 0.5), locked_threshold(0.4, 2.0)
    assert locked.probability == pytest.approx(expit(0.2))
    found = model_figures(table, probability, locked, 0.1)
    point, figure = operating_point(score, label, 0.4, patient, 0.1), auroc(score, label, patient)
    assert found["operating_point"] == asdict(point)
    assert found["per_thousand"] == per_thousand(asdict(point))
    assert found["auroc"] == figure.estimate | {"variance": figure.variance}
    assert found["auprc"]["value"] == pytest.approx(average_precision_score(label, score))
    assert found["calibration"]["brier"]["value"] == pytest.approx(((probability - label) ** 2).mean())
    assert locked.probability in [line[0] for line in found["net_benefit"]]
    for (t, fall_out, sensitivity), (at, model, everyone) in zip(found["net_benefit_rates"], found["net_benefit"], strict=True):
        assert (fall_out, sensitivity) == tuple((probability[label == side] >= t).mean() for side in (0, 1))
        assert model == pytest.approx(0.1 * sensitivity - 0.9 * fall_out * t / (1 - t))
        assert (at, everyone) == (t, pytest.approx(0.1 - 0.9 * t / (1 - t)))
    for x, y in found["roc"]:
        called = [score >= t for t in (*score, math.inf)]
        assert y == max(one[label == 1].mean() for one in called if one[label == 0].mean() <= x + 1e-12)
    (row,) = (row for row in found["cutoffs"]["rows"] if row["locked"])
    assert (row["cutoff"], row["ppv"]) == (locked.probability, asdict(point.ppv))
    assert model_figures(table, probability, locked, None)["operating_point"]["prevalence"] == label.mean()
    plain = model_figures(table, None, None, None)
    assert {name for name, part in plain.items() if part is not None} == {"auroc", "auprc", "roc", "distributions", "cutoffs"}
    one_class = model_figures(table[label == 1], probability[label == 1], locked, 0.1)
    absent = "auprc per_thousand calibration calibration_curve net_benefit net_benefit_rates net_benefit_band roc cutoffs"
    assert {name for name, part in one_class.items() if part is None} == set(absent.split())


def people(**counts: int) -> pd.DataFrame:
    names = [name for name, n in counts.items() for _ in range(n)]
    return pd.DataFrame({"patient": np.arange(len(names)), "label": 1, "manufacturer": names})


@pytest.mark.parametrize(
    ("counts", "levels"),
    [
        ({"A": 30, "B": 20}, {"A": 0.6, "B": 0.4}),
        ({"A": 30, "B": 12, "C": 5, "D": 3}, {"A": 0.6, "other": 0.4}),  # other has 8, so B joins
        ({"A": 80, "C": 9, "D": 11}, {"A": 0.8, "other": 0.2}),
        ({"A": 70, "B": 15, "C": 9, "D": 6}, {"A": 0.7, "B": 0.15, "other": 0.15}),
        ({"A": 5, "B": 5}, {"other": 1.0}),
    ],
)
def test_small_groups_are_put_together_so_that_none_can_be_had_by_subtraction(counts, levels):
    found = cohort_shares(people(**counts))["columns"]["manufacturer"]
    n = sum(counts.values())
    assert sum(found.values()) == pytest.approx(1)
    assert all(share * n >= 10 - 1e-9 for share in found.values())
    assert found == pytest.approx(levels)


def test_nine_patients_have_no_shares():
    assert cohort_shares(people(A=9)) is None


def test_development_is_the_manifest_that_was_trained_on(tmp_path):
    rows = [
        {"image": f"{i}.png", "label": str(i % 2), "patient_id": f"P{i}", "site": "s", "split": ("train", "val", "test")[i % 3],
         "age": str(20 + i), "sex": "FM"[i % 2], "manufacturer": "Birch"}
        for i in range(60)
    ]  # fmt: skip
    write_manifest(tmp_path / "train.csv", rows)
    sha256 = file_sha256(tmp_path / "train.csv")
    found = development_shares(tmp_path / "train.csv", sha256)
    assert (found["images"], found["patients"], found["positive"]) == (40, 40, 0.5)
    assert found["columns"]["sex"] == {"F": 0.5, "M": 0.5}
    assert set(found["columns"]["age"]) <= {"18-39", "40-64", "65-79", "other"}
    for name, known in (("train.csv", "0" * 64), ("none.csv", sha256)):
        with pytest.raises(InputError, match="not the one that the model was trained with"):
            development_shares(tmp_path / name, known)


@pytest.mark.usefixtures("few_samples")
def test_a_bundle_of_before_says_nothing_of_its_development(tmp_path):
    out = write_evaluation(tmp_path, patients=60)
    assert "The bundle does not say who the model was developed on." in text_of(write_html(make_report(out), out))
    path = out / "reference.json"
    reference = json.loads(path.read_text())
    for name in ("sensitivity", "specificity"):
        del reference["models"]["model"][name]
    shares = {"images": 500, "patients": 400, "positive": 0.31, "columns": {"sex": {"F": 0.4, "other": 0.6}}}
    path.write_text(json.dumps(reference | {"development": shares}))
    report = make_report(out)
    assert report["conclusions"][1]["code"] == "no criterion"
    page = text_of(write_html(report, out))
    assert "does not say who" not in page
    assert "sex: F 50 % 40 %" in page
    assert "sex: M 50 % 0, or in other" in page
    for wrong in ({"images": 9}, {"columns": {"name": {}}}, {"columns": {"sex": {"F": 2}}}, {"columns": {"sex": {"<b>": 0.5}}}):
        path.write_text(json.dumps(reference | {"development": shares | wrong}))
        with pytest.raises(InputError, match=r"reference\.json is missing or not as"):
            read_reference(Path(path))
