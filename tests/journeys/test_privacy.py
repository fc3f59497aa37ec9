"""No identifier leaves the input: every byte that a run writes is searched for what was planted in the images."""

from __future__ import annotations

import base64
import gzip
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
from fixtures import warm
from PIL import Image, PngImagePlugin

TOKENS = ("DOE^SECRET", "DOE-SECRET", "MRN-0012345", "ACC-778899", "19570203", "SECRET HOSPITAL", "1.2.826.0.1.3680043.9.7777")


@pytest.fixture(scope="module")
def secret_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Radiographs whose tags, names, folders and manifests are full of identifiers; some cannot be read."""
    root = tmp_path_factory.mktemp("ward DOE-SECRET")
    (root / "images MRN-0012345").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(26):
        split = ("train", "val", "test")[min(i // 10, 2)]
        pixels = rng.integers(0, 4096, (64, 64)).astype(np.uint16)
        pixels[:20, :20] = 4095 * (i % 2)
        dataset = pydicom.Dataset()
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.SOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
        dataset.SOPInstanceUID = f"1.2.826.0.1.3680043.9.7777.{i}"
        dataset.PatientName, dataset.PatientID, dataset.AccessionNumber = "DOE^SECRET", f"MRN-0012345-{i}", "ACC-778899"
        dataset.PatientBirthDate = dataset.StudyDate = "19570203"
        dataset.InstitutionName = dataset.StudyDescription = dataset.ImageComments = "SECRET HOSPITAL DOE^SECRET"
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.BurnedInAnnotation = "YES" if i == 10 else "NO"
        dataset.PixelData = pixels.tobytes()
        dataset["PixelData"].VR = "OW"
        path = root / "images MRN-0012345" / f"DOE-SECRET {i} 19570203.dcm"
        dataset.save_as(path, enforce_file_format=True)
        rows.append((f"{path.parent.name}/{path.name}", i % 2, f"MRN-0012345-{i}", "SECRET HOSPITAL", split))
    frame = pd.DataFrame(rows, columns=["image", "label", "patient_id", "site", "split"])
    frame.to_csv(root / "site.csv", index=False)
    # Damaged ones, whose readers would quote what they found.
    bad = root / "bad MRN-0012345"
    bad.mkdir()
    good = (root / rows[0][0]).read_bytes()
    changes = {
        "slope": lambda d: d.add_new("RescaleSlope", "DS", "1"),
        "photometric": lambda d: setattr(d, "PhotometricInterpretation", "DOE^SECRET"),
        "uid": lambda d: setattr(d, "StudyInstanceUID", "MRN-0012345.DOE^SECRET"),
        "view": lambda d: setattr(d, "ViewPosition", "DOE^SECRET"),
        "window": lambda d: setattr(d, "VOILUTFunction", "DOE^SECRET"),
        "frames": lambda d: setattr(d, "NumberOfFrames", "3"),
    }
    for name, change in changes.items():
        dataset = pydicom.dcmread(io.BytesIO(good))
        if name == "window":
            dataset.WindowCenter, dataset.WindowWidth = 2000, 1000
        change(dataset)
        dataset.save_as(bad / f"DOE-SECRET {name}.dcm")
    slope = (bad / "DOE-SECRET slope.dcm").read_bytes()
    (bad / "DOE-SECRET slope.dcm").write_bytes(slope.replace(b"DS\x02\x001 ", b"DS\x02\x00DO"))
    syntax = good.replace(b"1.2.840.10008.1.2.1\0", b"MRN-0012345.DOE.1.2\0")
    (bad / "DOE-SECRET syntax.dcm").write_bytes(syntax)
    (bad / "DOE-SECRET short.dcm").write_bytes(good[:-500])
    info = PngImagePlugin.PngInfo()
    info.add_text("PatientName", "DOE^SECRET")
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(bad / "DOE-SECRET constant.png", pnginfo=info)
    (bad / "DOE-SECRET text.dcm").write_text("DOE^SECRET MRN-0012345")
    files = enumerate(sorted(bad.iterdir()))
    lines = [(f"{bad.name}/{path.name}", k % 2, f"MRN-0012345-{100 + k}", "SECRET HOSPITAL", "test") for k, path in files]
    pd.concat([frame, pd.DataFrame(lines, columns=frame.columns)]).to_csv(root / "partly.csv", index=False)
    pd.DataFrame(lines, columns=frame.columns).to_csv(root / "all_bad.csv", index=False)
    (root / "no_header.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    shifted = "".join(f"{r[0]},{r[2]},{r[1]},{r[3]},{r[3]}\n" for r in rows)
    (root / "shifted.csv").write_text("image,label,patient_id,site,split\n" + shifted)
    return root


def forms(token: str) -> list[bytes]:
    """A token as bytes that a search must look for: UTF-8, UTF-16 and the three alignments of base64."""
    raw = token.encode()
    found = [raw, token.encode("utf-16-le"), token.encode("utf-16-be")]
    for shift in range(3):
        # Whole groups of three bytes, so that what stands before and after does not matter.
        inner = raw[(3 - shift) % 3 :]
        inner = inner[: len(inner) // 3 * 3]
        found.append(base64.b64encode(inner))
    return found


def contents(path: Path) -> list[bytes]:
    """The bytes of a file, and of what is packed in it."""
    data = path.read_bytes()
    found = [data]
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            found += [archive.read(name) for name in archive.namelist()] + ["\n".join(archive.namelist()).encode()]
    if data.startswith(b"\x1f\x8b"):
        found.append(gzip.decompress(data))
    return found


def leaks(folder: Path, *texts: str) -> list[str]:
    pieces = [("output", text.encode()) for text in texts]
    for path in folder.rglob("*"):
        pieces.append(("name", str(path.relative_to(folder)).encode()))
        if path.is_file():
            pieces += [(path.name, data) for data in contents(path)]
    return [f"{token} in {where}" for where, data in pieces for token in TOKENS for form in forms(token) if form in data]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command whose temporary files and caches lie in ``folder`` too."""
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    places = {"TMPDIR": str(folder / "tmp"), "XDG_CACHE_HOME": str(folder / "cache"), "MPLCONFIGDIR": str(folder / "mpl")}
    command = [sys.executable, "-m", *arguments]
    return warm.run(command, env=os.environ | places)


def bundle(folder: Path, run_id: str, config: str, *options: str) -> subprocess.CompletedProcess[str]:
    given = ("--output_dir", str(folder / "out"), "--image_size", "64", "--cache_dir", str(folder / "prepared"))
    return run(folder, "monai.bundle", "run", run_id, "--config_file", f"bundles/sga/{config}", *given, *options)


def test_the_search_finds_what_it_should(tmp_path):
    packed = [base64.b64encode(b"1DOE^SECRET1"), base64.b64encode(b"22DOE^SECRET")]
    for i, data in enumerate([b"xxDOE^SECRETxx", "aDOE^SECRET".encode("utf-16"), *packed]):
        (tmp_path / f"{i}").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x", "MRN-0012345" * 3)
    found = leaks(tmp_path)
    assert {line.split(" in ")[1] for line in found} == {"0", "1", "2", "3", "a.zip"}


def test_training_and_evaluation_write_no_identifier(secret_site, tmp_path):
    site = ("--dataset_dir", str(secret_site), "--manifest", str(secret_site / "site.csv"))
    options = ("--max_epochs", "1", "--review_interval", "1", "--batch_size", "10")
    trained = bundle(tmp_path / "train", "training", "train.json", *site, *options)
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert leaks(tmp_path / "train", trained.stdout, trained.stderr) == []

    checkpoint = ("--checkpoint", str(tmp_path / "train/out/model.pt"))
    key = tmp_path / "site.key"
    assert run(tmp_path / "key", "sga_monai", "manifest", "key", str(key)).returncode == 0
    for name, options, code in (
        ("site", (), 0),
        ("partly", ("--num_workers", "2", "--site_key", str(key)), 2),
        ("all_bad", (), 2),
        ("no_header", (), 3),
        ("shifted", (), 3),
    ):
        given = ("--dataset_dir", str(secret_site), "--manifest", str(secret_site / f"{name}.csv"), *checkpoint, *options)
        result = bundle(tmp_path / name, "evaluating", "evaluate.json", *given)
        assert result.returncode == code, (name, result.stderr[-3000:])
        assert leaks(tmp_path / name, result.stdout, result.stderr) == [], name
    predictions = pd.read_csv(tmp_path / "partly/out/predictions.csv")
    assert len(predictions) == 16
    assert predictions["error"].notna().sum() == 8
    assert predictions["patient"].str.fullmatch("[0-9a-f]{16}").all()
    assert key.read_text().strip() not in "".join(path.read_text(errors="replace") for path in tmp_path.glob("partly/out/*.*"))


def test_the_failure_paths_of_training_write_no_identifier(secret_site, tmp_path):
    given = ("--dataset_dir", str(secret_site), "--manifest", str(secret_site / "partly.csv"))
    outside = ("--dataset_dir", str(secret_site / "nowhere"))
    for name, options in (("unreadable", ()), ("workers", ("--num_workers", "2")), ("outside", outside)):
        result = bundle(tmp_path / name, "training", "train.json", *given, *options)
        assert result.returncode == 3, result.stderr[-3000:]
        assert leaks(tmp_path / name, result.stdout, result.stderr) == [], name


def test_the_check_of_a_manifest_writes_no_identifier(secret_site, tmp_path):
    sheet = tmp_path / "sheet/out.png"
    # The damaged files are copies of an image of the training split, which a check refuses in another split.
    listed = secret_site / "one_split.csv"
    pd.read_csv(secret_site / "partly.csv").assign(split="test").to_csv(listed, index=False)
    result = run(tmp_path / "sheet", "sga_monai", "manifest", "check", str(listed), "--dataset-dir", str(secret_site),
                 "--contact-sheet", str(sheet))  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert leaks(tmp_path / "sheet", result.stdout, result.stderr) == []
    # 26 and 2 of the bad ones (uid, view) are readable, and one has BurnedInAnnotation YES.
    assert "27 pictures, none with BurnedInAnnotation YES" in result.stdout
    with Image.open(sheet) as picture:
        assert picture.info == {}
