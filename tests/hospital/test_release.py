"""The approval of a release: of exactly what was shown, or refused."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fixtures.evaluations import small_report
from typer.testing import CliRunner

from sga_monai.cli.main import app
from sga_monai.core.errors import InputError
from sga_monai.hospital.pool import pool_releases
from sga_monai.hospital.release import check_release, make_release, numbers


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
    assert "approval.approved_by: IRB" in second.output
    assert "not approved yet" not in second.output
