"""`sga-monai pacs pull` as a site types it, against a real archive that is killed, refuses, and holds damaged objects."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from fixtures.orthanc import AET, OURS, PASSWORD, USER, Orthanc, certificate, query, radiograph
from pydicom import uid
from pynetdicom import AE

from sga_monai.cohorts.phantom import ENCODERS

pytestmark = pytest.mark.orthanc
SECRETS = ("MRN", "ACC-", "DOE", "7777", "19570203", PASSWORD)


def start(query_file: Path, out: Path, *options: str, **environment: str) -> subprocess.Popen[str]:
    given = os.environ | {"SGA_PACS_USER": USER, "SGA_PACS_PASSWORD": PASSWORD, "COLUMNS": "120"} | environment
    command = [sys.executable, "-m", "sga_monai", "pacs", "pull", str(query_file), "--site", "harbor", "--out", str(out), *options]
    return subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def run(query_file: Path, out: Path, *options: str, code: int = 0, **environment: str) -> str:
    """The whole output; it never holds an identifier, a password or a traceback."""
    process = start(query_file, out, *options, **environment)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == code, stdout[-1500:] + stderr[-3000:]
    assert "Traceback" not in stderr
    for secret in SECRETS:
        assert secret not in stdout + stderr
    return stdout + stderr


def over(server: Orthanc, how: str) -> list[str]:
    if how == "dicomweb":
        return ["--dicomweb", server.url]
    options = ["--dimse", f"127.0.0.1:{server.dicom}", "--called-aet", AET, "--calling-aet", OURS]
    return [*options, "--retrieve", "move", "--listen", f"127.0.0.1:{server.listen}"] if how == "move" else options


def outcomes(out: Path) -> list[str]:
    with (out / "accounting.csv").open() as stream:
        return [line["outcome"] for line in csv.DictReader(stream)]


def files(out: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in (out / "images").rglob("*.dcm")}


@pytest.fixture(scope="module")
def stored(archive: Orthanc) -> Orthanc:
    """Studies of every kind, some stored by C-STORE, some by STOW, some by upload."""
    archive.store([radiograph(n) for n in range(4)])
    second = uid.UID("1.2.826.0.1.3680043.9.7777.3.22")
    archive.store([radiograph(2, SOPInstanceUID=second, ViewPosition="LL"), radiograph(4, ViewPosition="LATERAL")])
    archive.store([radiograph(5, Modality="CT", SOPClassUID=uid.CTImageStorage), radiograph(6, BodyPartExamined="HAND")])
    # Fewer pixels than rows: what is cut inside of an element the server takes for no DICOM.
    archive.store([radiograph(7, Rows=128)])
    sender = AE(OURS)
    sender.add_requested_context(uid.ComputedRadiographyImageStorage, uid.ExplicitVRLittleEndian)
    association = sender.associate("127.0.0.1", archive.dicom, ae_title=AET)
    assert association.is_established
    assert association.send_c_store(pydicom.dcmread(pydicom.filebase.DicomBytesIO(radiograph(8)))).Status == 0
    association.release()
    dataset = pydicom.dcmread(pydicom.filebase.DicomBytesIO(radiograph(9)))
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(ENCODERS[uid.JPEG2000Lossless](dataset.pixel_array, 12))])
    dataset.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    dataset["PixelData"].VR = "OB"
    from dicomweb_client.web import DICOMwebClient

    DICOMwebClient(archive.url, archive.session()).store_instances([dataset])
    return archive


@pytest.mark.parametrize("how", ["dicomweb", "get", "move"])
def test_what_an_archive_holds_is_fetched_as_it_is_stored_and_accounted_for(stored, tmp_path, how):
    out = tmp_path / "out"
    path = query(tmp_path / "query.csv", [*range(10), 77])
    text = run(path, out, *over(stored, how), code=2)
    assert outcomes(out) == [
        "complete", "complete", "complete", "complete", "rejected: lateral", "rejected: modality", "rejected: examination",
        "failed: truncated", "complete", "complete", "not found",
    ]  # fmt: skip
    assert "not found" in text
    assert len(files(out)) == 6
    # The pixels are those that were stored, and J2K comes as J2K.
    found = {}
    for file in (out / "images").rglob("*.dcm"):
        dataset = pydicom.dcmread(file)
        found[int(dataset.PatientID[-5:])] = dataset
    for number, dataset in found.items():
        original = pydicom.dcmread(pydicom.filebase.DicomBytesIO(radiograph(number)))
        assert np.array_equal(dataset.pixel_array, original.pixel_array)
        assert (dataset.file_meta.TransferSyntaxUID == uid.JPEG2000Lossless) == (number == 9)
    before = files(out)
    text = run(path, out, *over(stored, how), code=2)
    assert files(out) == before
    assert "there already" in text


def test_patients_and_dates(stored, tmp_path):
    path = tmp_path / "query.csv"
    # Study 1 is of 2021-02-05.
    path.write_text(
        "patient_id,date_from,date_to,label\nMRN-00001,2021-02-01,2021-02-28,1\nMRN-00002,2021-01-01,2021-01-31,0\nMRN-00003,2021-04-05,,1\n"
    )
    for how in ("dicomweb", "get"):
        run(path, tmp_path / how, *over(stored, how), code=2)
        assert outcomes(tmp_path / how) == ["complete", "not found", "complete"]


def test_a_wrong_password_is_one_sentence(stored, tmp_path):
    credentials = tmp_path / "credentials.toml"
    credentials.write_text('user = "sga"\npassword = "WRONG-WORD"\n')
    credentials.chmod(0o600)
    options = [*over(stored, "dicomweb"), "--credentials", str(credentials)]
    text = run(query(tmp_path / "query.csv", [1, 2, 3]), tmp_path / "out", *options, code=3)
    assert text.strip() == "sga-monai: the server does not accept the user, password or token (HTTP 401); correct the credentials"
    credentials.write_text(f'user = "{USER}"\npassword = "{PASSWORD}"\n')
    run(query(tmp_path / "query.csv", [1, 2, 3]), tmp_path / "out", *options, SGA_PACS_PASSWORD="WRONG-WORD")


def test_an_ae_title_that_is_refused_is_one_sentence(stored, tmp_path):
    path = query(tmp_path / "query.csv", [1, 2, 3])
    for ours, theirs, reason in (("OTHER", AET, "calling AE title not recognized"), (OURS, "WRONG", "called AE title not recognized")):
        options = ["--dimse", f"127.0.0.1:{stored.dicom}", "--called-aet", theirs, "--calling-aet", ours]
        text = run(path, tmp_path / "out", *options, code=3)
        assert len(text.strip().splitlines()) == 1
        assert f"the association of {ours} with {theirs} ({reason})" in text


def test_no_server_is_one_sentence(orthanc_installed, tmp_path):
    path = query(tmp_path / "query.csv", [1])
    for options in (["--dicomweb", "http://127.0.0.1:9/dicom-web"], ["--dimse", "127.0.0.1:9", "--called-aet", AET]):
        text = run(path, tmp_path / "out", *options, "--attempts", "2", code=3)
        assert len(text.strip().splitlines()) == 1
        assert "cannot be reached" in text


def test_dimse_over_tls(orthanc_installed, tmp_path):
    (tmp_path / "orthanc").mkdir()
    ca, key = certificate(tmp_path)
    names = ("DicomTlsCertificate", "DicomTlsPrivateKey", "DicomTlsTrustedCertificates")
    options = {"DicomTlsEnabled": True, "DicomTlsRemoteCertificateRequired": True} | dict(zip(names, map(str, (ca, key, ca)), strict=True))
    with Orthanc(tmp_path / "orthanc", options) as server:
        server.store([radiograph(n) for n in range(3)])
        path = query(tmp_path / "query.csv", range(3))
        mine = ["--client-cert", str(ca), "--client-key", str(key)]
        for how in ("get", "move"):
            run(path, tmp_path / how, *over(server, how), "--ca", str(ca), *mine)
            assert len(files(tmp_path / how)) == 3
        # Without a certificate of ours, with authorities that do not know the server's, and in the clear.
        for given in (["--ca", str(ca)], ["--tls", *mine], []):
            text = run(path, tmp_path / "none", *over(server, "get"), *given, "--attempts", "1", code=3)
            assert "check address, port and certificates" in text
        assert not files(tmp_path / "none")


def test_an_object_that_the_server_cannot_read_costs_nothing_but_itself(own_archive, tmp_path):
    own_archive.store([radiograph(n) for n in range(6)])
    session = own_archive.session()
    name = next(
        i for i in session.get(f"{own_archive.rest}/instances", timeout=30).json()
        if session.get(f"{own_archive.rest}/instances/{i}/tags?simplify", timeout=30).json()["PatientID"] == "MRN-00003"
    )  # fmt: skip
    attachment = session.get(f"{own_archive.rest}/instances/{name}/attachments/dicom/info", timeout=30)
    key = attachment.json()["Uuid"] if attachment.ok else ""
    damaged = [
        path
        for path in (own_archive.folder / "db").rglob("*")
        if path.is_file() and (path.name == key or b"MRN-00003" in path.read_bytes()[:4096])
    ]
    damaged = [path for path in damaged if path.read_bytes()[128:132] == b"DICM"]
    assert len(damaged) == 1
    own_archive.kill()
    damaged[0].write_bytes(os.urandom(2000))
    # What was stored last would still be in the server's memory.
    own_archive.start()
    for how in ("dicomweb", "get"):
        run(query(tmp_path / "query.csv", range(6)), tmp_path / how, *over(own_archive, how), "--attempts", "2", code=2)
        found = outcomes(tmp_path / how)
        assert found[3].startswith("failed: ")
        assert [outcome for n, outcome in enumerate(found) if n != 3] == ["complete"] * 5


@pytest.mark.parametrize("how", ["dicomweb", "get"])
def test_a_server_killed_in_the_middle(own_archive, tmp_path, how):
    """Of 300 images some come before the server dies; the command says so, and later fetches the rest only."""
    own_archive.store([radiograph(n) for n in range(300)])
    path, out = query(tmp_path / "query.csv", range(300)), tmp_path / "out"
    process = start(path, out, *over(own_archive, how), "--attempts", "2")
    deadline = time.monotonic() + 120
    while len(files(out)) < 40 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    own_archive.kill()
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 3, stdout + stderr
    assert "give the same command again" in stderr
    assert len(stderr.strip().splitlines()) == 1
    counts = Counter(outcomes(out))
    assert counts["complete"] >= 30
    assert counts["not tried"] >= 100
    assert not list(out.rglob("*.tmp"))
    assert not (out / "site.csv").exists()
    before = files(out)
    # What is there is whole.
    originals = {radiograph(n) for n in range(300)}
    if how == "dicomweb":
        assert all(file.read_bytes() in originals for file in (out / "images").rglob("*.dcm"))
    own_archive.start()
    text = run(path, out, *over(own_archive, how))
    after = files(out)
    assert len(after) == 300
    assert before.items() <= after.items()
    assert Counter(outcomes(out)) == {"complete": 300}
    assert len((out / "site.csv").read_text().splitlines()) == 301
    assert "there already" in text


def test_a_short_absence_is_waited_for(own_archive, tmp_path):
    own_archive.store([radiograph(n) for n in range(120)])
    path, out = query(tmp_path / "query.csv", range(120)), tmp_path / "out"
    process = start(path, out, *over(own_archive, "dicomweb"))
    while len(files(out)) < 20 and process.poll() is None:
        time.sleep(0.02)
    own_archive.kill()
    own_archive.start()
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stdout + stderr
    assert len(files(out)) == 120


def test_a_pull_killed_in_the_middle_goes_on(own_archive, tmp_path):
    own_archive.store([radiograph(n) for n in range(120)])
    path, out = query(tmp_path / "query.csv", range(120)), tmp_path / "out"
    process = start(path, out, *over(own_archive, "dicomweb"))
    while len(files(out)) < 20 and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.communicate(timeout=60)
    before = {name: facts for name, facts in files(out).items() if not name.startswith(".")}
    assert 20 <= len(before) < 120
    run(path, out, *over(own_archive, "dicomweb"))
    assert before.items() <= files(out).items()
    assert len(files(out)) == 120
    assert not list(out.rglob("*.tmp"))
