"""Monitoring: a planted change of scanner is found and none where there is none; the command, the page and what is refused."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from fixtures import warm
from scipy.special import expit
from statsmodels.stats.proportion import proportion_confint

from sga_monai.core.errors import EXIT_ALARM, InputError
from sga_monai.evaluation.predictions import INTERNAL, VALIDATION
from sga_monai.hospital.monitor import CHARTS, make_monitor, monitor_periods
from sga_monai.hospital.monitor_page import draw_charts, write_monitor_page
from sga_monai.hospital.periods import Period
from sga_monai.hospital.reference import make_reference
from sga_monai.model.preparation import Preparation
from sga_monai.statistics.calibration import calibration_line
from sga_monai.statistics.control_charts import false_alarm_probability
from sga_monai.statistics.discrimination import auroc

THRESHOLD = 0.0


def images(seed: int, patients: int = 100, prevalence: float = 0.3, scanner: float = 0.0, per_patient: int = 2) -> pd.DataFrame:
    """Images of one period. Another scanner makes them brighter by so many standard deviations, and moves the score as much."""
    rng = np.random.default_rng(seed)
    people = (rng.random(patients) < prevalence).astype(int)
    patient = np.repeat(np.arange(patients), per_patient)
    label = people[patient]
    noise = 0.9 * rng.normal(size=(patients, 4))[patient] + 0.4 * rng.normal(size=(len(patient), 4))
    table = pd.DataFrame({"row": np.arange(len(patient)) + 2, "patient": patient, "label": label})
    table["score"] = 1.6 * label - 1.2 + noise[:, 0] + scanner
    table["image_mean"] = 0.5 + 0.05 * (noise[:, 1] + scanner) + 0.02 * label
    table["image_sd"] = 0.2 + 0.03 * noise[:, 2]
    table["image_dark"] = 0.1 + 0.02 * noise[:, 3]
    return table.assign(set="site", probability=expit(table["score"]), error="")


def monitored(tables: Sequence[pd.DataFrame], **options: Any) -> dict[str, Any]:
    periods = [Period(f"20{10 + i}H1", table, 0.01) for i, table in enumerate(tables)]
    return monitor_periods(periods, THRESHOLD, 1.0, **options)


def false_alarm_share(runs: int, seed: int, **options: Any) -> tuple[float, float]:
    """Share of unchanged sites of eight periods that raise an alarm, and what is stated."""
    content = [monitored([images(seed + 100 * run + i, **options) for i in range(8)]) for run in range(runs)]
    return float(np.mean([bool(one["alarms"]) for one in content])), content[0]["control"]["false_alarm_probability"]


def test_an_unchanged_site_raises_few_alarms() -> None:
    found, stated = false_alarm_share(15, 0)
    assert stated == pytest.approx(0.038, abs=0.002)
    # More than three of 15 has a probability below 1 % at the stated rate.
    assert found <= 3 / 15


@pytest.mark.slow
@pytest.mark.parametrize(("patients", "prevalence"), [(100, 0.3), (30, 0.45)])
def test_an_unchanged_site_raises_as_few_alarms_as_stated(patients: int, prevalence: float) -> None:
    found, stated = false_alarm_share(400, 10**6, patients=patients, prevalence=prevalence)
    # Variances are estimated, which makes tails a little heavier than those of known ones.
    assert found < 1.3 * stated + 3 * math.sqrt(stated / 400)


def test_a_wave_of_disease_is_no_change_of_score_or_images() -> None:
    shares = (0.15, 0.2, 0.5, 0.7, 0.6, 0.3, 0.15)
    content = monitored([images(i, 200, share) for i, share in enumerate(shares)])
    raised = {alarm["figure"] for alarm in content["alarms"]}
    # Probabilities that were right at one prevalence are not at another, and the alert rate rises.
    assert raised == {"calibration"}
    rates = [line["alert_rate"]["value"] for line in content["periods"]]
    assert rates[3] > rates[0] + 0.2


@pytest.mark.parametrize("scanner", [0.8, -0.8])
def test_another_scanner_is_found_in_the_period_in_which_it_came(scanner: float) -> None:
    content = monitored([images(100 + i, scanner=scanner * (i >= 5)) for i in range(8)])
    first = content["alarms"][0]
    assert first["period"] == "2015H1"
    found = {(alarm["figure"], alarm["direction"]) for alarm in content["alarms"] if alarm["period"] == "2015H1"}
    direction = "higher" if scanner > 0 else "lower"
    assert {("score", direction), ("image_mean", direction)} <= found
    assert not {name for name, _ in found} & {"image_sd", "image_dark", "auroc"}
    # It does not become the normal state.
    assert {alarm["period"] for alarm in content["alarms"] if alarm["figure"] == "image_mean"} == {"2015H1", "2016H1", "2017H1"}
    assert content["status"]["code"] == "alarm"
    assert content["status"]["text"].startswith("In 2015H1: ")
    assert "; alarms also in 2 later periods. " in content["status"]["text"]
    drift = content["periods"][6]["drift"]
    assert drift["image_mean"]["low"] < scanner < drift["image_mean"]["high"]
    assert drift["image_sd"]["low"] < 0 < drift["image_sd"]["high"]


def test_a_model_that_is_worse_is_found() -> None:
    tables = [images(i, 200) for i in range(6)]
    for table in tables[4:]:
        table["score"] = np.random.default_rng(9).permutation(table["score"])
    content = monitored(tables)
    assert ("2014H1", "auroc", "lower") in {tuple(alarm.values()) for alarm in content["alarms"]}


def test_figures_of_a_period_have_their_intervals_and_numbers() -> None:
    tables = [images(i, per_patient=1) for i in range(3)]
    tables[1].loc[4, "score"] = np.nan
    content = monitored(tables)
    for table, line in zip(tables, content["periods"], strict=True):
        scored = table.dropna(subset="score")
        figure = auroc(scored["score"], scored["label"], scored["patient"])
        assert line["auroc"] == {"value": figure.auroc, "low": figure.ci_low, "high": figure.ci_high}
        called = int((scored["score"] >= THRESHOLD).sum())
        rate = [line["alert_rate"][end] for end in ("value", "low", "high")]
        assert rate == pytest.approx([called / len(scored), *proportion_confint(called, len(scored), method="wilson")])
        counts = [line[key] for key in ("images", "positive_images", "negative_images", "patients", "failed")]
        positive = int(scored["label"].sum())
        assert counts == [len(scored), positive, len(scored) - positive, len(scored), 100 - len(scored)]
        expected = expit(scored["score"]).sum()
        assert line["observed_to_expected"]["value"] == pytest.approx(positive / expected)
        slope, intercept = calibration_line(expit(scored["score"]), scored["label"], scored["patient"])
        assert (line["slope"], line["intercept"]) == (asdict(slope), asdict(intercept))
    # One image may fail.
    assert all(line["reportable"] for line in content["periods"])


def flat(value: object) -> list[object]:
    """The texts and numbers of a part of a result."""
    if isinstance(value, dict):
        value = list(value.values())
    return [one for inner in value for one in flat(inner)] if isinstance(value, list) else [value]


def test_scores_and_their_temperature_on_another_scale_are_the_same_figures_and_charts() -> None:
    tables = [images(i, scanner=0.6 * (i > 2)) for i in range(5)]
    periods = [[Period(str(i), table.assign(score=scale * table["score"]), 0.01) for i, table in enumerate(tables)] for scale in (1, 2.5)]
    plain, scaled = (flat(monitor_periods(given, 0.3 * scale, scale)) for given, scale in zip(periods, (1, 2.5), strict=True))
    (texts, numbers), (other_texts, other_numbers) = (
        ([one for one in found if not isinstance(one, float)], [one for one in found if isinstance(one, float)])
        for found in (plain, scaled)
    )
    assert other_texts == texts
    assert other_numbers == pytest.approx(numbers, rel=1e-6, abs=1e-9, nan_ok=True)


def test_small_and_failed_periods_are_named_and_not_charted() -> None:
    tables = [images(0, patients=8), *(images(i) for i in range(1, 6))]
    tables[3].loc[:9, "score"] = np.nan
    content = monitored(tables)
    assert [line["charted"] for line in content["periods"]] == [False, True, True, False, True, True]
    assert [line["first"] for line in content["periods"]] == [False, True, False, False, False, False]
    assert content["control"]["monitored"] == 3
    assert content["notes"][0] == "2010H1: fewer than 10 patients of a class; not charted."
    assert content["notes"][1] == "2013H1: 5.0% of the images failed, more than the limit; not charted."
    failed = content["periods"][3]
    assert failed["images"] == 0
    assert all(math.isnan(failed[name]["value"]) for name in ("auroc", "alert_rate", "slope", "intercept", "observed_to_expected"))
    assert content["status"]["code"] == "not reportable"
    with pytest.raises(InputError, match="fewer than two periods have 10 patients"):
        monitored(tables[:2])


def test_scores_without_images_are_monitored_too() -> None:
    content = monitored([images(i).drop(columns=["image_mean", "image_sd", "image_dark"]) for i in range(3)])
    assert content["control"]["charts"] == ["auroc", "calibration", "score"]
    assert content["control"]["limit"] < monitored([images(i) for i in range(3)])["control"]["limit"]


@pytest.fixture(scope="module")
def reference() -> str:
    inside = pd.concat([images(90, 60).assign(set=VALIDATION), images(91, 60).assign(set=INTERNAL)], ignore_index=True)
    weights = {"model": {"network": "resnet18", "sha256": "0" * 64}}
    return json.dumps(make_reference({"model": inside}, weights, name="cxr", version="1.0", **vars(Preparation(image_size=32))))


@pytest.fixture
def evaluation(tmp_path: Path, reference: str):
    """A function that writes an evaluation of rows with keys of patients, and returns its folder."""

    def write(name: str, rows: pd.DataFrame, **run: Any) -> Path:
        folder = tmp_path / f"MRN-{name}"
        folder.mkdir()
        rows = rows.assign(patient=[f"key{i:04x}" for i in rows["patient"]])
        rows.to_csv(folder / "predictions.csv", index=False)
        (folder / "reference.json").write_text(reference)
        bundle = {"name": "cxr", "version": "1.0", "sha256sums": "0" * 64, "signature_verified": False}
        facts = {"finished": "now", "failure_limit": 0.01, "bundle": bundle, "software": {"torch": "2"}, "manifest_sha256": name}
        (folder / "run.json").write_text(json.dumps(facts | run))
        return folder

    return write


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "sga_monai", "monitor", *map(str, arguments)]
    return warm.run(line, env=os.environ | {"COLUMNS": "160", "PYTHONPATH": str(ROOT)})


def test_the_command_says_with_its_exit_code_whether_something_changed(evaluation, tmp_path) -> None:
    halves = [f"202{i // 2}H{1 + i % 2}" for i in range(6)]
    quiet = evaluation("quiet", pd.concat([images(20 + i).assign(period=half) for i, half in enumerate(halves)], ignore_index=True))
    done = command(quiet, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "no alarm: No change was found in 5 monitored periods." in done.stdout
    folders = [evaluation(half, images(40 + i, scanner=1.0 * (i == 5)).assign(period=half)) for i, half in enumerate(halves)]
    changed = command(*folders, "--out", tmp_path / "changed", "--run-length", 500)
    assert changed.returncode == EXIT_ALARM == 2, changed.stderr
    assert re.search(r"2022H2 .*score, image brightness", changed.stdout)
    page, content = ((tmp_path / "changed" / name).read_text() for name in ("monitor.html", "monitor.json"))
    assert {path.name for path in (tmp_path / "changed").iterdir()} == {"monitor.html", "monitor.json"}
    assert json.loads(content)["control"]["run_length"] == 500
    # Neither patients nor folders.
    assert not re.search("key00|MRN", page + content + changed.stdout)
    assert "<script" not in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    for line in json.loads(content)["periods"]:
        assert f"{line['auroc']['value']:.3f} [{line['auroc']['low']:.3f}, {line['auroc']['high']:.3f}]" in page


def test_what_cannot_be_compared_is_refused(evaluation, tmp_path) -> None:
    first, second = (evaluation(name, images(i).assign(period=f"{name}H1")) for i, name in enumerate(("2020", "2021")))
    other = json.loads((first / "run.json").read_text())["bundle"] | {"sha256sums": "1" * 64}
    training = evaluation("training", images(5))
    (training / "run.json").write_text(json.dumps({"finished": "now", "identity": {}}))
    cases = {
        "folder 2 holds a training": [first, training],
        "needs two values of period": [first],
        "not in the order of time": [second, first],
        "of the same manifest": [first, first],
        "of different bundles": [first, evaluation("a", images(2), bundle=other)],
        "in folder 2 is not finished": [first, evaluation("b", images(3), finished=None)],
        "folder 1 holds no evaluation": [tmp_path / "MRN-none"],
    }
    for message, folders in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            make_monitor(folders, tmp_path / "out")
        assert "MRN" not in str(caught.value)
    with pytest.raises(InputError, match="run_length"):
        make_monitor([first, second], tmp_path / "out", 1.0)
    assert not (tmp_path / "out").exists()
    third = evaluation("c", images(4).assign(period="2021H1"), software={"torch": "3"})
    content = make_monitor([first, second, third], tmp_path / "out")
    returning = "100% of the patients are in more than one period: false alarms are more frequent than stated."
    assert content["notes"].pop() == returning
    assert [line["period"] for line in content["periods"]] == ["evaluation 1", "evaluation 2", "evaluation 3"]
    assert content["notes"] == ["The evaluations were made with different versions of the software: run sga-monai selftest with each."]


def test_a_folder_that_grows_is_no_series_of_periods(evaluation, tmp_path) -> None:
    """Each half-year validated with all before it: a scanner that came in the last one was no change, whatever patients are called."""
    halves = [images(60 + i, scanner=0.8 * (i == 4)).assign(period=f"202{i // 2}H{1 + i % 2}") for i in range(5)]
    people = [half.assign(patient=half["patient"] + 100 * i) for i, half in enumerate(halves)]
    found = make_monitor([evaluation(f"half{i}", half) for i, half in enumerate(people)], tmp_path / "out")
    assert {alarm["period"] for alarm in found["alarms"]} == {"2022H1"}
    grown = [pd.concat(people[: i + 1], ignore_index=True) for i in range(5)]
    # Scored with another batch size, and without a site key.
    grown[1] = grown[1].assign(score=grown[1]["score"] + 1e-7, patient=grown[1]["patient"] + 1000)
    with pytest.raises(InputError, match=r"^200 images of folder 1 are in folder 2 too, and would hide a change; evaluate each period"):
        make_monitor([evaluation(f"grown{i}", table) for i, table in enumerate(grown)], tmp_path / "grown")
    assert not (tmp_path / "grown").exists()
    # One that was exported twice changes nothing.
    few = pd.concat([people[1], people[0].iloc[:2]], ignore_index=True)
    assert len(make_monitor([evaluation("a", people[0]), evaluation("b", few.assign(period="2020H2"))], tmp_path / "few")["periods"]) == 2


def test_periods_that_overlap_are_refused(evaluation, tmp_path) -> None:
    tables = [images(70 + i) for i in range(4)]
    long = pd.concat([tables[0].assign(period="2020H1"), tables[1].assign(period="2021H1")], ignore_index=True)
    with pytest.raises(InputError, match=r"folder 1 ends in 2021H1, after the next begins \(2020H2\): periods must not overlap"):
        make_monitor([evaluation("long", long), evaluation("short", tables[2].assign(period="2020H2"))], tmp_path / "out")
    rows = pd.concat([table.assign(period=name) for table, name in zip(tables[:3], ("2020", "2020H2", "2021"), strict=True)])
    with pytest.raises(InputError, match="the column period has 2020 and a half of it, which overlap"):
        make_monitor([evaluation("mixed", rows)], tmp_path / "out")
    # Months of one half-year, and a year before a half of the next.
    months = [evaluation(f"m{i}", tables[i].assign(period=name)) for i, name in enumerate(("2020", "2021H1", "2021H1"))]
    assert len(make_monitor(months, tmp_path / "out")["periods"]) == 3


def test_threshold_and_temperature_are_those_of_the_bundle(evaluation, reference, tmp_path) -> None:
    tables = [images(i).assign(period=f"202{i}") for i in range(2)]
    folders = [evaluation(f"202{i}", table) for i, table in enumerate(tables)]
    facts = json.loads(reference)
    facts["models"]["model"] |= {"threshold": 0.7, "temperature": 2.0}
    (folders[0] / "reference.json").write_text(json.dumps(facts))
    for table, line in zip(tables, make_monitor(folders, tmp_path / "out")["periods"], strict=True):
        assert line["alert_rate"]["value"] == pytest.approx((table["score"] >= 0.7).mean())
        assert line["observed_to_expected"]["value"] == pytest.approx(table["label"].sum() / expit(table["score"] / 2).sum())


def test_rows_without_a_period_are_counted(evaluation, tmp_path) -> None:
    frames = [images(i).assign(period=period) for i, period in enumerate(("2020", "2021", None))]
    rows = pd.concat([frame.assign(patient=frame["patient"] + 90 * i) for i, frame in enumerate(frames)], ignore_index=True)
    content = make_monitor([evaluation("x", rows)], tmp_path / "out")
    assert content["notes"] == ["200 images have no period and are in no figure."]
    assert [line["images"] for line in content["periods"]] == [200, 200]


def test_patients_who_come_again_are_counted(evaluation, tmp_path) -> None:
    for shared, expected in (
        (10, []),
        (30, ["18% of the patients are in more than one period: false alarms are more frequent than stated."]),
    ):
        frames = [images(i).assign(period=f"202{i}") for i in range(2)]
        rows = pd.concat([frame.assign(patient=frame["patient"] + (100 - shared) * i) for i, frame in enumerate(frames)])
        assert make_monitor([evaluation(f"r{shared}", rows)], tmp_path / "out")["notes"] == expected


def test_without_a_site_key_nobody_is_known_to_return(evaluation, tmp_path) -> None:
    folders = [evaluation(f"202{i}", images(i).assign(period=f"202{i}")) for i in range(2)]
    table = pd.read_csv(folders[1] / "predictions.csv")
    table.assign(patient=pd.factorize(table["patient"])[0]).to_csv(folders[1] / "predictions.csv", index=False)
    (note,) = make_monitor(folders, tmp_path / "out")["notes"]
    assert note.startswith("Patients who are in more than one period are not known, since an evaluation was made without a site key")


def test_with_different_site_keys_nobody_is_known_to_return(evaluation, tmp_path) -> None:
    """``validate`` makes a key for each folder where none is given."""
    folders = [evaluation(f"{i}", images(i).assign(period=f"202{i}"), site_key=key) for i, key in enumerate("aab")]
    assert not any("site key" in note for note in make_monitor(folders[:2], tmp_path / "out")["notes"])
    (note,) = make_monitor(folders, tmp_path / "out")["notes"]
    assert note.startswith(
        "Patients who are in more than one period are not known, since the evaluations were made with different site keys"
    )


def test_charts_show_every_point_and_the_alarms_in_red() -> None:
    content = monitored([images(i, scanner=1.0 * (i >= 4)) for i in range(6)])
    content = json.loads(json.dumps(content).replace("NaN", "null"))
    figure = draw_charts(content)
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title() for axis in shown] == list(CHARTS.values())
    limit = content["control"]["limit"]
    for axis, name in zip(shown, CHARTS, strict=True):
        points = [line["chart"][name] for line in content["periods"]]
        line, calm, alarms = axis.get_lines()[-3:]
        assert list(line.get_ydata()) == [point["ewma"] for point in points[1:]]
        assert list(calm.get_xdata()) == [i for i, point in enumerate(points) if point["ewma"] is not None and not point["alarm"]]
        assert list(alarms.get_ydata()) == [point["ewma"] for point in points if point["alarm"]]
        assert axis.get_ylim()[1] > max(limit, *(abs(point["ewma"]) for point in points[1:]))
    assert content["control"]["false_alarm_probability"] == pytest.approx(false_alarm_probability(limit, 5, charts=6))


def test_the_page_is_drawn_without_scripts(browser, phone, tmp_path) -> None:
    content = monitored([images(i, scanner=0.7 * (i >= 5)) for i in range(8)])
    bundle = {"name": "cxr", "version": "1.0"}
    page = write_monitor_page(json.loads(json.dumps(content | {"bundle": bundle}).replace("NaN", "null")), tmp_path)
    picture = np.asarray(browser(page))
    # The alarms' red is on it, and nothing runs over the right edge.
    red = (np.abs(picture[..., :3].astype(int) - (0xB3, 0x40, 0x2A)) < 12).all(axis=2)
    assert red.sum() > 50
    assert (picture[:, -12:, :3] > 250).all()
    assert phone(page) == []
