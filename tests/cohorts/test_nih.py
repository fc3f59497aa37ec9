from __future__ import annotations

import pytest

from sga_monai.cohorts.nih import nih_view, read_nih_pneumonia

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


def test_ages_of_both_versions_are_read(nih):
    assert [row["age"] for row in read_nih_pneumonia(nih)] == ["58", "70", "31", "31", "31"]
