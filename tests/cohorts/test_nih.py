from __future__ import annotations

import pytest

from sga_monai.cohorts.nih import nih_view, read_nih_pneumonia
from sga_monai.core.errors import InputError

HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position"
LINES = (
    "a.png,Pneumonia|Edema,0,1,058Y,M,PA",
    "b.png,No Finding,0,2,31,F,PA",
    "c.png,No Finding,0,2,31,F,AP",
    "d.png,Mass,0,3,31,F,AP",
    "e.png,No Finding,0,2,31,F,AP",
    "f.png,Pneumonia,0,4,70,F,AP",
)


@pytest.fixture
def nih(tmp_path):
    (tmp_path / "nih/images").mkdir(parents=True)
    (tmp_path / "nih/Data_Entry_2017.csv").write_text("\n".join((HEADER, *LINES)) + "\n")
    for name in "abcdef":
        # c and e are one file under two names.
        (tmp_path / f"nih/images/{name}.png").write_bytes(b"c" if name == "e" else name.encode())
    return tmp_path


@pytest.mark.parametrize(("view", "expected"), [("PA", {"a": "1", "b": "0"}), ("AP", {"c": "0", "f": "1"})])
def test_a_view_holds_pneumonia_and_no_finding_of_that_view_alone(nih, view, expected):
    rows = [row for row in nih_view(nih, view=view) if not row["dropped"]]
    assert {row["image"].removeprefix("nih/images/").removesuffix(".png"): row["label"] for row in rows} == expected
    assert {row["split"] for row in rows} == {"test"}
    assert {row["negative_type"] for row in rows if row["label"] == "0"} == {"healthy"}


def test_images_of_an_archive_that_was_not_fetched_are_dropped_and_counted(nih):
    (nih / "nih/images/a.png").unlink()
    rows = nih_view(nih, view="PA")
    assert [row["image"] for row in rows if not row["dropped"]] == ["nih/images/b.png"]


def test_a_row_without_a_patient_is_refused(nih):
    table = nih / "nih/Data_Entry_2017.csv"
    table.write_text(table.read_text().replace(",0,4,70", ",0,,70"))
    with pytest.raises(InputError, match=r"^Data_Entry_2017\.csv: row 7: patient id must not be empty"):
        nih_view(nih, view="AP")


def test_ages_of_both_versions_are_read(nih):
    assert [row["age"] for row in read_nih_pneumonia(nih)] == ["58", "70", "31", "31", "31"]
