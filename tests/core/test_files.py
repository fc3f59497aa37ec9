"""Files whole or not at all, JSON that is JSON, the SHA-256 of a file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import select
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sga_monai.core.errors import DiskError
from sga_monai.core.files import copy_folder, file_sha256, plain, write_json


def test_json_has_one_form(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"b": [1, None], "a": "é"})
    assert (tmp_path / "new/a.json").read_bytes() == b'{\n "b": [\n  1,\n  null\n ],\n "a": "\\u00e9"\n}\n'
    write_json(tmp_path / "a.json", {"b": [1], "a": 2}, indent=None, sort_keys=True)
    assert (tmp_path / "a.json").read_text() == '{"a": 2, "b": [1]}\n'


def test_numbers_of_numpy_and_those_that_json_has_not(tmp_path: Path) -> None:
    content = {1: np.float32(0.5), "n": np.int64(3), "flag": np.bool_(True), "none": [math.nan, np.float64("inf"), -math.inf], "t": (1, 2)}
    assert plain(content) == {"1": 0.5, "n": 3, "flag": True, "none": [None, None, None], "t": [1, 2]}
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text()) == plain(content)


def test_what_cannot_be_written_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json(path, {"new": object()})

    def full(_: Path, __: str, **___: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(DiskError, match=r"cannot write a\.json: no space"):
        write_json(path, {"new": 1})
    assert [file.name for file in tmp_path.iterdir()] == ["a.json"]
    assert json.loads(path.read_text()) == {"old": 1}


@pytest.mark.parametrize(("path", "name"), [(".", "a file"), ("..", r"\.\."), ("inner", "inner")])
def test_a_folder_is_not_replaced_by_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, name: str) -> None:
    """``release --out .`` ended in a traceback, since "." has no name."""
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DiskError, match=f"^cannot write {name}: the path is a folder; give the path of a file$"):
        write_json(Path(path), {})
    assert [file.name for file in tmp_path.iterdir()] == ["inner"]


@pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX alone")
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EIO])
def test_a_file_system_that_cannot_sync_folders_keeps_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    sync = os.fsync

    def refuse_folders(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, "refused")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    with pytest.raises(DiskError, match="the disk reports an error") if number == errno.EIO else contextlib.nullcontext():
        write_json(tmp_path / "a.json", {})


# The second waits with the file that the first takes away; the third comes with another.
INSIDE = """
import sys
from pathlib import Path
from sga_monai.core.folders import one_at_a_time
with one_at_a_time(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.skipif(os.name != "posix", reason="needs flock")
def test_who_waits_with_a_file_that_went_is_not_inside_with_the_next(tmp_path: Path) -> None:
    lock = tmp_path / "lock"

    def begin() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", INSIDE, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def is_inside(process: subprocess.Popen[str], seconds: float) -> bool:
        return bool(select.select([process.stdout], [], [], seconds)[0])

    with begin() as first:
        assert is_inside(first, 60)
        with begin() as second:
            # Long enough for it to open the file and wait.
            assert not is_inside(second, 2)
            first.communicate("\n")
            assert is_inside(second, 60)
            with begin() as third:
                assert not is_inside(third, 2)
                second.communicate("\n")
                assert is_inside(third, 60)
                third.communicate("\n")
    assert not lock.exists()


@pytest.mark.parametrize("size", [0, 1, 3_000_001])
def test_sha256_of_a_file(tmp_path: Path, size: int) -> None:
    data = np.random.default_rng(0).bytes(size)
    (tmp_path / "a").write_bytes(data)
    assert file_sha256(tmp_path / "a") == file_sha256(str(tmp_path / "a")) == hashlib.sha256(data).hexdigest()


def test_files_are_written_without_numpy_and_pandas() -> None:
    code = "import sys, sga_monai.core.files; assert not {'numpy', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_copy_for_which_there_is_no_room_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``shutil.copytree`` copies on and raises a list of paths, which ended in a traceback."""
    for name in ("a/model.pt", "a/.hidden", "a/inner/b"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "there").mkdir()
    copy_folder(tmp_path / "a", tmp_path / "there", (".*",), into=True)
    assert sorted(path.name for path in (tmp_path / "there").rglob("*")) == ["b", "inner", "model.pt"]

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/SECRET/model.pt")

    monkeypatch.setattr("shutil.copy2", full)
    with pytest.raises(DiskError, match=r"cannot write a copy of [\w.]+: no space is left on the disk; free some$"):
        copy_folder(tmp_path / "a", tmp_path / "b")
