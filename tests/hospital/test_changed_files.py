"""Files that were exported again under their name are read again; what is kept of a stopped evaluation is of these files and names."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from fixtures.evaluations import FACTS, predictions
from PIL import Image

from sga_monai.cohorts import inspection
from sga_monai.core.errors import DiskError, InputError, ReadError
from sga_monai.core.files import file_sha256, write_json
from sga_monai.data import cxr_reader
from sga_monai.data.manifest import read_manifest
from sga_monai.data.manifest_writer import write_manifest
from sga_monai.data.pseudonyms import new_site_key
from sga_monai.evaluation import stream
from sga_monai.evaluation.predictions import INTERNAL, VALIDATION
from sga_monai.hospital import evaluate
from sga_monai.hospital.checksums import write_sums
from sga_monai.hospital.evaluate import evaluate_bundle
from sga_monai.hospital.protocol import Plan, write_protocol
from sga_monai.hospital.reference import make_reference
from sga_monai.hospital.report import make_report
from sga_monai.hospital.site import SHEET, Site
from sga_monai.hospital.validate import Outcome, Validation
from sga_monai.imaging.read import read_bytes
from sga_monai.model.networks import build_network

N = 12


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of random weights."""
    folder = tmp_path_factory.mktemp("bundle")
    (folder / "models").mkdir()
    torch.manual_seed(0)
    torch.save(build_network("resnet18").state_dict(), folder / "models/model.pt")
    weights = {"model": {"network": "resnet18", "sha256": file_sha256(folder / "models/model.pt")}}
    inside = predictions({VALIDATION: 60, INTERNAL: 60}, 2.0, 1.0)
    write_json(folder / "reference.json", make_reference({"model": inside}, weights, **FACTS))
    write_sums(folder)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twelve radiographs, two of each patient, with ``labels.csv`` and ``site.csv`` beside their folder."""
    (tmp_path / "images").mkdir()
    rows = []
    for i in range(N):
        draw(tmp_path / f"images/{i}.png", i)
        rows.append({"image": f"{i}.png", "label": str(i % 2), "patient_id": f"P{i % 6}", "split": "test", "site": "here"})
    write_manifest(tmp_path / "site.csv", rows)
    lines = [f"{row['image']},{row['label']},{row['patient_id']}" for row in rows]
    (tmp_path / "labels.csv").write_text("\n".join(["image,label,patient_id", *lines]) + "\n")
    return tmp_path / "images"


def draw(path: Path, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6), dtype=np.uint8)
    Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC).save(path)


def validate(bundle: Path, images: Path) -> Outcome:
    validation = Validation(Site(bundle, images, images.with_name("labels.csv"), "here", images.with_name("out")))
    listing, checked = validation.write_manifest(), validation.check_images()
    validation.evaluate()
    return validation.report(listing, checked)


def test_a_file_that_was_exported_again_is_read_again(bundle, images, caplog):
    out, whole = images.with_name("out"), (images / "3.png").read_bytes()
    (images / "3.png").write_bytes(whole[: len(whole) // 2])
    assert validate(bundle, images).failed == 1
    assert "unreadable" in (out / "index.html").read_text() or "truncated" in (out / "index.html").read_text()
    began = json.loads((out / "evaluation/run.json").read_text())
    # Nothing has changed: nothing is done again.
    assert validate(bundle, images).failed == 1
    assert json.loads((out / "evaluation/run.json").read_text()) == began
    assert not (out / "evaluation.1").exists()
    (images / "3.png").write_bytes(whole)
    outcome = validate(bundle, images)
    assert outcome.failed == 0
    assert "images have changed since they were scored" in caplog.text
    assert json.loads((out / "check.json").read_text())["failed"] == {}
    assert json.loads((out / "evaluation.1/run.json").read_text()) == began
    assert "Fix what is missing or failed above" not in outcome.page.read_text()
    # One that could be read, too, has another score.
    before = pd.read_csv(out / "evaluation/predictions.csv")
    draw(images / "7.png", 100)
    validate(bundle, images)
    after = pd.read_csv(out / "evaluation/predictions.csv")
    changed = ~np.isclose(before["score"], after["score"], atol=1e-6)
    assert changed.sum() == 1
    pd.testing.assert_frame_equal(pd.read_csv(out / "evaluation.2/predictions.csv"), before)


def test_the_first_page_proposes_no_release_that_would_be_refused(bundle, images):
    for name in ("3.png", "4.png"):
        (images / name).write_bytes((images / name).read_bytes()[:200])
    outcome = validate(bundle, images)
    assert outcome.verdict["code"] == "not reportable"
    assert "sga-monai release" not in outcome.page.read_text()
    # Of two failed images too many; of one not.
    draw(images / "3.png", 3)
    assert "sga-monai release" in validate(bundle, images).page.read_text()


def test_a_stopped_evaluation_goes_on_with_another_limit_threads_and_protocol(bundle, images, tmp_path, monkeypatch):
    given = (bundle, images.with_name("site.csv"), images, tmp_path / "scored")
    with monkeypatch.context() as stopped:
        stopped.setattr(evaluate, "write_csv", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            evaluate_bundle(*given)
    began = json.loads((tmp_path / "scored/run.json").read_text())["started"]
    monkeypatch.setattr(stream, "_score_part", Mock(side_effect=AssertionError("scored again")))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 17)
    write_protocol(Plan("Does it hold?", "tuberculosis", "culture"), tmp_path / "plan.json")
    assert len(evaluate_bundle(*given, failure_limit=0.5, protocol=tmp_path / "plan.json")) == N
    run = json.loads((tmp_path / "scored/run.json").read_text())
    assert (run["started"], run["failure_limit"], run["threads"]) == (began, 0.5, 17)
    # Scoring began without the protocol.
    assert run["first"] == {"protocol": None, "started": began}


def test_a_threshold_that_was_edited_is_not_the_locked_one(bundle, images):
    """The report took whatever threshold lay beside the predictions, and the release said that it was the bundle's."""
    out = images.with_name("scored")
    evaluate_bundle(bundle, images.with_name("site.csv"), images, out)
    make_report(out)
    reference = out / "reference.json"
    whole = reference.read_bytes()
    content = json.loads(whole)
    content["models"]["model"]["threshold"] -= 1
    reference.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"^reference\.json in this folder was changed after the evaluation; evaluate again"):
        make_report(out)
    reference.write_bytes(whole)
    make_report(out)
    run = json.loads((out / "run.json").read_text())
    del run["reference_sha256"]
    (out / "run.json").write_text(json.dumps(run))
    # An evaluation of before did not record it.
    make_report(out)


@pytest.mark.parametrize("name", ["site.key", "site.csv", "images", "bundle"])
def test_what_an_evaluation_reads_is_not_moved_aside_with_an_earlier_one(bundle, images, tmp_path, name):
    """A site's key that was made in the folder went to scored.1, and the next call asked to make another, for which patients are others."""
    given = {"bundle": bundle, "manifest": images.with_name("site.csv"), "dataset_dir": images, "output_dir": tmp_path / "scored"}
    evaluate_bundle(**given)
    inside = tmp_path / "scored/more" / name
    inside.parent.mkdir()
    if name == "site.key":
        new_site_key(inside)
        given["site_key"] = inside
    else:
        key = {"site.csv": "manifest", "images": "dataset_dir"}.get(name, name)
        (shutil.copy2 if given[key].is_file() else shutil.copytree)(given[key], inside)
        given[key] = inside
    with pytest.raises(InputError, match=r"^output_dir is a folder that the (site_key|manifest|dataset_dir|bundle) is in; give another$"):
        evaluate_bundle(**given)
    assert inside.exists()
    assert not (tmp_path / "scored.1").exists()


def test_predictions_that_were_edited_are_made_again(bundle, images, caplog):
    folder = images.with_name("out") / "evaluation"
    validate(bundle, images)
    whole = (folder / "predictions.csv").read_bytes()
    (folder / "predictions.csv").write_bytes(whole[: whole.rindex(b"\n", 0, -1) + 1])
    validate(bundle, images)
    assert "predictions.csv was changed since it was written" in caplog.text
    assert (folder / "predictions.csv").read_bytes() == whole
    assert len(pd.read_csv(folder.with_name("evaluation.1") / "predictions.csv")) == N - 1


def test_files_that_are_there_again_are_read_again(bundle, images, caplog, monkeypatch):
    """A share that was away for a while: nothing of the files has changed, and the same command gives them a score."""
    out = images.with_name("out")
    validation = Validation(Site(bundle, images, images.with_name("labels.csv"), "here", out))
    validation.write_manifest()
    away = {str(images / "3.png")}

    def unsteady(path: str | Path) -> bytes:
        if str(path) in away:
            raise ReadError("missing")
        return read_bytes(path)

    for module in (cxr_reader, inspection):
        monkeypatch.setattr(module, "read_bytes", unsteady)
    assert validation.check_images()["failed"] == {"missing": [7]}
    assert validation.evaluate() == {"rows": N, "scored": N - 1, "failed": 1}
    away.clear()
    assert validation.check_images()["failed"] == {}
    assert validation.evaluate() == {"rows": N, "scored": N, "failed": 0}
    assert "can be opened that could not be" in caplog.text
    assert (out / "evaluation.1").is_dir()
    # One that is not there stays a failure, and nothing is done again.
    away.add(str(images / "3.png"))
    (images / "3.png").unlink()
    for _ in range(2):
        assert validation.check_images()["failed"] == {"missing": [7]}
        assert validation.evaluate()["failed"] == 1
    assert not (out / "evaluation.3").exists()


def test_a_manifest_that_was_edited_is_not_lost(bundle, images, caplog):
    out = images.with_name("out")
    validation = Validation(Site(bundle, images, images.with_name("labels.csv"), "here", out))
    for _ in range(2):
        validation.write_manifest()
        validation.check_images()
        assert sorted(path.name for path in out.glob("site*.csv")) == ["site.csv"]
    written = (out / "site.csv").read_bytes()
    for number in (1, 2):
        edited = b"".join(written.splitlines(keepends=True)[:-number])
        (out / "site.csv").write_bytes(edited)
        validation.write_manifest()
        assert (out / f"site.{number}.csv").read_bytes() == edited
        assert (out / "site.csv").read_bytes() == written
        assert f"site.csv was edited and is kept as site.{number}.csv" in caplog.text
    # One that changed with the labels, before it was checked, was not edited.
    for _ in range(2):
        labels = images.with_name("labels.csv")
        labels.write_text("\n".join(labels.read_text().splitlines()[:-1]) + "\n")
        validation.write_manifest()
    assert not (out / "site.3.csv").exists()


def test_images_are_checked_in_the_orientation_of_the_bundle(bundle, images, dicom_file, drawn):
    """A wide image, which its header would turn, is drawn as a high one where the model reads it as stored."""
    shapes = {}
    for name in ("stored", "header"):
        other = images.with_name(name)
        shutil.copytree(bundle, other)
        write_json(other / "reference.json", json.loads((other / "reference.json").read_text()) | {"orientation": name})
        write_sums(other)
        for i in range(N):
            shutil.move(dicom_file(drawn[:, : 160 - i].copy(), PatientOrientation=["F", "L"]), images / f"{i}.png")
        validation = Validation(Site(other, images, images.with_name("labels.csv"), "here", images.with_name("out")))
        validation.write_manifest()
        validation.check_images()
        with Image.open(images.with_name("out") / SHEET) as sheet:
            # Of the first picture, below the title and a third of the way down, the part beside a high image is empty.
            shapes[name] = np.asarray(sheet)[60:100, :20].any()
    assert shapes == {"stored": False, "header": True}


@pytest.mark.parametrize("wrong", [{"failure_limit": 5}, {"failure_limit": -0.01}, {"batch_size": 0}])
def test_numbers_out_of_their_range_are_refused_before_scoring(bundle, images, tmp_path, wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        evaluate_bundle(bundle, tmp_path / "site.csv", images, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_an_evaluation_that_a_full_disk_stopped_at_its_beginning_goes_on(bundle, images, tmp_path, monkeypatch):
    write_protocol(Plan("Does it work?", "1: disease", "drawn"), tmp_path / "plan.json")
    given = (bundle, tmp_path / "site.csv", images, tmp_path / "out")
    with monkeypatch.context() as full:
        for name in ("write_json", "write_bytes"):
            full.setattr(evaluate, name, unwritable(getattr(evaluate, name), "run.json"))
        with pytest.raises(DiskError):
            evaluate_bundle(*given, protocol=tmp_path / "plan.json")
    assert len(evaluate_bundle(*given, protocol=tmp_path / "plan.json")) == N
    assert json.loads((tmp_path / "out/run.json").read_text())["protocol"] == file_sha256(tmp_path / "out/protocol.json")


@pytest.mark.usefixtures("few_samples")
def test_a_protocol_that_came_after_the_scores_stays_late_when_they_are_made_again(bundle, images, tmp_path):
    plans = [tmp_path / f"{name}.json" for name in "ab"]
    for plan in plans:
        write_protocol(Plan("Does it work?", "1: disease", plan.stem), plan)
    found, began = [], set()
    for plan in (None, *plans):
        evaluate_bundle(bundle, tmp_path / "site.csv", images, tmp_path / "out", protocol=plan)
        protocol = make_report(tmp_path / "out")["protocol"]
        found.append(protocol["status"])
        began.add(protocol["began"])
    assert found == ["none", "after", "after"]
    assert len(began) == 1
    # In a folder of its own it was first.
    for plan, status in zip(plans, ("before", "changed"), strict=True):
        evaluate_bundle(bundle, tmp_path / "site.csv", images, tmp_path / "other", protocol=plan)
        assert make_report(tmp_path / "other")["protocol"]["status"] == status


@pytest.mark.parametrize(
    ("key", "change", "status"),
    [(True, "label", "after"), (True, "patients", "before"), (True, "damaged", "before"), (False, "label", "before")],
)
def test_a_protocol_stays_late_when_labels_are_corrected(bundle, images, tmp_path, key, change, status):
    """Only the names that a site key gives show that the patients are the same."""
    new_site_key(tmp_path / "site.key")
    manifest, site_key = tmp_path / "site.csv", tmp_path / "site.key" if key else None
    evaluate_bundle(bundle, manifest, images, tmp_path / "out", site_key=site_key)
    rows = read_manifest(manifest)
    for i, row in enumerate(rows):
        if change == "patients" and i >= len(rows) // 2 - 1:
            row["patient_id"] = f"other{i}"
    if change != "patients":
        rows[0]["label"] = str(1 - int(rows[0]["label"]))
    if change == "damaged":
        (tmp_path / "out/predictions.csv").write_text("row,sc")
    write_manifest(manifest, rows)
    write_protocol(Plan("Does it work?", "1: disease", "records"), tmp_path / "plan.json")
    evaluate_bundle(bundle, manifest, images, tmp_path / "out", site_key=site_key, protocol=tmp_path / "plan.json")
    assert make_report(tmp_path / "out")["protocol"]["status"] == status


def unwritable(write: Callable[..., None], name: str) -> Callable[..., None]:
    """A function that writes all but the file of one name."""

    def writes(path: Path, *arguments: object, **options: object) -> None:
        if path.name == name:
            raise DiskError(name, errno.ENOSPC)
        write(path, *arguments, **options)

    return writes


@pytest.mark.parametrize("change", ["key", "folder", "file"])
def test_a_stopped_evaluation_of_other_names_or_files_begins_anew(bundle, images, tmp_path, monkeypatch, change):
    monkeypatch.setattr(stream, "PART", 4)
    for name in ("a.key", "b.key"):
        new_site_key(tmp_path / name)
    score, batches = evaluate.score_batch, []

    def stopped(*arguments: object) -> object:
        batches.append(arguments)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return score(*arguments)

    given = (bundle, tmp_path / "site.csv", images, tmp_path / "out")
    monkeypatch.setattr(evaluate, "score_batch", stopped)
    with pytest.raises(KeyboardInterrupt):
        evaluate_bundle(*given, site_key=tmp_path / "a.key")
    monkeypatch.setattr(evaluate, "score_batch", score)
    assert len(list((tmp_path / "out/parts").iterdir())) == 1
    folder, key = images, tmp_path / "a.key"
    if change == "key":
        key = tmp_path / "b.key"
    elif change == "folder":
        folder = tmp_path / "other"
        folder.mkdir()
        for i in range(N):
            draw(folder / f"{i}.png", 100 + i)
    else:
        draw(images / "0.png", 100)
    found = evaluate_bundle(*given[:2], folder, given[3], site_key=key)
    fresh = evaluate_bundle(*given[:2], folder, tmp_path / "fresh", site_key=key)
    pd.testing.assert_frame_equal(found, fresh)
    assert found["patient"].nunique() == 6
    recorded = [json.loads((tmp_path / f"{name}/run.json").read_text())["site_key"] for name in ("out.1", "out", "fresh")]
    assert recorded[1] == recorded[2]
    assert (recorded[0] == recorded[1]) == (change != "key")
    assert (tmp_path / "out.1/parts/part_000000.json").is_file()
    secrets = [(tmp_path / name).read_bytes().strip() for name in ("a.key", "b.key")]
    written = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert not any(secret in data for secret in secrets for data in written)


def test_a_stopped_evaluation_goes_on_in_a_folder_that_was_moved_with_its_times(bundle, images, tmp_path):
    given = (bundle, tmp_path / "site.csv")
    evaluate_bundle(*given, images, tmp_path / "out")
    run = json.loads((tmp_path / "out/run.json").read_text())
    (tmp_path / "out/run.json").write_text(json.dumps(run | {"finished": None, "started": "2021-03-04T05:06:07+00:00"}))
    shutil.move(images, tmp_path / "moved")
    evaluate_bundle(*given, tmp_path / "moved", tmp_path / "out")
    assert json.loads((tmp_path / "out/run.json").read_text())["started"] == "2021-03-04T05:06:07+00:00"
    os.utime(tmp_path / "moved/3.png", ns=(0, 0))
    assert evaluate.listed_files_sha256(*given, tmp_path / "moved") != run["files_sha256"]
