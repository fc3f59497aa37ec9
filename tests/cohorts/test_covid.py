from __future__ import annotations

from pathlib import Path

import pytest

from sga_monai.cohorts.covid import read_cohen, read_hannover
from sga_monai.core.errors import InputError


def test_a_wrong_table_is_named(tmp_path):
    (tmp_path / "cohen").mkdir()
    for text in ("a,b\n1,2\n", ""):
        (tmp_path / "cohen/metadata.csv").write_text(text)
        with pytest.raises(InputError, match=r"metadata\.csv lacks the column patientid"):
            read_cohen(tmp_path)


def cohen_table(root: Path, header: str, lines: list[str]) -> list[dict[str, str]]:
    (root / "cohen/images").mkdir(parents=True)
    (root / "cohen/metadata.csv").write_text("\n".join([header, *lines]) + "\n", encoding="latin-1")
    for i in range(len(lines)):
        (root / f"cohen/images/{i}.jpg").write_bytes(b"x")
    return read_cohen(root)


@pytest.mark.parametrize(
    "header",
    ["patientid,sex,age,finding,view,modality,folder,filename", "Patientid, sex, age, finding, view, modality, folder, filename"],
)
def test_both_cohen_styles_and_header_variants(tmp_path, header):
    findings = ["COVID-19", '"COVID-19, ARDS"', "Pneumonia/Viral/COVID-19", "Pneumonia/Viral/SARS", "Streptococcus", "No Finding", "todo"]
    lines = [f"{i},M,60,{finding},PA,X-ray,images,{i}.jpg" for i, finding in enumerate(findings)]
    lines[0] = lines[0].replace("60", "60.0")
    rows = cohen_table(tmp_path, header, lines)
    assert [row["label"] for row in rows] == ["1", "1", "1", "0", "0", "0", "0"]
    assert [bool(row["dropped"]) for row in rows] == [False] * 5 + [True] * 2
    assert rows[0]["age"] == "60"


def test_images_of_hannover_that_are_not_there_are_dropped_and_counted(tmp_path):
    (tmp_path / "hannover/dicom").mkdir(parents=True)
    (tmp_path / "hannover/dicom/a.dcm").touch()
    (tmp_path / "hannover/data.csv").write_text("patient_id,image_id,sex,age,projection\n1,a,f,,pa\n2,b,m,,ap\n3,c,m,,lateral\n")
    assert [row["dropped"] for row in read_hannover(tmp_path)] == ["", "image is not in the folder", "view is not PA or AP"]
