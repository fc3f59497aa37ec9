"""One radiograph under two names in a manifest: listed by the check, refused between splits, accepted by hand."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from conftest import ROOT
from fixtures import warm
from typer.testing import CliRunner

from sga_monai.cli.manifest import app
from sga_monai.cohorts.inspection import inspect_manifest
from sga_monai.core.errors import InputError
from sga_monai.data.datalist import load_manifest
from sga_monai.data.dataset import CXRDataset
from sga_monai.data.duplicates import refuse_near_duplicates
from sga_monai.data.manifest import read_manifest
from sga_monai.data.manifest_writer import write_manifest
from sga_monai.data.transforms import preprocessing
from sga_monai.model.preparation import Preparation


@pytest.fixture
def leak(phantom_dir: Path, tmp_path: Path) -> Path:
    """Six radiographs; the last is the first under another PatientID, date and UID, with another window and label."""
    rows = read_manifest(phantom_dir / "northgate.csv")[:6]
    images = [row["image"] for row in rows[:5]] + [rows[0]["image"]]
    for i, row in enumerate(rows):
        dataset = pydicom.dcmread(phantom_dir / images[i])
        if i == 5:
            dataset.PatientID, dataset.StudyDate, dataset.SOPInstanceUID = "OTHER", "20240101", pydicom.uid.generate_uid()
            pixels = dataset.pixel_array
            dataset.WindowCenter, dataset.WindowWidth = float(np.median(pixels)), float(np.ptp(pixels)) * 0.9
        dataset.save_as(tmp_path / f"{i}.dcm")
        row.update({"image": f"{i}.dcm", "split": "train", "patient_id": f"P{i}", "label": str(i % 2), "lung_mask": "", "boxes": ""})
    write_manifest(tmp_path / "m.csv", rows)
    return tmp_path


def check(folder: Path, *options: str, code: int) -> str:
    result = CliRunner().invoke(app, ["check", str(folder / "m.csv"), "--dataset-dir", str(folder), *options], env={"COLUMNS": "120"})
    if code == 3:
        assert isinstance(result.exception, InputError), result.stdout
        return str(result.exception)
    assert result.exit_code == code, result.stdout
    return result.stdout


def test_the_pair_is_listed_written_and_accepted(leak):
    found = inspect_manifest(leak / "m.csv", leak)
    (pair,) = found.pairs
    assert {key: pair[key] for key in ("set", "row", "other_row", "patients", "labels", "splits")} == {
        "set": "m", "row": "2", "other_row": "7", "patients": "different", "labels": "different", "splits": "train",
    }  # fmt: skip
    assert int(pair["bits"]) <= 12
    said = check(leak, "--pairs", str(leak / "pairs.csv"), code=0)
    assert "the same picture: 1 pairs" in said
    assert "2, 7" in said
    with (leak / "pairs.csv").open(encoding="utf-8", newline="") as stream:
        assert list(csv.DictReader(stream)) == [pair]
    assert "the same picture" not in check(leak, "--accepted-pairs", str(leak / "pairs.csv"), code=0)


@pytest.mark.parametrize(("option", "name"), [("--pairs", "table of pairs"), ("--contact-sheet", "contact sheet")])
def test_an_output_of_the_check_replaces_its_own_kind_alone(leak, option, name):
    for other, content in (
        ("site.key", b"ab" * 32),
        ("labels.csv", b"image,label\na,1\n"),
        ("picture.png", (ROOT / "docs/phantom.png").read_bytes()),
    ):
        (leak / other).write_bytes(content)
        assert f"{option} would replace a file that is no {name}; give another path" in check(leak, option, str(leak / other), code=3)
        assert (leak / other).read_bytes() == content
    (leak / "folder").mkdir()
    assert f"{option} is a folder; give the path of a file" in check(leak, option, str(leak / "folder"), code=3)
    for _ in range(2):
        check(leak, option, str(leak / "out"), code=0)


def test_a_table_of_pairs_holds_no_formula(leak):
    (leak / "m.csv").rename(leak / "=m.csv")
    with pytest.raises(InputError, match="the manifest's name begins like a formula"):
        inspect_manifest(leak / "=m.csv", leak)


def test_without_patients_and_labels_nothing_is_said_of_them(leak):
    rows = read_manifest(leak / "m.csv")
    (leak / "m.csv").write_text("image\n" + "".join(f"{row['image']}\n" for row in rows))
    (pair,) = inspect_manifest(leak / "m.csv", leak, labels=False).pairs
    assert (pair["patients"], pair["labels"], pair["splits"]) == ("unknown", "unknown", "")


def test_between_splits_it_is_refused_by_the_check_and_by_training(leak):
    rows = read_manifest(leak / "m.csv")
    rows[5]["split"] = "test"
    write_manifest(leak / "m.csv", rows)
    sentence = check(leak, "--pairs", str(leak / "pairs.csv"), code=3)
    assert "the same picture is in two splits: rows 2 and 7 (train and test)" in sentence
    check(leak, "--accepted-pairs", str(leak / "pairs.csv"), code=0)
    for size in (32, 224):
        sets = [CXRDataset(load_manifest(leak / "m.csv", leak, split), preprocessing(Preparation(size))) for split in ("train", "test")]
        for item in sets[1].data:
            item["set"] = "internal"
        with pytest.raises(InputError, match="m row 2 and internal row 7"):
            refuse_near_duplicates(sets)
        refuse_near_duplicates(sets, leak / "pairs.csv")


def test_the_cache_remembers_the_picture(leak):
    rows = load_manifest(leak / "m.csv", leak)
    first, second, plain = (
        CXRDataset(rows, preprocessing(Preparation(32)), cache_dir=cache) for cache in (str(leak / "c"), str(leak / "c"), None)
    )
    assert first.fingerprints == second.fingerprints == plain.fingerprints
    assert len(set(plain.fingerprints)) >= 5


@pytest.mark.parametrize("count", [10_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_a_check_of_a_million_missing_files(tmp_path, count):
    """Every row is counted, and ten times the rows take about ten times the time, in a process of its own."""
    for rows in (count // 10, count):
        with (tmp_path / f"{rows}.csv").open("w") as stream:
            stream.write("image,label,patient_id,site,split\n")
            stream.writelines(f"images/{i // 1000:04d}/{i:08d}.dcm,{i % 2},P{i // 2:08d},site,test\n" for i in range(rows))
    program = """
import json, sys, time
from sga_monai.cohorts.inspection import inspect_manifest
for rows in sys.argv[2:]:
    began = time.process_time()
    found = inspect_manifest(f"{sys.argv[1]}/{rows}.csv", sys.argv[1])
    print(json.dumps([found.flow, len(found.failures), time.process_time() - began]))
"""
    command = [sys.executable, "-c", program, str(tmp_path), str(count // 10), str(count)]
    result = warm.run(command, check=True)
    (_, _, few), (flow, failures, all_seconds) = map(json.loads, result.stdout.splitlines()[-2:])
    assert flow["listed"] == [count, count // 2, count // 2]
    assert flow["found"] == [0, 0, 0]
    assert failures == count
    assert all_seconds < 30 * few
