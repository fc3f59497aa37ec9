from __future__ import annotations

import hashlib

import pytest
from typer.testing import CliRunner

from sga_monai.cli.manifest import app
from sga_monai.cohorts.hospitals import read_hospital, shenzhen_tb
from sga_monai.core.errors import InputError


@pytest.fixture
def shenzhen(tmp_path):
    folder = tmp_path / "shenzhen_tb"
    for name in ("images", "lung_masks"):
        (folder / name).mkdir(parents=True)
    lines = ["image,label,patient_id,site,sha256,sex,age"]
    for i in range(40):
        data = b"same" if i in (6, 8) else str(i).encode()
        (folder / f"images/{i}.jpg").write_bytes(data)
        lines.append(f"images/{i}.jpg,{i % 2},P{i},shenzhen,{hashlib.sha256(data).hexdigest()},{'Female' if i % 3 else 'Male'},{20 + i}")
    (folder / "images/5.jpg").unlink()
    (folder / "lung_masks/3.png").write_bytes(b"")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_hospital_table_becomes_rows_with_masks_where_there_are_some(shenzhen):
    rows = read_hospital(shenzhen, "shenzhen_tb")
    row = rows[3]
    assert (row["image"], row["label"], row["patient_id"], row["sex"], row["age"]) == (
        "shenzhen_tb/images/3.jpg", "1", "shenzhen-P3", "M", "23",
    )  # fmt: skip
    assert [row["lung_mask"] for row in rows if row["lung_mask"]] == ["shenzhen_tb/lung_masks/3.png"]
    assert {row["label"]: row["negative_type"] for row in rows} == {"0": "healthy", "1": ""}


def test_missing_and_equal_files_are_dropped_and_counted(shenzhen):
    dropped = {i: row["dropped"] for i, row in enumerate(read_hospital(shenzhen, "shenzhen_tb")) if row["dropped"]}
    assert dropped == {5: "image is not in the folder", 8: "equal byte for byte to another image"}


def test_shenzhen_is_split_for_training(shenzhen):
    splits = [row["split"] for row in shenzhen_tb(shenzhen) if not row["dropped"]]
    assert [splits.count(name) for name in ("train", "val", "test")] == pytest.approx([23, 8, 7], abs=1)


def test_a_missing_table_is_named(tmp_path):
    with pytest.raises(InputError, match=r"no table\.csv in montgomery_tb/"):
        read_hospital(tmp_path, "montgomery_tb")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (",1,P3,", ",tuberculosis,P3,", "row 5: label must be 0 or 1"),
        (",1,P3,", ",1,,", "row 5: patient_id must not be empty"),
        (",P3,shenzhen,", ",P3,,", "row 5: site must not be empty"),
        ("images/3.jpg,1,P3,shenzhen,", "images/3.jpg,1,P3,shenzhen,12", "row 5: sha256 must be 64 hexadecimal digits or empty"),
        ("images/4.jpg", "\nimages/3.jpg,1\nimages/4.jpg", "row 7 has 2 cells, the header has 7"),
        ("images/4.jpg", '"images/4.jpg', "row 6 is not valid CSV|row 6 has 1 cells"),
        (",Female,", ",Female, yes,", "row 3 has 8 cells, the header has 7; put a cell that holds a comma in quotes"),
    ],
)
def test_a_row_that_cannot_be_used_is_named_as_the_table_numbers_it(shenzhen, old, new, sentence):
    table = shenzhen / "shenzhen_tb/table.csv"
    table.write_text(table.read_text().replace(old, new))
    with pytest.raises(InputError, match=rf"^table\.csv: ({sentence})"):
        read_hospital(shenzhen, "shenzhen_tb")


def test_rows_of_commas_as_a_spreadsheet_leaves_them_are_none(shenzhen):
    table = shenzhen / "shenzhen_tb/table.csv"
    table.write_text(table.read_text() + ",,,,,,\n  \n")
    assert len(read_hospital(shenzhen, "shenzhen_tb")) == 40


def test_two_images_of_one_name_do_not_share_a_mask(shenzhen):
    folder = shenzhen / "shenzhen_tb"
    (folder / "images/3.png").write_bytes(b"another image")
    with (folder / "table.csv").open("a") as stream:
        stream.write("\nimages/3.png,0,P40,shenzhen,,,\n")
    with pytest.raises(InputError, match=r"^table\.csv: rows 5 and 43 have images of one name, by which lung_masks/ goes; rename one"):
        read_hospital(shenzhen, "shenzhen_tb")
    (folder / "lung_masks/3.png").unlink()
    assert len(read_hospital(shenzhen, "shenzhen_tb")) == 41


def test_a_folder_without_its_images_is_said(shenzhen):
    table = shenzhen / "shenzhen_tb/table.csv"
    table.write_text(table.read_text().replace("images/", ""))
    given = ["build", "shenzhen-tb", str(shenzhen), "--out", str(shenzhen / "m.csv")]
    refused = CliRunner().invoke(app, given)
    assert "no image can be listed (40 rows: image is not in the folder)" in str(refused.exception)
    table.write_text(table.read_text().splitlines()[0])
    assert "no image can be listed (the table has none)" in str(CliRunner().invoke(app, given).exception)


def test_a_manifest_of_one_class_replaces_none(shenzhen):
    for i in range(1, 40, 2):
        (shenzhen / f"shenzhen_tb/images/{i}.jpg").unlink(missing_ok=True)
    refused = CliRunner().invoke(app, ["build", "shenzhen-tb", str(shenzhen), "--out", str(shenzhen / "m.csv")])
    assert "no image of label 1 can be listed (20 rows: image is not in the folder); put the files where" in str(refused.exception)
    assert not (shenzhen / "m.csv").exists()
