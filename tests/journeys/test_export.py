"""The hospital's journey on an ordinary export: two views a study, dummy dates, a maker with a comma, a join that is not whole."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from fixtures import warm

from sga_monai.data.manifest import read_manifest

UNLABELED, WITHOUT_IMAGE = 2, 2


@pytest.fixture(scope="module")
def export(phantom_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images and a table of labels, as an archive gives them."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "images").mkdir()
    lines = ["accession,label,label_date,negative_type"]
    rows = read_manifest(phantom_dir / "harbor.csv")
    for i, row in enumerate(rows):
        dataset = pydicom.dcmread(phantom_dir / row["image"])
        dataset.AccessionNumber, dataset.PatientID = f"A{i:04d}", f"MRN-{i:04d}"
        dataset.StudyDate = ("19000101", "00010101", "21870304")[i % 3] if i % 4 == 0 else f"2021{1 + i % 12:02d}05"
        dataset.Manufacturer = "Example, Inc." if i % 3 else "Société Générale de Radiologie"
        dataset.SpecificCharacterSet = "ISO_IR 192"
        dataset.save_as(folder / "images" / f"{i:04d}_1.dcm")
        dataset.ViewPosition, dataset.SOPInstanceUID = "LATERAL", pydicom.uid.generate_uid()
        dataset.save_as(folder / "images" / f"{i:04d}_2.dcm")
        if i >= UNLABELED:
            kind = "" if row["label"] == "1" else '"Lungenödem, beidseitig"'
            lines.append(f"A{i:04d},{row['label']},2021-06-01,{kind}")
    lines += [f"LOST{i},1,," for i in range(WITHOUT_IMAGE)] + [",,,"]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def run(*arguments: str, cwd: Path, code: int = 0) -> str:
    """A command of ``sga-monai``."""
    result = warm.run([sys.executable, "-m", "sga_monai", *arguments], cwd=cwd)
    assert result.returncode == code, result.stdout[-2000:] + result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    return result.stdout + result.stderr


def test_an_ordinary_export_is_scored_reported_and_released(bundle, export, phantom_dir):
    listed = len(read_manifest(phantom_dir / "harbor.csv")) - UNLABELED
    run("manifest", "key", "site.key", cwd=export)
    given = ("--labels", "labels.csv", "--site", "Klinikum München", "--site-key", "site.key", "--out", "site.csv")
    said = run("manifest", "from-dicom", "images", *given, cwd=export, code=2)
    assert f"labels without an image: {WITHOUT_IMAGE} ({WITHOUT_IMAGE}+, 0-)" in said
    for text in (
        "left out: lateral",
        "left out: no label",
        "tried by accession",
        "Klinikum Muenchen",
        "StudyDate is no possible day",
        "Manufacturer has",
    ):
        assert text in said
    rows = read_manifest(export / "site.csv")
    assert len(rows) == listed
    assert {row["manufacturer"] for row in rows} == {"Example Inc.", "Societe Generale de Radiologie"}
    checked = run("manifest", "check", "site.csv", "--dataset-dir", "images", "--contact-sheet", "sheet.png", cwd=export)
    assert "the same picture" not in checked
    run("evaluate", str(bundle), "--manifest", "site.csv", "--dataset-dir", "images", "--output-dir", "out", cwd=export)
    predictions = pd.read_csv(export / "out/predictions.csv")
    assert len(predictions) == predictions["score"].notna().sum() == listed
    run("report", "out", "--prevalence", "0.12", cwd=export)
    report = json.loads((export / "out/report.json").read_text(encoding="utf-8"))
    assert report["failures"]["reportable"]
    run("release", "out", "--out", "release.json", "--site", "Klinik Süd", cwd=export)
    release = json.loads((export / "release.json").read_text(encoding="utf-8"))
    assert release["site"] == "Klinik Sued"
    inside, left = ({(line["by"], line["level"]) for line in content["subgroups"]} for content in (report, release))
    assert {("manufacturer", "Example Inc."), ("negative_type", "Lungenoedem beidseitig"), ("period", "missing")} <= inside
    # One of the two manufacturers is small, so both are hidden.
    assert {("manufacturer", "(suppressed)"), ("negative_type", "Lungenoedem beidseitig")} <= left
    assert "Example Inc." not in json.dumps(release)
    # Notepad's mark at the beginning, and a second site.
    (export / "marked.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(release | {"site": "site-B"}).encode())
    assert "pooled.html" in run("pool", "release.json", "marked.json", "--out", "pooled", cwd=export)


def test_one_command_does_it_all_and_goes_on_after_a_stop(bundle, export):
    given = ["validate", str(bundle), "--images", "images", "--labels", "labels.csv", "--site", "Klinikum München", "--out", "all"]
    said = run(*given, "--dry-run", cwd=export, code=2)
    assert "images would be scored in about 1 min; nothing was written" in said
    assert f"labels without an image: {WITHOUT_IMAGE}" in said
    assert not (export / "all").exists()
    process = warm.Process([sys.executable, "-m", "sga_monai", *given], export)
    while process.poll() is None and not (export / "all/evaluation/run.json").exists():
        time.sleep(0.02)
    process.kill()
    process.communicate()
    said = run(*given, cwd=export, code=2)
    listed = len(read_manifest(export / "all/site.csv"))
    for text in (
        "1/5 verify",
        "left out: lateral",
        f"3/5 check: {listed} listed, {listed} readable",
        f"{listed} scored, 0 failed",
        "5/5 report",
    ):
        assert text in said
    page = (export / "all/index.html").read_text(encoding="utf-8")
    links = re.findall(r'href="([^"]+)"', page)
    assert links == ["evaluation/report.html", "evaluation/errors.html", "sheet.png"]
    assert all((export / "all" / link).is_file() for link in links)
    assert "<script" not in page
    assert "Labels without an image: 2 (2 with label 1, 0 with label 0)" in page
    report = json.loads((export / "all/evaluation/report.json").read_text(encoding="utf-8"))
    assert report["verdict"]["text"] in page
    assert (export / "all/site.key").stat().st_mode & 0o077 == 0
    # Nothing is done twice, and the report takes another prevalence.
    before = (export / "all/evaluation/predictions.csv").stat().st_mtime_ns, (export / "all/check.json").stat().st_mtime_ns
    run(*given, "--prevalence", "0.12", cwd=export, code=2)
    assert before == ((export / "all/evaluation/predictions.csv").stat().st_mtime_ns, (export / "all/check.json").stat().st_mtime_ns)
    assert json.loads((export / "all/evaluation/report.json").read_text(encoding="utf-8"))["prevalence"] == 0.12
    run("release", "all/evaluation", "--out", "all.json", cwd=export)
    for wrong, sentence in (("images/out", "out lies inside images"), ("all", "prevalence must be")):
        said = run(*given[:-1], wrong, "--prevalence", "2" if wrong == "all" else "0.1", cwd=export, code=3)
        assert sentence in said


def test_one_patient_for_all_has_a_report_without_intervals(bundle, export, phantom_dir):
    text = (export / "site.csv").read_text(encoding="utf-8") if (export / "site.csv").is_file() else None
    rows = pd.read_csv(export / "site.csv", dtype=str) if text else pd.read_csv(phantom_dir / "harbor.csv", dtype=str)
    folder = "images" if text else str(phantom_dir)
    rows.assign(patient_id="ANONYMOUS").to_csv(export / "one.csv", index=False)
    run("evaluate", str(bundle), "--manifest", "one.csv", "--dataset-dir", folder, "--output-dir", "one", cwd=export)
    said = run("report", "one", cwd=export)
    assert "inconclusive" in said
    report = json.loads((export / "one/report.json").read_text(encoding="utf-8"))
    figure = next(iter(report["models"].values()))["auroc"]
    assert 0 <= figure["value"] <= 1
    assert figure["low"] is figure["high"] is None
    assert "not estimable" in (export / "one/report.html").read_text(encoding="utf-8")
    assert "a class has fewer than 10 patients" in run("release", "one", "--out", "no.json", cwd=export, code=3)
