"""What a release hides, and its approval: of exactly what was shown, or refused."""

from __future__ import annotations

import hashlib
import itertools
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from fixtures.evaluations import small_report, text_of
from typer.testing import CliRunner

from sga_monai.cli.main import app
from sga_monai.core.errors import InputError
from sga_monai.hospital.pool import pool_releases
from sga_monai.hospital.release import check_release, make_release, numbers
from sga_monai.hospital.suppression import HIDDEN, few_with_both, suppress
from sga_monai.hospital.thinning import thin_curve


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The folder of a report."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out/report.json").write_text(json.dumps(small_report(0.8)))
    return tmp_path / "out"


def approved(site: Path, path: Path, alias: str) -> dict:
    make_release(site, path, alias)
    return make_release(site, path, alias, approved_by="IRB")


def test_an_approval_names_who_when_and_the_hash_of_what_was_shown(site, tmp_path):
    path = tmp_path / "release.json"
    shown = make_release(site, path, "site-A")
    before = datetime.now(UTC).replace(microsecond=0)
    release = make_release(site, path, "site-A", approved_by="Prof. Müller, data protection")
    approval = release.pop("approval")
    assert release == shown
    assert json.loads(path.read_text()) == shown | {"approval": approval}
    assert approval["approved_by"] == "Prof. Mueller data protection"
    assert before <= datetime.fromisoformat(approval["time"]) <= before + timedelta(minutes=1)
    assert approval["values_shown"] == len(list(numbers(shown)))
    # By hand, as a coordinator would without this package.
    content = json.dumps(shown, sort_keys=True, separators=(",", ":")).encode()
    assert approval["sha256"] == hashlib.sha256(content).hexdigest()


def test_nothing_is_approved_that_was_not_shown(site, tmp_path):
    path = tmp_path / "release.json"
    with pytest.raises(InputError, match="nothing was shown yet"):
        make_release(site, path, "site-A", approved_by="IRB")
    assert not path.exists()
    make_release(site, path, "site-A")
    shown = path.read_bytes()
    with pytest.raises(InputError, match="not those that were shown"):
        make_release(site, path, "site-B", approved_by="IRB")
    (site / "report.json").write_text(json.dumps(small_report(0.81)))
    with pytest.raises(InputError, match="not those that were shown"):
        make_release(site, path, "site-A", approved_by="IRB")
    for name in ("", "...", "委員会"):
        with pytest.raises(InputError, match="--approved-by must be written in"):
            make_release(site, path, "site-A", approved_by=name)
    assert path.read_bytes() == shown


def test_an_approval_stays_while_the_values_do(site, tmp_path):
    path = tmp_path / "release.json"
    release = approved(site, path, "site-A")
    assert make_release(site, path, "site-A") == release == json.loads(path.read_text())
    assert "approval" not in make_release(site, path, "site-B")
    release = approved(site, path, "site-A")
    path.write_text(json.dumps(release | {"approval": release["approval"] | {"time": "today"}}))
    assert "approval" not in make_release(site, path, "site-A")
    approved(site, path, "site-A")
    (site / "report.json").write_text(json.dumps(small_report(0.81)))
    assert "approval" not in make_release(site, path, "site-A")


def test_an_approved_release_of_other_values_is_kept(site, tmp_path):
    path = tmp_path / "release.json"
    first = approved(site, path, "site-A")
    kept = sorted(path.with_name(f"release.{n}.json") for n in (1, 2))
    make_release(site, path, "site-A")
    assert not kept[0].exists()
    # Replaced twice before anyone has approved it: the first is kept, what was only shown is not.
    (site / "report.json").write_text(json.dumps(small_report(0.81)))
    second = approved(site, path, "site-A")
    make_release(site, path, "site-B")
    make_release(site, path, "site-C")
    assert [json.loads(one.read_text()) for one in kept] == [first, second]
    assert not path.with_name("release.3.json").exists()


def test_an_approval_has_no_other_field(site, tmp_path):
    release = approved(site, tmp_path / "release.json", "site-A")
    for change in ({"comment": "x"}, {"approved_by": "DOE^SECRET"}, {"time": "today"}, {"sha256": "0"}):
        with pytest.raises(InputError, match=r"approval.* is not what may leave a site"):
            check_release(release | {"approval": release["approval"] | change})


def test_pool_refuses_values_that_are_not_those_approved(site, tmp_path):
    paths = [tmp_path / f"{name}.json" for name in "abc"]
    releases = [approved(site, path, f"site-{path.stem}") for path in paths]
    pooled = pool_releases(paths, tmp_path / "pooled", require_approval=True)
    assert [line["approval"] for line in pooled["approvals"]] == [release["approval"] for release in releases]
    # Another layout of the same file is the same content.
    paths[0].write_text(json.dumps(dict(reversed(releases[0].items()))))
    assert pool_releases(paths, tmp_path / "pooled") == pooled
    for change in ({"verdict": "worse"}, {"site": "site-d"}, {"min_cell": 11}, {"cohort": releases[0]["cohort"] | {"patients": 81}}):
        paths[1].write_text(json.dumps(releases[1] | change))
        with pytest.raises(InputError, match=r"b\.json: the values are not those that were approved at site-"):
            pool_releases(paths, tmp_path / "pooled")


def test_pool_names_or_refuses_a_release_without_approval(site, tmp_path):
    paths = [tmp_path / f"{name}.json" for name in "ab"]
    approved(site, paths[0], "site-a")
    # As an earlier version writes it.
    make_release(site, paths[1], "site-b")
    given = ["pool", *map(str, paths), "--out", str(tmp_path / "pooled")]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0
    assert "no approval is recorded in the release of site-b" in result.output
    assert "site-a" not in result.output
    assert "no approval is recorded" in (tmp_path / "pooled/pooled.html").read_text()
    refused = CliRunner().invoke(app, [*given, "--require-approval"]).exception
    assert isinstance(refused, InputError)
    assert "b.json: no approval is recorded (an earlier version writes none); ask site-b" in str(refused)


def test_the_command_asks_for_nothing_and_says_what_is_next(site, tmp_path):
    given = ["release", str(site), "--out", str(tmp_path / "r.json"), "--site", "A"]
    first = CliRunner().invoke(app, given)
    assert "not approved yet: read it, then give the same command with --approved-by" in first.output
    second = CliRunner().invoke(app, [*given, "--approved-by", "IRB"])
    assert second.exit_code == 0, second.output
    for again in (second, CliRunner().invoke(app, given)):
        assert "approval.approved_by: IRB" in again.output
        assert "not approved yet" not in again.output


def release_of(folder: Path, report: dict) -> dict:
    """The release of a report, as it lies in its file."""
    (folder / "report.json").write_text(json.dumps(report))
    make_release(folder, folder / "release.json", "site-A")
    content = json.loads((folder / "release.json").read_text())
    check_release(content)
    return content


def counts(patients: int, positive: int, negative: int) -> dict[str, int]:
    return {"patients": patients, "positive_patients": positive, "negative_patients": negative}


def level(by: str, name: str, *numbers: int) -> dict:
    return {"by": by, "level": name, "auroc": {"value": 0.8, "low": 0.7, "high": 0.9}, **counts(*numbers)}


def test_the_name_of_a_hidden_level_stays(tmp_path):
    report = small_report(0.8)
    report["subgroups"] = [
        level("negative_type", "DOE JOHN sarcoidosis", 33, 30, 3),
        level("negative_type", "healthy", 50, 30, 20),
        level("negative_type", "other pneumonia", 57, 30, 27),
        level("sex", "F", 40, 15, 25),
        level("sex", "M", 40, 15, 25),
    ]
    release = release_of(tmp_path, report)
    assert "DOE" not in (tmp_path / "release.json").read_text()
    assert [(line["by"], line["level"], line["suppressed"]) for line in release["subgroups"]] == [
        ("negative_type", "other pneumonia", False),
        ("negative_type", HIDDEN, True),
        ("sex", "F", False),
        ("sex", "M", False),
    ]
    hidden = release["subgroups"][1]
    for change in ({"level": "DOE JOHN"}, {"patients": 33}, {"suppressed": False}):
        with pytest.raises(InputError, match="subgroups/0 is not what may leave a site"):
            check_release(release | {"subgroups": [hidden | change]})


@pytest.mark.parametrize(("patients", "left_out"), [(80, False), (79, True), (71, True), (70, False)])
def test_few_patients_with_both_labels_cannot_be_counted(tmp_path, patients, left_out):
    report = small_report(0.8)
    report["cohort"] |= counts(patients, 30, 50)
    report["subgroups"] = [level("sex", "F", 40, 15, 25), level("sex", "M", patients - 40, 15, 25)]
    release = release_of(tmp_path, report)
    for shown in (release["cohort"], *release["subgroups"]):
        assert ("patients" not in shown) == left_out
        assert {"positive_patients", "negative_patients"} <= set(shown)
    other = json.loads((tmp_path / "release.json").read_text()) | {"site": "site-B"}
    (tmp_path / "b.json").write_text(json.dumps(other))
    pooled = pool_releases([tmp_path / "release.json", tmp_path / "b.json"], tmp_path / "pooled")
    assert pooled["cohort"] == {"patients": None if left_out else 2 * patients, "positive_patients": 60, "negative_patients": 100}
    said = "60 positive and 100 negative patients" if left_out else f"{2 * patients} patients (60 positive, 100 negative)"
    assert text_of(tmp_path / "pooled/pooled.html").count(said) == 2


def test_no_small_overlap_of_the_classes_follows_from_the_levels():
    rng = np.random.default_rng(0)
    for _ in range(300):
        parts = []
        for i in range(rng.integers(1, 5)):
            positive, negative = (int(number) for number in rng.integers(1, 60, 2))
            both = int(rng.integers(0, min(positive, negative) + 1)) if rng.random() < 0.5 else 0
            parts.append(level("sex", f"L{i}", positive + negative - both, positive, negative))
        cohort = {key: sum(part[key] for part in parts) for key in counts(0, 0, 0)}
        shown = [line for line in suppress(parts, cohort, 10) if not line["suppressed"]]
        if few_with_both(cohort, 10):
            assert all("patients" not in line for line in shown)
        elif shown and "patients" in shown[0]:
            left = {key: cohort[key] - sum(line[key] for line in shown) for key in cohort}
            assert not any(few_with_both(line, 10) for line in (*shown, left))
        else:
            assert all("patients" not in line for line in shown)


def test_points_of_the_curve_are_ten_patients_apart():
    rng = np.random.default_rng(0)
    grid = np.linspace(0, 1, 21).round(2)
    for positive, negative in ((120, 120), (400, 900), (20, 2000), (60, 31)):
        cohort = {"positive_patients": positive, "negative_patients": negative}
        curve = [list(pair) for pair in zip(grid.tolist(), np.sort(np.rint(rng.random(21) * positive) / positive).tolist(), strict=True)]
        found = thin_curve(curve, cohort, 10, 3)
        assert [fpr for fpr, _ in found] == grid.tolist()
        assert all(tpr is None or tpr == round(before[1], 3) for (_, tpr), before in zip(found, curve, strict=True))
        cells = [(fpr * negative, tpr * positive) for (fpr, tpr), (_, shown) in zip(curve, found, strict=True) if shown is not None]
        for here in (*cells, (negative, positive)):
            assert min(here) > 9.99
        for fpr, tpr in cells:
            assert min(negative - fpr, positive - tpr) > 9.99
        for a, b in itertools.pairwise(cells):
            assert all(abs(x - y) < 1e-6 or abs(x - y) > 9.99 for x, y in zip(a, b, strict=True))
    # Twenty patients a step: nothing is lost but the ends.
    even = [[x, x] for x in grid.tolist()]
    assert sum(tpr is None for _, tpr in thin_curve(even, {"positive_patients": 400, "negative_patients": 400}, 10, 3)) == 2


def test_a_net_benefit_does_not_tell_how_few_lie_between_two_thresholds(tmp_path):
    """At a known prevalence it gives the calls of either class nearly exactly, which the points of the ROC curve withhold."""
    report = small_report(0.8)
    # False and true positives of 50 and 30 patients: one near an end, the next within reach of it, one with two positives fewer.
    calls = {0.05: (46, 29), 0.1: (38, 20), 0.15: (26, 20), 0.2: (16, 18), 0.25: (14, 18), 0.3: (11, 10), 0.35: (3, 9)}
    model = report["models"]["model"]
    model["net_benefit"] = [[t, tp / 80 - fp / 80 * t / (1 - t), 0.375 - 0.625 * t / (1 - t)] for t, (fp, tp) in calls.items()]
    model["net_benefit_rates"] = [[t, fp / 50, tp / 30] for t, (fp, tp) in calls.items()]
    found = release_of(tmp_path, report)["models"]["model"]["net_benefit"]
    assert [t for t, _, _ in found] == list(calls)
    assert [t for t, value, _ in found if value is not None] == [0.1, 0.15, 0.3]
    assert found[1][1] == round(20 / 80 - 38 / 80 / 9, 2)
    assert all(treat_all is not None for _, _, treat_all in found)
    del model["net_benefit_rates"]
    with pytest.raises(InputError, match="of another version; run sga-monai report again"):
        release_of(tmp_path, report)


@pytest.mark.parametrize(
    ("reasons", "patients", "expected"), [((12, 12), 12, 12), ((12, 30), 35, 35), ((12, 3), 15, "suppressed"), ((), 0, 0)]
)
def test_a_patient_who_failed_twice_is_one(tmp_path, reasons, patients, expected):
    report = small_report(0.8)
    report["flow"] += [{"step": f"failed: {i}", "patients": number} for i, number in enumerate(reasons)]
    report["failures"]["failed_patients"] = patients
    assert release_of(tmp_path, report)["failed_patients"] == expected
