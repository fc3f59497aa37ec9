from __future__ import annotations

import errno
import hmac
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from fixtures import warm

from sga_monai.core.errors import InputError
from sga_monai.core.files import write_csv
from sga_monai.data.datalist import load_manifest
from sga_monai.data.manifest import check_external, read_manifest
from sga_monai.data.manifest_writer import write_manifest
from sga_monai.data.pseudonyms import new_site_key, read_site_key

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
        ("image,lable,patient_id,site,split\na.png,0,1,x,train\n", "column label is missing; is the header of column 2 meant"),
        ("image,label,label,patient_id,site,split\n", "twice"),
        (HEADER.strip() + ",color\na.png,0,1,x,train,red\n", "the header of column 6 is unknown"),
        (HEADER + "a.png,0,1,x\n", "row 2 has 4 cells"),
        (HEADER + 'a.png,0,"1,x,train\n', "not valid CSV"),
        (HEADER + "a.png,2,1,x,train\n", "row 2: label must be 0 or 1"),
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
        (HEADER + "link.png,0,1,x,train\n", "1 images lie outside dataset_dir by way of a link .row 2."),
        (HEADER + "none.png,0,1,x,train\n", "no image inside dataset_dir for 1 rows .row 2.: the file does not exist"),
        (HEADER.strip() + ",age\na.png,0,1,x,train,old\n", "age must be"),
        (HEADER.strip() + ",age\na.png,0,1,x,train,\uff16\uff17\n", "row 2: age must be"),
        (HEADER.strip() + ",age\na.png,0,1,x,train,\uff14\uff10-64\n", "row 2: age must be"),
        (HEADER.strip() + ",period\na.png,0,1,x,train,\uff12\uff10\uff12\uff11H1\n", "row 2: period must be a year"),
        (HEADER.strip() + ",label_delta_days\na.png,0,1,x,train,-\uff13\n", "row 2: label_delta_days must be a whole"),
        (HEADER.strip() + ',boxes\na.png,0,1,x,train,"[[1,2]]"\n', "boxes must be"),
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
    rows = [{"image": "a.png", "label": "1", "patient_id": 'p,"q', "site": "s", "split": "test", "view": "PA"}]
    write_manifest(folder / "o.csv", rows)
    back = read_manifest(folder / "o.csv")[0]
    assert {key: back[key] for key in rows[0]} == rows[0]
    assert (folder / "o.csv").read_text().startswith("image,label,patient_id,site,split,view\n")


CANARY = b"\x89PNG\r\n\x1a\n canary"
ATTACKS = [
    "../canary.png",
    "sub/../../canary.png",
    "./../canary.png",
    "../data-canary/canary.png",
    "/etc/passwd",
    "{outside}/canary.png",
    "~/canary.png",
    "..\\canary.png",
    "sub\\..\\..\\canary.png",
    "\\\\host\\share\\canary.png",
    "//host/share/canary.png",
    "C:/canary.png",
    "file:///{outside}/canary.png",
    "http://localhost:1/canary.png",
    "a.png\u202egnp",
    "/dev/zero",
    "/proc/self/environ",
    "",
]


@pytest.mark.parametrize("image", ATTACKS)
def test_paths_that_try_to_leave(folder, image):
    (folder / "canary.png").write_bytes(CANARY)
    (folder / "data-canary").mkdir()
    (folder / "data-canary/canary.png").write_bytes(CANARY)
    text = HEADER + f'"{image.format(outside=folder)}",0,1,x,test\n'
    with pytest.raises(InputError, match="row 2: image must be a relative path") as caught:
        load_manifest(write(folder, text), folder / "data")
    assert "canary" not in str(caught.value)


def test_links_that_leave_and_things_that_are_no_files(folder):
    data = folder / "data"
    (folder / "outside").mkdir()
    (folder / "outside/canary.png").write_bytes(CANARY)
    (data / "folder").symlink_to(folder / "outside")
    (data / "zero.png").symlink_to("/dev/zero")
    (data / "loop.png").symlink_to(data / "loop.png")
    (data / "inside.png").symlink_to(data / "a.png")
    os.mkfifo(data / "pipe.png")
    (data / "dir.png").mkdir()

    def load(image: str, **options: object) -> list:
        return load_manifest(write(folder, HEADER + f"{image},0,1,x,test\n"), data, **options)

    for image in ("folder/canary.png", "link.png", "zero.png"):
        for allow_missing in (False, True):
            with pytest.raises(InputError, match=r"1 images lie outside dataset_dir by way of a link \(row 2\)"):
                load(image, allow_missing=allow_missing)
    for image in ("loop.png", "pipe.png", "dir.png", "none.png", "a.png/b.png"):
        with pytest.raises(InputError, match="no image inside dataset_dir for 1 rows"):
            load(image)
        assert len(load(image, allow_missing=True)) == 1
    assert len(load("inside.png")) == 1


def test_a_link_into_dataset_dir_does_not_clear_the_folder_that_it_lies_in(folder):
    data, outside = folder / "data", folder / "outside"
    outside.mkdir()
    (outside / "x.png").write_bytes(CANARY)
    (outside / "back.png").symlink_to(data / "a.png")
    (data / "folder").symlink_to(outside)
    (data / "sub").mkdir()
    (data / "sub" / "leaving.png").symlink_to(outside / "x.png")
    (data / "sub" / "a.png").write_bytes(b"x")
    for images, row in (
        (("folder/back.png", "folder/x.png"), 3),
        (("folder/x.png", "folder/back.png"), 2),
        (("sub/leaving.png", "sub/a.png"), 2),
        (("sub/a.png", "sub/leaving.png"), 3),
    ):
        rows = "".join(f"{image},0,{i},x,test\n" for i, image in enumerate(images))
        with pytest.raises(InputError, match=rf"1 images lie outside dataset_dir by way of a link \(row {row}\)"):
            load_manifest(write(folder, HEADER + rows), data)


def test_the_canary_is_never_opened(folder):
    """Every file that Python opens is noted while all attacks are read, evaluated and checked."""
    data = folder / "data"
    (folder / "canary.png").write_bytes(CANARY)
    (folder / "data-canary").mkdir()
    (folder / "data-canary/canary.png").write_bytes(CANARY)
    (data / "leaving.png").symlink_to(folder / "canary.png")
    (data / "folder").symlink_to(folder / "data-canary")
    images = [image.format(outside=folder) for image in ATTACKS] + ["leaving.png", "folder/canary.png"]
    for i, image in enumerate(images):
        (folder / f"{i}.csv").write_text(HEADER + f'"{image}",0,1,x,test\na.png,1,2,x,test\n')
    program = """
import sys
opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
from sga_monai.data.transforms import preprocessing
from sga_monai.model.preparation import Preparation
from sga_monai.data.dataset import CXRDataset
from sga_monai.core.errors import InputError
from sga_monai.cohorts.inspection import inspect_manifest
from sga_monai.data.datalist import load_manifest
folder, count, chain = sys.argv[1], int(sys.argv[2]), preprocessing(Preparation(32))
refused = 0
for i in range(count):
    for use in (
        lambda path: CXRDataset(load_manifest(path, folder + "/data", allow_missing=True), chain, skip_failed=True),
        lambda path: inspect_manifest(path, folder + "/data"),
    ):
        try:
            use(f"{folder}/{i}.csv")
        except InputError:
            refused += 1
print(refused, sum(path.endswith(("canary.png", "leaving.png", "/etc/passwd", "/dev/zero", "environ")) for path in opened), len(opened))
"""
    command = [sys.executable, "-c", program, str(folder), str(len(images))]
    result = warm.run(command, check=True)
    refused, canaries, opened = map(int, result.stdout.split())
    assert refused == 2 * len(images)
    assert canaries == 0
    assert opened > len(images)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image;label;patient_id;site;split\na.png;0;1;x\n", "row 2 has 4 cells"),
        ("a.png,0,DOE^SECRET,x,test\n", "column image is missing; the first row must name the columns"),
        (HEADER + "a.png,0,MRN-1,x,test,more\n", "row 2 has 6 cells"),
        (HEADER + 'a.png,0,1,x,test\nb.png,"0"x,2,x,test\n', "row 3 is not valid CSV"),
        (HEADER + 'a.png,0,"LONG",x,test\n', "row 2 is not valid CSV .field larger"),
        (HEADER.encode() + "a.png,0,J\xfcrgen,x,test\n".encode("latin-1"), "not a UTF-8"),
        ((HEADER + "a.png,0,1,x,test\n").encode("utf-16"), "not a UTF-8"),
        (HEADER + "a.png,0,1\0,x,test\n", "row 2 holds NUL"),
        (HEADER + "a.png,Positive,1,x,test\n", "row 2: label must be 0 or 1"),
        (HEADER + "a.png,nan,1,x,test\n", "row 2: label must be 0 or 1"),
        (HEADER + "a.png,1.0,1,x,test\n", "row 2: label must be 0 or 1"),
        (HEADER.strip() + ",sha256\n" + "".join(f"{name}.png,0,{name},x,test,{'0' * 64}\n" for name in "ab"), "the sha256 of row 2"),
        (HEADER.strip() + ",sha256\na.png,0,1,x,test,123\n", "sha256 must be 64"),
        (HEADER.strip() + ",boxes\na.png,0,1,x,test,NESTED\n", "boxes must be"),
        (HEADER.strip() + ',boxes\na.png,0,1,x,test,"[[0,0,-3,4]]"\n', "boxes must be"),
        (HEADER.strip() + ',boxes\na.png,0,1,x,test,"[[NaN,0,3,4]]"\n', "boxes must be"),
        (HEADER.strip() + ',boxes\na.png,0,1,x,test,"[""1234""]"\n', "boxes must be"),
        (HEADER.strip() + ',boxes\na.png,0,1,x,test,"{""1234"": 0}"\n', "boxes must be"),
        (HEADER.strip() + ",lung_mask\na.png,0,1,x,test,../../etc/passwd\n", "lung_mask must be a relative path"),
    ],
)
def test_forms_that_are_refused_by_row(folder, content, message):
    content = content.replace("LONG", "x" * 300_000).replace("NESTED", "[" * 100_000) if isinstance(content, str) else content
    with pytest.raises(InputError, match=message) as caught:
        load_manifest(write(folder, content), folder / "data")
    assert not any(word in str(caught.value) for word in ("SECRET", "MRN", "J\xfcrgen"))


def test_a_pipe_is_no_manifest(tmp_path):
    os.mkfifo(tmp_path / "m.csv")
    with pytest.raises(InputError, match="not a file"):
        read_manifest(tmp_path / "m.csv")


def test_no_cell_that_is_written_is_a_formula(tmp_path):
    row = dict(zip(("image", "label", "patient_id", "site", "split"), ("a.png", "0", "p", "x", "test"), strict=True))
    for start in ("=", "+", "-", "@", "\t", "\r"):
        with pytest.raises(InputError, match="row 2: site begins like a formula"):
            write_manifest(tmp_path / "m.csv", [row | {"site": start + "1"}])
        with pytest.raises(InputError, match="cell of column 'set' would begin"):
            write_csv(tmp_path / "t.csv", pd.DataFrame({"set": [f"{start}cmd"], "score": [-1.0]}))
    write_csv(tmp_path / "t.csv", pd.DataFrame({"set": ["a"], "score": [-1.0]}))
    assert (tmp_path / "t.csv").read_text() == "set,score\na,-1.0\n"


def test_patients_are_named_by_the_sites_key(folder):
    new_site_key(folder / "a.key")
    new_site_key(folder / "b.key")
    assert (folder / "a.key").stat().st_mode & 0o077 == 0
    path = write(folder, HEADER + "a.png,0,MRN-1,x,test\nb.png,1, mrn-1 ,x,test\nc.png,1,MRN-2,x,test\n")
    names = {key: [row["patient"] for row in load_manifest(path, folder / "data", site_key=folder / f"{key}.key")] for key in "ab"}
    assert names["a"][0] == names["a"][1] != names["a"][2]
    assert not set(names["a"]) & set(names["b"])
    assert all(re.fullmatch("[0-9a-f]{16}", name) for name in names["a"])
    # RFC 2104 by the standard library's other implementation.
    key = read_site_key(folder / "a.key")
    assert names["a"][2] == hmac.digest(key, b"mrn-2", "sha256").hex()[:16]
    with pytest.raises(InputError, match="exists already"):
        new_site_key(folder / "a.key")
    (folder / "a.key").chmod(0o644)
    with pytest.raises(InputError, match="can be read by others"):
        load_manifest(path, folder / "data", site_key=folder / "a.key")
    (folder / "c.key").write_text("1234")
    (folder / "c.key").chmod(0o600)
    with pytest.raises(InputError, match="no key of"):
        read_site_key(folder / "c.key")
    with pytest.raises(InputError, match="no such file"):
        read_site_key(folder / "d.key")
    (folder / "folder").mkdir(mode=0o700)
    with pytest.raises(InputError, match="site_key cannot be opened"):
        read_site_key(folder / "folder")


def test_a_key_that_cannot_be_written_leaves_none(folder, monkeypatch):
    def full(_: int) -> str:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr("sga_monai.data.pseudonyms.secrets.token_hex", full)
        with pytest.raises(OSError, match="full"):
            new_site_key(folder / "a.key")
    new_site_key(folder / "a.key")
    assert len(read_site_key(folder / "a.key")) == 32


@pytest.mark.parametrize(("count", "most_s", "most_mb"), [(100_000, 6, 250), pytest.param(1_000_000, 60, 1000, marks=pytest.mark.slow)])
def test_a_million_rows(tmp_path, count, most_s, most_mb):
    """In a process of its own, whose peak memory is known; a tenth of the rows by default."""
    with (tmp_path / "m.csv").open("w") as stream:
        stream.write(HEADER)
        stream.writelines(f"images/{i // 1000:04d}/{i:08d}.dcm,{i % 2},P{i // 2:08d},site,test\n" for i in range(count))
    program = """
import sys, time
from sga_monai.data.listed_files import file_states
from sga_monai.data.manifest import read_manifest
began = time.process_time()
rows = read_manifest(sys.argv[1] + "/m.csv")
missing = [row for row, state in file_states(rows, sys.argv[1], "m.csv").items() if state is None]
peak = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(len(rows), len(missing), time.process_time() - began, peak / 1024)
"""
    result = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300)
    rows, missing, seconds, megabytes = result.stdout.split()
    assert (int(rows), int(missing)) == (count, count)
    assert float(megabytes) < most_mb
    assert float(seconds) < most_s


def test_other_splits_are_said_and_a_name_is_no_formula(folder, caplog):
    path = write(folder, HEADER + "a.png,0,1,x,test\nb.png,1,2,x,train\n")
    assert len(load_manifest(path, folder / "data", "test", allow_missing=True)) == 1
    assert "1 of 2 rows have another split than test and are left out" in caplog.text
    (folder / "=cmd.csv").write_text(path.read_text())
    with pytest.raises(InputError, match="name begins like a formula"):
        load_manifest(folder / "=cmd.csv", folder / "data")
