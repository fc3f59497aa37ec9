"""Where the files of a manifest are, and that a change of any of them is noticed without one being opened."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256
from sga_monai.data import listed_files
from sga_monai.data.listed_files import FileState, file_states, files_sha256, refuse_copies

ROWS = [{"row": str(i + 2), "image": f"a/{i}.png"} for i in range(3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    for i in range(2):
        (tmp_path / f"a/{i}.png").write_bytes(b"x" * (i + 1))
        os.utime(tmp_path / f"a/{i}.png", ns=(5, 10**18 + i))
    return tmp_path


def digest(folder: Path, patients: tuple[object, ...] = (0, 1, 2), masks: dict[int, Path] | None = None) -> str:
    start = f"{folder.resolve()}/"
    items = [
        {"row": int(row["row"]), "image": start + row["image"], "patient": patient} for row, patient in zip(ROWS, patients, strict=True)
    ]
    return files_sha256(items, file_states(ROWS, folder, "m.csv"), folder, masks)


def test_states_are_size_and_time_and_a_file_is_looked_at_once(folder, monkeypatch):
    seen = []
    look = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path, **options: (seen.append(path), look(path, **options))[1])
    (folder / "a/2.png").symlink_to(folder / "a/0.png")
    assert file_states(ROWS, folder, "m.csv") == {"2": FileState(1, 10**18), "3": FileState(2, 10**18 + 1), "4": FileState(1, 10**18)}
    assert [str(path) for path in seen].count(f"{folder.resolve()}/a/1.png") == 1
    (folder / "a/2.png").unlink()
    assert file_states(ROWS, folder, "m.csv")["4"] is None


def test_every_file_under_two_rows_is_named_and_few_are_opened(tmp_path, monkeypatch):
    whole = np.random.default_rng(0).bytes(300_000)
    contents = {2: whole, 3: b"short", 4: whole, 5: whole[:150_000] + b"!" + whole[150_001:], 6: b"short", 7: whole[::-1], 8: b"another"}
    for row, content in contents.items():
        (tmp_path / f"{row}.dcm").write_bytes(content)
    items = [{"row": row, "image": str(tmp_path / f"{row}.dcm")} for row in (*contents, 9)]
    read = []
    monkeypatch.setattr(listed_files, "file_sha256", lambda path: read.append(Path(path).stem) or file_sha256(path))
    with pytest.raises(InputError, match=r"^site: row 2 and row 4, row 3 and row 6 are the same file, byte for byte; remove one of each$"):
        refuse_copies(items, "site")
    # Those of another size, or with other ends, are not read.
    assert sorted(read) == ["2", "3", "4", "5", "6"]
    refuse_copies([item for item in items if item["row"] not in (4, 6)], "site")


def test_any_change_of_a_file_a_name_or_a_mask_is_another_digest(folder, tmp_path):
    mask = tmp_path / "mask.png"
    mask.write_bytes(b"x")
    found = [digest(folder), digest(folder, ("1f", 1, 2)), digest(folder, masks={3: mask})]
    assert digest(folder) == found[0]
    mask.write_bytes(b"xx")
    found.append(digest(folder, masks={3: mask}))
    os.utime(folder / "a/0.png", ns=(5, 10**18 + 7))
    found.append(digest(folder))
    (folder / "a/0.png").write_bytes(b"xyz")
    os.utime(folder / "a/0.png", ns=(5, 10**18 + 7))
    found.append(digest(folder))
    (folder / "a/2.png").write_bytes(b"x")
    found.append(digest(folder))
    # An equal one with its times elsewhere is the same; when a file was last read does not matter.
    os.utime(folder / "a/1.png", ns=(9, 10**18 + 1))
    moved = folder.rename(folder.with_name("moved"))
    assert digest(moved) == found[-1]
    assert len(set(found)) == len(found)
