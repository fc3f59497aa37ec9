"""Where the files of a manifest are, and that a change of any of them is noticed without one being opened."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sga_monai.data.listed_files import FileState, file_states, files_sha256

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
