"""Parts of images: what is kept is kept, the rest tells nothing."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from sga_monai.cli.main import app
from sga_monai.cohorts.parts import write_parts
from sga_monai.core.errors import InputError
from sga_monai.data.manifest import read_manifest
from sga_monai.imaging.decoded import ReadOptions
from sga_monai.imaging.read import read_cxr

HEADER = "image,label,patient_id,site,split,lung_mask\n"


@pytest.fixture
def data(tmp_path):
    """Three images of 60 x 50, two with a mask of half their resolution."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 65535, (3, 60, 50)).astype(np.uint16)
    mask = np.zeros((30, 25), dtype=np.uint8)
    mask[5:20, 5:20] = 1
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    Image.fromarray(mask).save(tmp_path / "mask.png")
    rows = "".join(f"{i}.png,{i % 2},p{i},s,test,{'mask.png' if i < 2 else ''}\n" for i in range(3))
    (tmp_path / "m.csv").write_text(HEADER + rows + "gone.png,1,p9,s,test,mask.png\n")
    return tmp_path, images, np.kron(mask, np.ones((2, 2))).astype(bool)


def test_lungs_alone(data):
    folder, images, mask = data
    counts = write_parts(folder / "m.csv", folder, "lungs", "lungs", folder / "lungs.csv")
    assert counts == {"listed": 2, "without lung_mask": 1, "left out: missing": 1}
    rows = read_manifest(folder / "lungs.csv")
    listed = [(row["image"], row["label"], row["patient_id"]) for row in rows]
    assert listed == [("lungs/000002.png", "0", "p0"), ("lungs/000003.png", "1", "p1")]
    for row, image in zip(rows, images, strict=False):
        kept = read_cxr(folder / row["image"])
        low, high = image[mask].min(), image[mask].max()
        assert np.allclose(kept[mask], (image[mask] - float(low)) / float(high - low), atol=1e-5)
        outside = kept[~mask]
        assert np.ptp(outside) == 0
        assert outside[0] == pytest.approx(kept[mask].mean(), abs=1e-5)


def test_the_outline_alone(data):
    folder, _, mask = data
    Image.fromarray(mask[::-1, ::-1].astype(np.uint8)).save(folder / "other.png")
    (folder / "m.csv").write_text((folder / "m.csv").read_text().replace("p1,s,test,mask.png", "p1,s,test,other.png"))
    counts = write_parts(folder / "m.csv", folder, "outline", "outline", folder / "outline.csv")
    assert counts == {"listed": 2, "without lung_mask": 1, "left out: missing": 1}
    for row, outline in zip(read_manifest(folder / "outline.csv"), (mask, mask[::-1, ::-1]), strict=True):
        assert np.array_equal(read_cxr(folder / row["image"]), outline)


def test_the_interior(data):
    folder, images, _ = data
    counts = write_parts(folder / "m.csv", folder, "interior", "inner", folder / "inner.csv")
    assert counts == {"listed": 3, "left out: missing": 1}
    kept = read_cxr(folder / read_manifest(folder / "inner.csv")[2]["image"])
    assert kept.shape == (50, 42)
    assert np.corrcoef(kept.ravel(), images[2][5:55, 4:46].ravel())[0, 1] > 0.999999


@pytest.mark.parametrize(
    ("keep", "folder", "message"),
    [
        ("heart", "new", "keep must be one of lungs, outline, interior"),
        ("lungs", "../out", "a new one below dataset_dir"),
        ("lungs", ".", "a new one"),
        ("lungs", "a:b", "a name that a manifest can hold"),
        ("lungs", "=b", "a name that a manifest can hold"),
    ],
)
def test_what_is_refused(data, keep, folder, message):
    with pytest.raises(InputError, match=message):
        write_parts(data[0] / "m.csv", data[0], keep, folder, data[0] / "o.csv")


def test_a_mask_of_nothing_is_named(data):
    folder = data[0]
    Image.fromarray(np.zeros((30, 25), dtype=np.uint8)).save(folder / "mask.png")
    with pytest.raises(InputError, match="the lung_mask of row 2, 3, 5 marks nothing"):
        write_parts(folder / "m.csv", folder, "lungs", "lungs", folder / "o.csv")


def test_a_folder_given_as_a_whole_path_is_listed_below_dataset_dir(data):
    folder = data[0]
    write_parts(folder / "m.csv", folder, "lungs", str(folder / "sets/lungs"), folder / "o.csv")
    assert [row["image"] for row in read_manifest(folder / "o.csv")] == ["sets/lungs/000002.png", "sets/lungs/000003.png"]


def test_a_manifest_inside_the_new_folder_is_refused_and_leaves_nothing_behind(data):
    folder = data[0]
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match="out lies inside the new folder"):
        write_parts(folder / "m.csv", folder, "lungs", "lungs", folder / "lungs/m.csv")
    assert sorted(folder.rglob("*")) == before


def test_without_any_part_nothing_is_written(data):
    folder = data[0]
    (folder / "m.csv").write_text(HEADER + "0.png,0,p0,s,test,\ngone.png,1,p9,s,test,mask.png\n")
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match=r"no image can be listed: 1 without lung_mask; 1 left out: missing"):
        write_parts(folder / "m.csv", folder, "lungs", "lungs", folder / "o.csv")
    assert sorted(folder.rglob("*")) == before


def test_a_mask_that_is_no_picture_is_no_fault_of_the_image(data):
    folder = data[0]
    (folder / "mask.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"m\.csv: the lung_mask of row 2, 3, 5 cannot be read as a PNG"):
        write_parts(folder / "m.csv", folder, "lungs", "lungs", folder / "o.csv")


def test_equal_parts_are_named_since_no_manifest_can_list_them(data):
    folder = data[0]
    with pytest.raises(InputError, match=r"m\.csv: rows 2 and 3 have the same outline, pixel for pixel; remove one"):
        write_parts(folder / "m.csv", folder, "outline", "outline", folder / "o.csv")


def test_rows_that_cannot_be_read_end_with_the_exit_code_of_failed_rows(data, monkeypatch):
    monkeypatch.chdir(data[0])
    command = ["manifest", "parts", "m.csv", "--dataset-dir", ".", "--keep", "interior", "--folder", "new", "--out", "o.csv"]
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, "left out: missing: 1" in result.output) == (2, True)


@pytest.mark.parametrize("keep", ["lungs", "outline"])
def test_a_part_that_could_not_be_read_again_is_left_out(data, keep):
    folder = data[0]
    few = np.zeros((30, 25), dtype=np.uint8)
    few[10:12, 10:13] = 1
    Image.fromarray(few).save(folder / "few.png")
    (folder / "m.csv").write_text(HEADER + "0.png,0,p0,s,test,mask.png\n1.png,1,p1,s,test,few.png\n")
    counts = write_parts(folder / "m.csv", folder, keep, "part", folder / "o.csv")
    assert counts == {"listed": 1, "left out: nearly_constant": 1}
    assert [path.name for path in (folder / "part").iterdir()] == ["000002.png"]
    assert [row["image"] for row in read_manifest(folder / "o.csv")] == ["part/000002.png"]


def test_an_image_with_burned_in_annotation_is_left_out(data, dicom_file, drawn):
    folder = data[0]
    dicom_file(drawn, name="burned.dcm", BurnedInAnnotation="YES")
    dicom_file(drawn, name="clean.dcm", BurnedInAnnotation="NO")
    (folder / "m.csv").write_text(HEADER + "burned.dcm,0,p1,s,test,mask.png\nclean.dcm,0,p2,s,test,mask.png\n")
    for keep in ("interior", "lungs"):
        counts = write_parts(folder / "m.csv", folder, keep, keep, folder / "o.csv")
        assert counts == {"listed": 1, "left out: BurnedInAnnotation YES": 1}
        assert [row["patient_id"] for row in read_manifest(folder / "o.csv")] == ["p2"]


def test_parts_are_of_the_image_as_the_training_reads_it(data, dicom_file, drawn):
    folder = data[0]
    dicom_file(drawn[:, :160].copy(), name="turned.dcm", PatientOrientation=["F", "L"])
    (folder / "m.csv").write_text(HEADER + "turned.dcm,0,p1,s,test,\n")
    for name, shape in (("header", (134, 268)), ("stored", (268, 134))):
        write_parts(folder / "m.csv", folder, "interior", name, folder / "o.csv", ReadOptions(orientation=name))
        assert read_cxr(folder / f"{name}/000002.png").shape == shape


def test_the_file_of_the_row_is_read_and_no_other(data):
    folder, images, _ = data
    decomposed = unicodedata.normalize("NFD", "müller.png")
    (folder / "1.png").rename(folder / decomposed)
    (folder / "m.csv").write_text(f"{HEADER.strip()},sha256\n0.png,0,p0,s,test,,{'0' * 64}\nmüller.png,1,p1,s,test,,\n", encoding="utf-8")
    counts = write_parts(folder / "m.csv", folder, "interior", "inner", folder / "o.csv")
    assert counts == {"listed": 1, "left out: hash": 1}
    kept = read_cxr(folder / read_manifest(folder / "o.csv")[0]["image"])
    assert np.corrcoef(kept.ravel(), images[1][5:55, 4:46].ravel())[0, 1] > 0.999999
    outside = folder.with_name("outside.png")
    (folder / "0.png").rename(outside)
    (folder / "0.png").symlink_to(outside)
    (folder / "m.csv").write_text(HEADER + "0.png,0,p0,s,test,\n")
    with pytest.raises(InputError, match=r"m\.csv: 1 images lie outside dataset_dir by way of a link \(row 2\)"):
        write_parts(folder / "m.csv", folder, "interior", "leaving", folder / "o.csv")


def test_what_was_refused_leaves_nothing_behind(data):
    folder = data[0]
    mask = (folder / "mask.png").read_bytes()
    before = sorted(folder.iterdir())
    for name, rows in (
        ("nothing", "0.png,0,p0,s,test,mask.png\n1.png,0,p1,s,test,nothing.png\n"),
        ("formula", "0.png,0,p0,s,test,mask.png\n1.png,0,=p1,s,test,mask.png\n"),
    ):
        Image.fromarray(np.zeros((30, 25), dtype=np.uint8)).save(folder / "nothing.png")
        (folder / "m.csv").write_text(HEADER + rows)
        with pytest.raises(InputError, match="row 3"):
            write_parts(folder / "m.csv", folder, "lungs", "lungs", folder / "o.csv")
        (folder / "nothing.png").write_bytes(mask)
        (folder / "m.csv").write_text(HEADER + rows.replace("=", ""))
        assert write_parts(folder / "m.csv", folder, "lungs", "lungs", folder / "o.csv") == {"listed": 2}, name
        assert sorted(path.name for path in (folder / "lungs").iterdir()) == ["000002.png", "000003.png"]
        for left in ("lungs/000002.png", "lungs/000003.png", "o.csv", "nothing.png"):
            (folder / left).unlink()
        (folder / "lungs").rmdir()
        assert sorted(folder.iterdir()) == before
