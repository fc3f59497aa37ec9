from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT

from sga_monai.cohorts import public as sources
from sga_monai.cohorts import splits
from sga_monai.core.errors import InputError
from sga_monai.data.manifest import check_external, read_manifest, write_manifest

COMMITTED = ("hannover_nih", "cohen_nih", "cohen", "siim")


@pytest.mark.parametrize("name", COMMITTED)
def test_committed_manifests_are_valid(name):
    rows = read_manifest(ROOT / "data_manifests" / f"{name}.csv")
    assert {row["label"] for row in rows} == {"0", "1"}


def test_external_manifests_share_no_patient_with_training():
    training = read_manifest(ROOT / "data_manifests/hannover_nih.csv")
    for name in ("cohen_nih", "cohen"):
        check_external(training, read_manifest(ROOT / f"data_manifests/{name}.csv"), name)


@pytest.mark.real
@pytest.mark.parametrize("name", COMMITTED)
def test_builders_reproduce_the_committed_manifests(real_data, tmp_path, name):
    rows = sources.BUILDERS[name.replace("_", "-")](real_data, seed=0)
    write_manifest(tmp_path / "m.csv", [row for row in rows if not row["dropped"]])
    assert (tmp_path / "m.csv").read_bytes() == (ROOT / f"data_manifests/{name}.csv").read_bytes()


def test_no_image_of_hannover_is_in_an_external_manifest():
    stems = {name: {Path(row["image"]).stem for row in read_manifest(ROOT / f"data_manifests/{name}.csv")} for name in COMMITTED}
    assert not stems["hannover_nih"] & stems["cohen"]
    assert not stems["hannover_nih"] & stems["cohen_nih"]


def test_a_wrong_table_is_named(tmp_path):
    (tmp_path / "cohen").mkdir()
    for text in ("a,b\n1,2\n", ""):
        (tmp_path / "cohen/metadata.csv").write_text(text)
        with pytest.raises(InputError, match=r"metadata\.csv lacks the column patientid"):
            sources.read_cohen(tmp_path)


def rows_of(n: int) -> list[dict[str, str]]:
    return [{"patient_id": f"p{i % 40}", "label": str(i % 40 % 2), "dropped": ""} for i in range(n)]


def test_split_is_by_patient_stratified_and_seeded():
    rows = sources.split_by_patient(rows_of(200), 0)
    patients = {split: {row["patient_id"] for row in rows if row["split"] == split} for split in ("train", "val", "test")}
    assert not patients["train"] & patients["val"]
    assert not patients["train"] & patients["test"]
    for split, share in splits.SPLIT_SHARES.items():
        for label in "01":
            count = sum(row["split"] == split and row["label"] == label for row in rows)
            assert count == pytest.approx(100 * share, abs=5)
    assert rows == sources.split_by_patient(rows_of(200), 0)
    assert rows != sources.split_by_patient(rows_of(200), 1)


def cohen_table(root: Path, header: str, lines: list[str]) -> list[dict[str, str]]:
    (root / "cohen/images").mkdir(parents=True)
    (root / "cohen/metadata.csv").write_text("\n".join([header, *lines]) + "\n", encoding="latin-1")
    for i in range(len(lines)):
        (root / f"cohen/images/{i}.jpg").write_bytes(b"x")
    return sources.read_cohen(root)


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
    rows = sources.read_siim(siim_folder(tmp_path), rule)
    assert "".join(row["label"] for row in rows) == labels
    assert rows[0]["boxes"] == "[[1.5, 2.0, 3.0, 4.0]]"
    assert rows[0]["patient_id"] == "siim-s1"


def test_siim_drops_unboxed_duplicates_and_refuses_unknown_rules(tmp_path):
    rows = sources.read_siim(siim_folder(tmp_path), drop_unboxed_duplicates=True)
    assert [bool(row["dropped"]) for row in rows] == [False, True, False, False]
    with pytest.raises(InputError, match="rule must be"):
        sources.read_siim(tmp_path, "any")
    with pytest.raises(InputError, match=r"no train_study_level\.csv"):
        sources.read_siim(tmp_path / "siim")
