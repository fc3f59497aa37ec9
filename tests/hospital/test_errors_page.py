"""All wrong calls on pages that stay at the site: each once in every order, links to a viewer only where they were asked for."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from fixtures.evaluations import rewrite, text_of, write_evaluation
from typer.testing import CliRunner

from sga_monai.cli.main import app
from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, write_json
from sga_monai.data.manifest_writer import write_manifest
from sga_monai.hospital.cases import FACTS, FOLDER, read_calls
from sga_monai.hospital.errors_page import viewer_links, write_errors
from sga_monai.hospital.html import write_html
from sga_monai.hospital.release import make_release
from sga_monai.hospital.report import make_report

pytestmark = pytest.mark.usefixtures("few_samples")


@pytest.fixture
def site(tmp_path: Path) -> tuple[Path, dict]:
    out = write_evaluation(tmp_path / "out", baseline=False, patients=60)
    return out, make_report(out)


def rows(page: Path) -> list[tuple[int, str]]:
    return [(int(row), kind) for row, kind in re.findall(r"<h2>Row (\d+): (false \w+)</h2>", page.read_text())]


def expected(out: Path, threshold: float) -> tuple[list[int], list[int]]:
    """Rows of false negatives and false positives, farthest from the threshold first."""
    table = pd.read_csv(out / "predictions.csv").assign(far=lambda t: (t["score"] - threshold).abs()).sort_values("far", ascending=False)
    called = table["score"] >= threshold
    return [table.loc[(table["label"] == label) & (called != label), "row"].tolist() for label in (1, 0)]


def test_every_error_is_there_once_in_every_order(site):
    out, report = site
    calls = read_calls(report, out)
    missed, alarms = expected(out, report["models"]["model"]["operating_point"]["threshold"])
    assert len(missed) > 5
    (out / "errors_99.html").write_text("of an earlier report")
    (out / "errors_of_mine.html").write_text("somebody else's")
    first = write_errors(calls, "cxr", out, a_page=5)
    assert first.name == "errors.html"
    assert not (out / "errors_99.html").exists()
    assert (out / "errors_of_mine.html").exists()
    for order, wanted in (("errors", missed + alarms), ("errors_by_row", sorted(missed + alarms))):
        pages = [out / f"{order}.html", *(out / f"{order}_{n}.html" for n in range(2, -(-len(wanted) // 5) + 1))]
        found = [line for page in pages for line in rows(page)]
        assert [row for row, _ in found] == wanted
        assert {row for row, kind in found if kind == "false negative"} == set(missed)
        assert not (out / f"{order}_{len(pages) + 1}.html").exists()
        # From each page there is a way to each other one and to the other order.
        for number, page in enumerate(pages, 1):
            links = set(re.findall(r'href="([^"]+)"', page.read_text()))
            assert links == {other.name for other in pages if other != page} | {
                "errors_by_row.html" if order == "errors" else "errors.html",
                "report.html",
            }
            start = 5 * number - 4
            assert f"Shown: {start} to {min(start + 4, len(wanted))} of {len(wanted)}" in text_of(page)
    counts = f"{len(missed)} positive images called negative, {len(alarms)} negative images called positive, 120 scored"
    assert counts in text_of(first)


def test_pictures_where_they_are_and_a_word_where_not(site):
    out, report = site
    missed, _ = expected(out, report["models"]["model"]["operating_point"]["threshold"])
    (out / FOLDER).mkdir()
    write_json(out / FOLDER / FACTS, {"method": "input gradient", "lungs": True, "most_errors": 1})
    (out / FOLDER / f"row_{missed[0]:06d}.jpg").write_bytes(b"x")
    write_html(report, out)
    text = (out / "errors.html").read_text()
    assert re.findall(r'src="([^"]+)"', text) == [f"heatmaps/row_{missed[0]:06d}.jpg"]
    assert text.count("No picture") == len(read_calls(report, out).wrong) - 1
    assert "under the input gradient map" in text
    assert "lungs outlined" in text
    assert "the 1 farthest of each kind" in text
    assert f"Row {missed[0]}: false negative." in text_of(out / "report.html")
    score = pd.read_csv(out / "predictions.csv").set_index("row").loc[missed[0], "score"]
    assert f"Score {score:.2f}, " in text


def test_a_release_knows_no_error(site, tmp_path):
    out, report = site
    before = make_release(out, tmp_path / "a.json")
    write_html(report, out, {row: f"http://viewer/S{row}" for row in range(2, 200)})
    assert (out / "errors.html").is_file()
    assert make_release(out, tmp_path / "b.json") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json", "out"]
    assert not re.search("errors|viewer|row", (tmp_path / "b.json").read_text())


def manifest(folder: Path) -> Path:
    lines = [
        {"image": f"a b/{row}.png", "label": "1", "patient_id": f"P {row}", "site": "s", "split": "test", "study_id": f"1.2/{row}"}
        for row in range(2, 122)
    ]
    lines[3]["study_id"] = ""
    write_manifest(folder / "site.csv", lines)
    return folder / "site.csv"


def test_links_to_a_viewer_come_from_the_manifest(site, tmp_path):
    out, _ = site
    path = manifest(tmp_path)
    links = viewer_links("http://viewer/{study_id}?p={patient_id}", path)
    assert links[2] == "http://viewer/1.2%2F2?p=P%202"
    # A row whose column is empty has no link.
    assert len(links) == 119
    assert 5 not in links
    for wrong in (
        "viewer/{study_id}",
        "javascript:{study_id}",
        "http://viewer/",
        "http://viewer/{name}",
        "http://v/{row!r}",
        "http://v/{row",
        "http://{image}/",
    ):
        with pytest.raises(InputError, match="viewer_url must begin with http"):
            viewer_links(wrong, path)
    command = ["report", str(out), "--viewer-url", "http://viewer/{study_id}", "--manifest", str(path)]
    # A record that was cut is named by the report, and is no traceback here.
    record = (out / "run.json").read_text()
    (out / "run.json").write_text(record[:20])
    assert isinstance(CliRunner().invoke(app, command).exception, InputError)
    (out / "run.json").write_text(record)
    # Rows of another manifest are other patients.
    refused = CliRunner().invoke(app, command)
    assert "another manifest" in str(refused.exception)
    run = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps(run | {"manifest_sha256": file_sha256(path)}))
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert 'href="http://viewer/1.2%2F' in (out / "errors.html").read_text()
    assert "http://viewer" not in (out / "report.html").read_text()
    assert CliRunner().invoke(app, ["report", str(out)]).exit_code == 0
    assert "http://viewer" not in (out / "errors.html").read_text()
    for arguments in (["--viewer-url", "http://viewer/{row}"], ["--manifest", str(path)]):
        assert isinstance(CliRunner().invoke(app, ["report", str(out), *arguments]).exception, InputError)


def test_a_site_without_errors_says_so(site):
    out, _ = site
    table = pd.read_csv(out / "predictions.csv")
    table["score"] = 90.0 * (2 * table["label"] - 1) + table["row"] / 100
    rewrite(out, table)
    write_html(make_report(out), out)
    assert "No image was misclassified." in text_of(out / "errors.html")
