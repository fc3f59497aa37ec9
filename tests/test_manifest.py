from __future__ import annotations

from pathlib import Path

import pytest

from sga_monai.errors import InputError
from sga_monai.manifest import check_external, load_manifest, read_manifest, write_manifest

HEADER = "image,label,patient_id,site,split\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / "data" / name).write_bytes(b"x")
    (tmp_path / "secret.png").write_bytes(b"x")
    (tmp_path / "data" / "link.png").symlink_to(tmp_path / "secret.png")
    return tmp_path


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "m.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_good_manifest(folder):
    text = HEADER + "a.png,0,MRN-1,x,train\nb.png,1, mrn-1 ,x,train\n\nc.png,1,MRN-2,x,test\n"
    rows = load_manifest(write(folder, "\ufeff" + text), folder / "data")
    assert [(row["label"], row["row"], row["patient"], row["set"]) for row in rows] == [(0, 2, 0, "m"), (1, 3, 0, "m"), (1, 5, 1, "m")]
    assert not any("MRN" in str(value) for row in rows for value in row.values())
    assert len(load_manifest(folder / "m.csv", folder / "data", "test")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (HEADER, "no rows"),
        ("image,lable,patient_id,site,split\na.png,0,1,x,train\n", "column label is missing; is 'lable' meant"),
        ("image,label,label,patient_id,site,split\n", "twice"),
        (HEADER.strip() + ",color\na.png,0,1,x,train,red\n", "'color' is unknown"),
        (HEADER + "a.png,0,1,x\n", "row 2 has 4 cells"),
        (HEADER + 'a.png,0,"1,x,train\n', "not valid CSV"),
        (HEADER + "a.png,2,1,x,train\n", "row 2: label must be 0 or 1, got '2'"),
        (HEADER + "a.png,,1,x,train\n", "row 2: label"),
        (HEADER + "a.png,0.5,1,x,train\n", "row 2: label"),
        (HEADER + "a.png,0,1,x,dev\n", "row 2: split must be"),
        (HEADER + "a.png,0,,x,train\n", "row 2: patient_id is empty"),
        (HEADER + "a.png,0,1,x,train\n./a.png,0,1,x,train\n", "row 3 lists the image of row 2 again"),
        (HEADER + "a.png,0,P1,x,train\nb.png,0, p1,x,test\n", "row 3: the patient of row 2"),
        (HEADER + "../secret.png,0,1,x,train\n", "row 2: image must be a relative path"),
        (HEADER + "/etc/passwd,0,1,x,train\n", "row 2: image must be a relative path"),
        (HEADER + "http://x/a.png,0,1,x,train\n", "row 2: image must be a relative path"),
        (HEADER + "..\\secret.png,0,1,x,train\n", "row 2: image must be a relative path"),
        (HEADER + "link.png,0,1,x,train\n", "no image inside dataset_dir"),
        (HEADER + "none.png,0,1,x,train\n", "no image inside dataset_dir for 1 rows .row 2.: the file does not exist"),
        (HEADER.strip() + ",age\na.png,0,1,x,train,old\n", "age must be"),
        (HEADER.strip() + ",boxes\na.png,0,1,x,train,\"[[1,2]]\"\n", "boxes must be"),
        ((HEADER + "a.png,0,1,x,train\n").encode("utf-16"), "not a UTF-8"),
        (HEADER + "a.png,0,\0,x,train\n", "NUL"),
    ],
)
def test_refusals(folder, text, message):
    with pytest.raises(InputError, match=message):
        load_manifest(write(folder, text), folder / "data")


def test_missing_manifest_folder_and_split(folder):
    with pytest.raises(InputError, match=r"no manifest none\.csv"):
        load_manifest(folder / "none.csv", folder / "data")
    path = write(folder, HEADER + "a.png,0,1,x,train\n")
    with pytest.raises(InputError, match="dataset_dir is not a folder"):
        load_manifest(path, folder / "nowhere")
    with pytest.raises(InputError, match="no row with split val"):
        load_manifest(path, folder / "data", "val")


def test_images_without_labels(folder):
    rows = load_manifest(write(folder, "image\na.png\nb.png\n"), folder / "data", require=("image",))
    assert [row["label"] for row in rows] == [-1, -1]


def test_external_leakage_and_known_overlaps():
    training = [{"patient_id": "A1", "site": "siim", "row": "2"}]
    check_external(training, [{"patient_id": "b", "site": "cohen", "row": "2"}], "e.csv")
    with pytest.raises(InputError, match=r"1 rows have a patient of the training manifest \(row 9"):
        check_external(training, [{"patient_id": "a1", "site": "x", "row": "9"}], "e.csv")
    for other in ("BIMCV", "ricord"):
        with pytest.raises(InputError, match="holds radiographs of siim"):
            check_external(training, [{"patient_id": "z", "site": other, "row": "2"}], "e.csv")
    with pytest.raises(InputError, match="rsna"):
        check_external([{"patient_id": "z", "site": "nih", "row": "2"}], [{"patient_id": "y", "site": "rsna", "row": "2"}], "e.csv")


def test_round_trip(folder):
    rows = [{"image": "a.png", "label": "1", "patient_id": "p,\"q", "site": "s", "split": "test", "view": "PA"}]
    write_manifest(folder / "o.csv", rows)
    back = read_manifest(folder / "o.csv")[0]
    assert {key: back[key] for key in rows[0]} == rows[0]
    assert (folder / "o.csv").read_text().startswith("image,label,patient_id,site,split,view\n")
