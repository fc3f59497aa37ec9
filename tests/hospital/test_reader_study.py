"""Readers beside the model: from the table to the figures, the page, and the file for iMRMC."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures.evaluations import text_of
from scipy.stats import t
from typer.testing import CliRunner

from sga_monai.cli.main import app
from sga_monai.core.errors import InputError
from sga_monai.hospital.html import write_html
from sga_monai.hospital.reader_study import reader_study, write_imrmc
from sga_monai.hospital.score_table import read_scores
from sga_monai.hospital.scores import ScoresReport, report_scores

STUDY = pd.read_csv(Path(__file__).parents[1] / "fixtures/van_dyke.csv")
CINE = [name for name in STUDY if name.startswith("treatment1")]


@pytest.fixture
def table() -> pd.DataFrame:
    """Van Dyke's readers of cine MRI, and a score that stands for a model's."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"patient": [f"P{i}" for i in STUDY["case"]], "label": STUDY["label"]})
    frame["score"] = (STUDY["label"] + rng.normal(size=len(STUDY))).round(3)
    for i, name in enumerate(CINE, 1):
        frame[f"reader_{i}"] = STUDY[name]
    return frame


def write(frame: pd.DataFrame, folder: Path, **options: object) -> Path:
    frame.to_csv(folder / "scores.csv", index=False, **options)
    return folder / "scores.csv"


def unbiased_covariance(first: np.ndarray, second: np.ndarray) -> float:
    """Covariance of two AUROCs from their comparisons of positives with negatives, ``[P, N]``, without bias.

    By the moments of Gallas (Academic Radiology 13, 2006): products of comparisons that have both cases in common, one, or none.
    """
    p, n = first.shape
    same = (first * second).sum()
    negative = (first.sum(0) * second.sum(0)).sum() - same
    positive = (first.sum(1) * second.sum(1)).sum() - same
    none = first.sum() * second.sum() - same - negative - positive
    moments = np.array([same / (p * n), negative / (n * p * (p - 1)), positive / (p * n * (n - 1)), none / (p * (p - 1) * n * (n - 1))])
    return float(np.array([1, p - 1, n - 1, (p - 1) * (n - 1) - p * n]) @ moments / (p * n))


def analyze(path: Path) -> dict[str, tuple[float, float, float]]:
    """Value, standard error and degrees of freedom of an iMRMC file, from nothing but its lines."""
    lines = path.read_text().split("BEGIN DATA:\n")[1].splitlines()
    truth, scores = {}, {}
    for line in lines:
        reader, case, modality, score = line.split(",")
        if reader == "-1":
            assert case not in truth
            truth[case] = int(score)
        else:
            assert (reader, modality, case) not in scores
            scores[reader, modality, case] = float(score)
    cases = [[case for case, value in truth.items() if value == one] for one in (1, 0)]
    readers = list(dict.fromkeys(reader for reader, _, _ in scores))
    wins = {}
    for reader in readers:
        for modality in ("readers", "model"):
            positive, negative = (np.array([scores[reader, modality, case] for case in group]) for group in cases)
            difference = positive[:, None] - negative[None]
            wins[reader, modality] = (difference > 0) + 0.5 * (difference == 0)
    gaps = [wins[reader, "model"] - wins[reader, "readers"] for reader in readers]
    result = {}
    for name, kernels in (("readers", [wins[reader, "readers"] for reader in readers]), ("difference", gaps)):
        values = np.array([one.mean() for one in kernels])
        cov2 = np.mean([unbiased_covariance(a, b) for i, a in enumerate(kernels) for j, b in enumerate(kernels) if i != j])
        ms = values.var(ddof=1)
        variance = ms / len(values) + max(cov2, 0)
        result[name] = (values.mean(), variance**0.5, (len(values) * variance) ** 2 * (len(values) - 1) / ms**2)
    return result


def test_the_export_holds_the_study_and_another_estimator_agrees(table, tmp_path):
    scored = read_scores(write(table, tmp_path))
    assert write_imrmc(scored, tmp_path / "study.imrmc") == 2 * 5 * 114
    text = (tmp_path / "study.imrmc").read_text()
    assert "P1" not in text
    assert text.splitlines()[1:8] == ["NR: 5", "N0: 69", "N1: 45", "NM: 2", "BEGIN DATA:", "-1,1,truth,0", "-1,2,truth,0"]
    found, study = analyze(tmp_path / "study.imrmc"), reader_study(scored, None, None)
    # As MRMCaov 0.3.0 prints them for covariances without bias.
    assert found["readers"] == (pytest.approx(0.8970370, abs=6e-8), pytest.approx(0.0330712, abs=6e-8), pytest.approx(12.58802, abs=6e-6))
    # As iMRMC 4.0.3 prints them for this file: statAnalysis.csv, Ustat, model and readers; AUCperReader.csv.
    value, error, df = found["difference"]
    assert (value, error**2, df) == (
        pytest.approx(-0.170789050, abs=6e-10),
        pytest.approx(3.06453216e-3, rel=1e-8),
        pytest.approx(98.8293505),
    )
    each = [line["value"] for line in study["comparison"]["auroc"]["each"]]
    assert each == pytest.approx([-0.193397746, -0.132528180, -0.177616747, -0.246859903, -0.103542673], abs=6e-10)
    for name, ours in (("readers", "average"), ("difference", "difference")):
        value, error, df = found[name]
        line = study["comparison"]["auroc"][ours]
        assert line["value"] == pytest.approx(value, abs=1e-12)
        # DeLong's covariances against those without bias.
        assert line["standard_error"] == pytest.approx(error, rel=0.005)
        assert line["high"] == pytest.approx(value + t.ppf(0.975, df) * error, abs=5e-4)


@pytest.mark.usefixtures("few_samples")
def test_the_figures_of_the_report_and_its_page(table, tmp_path):
    report = report_scores(write(table, tmp_path), tmp_path / "out", ScoresReport(threshold=0.5, cutoff=3))
    study = report["readers"]
    assert (study["cases"], study["positive"], study["negative"], study["left_out"]) == (114, 45, 69, 0)
    assert study["model"]["auroc"] == {key: report["models"]["model"]["auroc"][key] for key in ("value", "low", "high")}
    # A grid, since the steps of a ROC give single cases away.
    assert [x for x, _ in study["model"]["roc"]] == [round(0.05 * i, 2) for i in range(21)]
    point = report["models"]["model"]["operating_point"]
    assert (study["model"]["sensitivity"], study["model"]["specificity"]) == (point["sensitivity"], point["specificity"])
    # 40 of 45, 35 of 45, ...: printed by MRMCaov for a cutoff of 3.
    assert [round(one["sensitivity"]["value"], 3) for one in study["readers"]] == [0.889, 0.778, 0.822, 0.933, 0.689]
    assert study["comparison"]["sensitivity"]["average"]["low"] == pytest.approx(0.6961876, abs=6e-8)
    assert study["comparison"]["specificity"]["difference"]["value"] == pytest.approx(
        point["specificity"]["value"] - np.mean([one["specificity"]["value"] for one in study["readers"]])
    )
    page = text_of(write_html(report, tmp_path / "out"))
    for text in (
        "The model and 5 readers", "114 cases of 114 patients, 45 positive and 69 negative", "rating of 3 or more",
        f"{study['comparison']['auroc']['average']['value']:.3f} [0.825, 0.969]", "these readers only",
    ):  # fmt: skip
        assert text in page
    assert json.loads((tmp_path / "out/report.json").read_text())["readers"] == study


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.usefixtures("few_samples")
def test_the_page_fits_a_phone(table, tmp_path, phone):
    report = report_scores(write(table, tmp_path), tmp_path / "out", ScoresReport(threshold=0.5, cutoff=3))
    assert phone(write_html(report, tmp_path / "out")) == []


def test_only_cases_that_all_rated_are_compared_and_the_model_is_evaluated_on_all(table, tmp_path):
    table.loc[[0, 1, 113], "reader_2"] = np.nan
    scored = read_scores(write(table, tmp_path))
    study = reader_study(scored, 0.5, 3)
    assert (study["cases"], study["left_out"]) == (111, 3)
    assert reader_study(scored.drop(index=[0, 1, 113]), 0.5, 3) | {"left_out": 3} == study
    # The export has every rating.
    assert write_imrmc(scored, tmp_path / "study.imrmc") == 2 * (5 * 114 - 3)


def test_the_export_replaces_nothing_but_an_export(table, tmp_path):
    for content in ("", "a" * 64 + "\n"):
        (tmp_path / "site.key").write_text(content)
        with pytest.raises(InputError, match=r"--imrmc would replace site\.key, which is no file of ratings for iMRMC"):
            report_scores(write(table, tmp_path), tmp_path / "report", ScoresReport(imrmc=tmp_path / "site.key"))
        assert (tmp_path / "site.key").read_text() == content
    assert not (tmp_path / "report").exists()
    scored = read_scores(tmp_path / "scores.csv")
    for _ in range(2):
        write_imrmc(scored, tmp_path / "study.imrmc")


def test_binary_calls_need_no_cutoff_and_one_reader_stands_for_himself(table):
    calls = table.assign(reader_1=(table["reader_1"] >= 3).astype(float)).drop(columns=[f"reader_{i}" for i in range(2, 6)])
    study = reader_study(calls, 0.5, None)
    assert study["cutoff"] == 1
    assert study["readers"][0]["sensitivity"]["value"] == pytest.approx(40 / 45)
    line = study["comparison"]["auroc"]
    assert np.isnan(line["difference"]["low"])
    assert line["these_readers"] == line["each"][0]
    assert line["these_readers"]["low"] < line["these_readers"]["high"]


def test_without_cutoff_or_threshold_only_the_areas_are_compared(table):
    for threshold, cutoff in ((0.5, None), (None, 3)):
        study = reader_study(table, threshold, cutoff)
        assert study["comparison"]["sensitivity"] is study["comparison"]["specificity"] is None
        assert study["comparison"]["auroc"]["difference"]["low"] < 0
    assert reader_study(table[["patient", "label", "score"]], 0.5, None) is None


def test_separators_and_decimal_commas_in_ratings(table, tmp_path):
    half = table.assign(reader_1=table["reader_1"] / 2)
    expected = read_scores(write(half, tmp_path))
    pd.testing.assert_frame_equal(read_scores(write(half, tmp_path, sep=";", decimal=",")), expected)


def test_refusals_name_the_column_or_option(table, tmp_path):
    for frame, message in (
        (table.rename(columns={"reader_1": "reader_"}), r"column 4: a reader's name must be of letters"),
        (table.rename(columns={"reader_1": "reader_Müller"}), r"column 4: a reader's name"),
        (table.astype(object).assign(reader_1="high"), r"reader_1 is not a number \(rows 2, 3, 4, 5, 6, \.\.\.\)"),
        (table.rename(columns={"reader_1": "Reader 1"}), "the header of column 4 is unknown; known are .*"),
    ):
        with pytest.raises(InputError, match=message):
            read_scores(write(frame, tmp_path))
    for cutoff in (1, 6):
        with pytest.raises(InputError, match="--cutoff calls every case alike: the ratings are 1 to 5"):
            reader_study(table, 0.5, cutoff)
    plain = table[["patient", "label", "score"]]
    with pytest.raises(InputError, match="the table has no column reader_<name>"):
        reader_study(plain, 0.5, 3)
    with pytest.raises(InputError, match="--imrmc needs readers' ratings"):
        write_imrmc(plain, tmp_path / "x.imrmc")
    with pytest.raises(InputError, match="was rated by every reader"):
        reader_study(table.assign(reader_1=table["reader_1"].where(table["label"] == 1)), 0.5, 3)


@pytest.mark.usefixtures("few_samples")
def test_the_command(table, tmp_path):
    given = ["report", str(tmp_path / "out"), "--scores", str(write(table, tmp_path)), "--threshold", "0.5", "--cutoff", "3"]
    result = CliRunner().invoke(app, [*given, "--imrmc", str(tmp_path / "study.imrmc")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "study.imrmc").is_file()
    refused = CliRunner().invoke(app, ["report", str(tmp_path / "out"), "--cutoff", "3"]).exception
    assert isinstance(refused, InputError)
    assert "--imrmc belong to --scores" in str(refused)
