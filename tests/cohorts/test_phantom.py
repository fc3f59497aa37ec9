from __future__ import annotations

import hashlib
import os
import time

import numpy as np
import pydicom
import pytest
from PIL import Image

from sga_monai.cohorts.phantom import EXTERNAL, SITES, SOURCE, draw_phantom, ensure_phantom, write_phantom
from sga_monai.core.errors import InputError
from sga_monai.data.datalist import load_manifest
from sga_monai.data.manifest import read_manifest
from sga_monai.imaging.read import read_cxr


def mask(folder, row, kind):
    return np.asarray(Image.open(folder / row["lung_mask"].replace("masks/lung", f"masks/{kind}"))) > 0


def test_marker_follows_the_label_at_the_source_only(phantom_dir):
    for name, expected in ((SOURCE, "follows"), *zip(EXTERNAL, ("absent", "random", "reversed"), strict=True)):
        rows = read_manifest(phantom_dir / f"{name}.csv")
        marked = np.array([mask(phantom_dir, row, "marker").any() for row in rows])
        label = np.array([row["label"] == "1" for row in rows])
        if expected == "follows":
            assert (marked == label).all()
        elif expected == "reversed":
            assert (marked != label).all()
        elif expected == "absent":
            assert not marked.any()
        else:
            assert len(set(marked)) == 2


def test_images_read_upright_with_lungs_dark_and_lesions_dense(phantom_dir):
    for site in SITES:
        rows = read_manifest(phantom_dir / f"{site.name}.csv")
        assert {row["label"] for row in rows} == {"0", "1"}
        for row in rows[:2]:
            image = read_cxr(phantom_dir / row["image"])
            lung = mask(phantom_dir, row, "lung")
            assert image.shape == site.shape
            body = image[int(0.3 * len(image)) : int(0.9 * len(image)), image.shape[1] // 2 - 5 : image.shape[1] // 2 + 5]
            assert image[lung].mean() < body.mean() - 0.1
            assert mask(phantom_dir, row, "lesion").any() == (row["label"] == "1")


def test_sites_differ_in_their_dicom(phantom_dir):
    headers = [pydicom.dcmread(next((phantom_dir / "images" / site.name).glob("*.dcm")), stop_before_pixels=True) for site in SITES]
    for keyword in ("Manufacturer", "BitsStored", "Rows"):
        assert len({header[keyword].value for header in headers}) == 4
    assert {header.PhotometricInterpretation for header in headers} == {"MONOCHROME1", "MONOCHROME2"}
    assert len({header.file_meta.TransferSyntaxUID for header in headers}) == 4


def test_two_trainings_that_begin_at_once_draw_one_phantom(tmp_path, monkeypatch):
    folder = tmp_path / "phantom"

    def draw(out):
        with (tmp_path / "drawn").open("a") as stream:
            stream.write("x")
        time.sleep(0.3)
        (out / f"{SOURCE}.csv").touch()

    monkeypatch.setattr("sga_monai.cohorts.phantom.write_phantom", draw)
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            ensure_phantom(folder / f"{SOURCE}.csv", folder)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert (tmp_path / "drawn").read_text() == "x"
    assert [path.name for path in folder.iterdir()] == [f"{SOURCE}.csv"]


def test_options_out_of_range_are_refused(tmp_path):
    with pytest.raises(InputError, match="seed must be a whole number, zero or more, got -1"):
        write_phantom(tmp_path, seed=-1)
    with pytest.raises(InputError, match="external_images must be even, half of each class, got 3; give 4"):
        write_phantom(tmp_path, external_images=3)
    with pytest.raises(InputError, match="external_images must be a whole number, 2 or more, got 0"):
        write_phantom(tmp_path, external_images=0)
    assert not list(tmp_path.iterdir())


def test_deterministic_by_seed_and_patients_disjoint(tmp_path, monkeypatch):
    monkeypatch.setattr("sga_monai.cohorts.phantom.SPLITS", {"train": 4, "val": 2, "test": 2})
    digests = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_phantom(tmp_path / name, seed, external_images=2)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        digests.append(hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest())
    assert digests[0] == digests[1] != digests[2]
    before = (tmp_path / "a" / f"{SOURCE}.csv").stat().st_mtime_ns
    ensure_phantom(tmp_path / "a" / f"{SOURCE}.csv", tmp_path / "a")
    assert (tmp_path / "a" / f"{SOURCE}.csv").stat().st_mtime_ns == before
    ensure_phantom(tmp_path / "d.csv", tmp_path / "a")
    assert not (tmp_path / "d.csv").exists()
    draw_phantom(tmp_path / "a", tmp_path / "sheet.png", read_cxr)
    assert len(load_manifest(tmp_path / "a" / f"{SOURCE}.csv", tmp_path / "a")) == 8
