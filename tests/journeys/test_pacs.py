"""Two hospitals in one archive, as docs/pacs.md tells it: pulled, validated, results written back, released and pooled."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
import typer
from conftest import ROOT
from fixtures.orthanc import PASSWORD, USER, Orthanc, certificate, tls_in_front
from PIL import Image
from pydicom import uid

from sga_monai.cli.main import app
from sga_monai.data.manifest import read_manifest
from sga_monai.hospital.package import package_bundle

PAGE = ROOT / "docs/pacs.md"
BUNDLE = "sga_cxr-0.1.0"


def commands() -> list[list[str]]:
    return [line.split() for line in PAGE.read_text().splitlines() if line.startswith("    sga-monai ")]


def test_every_command_of_the_page_is_one():
    assert len(PAGE.read_text().splitlines()) < 120
    assert len(commands()) == 6
    for command in commands():
        group, arguments = typer.main.get_command(app), command[1:]
        context = group.make_context("sga-monai", list(arguments))
        while hasattr(group, "commands"):
            name, group, arguments = group.resolve_command(context, list(arguments))
            context = group.make_context(name, list(arguments), parent=context)
        assert context.params["out"]


def _fill(server: Orthanc, phantom_dir: Path, site: str) -> None:
    """Store a site's radiographs, each as a study of its own, and write the query for them."""
    lines = ["accession,label,label_date,negative_type"]
    for i, row in enumerate(read_manifest(phantom_dir / f"{site}.csv")):
        dataset = pydicom.dcmread(phantom_dir / row["image"])
        # A patient's images are of different days, each a study of its own.
        dataset.AccessionNumber, dataset.StudyDate = f"{site[0].upper()}-{i:04d}", f"2021{1 + i % 12:02d}05"
        dataset.StudyInstanceUID = uid.generate_uid(entropy_srcs=["study", site, str(i)])
        dataset.PatientID = f"SECRET-{row['patient_id']}"
        buffer = io.BytesIO()
        dataset.save_as(buffer, enforce_file_format=True)
        server.store([buffer.getvalue()])
        lines.append(f"{dataset.AccessionNumber},{row['label']},2021-{1 + i % 12:02d}-06,{'' if row['label'] == '1' else 'healthy'}")
    (server.folder / f"{site}.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def tls_archive(orthanc_installed: None, phantom_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Harbor and lakeside, each with its own accession numbers, in one archive that speaks TLS."""
    folder = tmp_path_factory.mktemp("tls")
    (folder / "pacs.toml").write_text(f'user = "{USER}"\npassword = "{PASSWORD}"\n')
    (folder / "pacs.toml").chmod(0o600)
    with Orthanc(folder) as server, tls_in_front(server.http, *certificate(folder)) as server.tls:
        for site in ("harbor", "lakeside"):
            _fill(server, phantom_dir, site)
        yield server


@pytest.fixture(scope="module")
def told(tls_archive: Orthanc, once, runs: Path, phantom_dir: Path) -> Path:
    """The folder after every command of the page."""

    def package(out: Path) -> None:
        package_bundle(runs / "sga/model.pt", out, ROOT / "bundles/sga", runs / "nt/model.pt", [phantom_dir / "harbor.csv"])

    folder = tls_archive.folder
    shutil.copytree(once("dist", package) / BUNDLE, folder / BUNDLE)
    for command in commands():
        run(tls_archive, *command[1:])
    return folder


def run(server: Orthanc, *arguments: str, code: int = 0) -> str:
    """A command with the page's addresses replaced by the server's; its output has no identifier and no password."""
    here = {
        "https://pacs.example.org/dicom-web": f"https://127.0.0.1:{server.tls}/dicom-web",
        "pacs.example.org:104": f"127.0.0.1:{server.dicom}",
    }
    here["11112"] = f"127.0.0.1:{server.listen}"
    command = [sys.executable, "-m", "sga_monai", *(here.get(argument, argument) for argument in arguments)]
    environment = os.environ | {"COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=server.folder, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert result.returncode == code, result.stdout[-2000:] + result.stderr[-3000:]
    text = result.stdout + result.stderr
    assert "Traceback" not in text
    for secret in ("SECRET", PASSWORD, "Phantom^Drawn", "H-00"):
        assert secret not in text
    return text


@pytest.mark.orthanc
def test_what_was_pulled_is_the_same_over_every_protocol(told):
    pulled = {}
    for name in ("harbor", "harbor_get", "harbor_move"):
        files = sorted((told / name / "images").rglob("*.dcm"))
        pulled[name] = {ds.SOPInstanceUID: ds.pixel_array for ds in map(pydicom.dcmread, files)}
        with (told / name / "accounting.csv").open() as stream:
            assert {line["outcome"] for line in csv.DictReader(stream)} == {"complete"}
    assert len(pulled["harbor"]) == 32
    for name in ("harbor_get", "harbor_move"):
        assert pulled[name].keys() == pulled["harbor"].keys()
        assert all(np.array_equal(pulled[name][key], pulled["harbor"][key]) for key in pulled[name])
    # Names of patients in the manifest are the keys of this site, whichever way its images came.
    manifests = [(told / "harbor/site.csv").read_text(), (told / "validation/site.csv").read_text()]
    assert manifests[0] == manifests[1]
    assert "SECRET" not in manifests[0]


@pytest.mark.orthanc
def test_results_come_back_from_the_archive_as_they_were_written(told, tls_archive, tmp_path):
    written = sorted((told / "results").glob("*.dcm"))
    assert len(written) == 64
    session = tls_archive.session()
    sources = {ds.SOPInstanceUID: ds for ds in (pydicom.dcmread(path) for path in (told / "harbor/images").rglob("*.dcm"))}
    predictions = {}
    with (told / "validation/evaluation/predictions.csv").open() as stream:
        for line in csv.DictReader(stream):
            predictions[int(line["row"])] = line
    identifiers = set()
    for path in written:
        mine = pydicom.dcmread(path)
        identifiers.add(mine.SOPInstanceUID)
        found = session.post(f"{tls_archive.rest}/tools/lookup", data=str(mine.SOPInstanceUID), timeout=30).json()
        (name,) = [one["ID"] for one in found if one["Type"] == "Instance"]
        theirs = pydicom.dcmread(io.BytesIO(session.get(f"{tls_archive.rest}/instances/{name}/file", timeout=30).content))
        assert theirs == mine
        row = int(re.findall(r"row_(\d+)_", path.name)[0])
        if path.name.endswith("report.dcm"):
            (reference,) = mine.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
            shown = subprocess.run(["dsrdump", str(path)], capture_output=True, text=True, check=True).stdout
            assert f'="{round(float(predictions[row]["probability"]), 6):g}"'[:8] in shown
            assert "RESEARCH ONLY - NOT FOR DIAGNOSIS" in shown
        else:
            (reference,) = mine.SourceImageSequence
            picture = Image.open(io.BytesIO(session.get(f"{tls_archive.rest}/instances/{name}/preview", timeout=30).content))
            assert picture.size == (mine.Columns, mine.Rows)
            picture.save(tmp_path / f"{row}.png")
            # The notice: a red band with white letters, on top of the preview.
            band = np.asarray(picture.convert("RGB"))[:20]
            assert np.median(band[..., 0]) == 150
            assert band.min(axis=2).max() > 200
        source = sources[reference.ReferencedSOPInstanceUID]
        assert (mine.StudyInstanceUID, mine.PatientID) == (source.StudyInstanceUID, source.PatientID)
        assert mine.SeriesInstanceUID != source.SeriesInstanceUID
    assert len(identifiers) == 64
    # Sent twice, stored once: by hand now, and by the page before.
    statistics = session.get(f"{tls_archive.rest}/statistics", timeout=30).json()
    text = run(tls_archive, *commands()[-1][1:])
    assert "sent 64 of 64 objects" in text
    assert session.get(f"{tls_archive.rest}/statistics", timeout=30).json()["CountInstances"] == statistics["CountInstances"]


@pytest.mark.orthanc
def test_two_hospitals_are_released_and_pooled(told, tls_archive):
    pull, validate = commands()[0][1:], commands()[3][1:]
    second = [argument.replace("harbor", "lakeside") for argument in pull]
    run(tls_archive, *second)
    run(tls_archive, *(argument.replace("harbor", "lakeside").replace("validation", "validation_b") for argument in validate))
    for folder, alias in (("validation", "site-A"), ("validation_b", "site-B")):
        run(tls_archive, "release", f"{folder}/evaluation", "--out", f"{alias}.json", "--site", alias)
    run(tls_archive, "pool", "site-A.json", "site-B.json", "--out", "pooled")
    pooled = json.loads((told / "pooled/pooled.json").read_text())
    assert pooled["n_sites"] == 2
    text = "".join((told / name).read_text() for name in ("site-A.json", "site-B.json", "pooled/pooled.json"))
    assert "SECRET" not in text
    _pool_again_as_a_federation(told, tls_archive)
    # An untrusted certificate is one sentence.
    other = [argument for argument in pull if argument not in ("--ca", "hospital_ca.pem")]
    assert "certificate is not trusted" in run(tls_archive, *other, code=3)


def _pool_again_as_a_federation(folder: Path, server: Orthanc) -> None:
    """The same two hospitals, each by a process of its own that lets only its release out: equal releases, equal page."""
    if importlib.util.find_spec("nvflare") is None:
        return
    for name, alias in (("harbor", "site-A"), ("lakeside", "site-B")):
        inputs = {"images": f"{name}/images", "labels": f"{name}/labels.csv", "site_key": f"{name}/site.key"}
        evaluate = {"bundle": BUNDLE, **inputs, "out": f"federated_{name}", "approval": "none"}
        (folder / f"{name}.json").write_text(json.dumps({"alias": alias, "evaluate": evaluate}))
    run(server, "federated", "evaluate", BUNDLE, "--simulate", "harbor.json", "--simulate", "lakeside.json", "--out", "federated")
    for name, alias in (("harbor", "site-A"), ("lakeside", "site-B")):
        assert (folder / f"federated/releases/{name}.json").read_bytes() == (folder / f"{alias}.json").read_bytes()
    for page in ("pooled.json", "pooled.html"):
        assert (folder / "federated" / page).read_bytes() == (folder / "pooled" / page).read_bytes()
