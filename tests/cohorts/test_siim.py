from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from sga_monai.cohorts.siim import merge_patients, read_siim, siim
from sga_monai.core.errors import InputError


def siim_folder(root: Path) -> Path:
    folder = root / "siim"
    folder.mkdir()
    (folder / "train_study_level.csv").write_text(
        "id,Negative for Pneumonia,Typical Appearance,Indeterminate Appearance,Atypical Appearance\n"
        "s1_study,0,1,0,0\ns2_study,1,0,0,0\ns3_study,0,0,1,0\n"
    )
    box = "\"[{'x': 1.5, 'y': 2, 'width': 3, 'height': 4}]\""
    (folder / "train_image_level.csv").write_text(
        f"id,boxes,label,StudyInstanceUID\na_image,{box},opacity,s1\nb_image,,none,s1\nc_image,,none,s2\nd_image,,none,s3\n"
    )
    (folder / "file_tree.csv").write_text("path,height,width\n" + "".join(f"train/s/{n}/{n}.dcm,9,9\n" for n in "abcd"))
    return root


@pytest.mark.parametrize(
    ("rule", "labels"),
    [("any_appearance", "1101"), ("typical_indeterminate", "1101"), ("typical_only", "1100"), ("opacity_box", "1000")],
)
def test_siim_rules(tmp_path, rule, labels):
    rows = read_siim(siim_folder(tmp_path), rule)
    assert "".join(row["label"] for row in rows) == labels
    assert rows[0]["boxes"] == "[[1.5, 2.0, 3.0, 4.0]]"
    assert rows[0]["patient_id"] == "siim-s1"


def test_siim_drops_unboxed_duplicates_and_refuses_unknown_rules(tmp_path):
    rows = read_siim(siim_folder(tmp_path), drop_unboxed_duplicates=True)
    assert [bool(row["dropped"]) for row in rows] == [False, True, False, False]
    with pytest.raises(InputError, match="rule must be"):
        read_siim(tmp_path, "any")
    with pytest.raises(InputError, match=r"no train_study_level\.csv"):
        read_siim(tmp_path / "siim")


def add_copies(root: Path, names: str = "abcd", equal: str = "") -> None:
    """A stretched copy, 18 x 36 pixels, of each image; those of ``equal`` are one file."""
    (root / "siim/images256").mkdir()
    for i, name in enumerate(names):
        gray = 255 if name in equal else 10 * i
        Image.fromarray(np.full((36, 18), gray, np.uint8)).save(root / f"siim/images256/{name}.jpg")


def test_siim_reads_stretched_copies_and_scales_boxes_to_them(tmp_path):
    add_copies(siim_folder(tmp_path), "abc")
    rows = read_siim(tmp_path)
    assert [row["image"] for row in rows[:3]] == [f"siim/images256/{name}.jpg" for name in "abc"]
    # 9 x 9 native pixels became 18 columns and 36 rows.
    assert json.loads(rows[0]["boxes"]) == [[3.0, 8.0, 6.0, 16.0]]
    assert rows[3]["dropped"] == "image is not in the folder"


def test_siim_names_the_missing_native_size(tmp_path):
    add_copies(siim_folder(tmp_path))
    (tmp_path / "siim/file_tree.csv").unlink()
    with pytest.raises(InputError, match="lacks the native size"):
        read_siim(tmp_path)


@pytest.mark.parametrize("size", ["n/a", "0", "9.5", ""])
def test_siim_names_the_row_of_a_size_that_is_none(tmp_path, size):
    add_copies(siim_folder(tmp_path))
    table = tmp_path / "siim/file_tree.csv"
    table.write_text(table.read_text().replace("train/s/b/b.dcm,9,9", f"train/s/b/b.dcm,9,{size}"))
    with pytest.raises(InputError, match=r"^file_tree\.csv: row 3: width must be a whole number of pixels"):
        read_siim(tmp_path)


def test_siim_drops_a_damaged_copy_whose_box_cannot_be_scaled(tmp_path):
    add_copies(siim_folder(tmp_path))
    (tmp_path / "siim/images256/a.jpg").write_bytes(b"cut")
    assert [row["dropped"] for row in read_siim(tmp_path)] == ["image cannot be read", "", "", ""]


def test_siim_reads_boxes_in_powers_of_ten(tmp_path):
    table = siim_folder(tmp_path) / "siim/train_image_level.csv"
    table.write_text(table.read_text().replace("1.5", "-1.4e-14"))
    assert json.loads(read_siim(tmp_path)[0]["boxes"]) == [[0.0, 2.0, 3.0, 4.0]]


def add_dicom(root: Path, patients: Sequence[str]) -> None:
    """A DICOM file without pixels of each image."""
    for name, patient in zip("abcd", patients, strict=True):
        path = root / f"siim/train/s/{name}/{name}.dcm"
        path.parent.mkdir(parents=True)
        dataset = pydicom.Dataset()
        dataset.PatientID = patient
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
        dataset.file_meta.MediaStorageSOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
        dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.generate_uid()
        dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        dataset.save_as(path, enforce_file_format=True)


def test_siim_prefers_dicom_with_native_boxes_and_its_patients(tmp_path):
    add_copies(siim_folder(tmp_path))
    add_dicom(tmp_path, "pppq")
    (tmp_path / "siim/near_duplicate_studies.csv").write_text("study_id,group\ns2,g\ns3,g\n")
    rows = read_siim(tmp_path)
    assert rows[0]["boxes"] == "[[1.5, 2.0, 3.0, 4.0]]"
    assert [row["image"] for row in rows] == [f"siim/train/s/{name}/{name}.dcm" for name in "abcd"]
    # Patient q has a near-duplicate of one of p's studies, so all four are one unit.
    assert {row["patient_id"] for row in rows} == {"siim-p"}


def test_siim_drops_a_dicom_file_with_a_damaged_header(tmp_path):
    add_dicom(siim_folder(tmp_path), "pqrs")
    path = tmp_path / "siim/train/s/a/a.dcm"
    path.write_bytes(path.read_bytes().replace(b"\x02\x00\x10\x00UI", b"\x02\x00\x10\x00WI"))
    (tmp_path / "siim/train/s/b/b.dcm").write_bytes(b"no DICOM")
    rows = read_siim(tmp_path)
    assert [row["dropped"] for row in rows] == ["DICOM header cannot be read"] * 2 + ["", ""]
    assert [row["patient_id"] for row in rows[2:]] == ["siim-r", "siim-s"]


def test_siim_studies_without_a_patient_are_not_taken_for_one_patients(tmp_path):
    add_dicom(siim_folder(tmp_path), ["p", "", "", " "])
    (tmp_path / "siim/train/s/a/a.dcm").write_bytes(b"cut")
    rows = read_siim(tmp_path)
    assert [row["patient_id"] for row in rows[1:]] == ["siim-s1", "siim-s2", "siim-s3"]
    assert [row["dropped"] for row in rows] == ["DICOM header cannot be read", "", "", ""]


def test_siim_keeps_one_of_equal_files_of_a_label_and_none_where_labels_differ(tmp_path):
    add_copies(siim_folder(tmp_path), equal="ab")
    # As it is left by a download that was broken off.
    (tmp_path / "siim/train").mkdir()
    rows = read_siim(tmp_path)
    assert [bool(row["dropped"]) for row in rows] == [False, True, False, False]
    # By the rule of boxes the same two have different labels.
    rows = read_siim(tmp_path, "opacity_box")
    assert [bool(row["dropped"]) for row in rows] == [True, True, False, False]
    assert rows[0]["dropped"] == "equal byte for byte to an image of the other label"


def test_siim_keeps_studies_that_share_a_file_or_are_near_duplicates_in_one_split(tmp_path):
    add_copies(siim_folder(tmp_path), equal="ad")
    assert [row["patient_id"] for row in read_siim(tmp_path)] == ["siim-s1", "siim-s1", "siim-s2", "siim-s1"]
    (tmp_path / "siim/near_duplicate_studies.csv").write_text("study_id,group\ns2,g\ns3,g\n")
    rows = siim(tmp_path)
    assert {row["patient_id"] for row in rows} == {"siim-s1"}
    assert len({row["split"] for row in rows if not row["dropped"]}) == 1


def test_groups_of_patients_that_meet_become_one():
    rows = [{"patient_id": name} for name in "abcdef"]
    merged = merge_patients(rows, [["b", "c"], ["d", "e"], ["e", "c"]])
    assert [row["patient_id"] for row in merged] == ["a", "b", "b", "b", "b", "f"]
    assert merge_patients(rows, []) == rows
