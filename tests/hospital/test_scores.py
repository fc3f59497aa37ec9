"""Any model from a table of its scores: the figures of an evaluation, every way to write the table, what is refused."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from fixtures.evaluations import text_of, write_evaluation
from scipy.special import expit, logit
from typer.testing import CliRunner

from sga_monai.cli.main import app
from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256
from sga_monai.hospital.html import write_html
from sga_monai.hospital.performance import given_threshold
from sga_monai.hospital.protocol import Plan, write_protocol
from sga_monai.hospital.release import make_release
from sga_monai.hospital.report import make_report
from sga_monai.hospital.score_table import read_scores
from sga_monai.hospital.scores import ScoresReport, report_scores

PLAN = ("Is the model good enough here?", "pneumonia", "RT-PCR within two days")


@pytest.fixture(scope="module")
def vendor() -> pd.DataFrame:
    """150 patients, some with two cases, and scores of two models."""
    rng = np.random.default_rng(0)
    patient = np.concatenate([np.arange(150), np.arange(40)])
    label = patient % 2
    probability = expit(2 * label - 1 + rng.normal(size=len(label)))
    other = expit(label - 0.5 + rng.normal(size=len(label)))
    return pd.DataFrame(
        {
            "case": [f"C{i}" for i in range(len(label))], "patient": [f"P{i}" for i in patient], "label": label,
            "probability": probability.round(6), "probability_baseline": other.round(6), "sex": np.where(patient % 3, "F", "M"),
        }
    )  # fmt: skip


def write(table: pd.DataFrame, folder: Path, **options: object) -> Path:
    table.to_csv(folder / "scores.csv", index=False, **options)
    return folder / "scores.csv"


@pytest.mark.usefixtures("few_samples")
def test_our_own_predictions_give_the_figures_of_their_evaluation(tmp_path):
    out = write_evaluation(tmp_path / "out")
    locked = json.loads((out / "reference.json").read_text())["models"]["model"]["threshold"]
    ours = make_report(out, 0.12)
    theirs = report_scores(out / "predictions.csv", tmp_path / "report", ScoresReport("CXR", 0.12, locked))
    for key in ("prevalence", "flow", "failures", "cohort", "planning"):
        assert theirs[key] == ours[key], key
    assert theirs["subgroups"] == ours["subgroups"] != []
    assert theirs["shortcut_audit"]["metadata_only"] == ours["shortcut_audit"]["metadata_only"] is not None
    assert theirs["comparison"]["model_minus_baseline"] == ours["comparison"]["model_minus_baseline"]
    a, b = theirs["models"]["model"], ours["models"]["model"]
    for key in ("auroc", "auprc", "roc", "operating_point"):
        assert a[key] == b[key], key
    # The probabilities went through a file, the evaluation computes them from the scores.
    assert flat(a["calibration"]) == pytest.approx(flat(b["calibration"]), rel=1e-9, abs=1e-12)
    assert flat(a["net_benefit"]) == pytest.approx(flat(b["net_benefit"]), rel=1e-9, abs=1e-12)
    assert a["threshold_probability"] == pytest.approx(b["threshold_probability"], rel=1e-9)
    pages = [text_of(write_html(report, tmp_path / "report")) for report in (theirs, ours)]
    for text in ("at a prevalence of 0.120 (as given)", f"AUROC {a['auroc']['value']:.3f} ["):
        assert all(text in page for page in pages)
    assert "External validation of CXR" in pages[0]
    for text, there in (("no image was read", [True, False]), ("internal AUROC", [False, True])):
        assert [text in page for page in pages] == there


def flat(value: object) -> list[float]:
    """The numbers of a part of a report; what is not estimable is left out."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [one for inner in value for one in flat(inner)]
    return [] if value is None else [value]


def test_separators_and_decimal_signs_change_nothing(vendor, tmp_path):
    expected = read_scores(write(vendor, tmp_path))
    for options in ({"sep": ";"}, {"sep": "\t"}, {"sep": ";", "decimal": ","}, {"sep": ",", "decimal": ","}, {"encoding": "utf-8-sig"}):
        pd.testing.assert_frame_equal(read_scores(write(vendor, tmp_path, **options)), expected)
    assert "case" not in expected
    assert expected["score"].equals(expected["probability"])
    # A score of any scale beside the probability.
    both = read_scores(write(vendor.assign(score=100 * vendor["probability"]), tmp_path))
    assert both["score"].max() > 1 >= both["probability"].max()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, r"label must be 0 or 1 \(row 4\)"),
        ({"patient": ""}, r"patient is empty.*\(row 4\)"),
        ({"patient": "\u200b"}, r"patient is empty.*\(row 4\)"),
        ({"probability": 1.5}, r"probability must be in \[0, 1\]; name the column score if it is none \(row 4\)"),
        ({"probability": "high"}, r"probability is not a number \(row 4\); leave the cell empty"),
        ({"probability": "1,5"}, "column probability has decimal commas and decimal points; use one"),
        ({"probability_baseline": ""}, r"probability_baseline is empty where the case has a score \(row 4\)"),
        ({"case": "c0"}, r"case is there twice \(row 4\)"),
        *(({"age": age}, r"age must be a number of years, a band as 40-64, or 90\+ \(row 4\)") for age in ("1950", "-5", "45y", "Müller")),
    ],
)
def test_a_refusal_names_the_row_and_no_cell(vendor, tmp_path, change, message):
    table = vendor.astype(object)
    for column, value in change.items():
        table.loc[2, column] = value
    with pytest.raises(InputError, match=message) as caught:
        read_scores(write(table, tmp_path))
    assert "P2" not in str(caught.value)


def test_keys_of_patients_that_look_damaged_are_said(vendor, tmp_path, caplog):
    """Whoever has no key is one patient with all others who have none, and intervals are of another number of patients."""
    read_scores(write(vendor, tmp_path))
    assert not caplog.text
    read_scores(write(vendor.assign(patient=vendor["patient"].where(vendor.index > 2, "nan")), tmp_path))
    assert "patient looks like an empty value, as nan or None, in 3 rows (row 2, 3, 4)" in caplog.text


def test_what_a_table_must_have(vendor, tmp_path):
    for table, message in (
        (vendor.drop(columns="patient"), "column patient is missing"),
        (vendor.drop(columns=["probability", "probability_baseline"]), "column score or probability is missing"),
        (vendor.rename(columns={"sex": "name"}), "the header of column 6 is unknown; known are case, label"),
        (vendor.head(0), "has no rows"),
        # Of a training: patients are numbered in each set.
        (vendor.assign(set=["internal", "harbor"] * (len(vendor) // 2)), "column set names several sets"),
    ):
        with pytest.raises(InputError, match=message):
            read_scores(write(table, tmp_path))
    (tmp_path / "excel.csv").write_bytes(vendor.to_csv(sep=";").replace("sex", "Geschlecht männlich").encode("latin-1"))
    with pytest.raises(InputError, match="save it as CSV UTF-8"):
        read_scores(tmp_path / "excel.csv")
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="holds an evaluation"):
        report_scores(tmp_path / "scores.csv", tmp_path)


@pytest.mark.usefixtures("few_samples")
def test_without_threshold_or_probabilities_the_page_says_what_is_missing(vendor, tmp_path):
    path = write(vendor.drop(columns="probability_baseline"), tmp_path)
    report = report_scores(path, tmp_path / "a", ScoresReport("Vendor AI 2.1"))
    page = text_of(write_html(report, tmp_path / "a"))
    assert "ten bins of about 19 images of " in page
    assert report["models"]["model"]["operating_point"] is None
    # Nobody knows of a test set of the developers' here.
    assert report["conclusions"][0]["text"] == "How well it ranks patients is not yet known."
    for text in ("External validation of Vendor AI 2.1", "No threshold was given", "No protocol", "need the images and the model", "Slope"):
        assert text in page
    assert "heat map" not in page.split("Methods")[0].lower()
    scores = vendor[["label", "patient"]].assign(score=logit(vendor["probability"]))
    report = report_scores(write(scores, tmp_path), tmp_path / "b", ScoresReport(threshold=0.1))
    page = text_of(write_html(report, tmp_path / "b"))
    assert "Calibration and net benefit need probabilities" in page
    assert "Score 0.100" in page
    assert report["models"]["model"]["operating_point"]["sensitivity"]["value"] > 0.5
    with pytest.raises(InputError, match="only the report of a bundle's evaluation can be released"):
        make_release(tmp_path / "b", tmp_path / "release.json")


@pytest.mark.usefixtures("few_samples")
def test_cases_without_a_score_are_failures_with_their_reason(vendor, tmp_path):
    table = vendor.assign(error="")
    table.loc[[0, 1, 2], ["probability", "probability_baseline"]] = np.nan
    table.loc[0, "error"] = "rejected by the vendor"
    report = report_scores(write(table, tmp_path), tmp_path / "a", ScoresReport(failure_limit=0.05))
    assert {line["step"]: line["images"] for line in report["flow"]} == {
        "listed": 190, "failed: no score": 2, "failed: rejected by the vendor": 1, "scored": 187,
    }  # fmt: skip
    assert report["failures"]["reportable"]
    assert report_scores(tmp_path / "scores.csv", tmp_path / "a")["verdict"]["code"] == "not reportable"


@pytest.mark.usefixtures("few_samples")
def test_what_cannot_be_estimated_is_not_called_too_small_and_is_not_passed_over(vendor, tmp_path):
    write_protocol(Plan(*PLAN, limits=["sensitivity>=0.9", "auroc>=0.6", "slope>=0.5"]), tmp_path / "plan.json")
    given = ScoresReport(protocol=tmp_path / "plan.json")
    report = report_scores(write(vendor.assign(patient=range(len(vendor))), tmp_path), tmp_path / "a", given)
    assert report["verdict"]["code"] == "inconclusive"
    assert report["verdict"]["text"] == "Acceptance limits of the protocol cannot be judged here: sensitivity at least 0.9: not estimable."
    assert [(line["code"], line["text"]) for line in report["conclusions"]] == [
        ("met", "The protocol's limits are met."),
        ("inconclusive", "An acceptance limit of the protocol is for a measure that cannot be estimated here."),
        ("met", "The protocol's limits are met."),
    ]
    assert report["advice"] == [
        "Do not decide yet: sensitivity, for which the protocol has a limit, cannot be estimated since no threshold was given "
        "(--threshold, or in the protocol)."
    ]
    page = text_of(write_html(report, tmp_path / "a"))
    for text in ("sensitivity at least 0.9: not estimable AUROC at least 0.6: ", "without an interval it is not estimable"):
        assert text in page
    for label, there, missing, wanted in (
        (1, "positive", "negative", "there are no healthy patients to compare with"),
        (0, "negative", "positive", "there are no diseased patients, and at least 100 are needed"),
    ):
        report = report_scores(write(vendor.assign(label=label), tmp_path), tmp_path / there, ScoresReport(threshold=0.5))
        assert report["verdict"]["text"].startswith(f"There is no AUROC: no patient is {missing}, and both classes are needed.")
        assert report["conclusions"][2]["reason"] == f"No patient is {missing}, and calibration can be assessed only with both classes."
        assert report["advice"] == [f"Do not decide yet: {wanted}."]
        assert "too small" not in text_of(write_html(report, tmp_path / there))


@pytest.mark.usefixtures("few_samples")
def test_a_protocol_for_scores_and_another_one_later(vendor, tmp_path):
    table, out = (
        write(pd.concat([vendor.assign(case="", patient=vendor["patient"] + f"-{i}") for i in range(3)]), tmp_path),
        tmp_path / "out",
    )
    undecided = report_scores(table, out)
    assert undecided["verdict"]["code"] == "no criterion"
    assert "no protocol with an acceptance limit for it" in undecided["verdict"]["text"]
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    write_protocol(Plan(*PLAN, prevalence=0.1, threshold=0.4, limits=["auroc>=0.7"], subgroups=["sex"]), first)
    write_protocol(Plan(*PLAN, limits=["auroc>=0.6"]), second)
    report = report_scores(table, tmp_path / "fresh", ScoresReport(protocol=first))
    assert (report["protocol"]["status"], report["verdict"]["code"]) == ("elsewhere", "met")
    assert report["prevalence"] == 0.1
    assert report["models"]["model"]["operating_point"]["threshold"] == 0.4
    assert {line["by"]: line["planned"] for line in report["subgroups"]} == {"sex": True}
    assert report_scores(table, tmp_path / "fresh", ScoresReport(protocol=first))["protocol"]["status"] == "elsewhere"
    for folder in ("fresh", "out"):
        later = report_scores(table, tmp_path / folder, ScoresReport(protocol=second))
        assert later["protocol"]["status"] == "replaced"
        assert any("do not count as prespecified" in note for note in later["verdict"]["notes"])
    other = report_scores(table, tmp_path / "fresh", ScoresReport(protocol=first, threshold=0.5, prevalence=0.2))
    assert other["protocol"]["deviations"][:2] == ["Prevalence: 0.2 instead of 0.1.", "Threshold: 0.5 instead of 0.4."]


@pytest.mark.usefixtures("few_samples")
def test_the_commands_of_the_documentation(vendor, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(vendor, tmp_path)
    lines = re.findall(r"^    (sga-monai .*)$", (ROOT / "docs/protocol.md").read_text(), re.MULTILINE)
    said = []
    for line in lines:
        _, *arguments = shlex.split(line)
        if arguments[0] != "validate":
            result = CliRunner().invoke(app, [*arguments, *(["--protocol", "plan.json"] if arguments[0] == "report" else [])])
            assert result.exit_code == 0, result.output
            said.append(result.output)
    assert len(said) == 2
    assert f"SHA-256 {file_sha256(tmp_path / 'plan.json')}" in said[0].replace("\n", "")
    assert said[1].startswith(("met: ", "not met: ", "inconclusive: "))
    report = json.loads((tmp_path / "report/report.json").read_text())
    assert (report["title"], report["protocol"]["status"]) == ("Vendor AI 2.1", "elsewhere")
    # Options that belong to a table are refused for an evaluation, and one of both must be given.
    for arguments in (["report"], ["report", "out", "--threshold", "1"]):
        assert isinstance(CliRunner().invoke(app, arguments).exception, InputError)
    # A table in place of the folder.
    assert str(CliRunner().invoke(app, ["report", "scores.csv"]).exception).endswith("a table of scores is given with --scores")


@pytest.mark.usefixtures("few_samples")
def test_one_score_for_all_cases_is_no_lack_of_patients(vendor, tmp_path):
    """As of a column that was filled by mistake: the report said that the cohort was too small, and how to go on with more patients."""
    report = report_scores(write(vendor.assign(probability=0.3), tmp_path), tmp_path / "out")
    assert report["verdict"]["text"].startswith("All cases have the same score, so nothing can be ranked")
    assert report["advice"][0] == "Do not decide yet: find out why all cases have the same score."
    assert report["conclusions"][2]["reason"] == "All cases have the same probability."
    assert "few patients" not in text_of(write_html(report, tmp_path / "out")).split("Methods")[0]
    half = vendor.assign(probability=np.where(vendor["case"] == "C0", 0.2, 0.3))
    assert not report_scores(write(half, tmp_path), tmp_path / "half")["verdict"]["text"].startswith("All cases")


@pytest.mark.usefixtures("few_samples")
def test_a_threshold_on_another_scale_is_refused_or_said(vendor, tmp_path):
    """In percent, of a table of probabilities, it called every case negative: sensitivity 0, and a protocol's limit "not met"."""
    table = write(vendor, tmp_path)
    for value in (50, -0.1):
        with pytest.raises(InputError, match=rf"must be in \[0, 1\], got {value:g}: the table has probabilities and no scores"):
            report_scores(table, tmp_path / "out", ScoresReport(threshold=value))
    assert not (tmp_path / "out").exists()
    for value, called in ((1.0, "negative"), (0.0, "positive"), (0.5, "")):
        notes = report_scores(table, tmp_path / "out", ScoresReport(threshold=value))["verdict"]["notes"]
        said = f"At the threshold every case is called {called}: is it the right one, and on the scale of the column probability?"
        assert (said in notes) == bool(called)
    scores = write(vendor.assign(score=100 * vendor["probability"]), tmp_path)
    (note, *_) = report_scores(scores, tmp_path / "percent", ScoresReport(threshold=0.001))["verdict"]["notes"]
    assert note == "At the threshold every case is called positive: is it the right one, and on the scale of the column score?"


def test_the_probability_of_a_threshold_is_read_between_its_neighbors():
    score = np.linspace(-3, 3, 25)
    assert given_threshold(0.77, score, expit(score / 1.7)).probability == pytest.approx(expit(0.77 / 1.7), rel=1e-12)
    assert given_threshold(0.77, score, None).probability is None
    assert given_threshold(3.5, score, expit(score)).probability is None
    assert given_threshold(0.77, score, expit(-score)).probability is None
    # Cases in any order, some alike, one that is certain.
    score, probability = np.array([2.0, 1.0, 0.0, 1.0, 3.0]), np.array([0.8, 0.5, 0.2, 0.5, 1.0])
    assert [given_threshold(value, score, probability).probability for value in (1.0, 1.5, 2.5)] == pytest.approx(
        [0.5, expit(logit(0.8) / 2), expit((logit(0.8) + logit(1 - 1e-6)) / 2)], rel=1e-9
    )


@pytest.mark.usefixtures("few_samples")
def test_a_threshold_on_probabilities_is_the_probability(tmp_path):
    probability = np.array([0.05, 0.1, 0.2, 0.9, 0.95])
    for p, value in ((probability, 0.5), (probability[:3], 0.5), (probability, 0.99), (probability, 0.01)):
        assert given_threshold(value, p, p).probability == value
    # No probability is above 1.
    assert given_threshold(1.5, probability, probability).probability is None
    # None of the cases lies near 0.5.
    table = pd.DataFrame({"patient": range(100), "label": [0, 1] * 50, "probability": np.tile([0.1, 0.2, 0.2, 0.9], 25)})
    report = report_scores(write(table, tmp_path), tmp_path / "out", ScoresReport(threshold=0.5))
    model = report["models"]["model"]
    assert model["threshold_probability"] == 0.5
    # Of three probabilities there are three bins.
    assert "3 bins of 25 to 50 images of 25 to 50 patients" in text_of(write_html(report, tmp_path / "out"))
    assert [line["cutoff"] for line in model["cutoffs"]["rows"] if line["locked"]] == [0.5]


@pytest.mark.usefixtures("few_samples")
def test_the_page_in_a_browser(vendor, tmp_path, browser):
    write_protocol(Plan(*PLAN, prevalence=0.1, threshold=0.4, limits=["auroc>=0.7"], subgroups=["sex"]), tmp_path / "plan.json")
    report = report_scores(write(vendor, tmp_path), tmp_path / "out", ScoresReport("Vendor AI 2.1", protocol=tmp_path / "plan.json"))
    for page in (write_html(report, tmp_path / "out"), tmp_path / "plan.html"):
        picture = np.asarray(browser(page).convert("L"))
        assert (picture < 100).mean() > 0.003
        # Nothing runs out of the page on its right side.
        assert (picture[:, -8:] > 200).all()
