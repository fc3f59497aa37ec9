"""What a report's page says: items of the checklists, p-values, prevalence, the locked threshold, the temperature."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures.evaluations import FACTS, predictions, reference_of, rewrite, text_of, write_evaluation

from sga_monai.core.display import estimate_text, p_text
from sga_monai.core.errors import InputError
from sga_monai.evaluation.predictions import INTERNAL, VALIDATION
from sga_monai.hospital.html import write_html
from sga_monai.hospital.page_figures import draw_decision
from sga_monai.hospital.performance import decision_thresholds
from sga_monai.hospital.reference import make_reference
from sga_monai.hospital.release import make_release
from sga_monai.hospital.report import make_report
from sga_monai.statistics.calibration import calibration_line, fit_temperature
from sga_monai.statistics.decisions import operating_point, youden_threshold
from sga_monai.statistics.discrimination import auroc, paired_difference

pytestmark = pytest.mark.usefixtures("few_samples")
# Word of each item, from the published checklists: TRIPOD+AI (BMJ 385, 2024, e078378, table 2), CLAIM (Radiology: Artificial
# Intelligence 2, 2020, e200029) and its update (6, 2024, e240300).
TRIPOD = {
    "5b": "dates", "6a": "setting", "6b": "eligibility", "8a": "outcome", "10": "sample size", "11": "missing data", "12e": "measures",
    "12f": "updating", "12g": "predictions were calculated", "16": "differences", "17": "ethics", "18f": "software", "20a": "flow",
    "20b": "characteristics", "20c": "comparison with the development data", "22": "model", "23a": "by subgroup",
    "23b": "heterogeneity across clusters", "24": "updating",
}  # fmt: skip
CLAIM_2020 = {
    "7": "setting", "8": "eligibility", "13": "missing data", "14": "outcome", "19": "sample size", "22": "predictions were calculated",
    "23": "predictions were calculated", "28": "measures", "29": "uncertainty", "30": "robustness", "31": "explainability",
    "32": "external data", "33": "flow", "34": "characteristics", "35": "performance", "36": "intervals", "37": "failure analysis",
    "41": "availability",
}  # fmt: skip
CLAIM_2024 = {
    "7": "setting", "8": "eligibility", "12": "missing data", "14": "outcome", "21": "sample size", "22": "predictions were calculated",
    "23": "predictions were calculated", "28": "measures", "29": "uncertainty", "30": "robustness", "31": "explainability",
    "33": "external data", "35": "flow", "36": "characteristics", "37": "performance", "38": "intervals", "39": "failure analysis",
    "43": "availability",
}  # fmt: skip


@pytest.fixture
def evaluation(tmp_path: Path):
    """A function that writes an evaluation with a temperature and a baseline, and returns its folder."""
    return lambda **options: write_evaluation(tmp_path, **options)


def test_predictions_that_were_changed_since_are_refused(evaluation):
    out = evaluation()
    table = pd.read_csv(out / "predictions.csv")
    rewrite(out, table)
    make_report(out)
    for changed in (table.iloc[:-2], table.assign(score=table["score"].round(2))):
        changed.to_csv(out / "predictions.csv", index=False)
        with pytest.raises(InputError, match=r"predictions\.csv in this folder was changed after the evaluation"):
            make_report(out)


def test_the_folder_above_an_evaluation_is_told_from_one_without(tmp_path):
    """Of a validation the command asked for an evaluation, which was there, one folder below."""
    (tmp_path / "empty").mkdir()
    write_evaluation(tmp_path / "validation/evaluation")
    make_report(tmp_path / "validation/evaluation")
    for folder, remedy in (("validation", "give its folder evaluation"), ("empty", "run sga-monai (evaluate|report) first")):
        for attempt in (make_report, lambda out: make_release(out, tmp_path / "release.json")):
            with pytest.raises(InputError, match=f"this folder.* {remedy}$"):
                attempt(tmp_path / folder)


def test_items_of_the_checklists_are_the_published_ones(evaluation):
    out = evaluation()
    page = write_html(make_report(out), out).read_text()
    table = page[page.index('<th scope="col">TRIPOD+AI</th>') :]
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", line) for line in table[: table.index("</table>")].splitlines()[1:]]
    assert len(rows) > 10
    for column, items in ((1, TRIPOD), (2, CLAIM_2020), (3, CLAIM_2024)):
        named = {item: row[0] for row in rows for item in row[column].split(", ") if item != "-"}
        assert named.keys() == items.keys()
        for item, word in items.items():
            assert word in named[item], (item, named[item])


def test_every_figure_that_depends_on_prevalence_names_it(evaluation):
    out = evaluation()
    for given, at in ((None, "at a prevalence of 0.500 (the cohort's)"), (0.12, "at a prevalence of 0.120 (as given)")):
        report = make_report(out, given)
        page = text_of(write_html(report, out))
        for name in ("PPV", "NPV", "Net benefit"):
            assert f"{name} {at}" in page
        for name in ("AUPRC", "Calibration"):
            assert f"{name} at the cohort's prevalence of 0.500" in page
        release = make_release(out, out / "release.json")
        assert (release["prevalence"], release["cohort_prevalence"]) == (given, 0.5)
        point = report["models"]["model"]["operating_point"]
        for name in ("ppv", "npv"):
            expected = {end: round(point[name][end], 3) for end in ("value", "low", "high")}
            assert release["models"]["model"][name] == expected


def test_patients_stand_beside_images(evaluation):
    out = evaluation()
    report = make_report(out)
    page = text_of(write_html(report, out))
    assert "scored 480 240 240 240 120 120" in page
    assert "sex F 240 120 120 120 60 60" in page
    assert "internal AUROC" in page
    assert "(150 positive, 150 negative images of 150 patients)" in page
    scored, threshold = pd.read_csv(out / "predictions.csv"), report["models"]["model"]["operating_point"]["threshold"]
    missed = scored[(scored["label"] == 1) & (scored["score"] < threshold)]
    assert len(missed) > missed["patient"].nunique() > 0
    assert f"false negatives {len(missed)} images of {missed['patient'].nunique()} patients" in page
    assert "this site 480 240 0.500" in page


def test_no_p_value_is_zero(evaluation):
    out = evaluation()
    report = make_report(out)
    assert 0 < report["comparison"]["model_minus_baseline"]["p"] < 1e-6
    page = text_of(write_html(report, out))
    assert "p < 0.001" in page
    assert "p = 0.000" not in page
    assert [p_text(p) for p in (0.0, 9e-4, 0.001, 0.0996, 1.0)] == ["< 0.001", "< 0.001", "0.001", "0.100", "1.000"]


@pytest.mark.parametrize("locked", [1e-6, 0.003, 0.05, 0.31, 0.5, 0.62, 0.999])
def test_the_locked_threshold_is_in_the_decision_curve(evaluation, locked):
    curve = decision_thresholds(locked)
    assert curve == sorted(set(curve))
    assert locked in curve
    assert {round(0.05 * i, 2) for i in range(1, 11)} <= set(curve)
    out = evaluation()
    reference = json.loads((out / "reference.json").read_text())
    facts = reference["models"]["model"]
    facts["threshold"] = float(np.log(locked / (1 - locked))) * facts["temperature"]
    (out / "reference.json").write_text(json.dumps(reference))
    report = make_report(out, 0.2)
    model, scored = report["models"]["model"], pd.read_csv(out / "predictions.csv")
    assert model["threshold_probability"] == pytest.approx(locked, rel=1e-6)
    line = next(line for line in model["net_benefit"] if line[0] == model["threshold_probability"])
    # Net benefit of treating whoever is called positive at the locked score.
    called = scored["score"] >= facts["threshold"]
    rates = [called[scored["label"] == label].mean() for label in (1, 0)]
    assert line[1] == pytest.approx(rates[0] * 0.2 - rates[1] * 0.8 * locked / (1 - locked), abs=1e-4)
    axis = draw_decision(report).axes[0]
    marks = [line for line in axis.get_lines() if str(line.get_label()).startswith("locked threshold")]
    assert len(marks) == 1
    assert axis.get_xlim()[0] <= marks[0].get_xdata()[0] <= axis.get_xlim()[1]
    assert len(make_release(out, out / "release.json")["models"]["model"]["net_benefit"]) == 10


def test_a_fitted_temperature_mends_the_probabilities_and_nothing_else(evaluation):
    inside = predictions({VALIDATION: 400, INTERNAL: 400}, 2.0, 4.0)
    plain, fitted = (reference_of(inside, fit)["models"]["model"] for fit in (False, True))
    assert plain["temperature"] == 1
    assert fitted["temperature"] == pytest.approx(4, rel=0.25)
    assert abs(fitted["slope"]["value"] - 1) < 0.2 < abs(plain["slope"]["value"] - 1)
    assert fitted["brier"]["value"] < plain["brier"]["value"]
    for key in ("threshold", "auroc", "variance", "roc"):
        assert fitted[key] == plain[key]
    out = evaluation()
    reference = json.loads((out / "reference.json").read_text())
    model = make_report(out)["models"]["model"]
    assert model["temperature"] == reference["models"]["model"]["temperature"]
    assert 0.7 < model["calibration"]["slope"]["value"] < 1.4
    assert "fitted on internal validation data" in text_of(write_html(make_report(out), out))
    reference["models"]["model"]["temperature"] = 1.0
    (out / "reference.json").write_text(json.dumps(reference))
    other = make_report(out)["models"]["model"]
    assert other["calibration"]["slope"]["value"] < 0.5
    for key in ("auroc", "operating_point", "roc", "auroc_difference"):
        assert other[key] == model[key]


def test_threshold_and_temperature_are_of_the_validation_set_and_every_other_figure_is_of_the_test_set():
    inside = predictions({VALIDATION: 60, INTERNAL: 80}, 2.0, 4.0)
    inside.loc[inside["set"] == INTERNAL, "score"] += 1.5
    other = inside.assign(score=np.random.default_rng(0).normal(size=len(inside)) + inside["label"])
    weights = {role: {"network": "resnet18", "sha256": "0" * 64} for role in ("model", "baseline")}
    reference = make_reference({"model": inside, "baseline": other}, weights, temperature=True, **FACTS)
    validation, test = (inside[inside["set"] == name] for name in (VALIDATION, INTERNAL))
    facts, figure = reference["models"]["model"], auroc(test["score"], test["label"], test["patient"])
    assert facts["threshold"] == youden_threshold(validation["score"], validation["label"])
    assert facts["temperature"] == fit_temperature(validation["score"], validation["label"])
    assert (facts["auroc"], facts["variance"], facts["n_patients"]) == (figure.auroc, figure.variance, 80)
    assert (facts["n_positive"], facts["n_negative"]) == (figure.n_positive, figure.n_negative)
    point = operating_point(test["score"], test["label"], facts["threshold"], test["patient"])
    assert (facts["sensitivity"]["value"], facts["specificity"]["value"]) == (point.sensitivity.value, point.specificity.value)
    probability = 1 / (1 + np.exp(-test["score"] / facts["temperature"]))
    slope, intercept = calibration_line(probability, test["label"], test["patient"])
    assert (facts["slope"]["value"], facts["intercept"]["high"]) == (pytest.approx(slope.value), pytest.approx(intercept.high))
    assert facts["brier"]["value"] == pytest.approx(((probability - test["label"]) ** 2).mean())
    compared = paired_difference(test["score"], other.loc[test.index, "score"], test["label"], test["patient"])
    assert reference["model_minus_baseline"]["value"] == pytest.approx(compared.value)
    assert reference["model_minus_baseline"]["high"] == pytest.approx(compared.high)


def test_a_temperature_that_cannot_be_fitted_is_refused_and_names_the_option():
    inside = predictions({VALIDATION: 40, INTERNAL: 40}, 2.0, 1.0)
    with pytest.raises(InputError, match=r"the model's temperature cannot be fitted.*leave out --fit-temperature"):
        reference_of(inside.assign(score=inside["label"] * 2.0 - 1), True)


def test_recalibration_is_beside_the_locked_figures_and_never_released(evaluation):
    out = evaluation(baseline=False)
    report = make_report(out)
    page, again = text_of(write_html(report, out)), report["recalibration"]
    for key, digits in (("slope", 2), ("intercept", 2), ("brier", 3), ("ece", 3), ("observed_to_expected", 2)):
        for side in ("locked", "recalibrated"):
            assert estimate_text(again[side][key], digits) in page[page.index("(exploratory)") :]
        if key in report["models"]["model"]["calibration"]:
            assert again["locked"][key] == report["models"]["model"]["calibration"][key]
    release = make_release(out, out / "release.json")
    without = report | {"recalibration": None}
    (out / "report.json").write_text(json.dumps(without))
    assert make_release(out, out / "release.json") == release
    assert "Recalibrated at this site (exploratory)" not in text_of(write_html(without, out))


@pytest.mark.parametrize(
    ("gap", "patients", "code", "advice"),
    [
        (2.05, 900, "holds", "Nothing here argues against the next step"),
        (1.2, 900, "worse", "Do not use the model here as it is."),
        (1.9, 90, "inconclusive", "Do not decide yet: about 200 patients are needed in total (90 so far)"),
    ],
)
def test_three_sites_read_at_the_top_of_the_page_what_to_do(evaluation, gap, patients, code, advice):
    out = evaluation(gap=gap, patients=patients, baseline=False)
    report = make_report(out, 0.12)
    assert report["verdict"]["code"] == report["conclusions"][0]["code"] == code
    assert report["advice"][0].startswith(advice)
    page = text_of(write_html(report, out))
    start = page[: page.index("Who was evaluated", page.index("In short What to do"))]
    counts = report["models"]["model"]["per_thousand"]
    for text in (*report["advice"], *(line["text"] for line in report["conclusions"]), *(line["reason"] for line in report["conclusions"])):
        assert text in start
    for kind, words in (("found", "diseased, found"), ("missed", "diseased, missed"), ("false_alarms", "healthy, false alarm")):
        low, high = (round(counts[kind][end]) for end in ("low", "high"))
        assert f"{words}: {counts['dots'][kind]} ({low} to {high})" in start
    # Without a protocol it cannot be missed that nobody said where the labels are from.
    assert "Labels from: not provided ." in start
    assert "Setting: not provided ." in start
