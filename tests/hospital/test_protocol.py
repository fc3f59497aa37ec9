"""Protocols before results: their file and hash, the sample size, acceptance limits, and whether they came first."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from fixtures.evaluations import text_of, write_evaluation
from scipy.stats import norm

from sga_monai.core.errors import InputError
from sga_monai.hospital import validate
from sga_monai.hospital.acceptance import compare_with_protocol, status_of_evaluation
from sga_monai.hospital.certainty import separated_limit
from sga_monai.hospital.html import write_html
from sga_monai.hospital.protocol import Plan, read_limit, read_protocol, sample_size, write_protocol
from sga_monai.hospital.release import make_release
from sga_monai.hospital.report import make_report
from sga_monai.hospital.site import Site
from sga_monai.hospital.verdict import give_verdict
from sga_monai.statistics.discrimination import auroc, hanley_mcneil_half_width

TEXTS = ("Is the model good enough here?", "pneumonia on the day", "RT-PCR within two days")


def test_a_protocol_is_written_once_hashed_and_read_strictly(tmp_path):
    path = tmp_path / "plan.json"
    plan = Plan(*TEXTS, prevalence=0.12, endpoint="sensitivity", limits=["auroc>=0.80", "slope <= 1.25"], subgroups=["sex", "age"])
    written = write_protocol(plan, path)
    assert written.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert read_protocol(path) == written
    page = text_of(path.with_suffix(".html"))
    for text in (*TEXTS, written.sha256, "AUROC at least 0.8 calibration slope at most 1.25", "sex, age"):
        assert text in page
    assert "<script" not in path.with_suffix(".html").read_text()
    with pytest.raises(InputError, match=r"plan\.json exists, and a protocol is not overwritten"):
        write_protocol(plan, path)
    (tmp_path / "study.html").write_text("somebody's page")
    with pytest.raises(InputError, match=r"study\.html exists"):
        write_protocol(plan, tmp_path / "study.json")
    assert not (tmp_path / "study.json").exists()
    with pytest.raises(InputError, match=r"must end in \.json"):
        write_protocol(plan, tmp_path / "plan.txt")
    content = json.loads(path.read_text())
    for change in ({"extra": 1}, {"prevalence": 2}, {"subgroups": ["name"]}, {"question": "a\nb"}, {"schema": "x"}, {"limits": [{"x": 1}]}):
        (tmp_path / "other.json").write_text(json.dumps(content | change))
        with pytest.raises(InputError, match="the protocol is missing or not as"):
            read_protocol(tmp_path / "other.json")
    with pytest.raises(InputError, match="the protocol is missing"):
        read_protocol(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limits": ["auroc>0.8"]}, 'as "auroc>=0.80"'),
        ({"limits": ["auroc>=0,8"]}, "decimal point"),
        ({"limits": ["accuracy>=0.8"]}, "the measure of a limit must be one of auroc"),
        ({"limits": ["auroc>=0.8", "auroc >= 0.85"]}, "auroc has two limits with >=; give the one that counts"),
        ({"limits": ["slope>=1.25", "slope<=0.8"]}, r"no slope is at least 1\.25 and at most 0\.8; correct one of its limits"),
        ({"limits": ["auroc>=80"]}, r"the limit of auroc must be in \[0, 1\], got 80"),
        ({"subgroups": ["sex", "sex"]}, "a subgroup is given twice"),
        ({"subgroups": ["name"]}, "subgroup must be one of sex"),
        ({"endpoint": "accuracy"}, "endpoint must be one of auroc"),
        ({"expected_auroc": 0.4}, "expected_auroc"),
        ({"prevalence": 1}, "prevalence"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        Plan(*TEXTS, **options)
    with pytest.raises(InputError, match="label_source must be a text"):
        Plan("a", "b", " ")


def test_the_sample_size_is_the_smallest_and_its_half_width_is_that_of_simulated_cohorts():
    size = sample_size(Plan(*TEXTS, prevalence=0.25, expected_auroc=0.8, half_width=0.05))
    n = size["patients"]
    widths = {line["patients"]: line["half_width"] for line in size["table"]}
    assert n in widths
    assert sorted(widths.values(), reverse=True) == [widths[key] for key in sorted(widths)]
    assert widths[n] <= 0.05 < hanley_mcneil_half_width(0.8, round(0.25 * (n - 4)), n - 4 - round(0.25 * (n - 4)))
    # The design's table: 100 positive and 300 negative patients know an AUROC of 0.80 to 0.056.
    assert hanley_mcneil_half_width(0.8, 100, 300) == pytest.approx(0.056, abs=5e-4)
    # The formula is exact in the mean for exponential scores; those of two normal distributions are known a little better.
    rng, found = np.random.default_rng(0), []
    for _ in range(60):
        label = np.arange(n) < round(0.25 * n)
        figure = auroc(rng.exponential(np.where(label, 4.0, 1.0)), label)
        found.append((figure.ci_high - figure.ci_low) / 2)
    assert np.mean(found) == pytest.approx(0.05, rel=0.06)
    assert sample_size(Plan(*TEXTS, prevalence=1e-5, half_width=0.01))["patients"] is None


@pytest.mark.parametrize(
    ("limit", "low", "high", "outcome"),
    [
        ("auroc>=0.80", 0.81, 0.9, "met"), ("auroc>=0.80", 0.80, 0.9, "met"), ("auroc>=0.80", 0.7, 0.79, "not met"),
        ("auroc>=0.80", 0.7, 0.80, "undecided"), ("auroc<=0.80", 0.7, 0.8, "met"), ("auroc<=0.80", 0.81, 0.9, "not met"),
        ("auroc<=0.80", 0.7, 0.9, "undecided"), ("auroc>=0.80", math.nan, math.nan, "not estimable"),
    ],
)  # fmt: skip
def test_a_limit_is_met_by_the_whole_interval(tmp_path, limit, low, high, outcome):
    protocol = write_protocol(Plan(*TEXTS, limits=[limit]), tmp_path / "plan.json")
    model = {"auroc": {"value": (low + high) / 2, "low": low, "high": high, "variance": 1e-4}, "operating_point": None, "calibration": None}
    report = {
        "models": {"model": model | {"internal": None}},
        "subgroups": [{"by": "sex"}],
        "prevalence": None,
        "cohort": {"patients": 9, "positive_patients": 4, "negative_patients": 5, "prevalence": 0.4},
        "failures": {"reportable": True},
        "shortcut_audit": {"lungs_blank": None, "center_blank": None, "metadata_only": None},
        "drift": [],
    }
    report["protocol"] = compare_with_protocol(report, protocol, "before", "2026-01-01T00:00:00+00:00")
    assert report["protocol"]["limits"][0]["outcome"] == outcome
    assert report["subgroups"][0]["planned"] is False
    verdict = give_verdict(report)
    assert verdict["code"] == (outcome if outcome in ("met", "not met") else "inconclusive")
    assert f"AUROC {'at least' if '>' in limit else 'at most'} 0.8:" in verdict["text"]
    assert report["protocol"]["deviations"][0].startswith("Patients: 9 instead of ")
    # One limit that is missed is enough.
    assert give_verdict(report | {"failures": {"reportable": False}})["code"] == "not reportable"


@pytest.mark.parametrize(
    ("limit", "value", "patients", "outcome"),
    [
        # 0.025^(1/100) is 0.964, 0.025^(1/10) is 0.692.
        ("auroc>=0.8", 1.0, 100, "met"), ("auroc>=0.8", 1.0, 10, "undecided"), ("auroc>=0.97", 1.0, 100, "undecided"),
        ("auroc<=0.8", 1.0, 100, "not met"), ("auroc>=0.8", 0.0, 100, "not met"), ("auroc>=0.2", 0.0, 10, "undecided"),
        # Inside it is 0.9 +/- 0.02: the difference is 0.1 - hypot(0.036, 0.02).
        ("auroc_difference>=0.05", 1.0, 100, "met"), ("auroc_difference>=0.06", 1.0, 100, "undecided"),
        ("auroc_difference>=0.13", 1.0, 100, "not met"),
    ],
)  # fmt: skip
def test_an_auroc_of_1_can_meet_a_limit(tmp_path, limit, value, patients, outcome):
    protocol = write_protocol(Plan(*TEXTS, limits=[limit]), tmp_path / "plan.json")
    unknown = {"low": math.nan, "high": math.nan}
    internal = {"auroc": 0.9, "variance": (0.02 / 1.96) ** 2, "n_positive": 200, "n_negative": 200, "n_patients": 400}
    model = {"auroc": {"value": value, **unknown}, "auroc_difference": {"value": value - 0.9, **unknown}, "internal": internal}
    report = {
        "models": {"model": model | {"operating_point": None, "calibration": None}},
        "subgroups": [],
        "prevalence": None,
        "cohort": {"patients": 5 * patients, "positive_patients": patients, "negative_patients": 4 * patients},
    }
    assert compare_with_protocol(report, protocol, "before", None)["limits"][0]["outcome"] == outcome


def test_the_limit_of_an_auroc_of_1_is_that_of_its_independent_pairs():
    # One pair in which both patients have images of both classes; k pairs are all in order with a probability of area^k.
    for counts, pairs in (((100, 300, 400), 100), ((100, 100, 100), 50), ((1, 300, 301), 1), ((0, 0, 0), 1)):
        assert separated_limit(*counts) ** pairs == pytest.approx(0.025)
    rng, area = np.random.default_rng(0), separated_limit(20, 20, 40)
    shift = math.sqrt(2) * norm.ppf(area)
    perfect = [auroc(np.r_[rng.normal(shift, 1, 20), rng.normal(0, 1, 20)], np.arange(40) < 20).auroc == 1 for _ in range(2000)]
    # All pairs are in order less often than the independent ones.
    assert np.mean(perfect) <= 0.025


def test_limits_are_read_with_their_sign():
    assert read_limit("auroc_difference>=-0.05") == {"measure": "auroc_difference", "relation": ">=", "limit": -0.05}


@pytest.mark.usefixtures("few_samples")
def test_a_report_says_whether_its_protocol_came_first(tmp_path):
    out = write_evaluation(tmp_path / "out")
    plan = Plan(*TEXTS, prevalence=0.12, limits=["auroc>=0.70", "npv>=0.995"], subgroups=["sex", "view"])
    first = write_protocol(plan, tmp_path / "first.json")
    write_protocol(Plan(*TEXTS, limits=["auroc>=0.99"]), tmp_path / "second.json")
    report = make_report(out)
    assert report["protocol"]["status"] == "none"
    assert "No protocol" in text_of(write_html(report, out))
    assert make_report(out, protocol=tmp_path / "first.json")["protocol"]["status"] == "after"
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(run | {"protocol": first.sha256, "started": "2026-03-04T05:06:07+00:00"}))
    # The copy that the evaluation keeps is taken.
    (out / "protocol.json").write_bytes(first.data)
    report = make_report(out)
    assert report["protocol"]["status"] == "before"
    assert report["prevalence"] == 0.12
    # A limit of NPV is not met by another prevalence that somebody chooses after the results.
    with pytest.raises(InputError, match=r"limit of npv applies at its own prevalence \(0\.12\)"):
        make_report(out, prevalence=0.01)
    assert [line["outcome"] for line in report["protocol"]["limits"]] == ["met", "not met"]
    assert report["verdict"]["code"] == "not met"
    for text in (report["verdict"]["text"], text_of(write_html(report, out)), text_of(tmp_path / "first.html")):
        assert re.search(r"NPV at least 0\.995(?!\d)", text)
    assert re.search(r"NPV at least 0\.995: 0\.\d{4} \[0\.\d{4}, 0\.\d{4}\]", report["verdict"]["text"])
    assert any(note.startswith("Outside the protocol: ") for note in report["verdict"]["notes"])
    assert "Subgroup view: planned, but not in the data." in report["protocol"]["deviations"]
    page = text_of(write_html(report, out))
    for text in ("Scoring began 2026-03-04, 05:06 UTC", "AUROC (primary endpoint)", "sex planned", TEXTS[0], first.sha256):
        assert text in page
    release = make_release(out, out / "release.json")
    assert release["protocol"] == {"sha256": first.sha256, "status": "before"}
    changed = make_report(out, protocol=tmp_path / "second.json")
    assert changed["protocol"]["status"] == "changed"
    assert any("changed after scoring began" in note for note in changed["verdict"]["notes"])
    # A copy that was edited is another protocol, too.
    (out / "protocol.json").write_text(first.data.decode().replace("0.7", "0.6"))
    assert make_report(out)["protocol"]["status"] == "changed"
    # Without it its limits would be gone in silence.
    (out / "protocol.json").unlink()
    with pytest.raises(InputError, match=r"its copy protocol\.json is gone; give the file with --protocol"):
        make_report(out)


def test_a_validation_passes_its_protocol_on(tmp_path, monkeypatch):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "images").mkdir()
    given = {name: tmp_path / name for name in ("bundle", "images", "labels", "out")}
    with pytest.raises(InputError, match="the protocol is missing"):
        Site(**given, name="here", protocol=tmp_path / "absent.json")
    write_protocol(Plan(*TEXTS), tmp_path / "plan.json")
    (tmp_path / "bundle/SHA256SUMS").write_text("")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/site.csv").write_text("")
    seen = []

    def evaluate(*_: object, protocol: object, site_key: Path, **__: object) -> None:
        seen.append(protocol)
        # Patients keep their names from one evaluation to the next, for sga-monai monitor.
        assert site_key == tmp_path / "out/site.key"
        (tmp_path / "out/evaluation").mkdir()
        (tmp_path / "out/evaluation/run.json").write_text('{"counts": {"rows": 3}}')

    monkeypatch.setattr(validate, "evaluate_bundle", evaluate)
    site = Site(**given, name="here", protocol=tmp_path / "plan.json")
    assert validate.Validation(site).evaluate() == {"rows": 3}
    assert seen == [tmp_path / "plan.json"]


def test_a_prevalence_that_the_report_would_refuse_is_refused_before_the_images_are_scored(tmp_path):
    given = {name: tmp_path / name for name in ("bundle", "images", "labels", "out")}
    for name in ("bundle", "images"):
        given[name].mkdir()
    write_protocol(Plan(*TEXTS, prevalence=0.1, limits=["npv>=0.9"]), tmp_path / "npv.json")
    write_protocol(Plan(*TEXTS, prevalence=0.1, limits=["auroc>=0.8"]), tmp_path / "auroc.json")
    with pytest.raises(InputError, match=r"limit of npv applies at its own prevalence \(0\.1\)"):
        Site(**given, name="here", protocol=tmp_path / "npv.json", prevalence=0.2)
    for name, prevalence in (("npv", None), ("npv", 0.1), ("auroc", 0.2)):
        Site(**given, name="here", protocol=tmp_path / f"{name}.json", prevalence=prevalence)


def test_status_by_hash(tmp_path):
    protocol = write_protocol(Plan(*TEXTS), tmp_path / "plan.json")
    assert status_of_evaluation(None, protocol.sha256) == "none"
    assert status_of_evaluation(protocol, None) == "after"
    assert status_of_evaluation(protocol, protocol.sha256) == "before"
    assert status_of_evaluation(protocol, "0" * 64) == "changed"
