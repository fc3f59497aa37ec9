"""The files that a manifest lists: where each is, whether it is inside its folder, and whether it is the one of before.

None is opened but those that could not be opened before, and those of one size that may be copies.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import stat
import unicodedata
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sga_monai.core.errors import InputError, ReadError, first_of
from sga_monai.core.files import file_sha256
from sga_monai.imaging.read import read_bytes

MOST_NAMED = 5
# Bytes by which files of one size are compared first: a DICOM file's begin with its own UIDs.
END = 65_536
# Reasons that lie outside of a file: it is the same when it can be opened later.
OUTSIDE = ("missing", "no_access")


class FileState(NamedTuple):
    """What differs after a file was written again.

    Attributes:
        size: in bytes.
        mtime_ns: of the last change.
    """

    size: int
    mtime_ns: int


def file_states(rows: Sequence[Mapping[str, str]], dataset_dir: str | Path, name: str) -> dict[str, FileState | None]:
    """The state of each row's image, by the row's number; ``None`` where it is no file inside ``dataset_dir``.

    Args:
        rows: of ``read_manifest``.
        dataset_dir: the folder that ``image`` is relative to.
        name: of the manifest, for messages.

    Raises:
        InputError: when ``dataset_dir`` is no folder, or an image leads outside it through a link.
    """
    if not Path(dataset_dir).is_dir():
        raise InputError(f"dataset_dir is not a folder; it must be the one that the images of {name} are relative to")
    root = Path(dataset_dir).resolve()
    inside: dict[str, bool] = {}
    states: dict[str, FileState | None] = {}
    outside = []
    start = os.path.join(root, "")
    for row in rows:
        image = on_disk(start, row["image"])
        folder = posixpath.dirname(image)
        found, here = None, True
        try:
            if folder not in inside:
                inside[folder] = (root / folder).resolve().is_relative_to(root)
            here, path = inside[folder], start + image
            found = os.lstat(path)
            if stat.S_ISLNK(found.st_mode):
                target = Path(path).resolve()
                here, found = target.is_relative_to(root), os.stat(path)
        except (OSError, ValueError, RuntimeError):
            found = None
        if not here:
            outside.append(row["row"])
            continue
        there = found is not None and stat.S_ISREG(found.st_mode)
        states[row["row"]] = FileState(found.st_size, found.st_mtime_ns) if found is not None and there else None
    if outside:
        listed = ", ".join(outside[:MOST_NAMED])
        raise InputError(f"{name}: {len(outside)} images lie outside dataset_dir by way of a link (row {listed}); remove the rows")
    return states


def on_disk(root: str, image: str) -> str:
    """The path below ``root`` as it is on disk, where accents may be decomposed (macOS) while the manifest's are not."""
    if image.isascii() or os.path.lexists(os.path.join(root, image)):
        return image
    found = ""
    for part in image.split("/"):
        try:
            names = os.listdir(os.path.join(root, found))
        except OSError:
            return image
        wanted = unicodedata.normalize("NFC", part)
        found = posixpath.join(found, next((name for name in names if unicodedata.normalize("NFC", name) == wanted), part))
    return found


def is_back(path: str, code: str) -> bool:
    """Whether an image that could not be opened can be now: a share was away, or access has been given since.

    Args:
        path: of the image.
        code: the reason of its failure, a key of ``REASONS``.
    """
    if code not in OUTSIDE:
        return False
    try:
        read_bytes(path)
    except ReadError as error:
        # A folder of that name is listed as missing, too.
        return error.code not in (*OUTSIDE, "not_a_file")
    return True


def any_is_back(failed: Mapping[str, Iterable[int]], rows: Iterable[Mapping[str, str]], dataset_dir: str | Path) -> bool:
    """Whether any of the rows that failed ``is_back``.

    Args:
        failed: numbers of rows by the reason of their failure.
        rows: of ``read_manifest``.
        dataset_dir: the folder that ``image`` is relative to.
    """
    codes = {number: code for code in OUTSIDE for number in failed.get(code, ())}
    start = os.path.join(Path(dataset_dir).resolve(), "")
    listed = ((row["image"], codes[int(row["row"])]) for row in rows if int(row["row"]) in codes)
    return any(is_back(start + on_disk(start, image), code) for image, code in listed)


def refuse_copies(items: Sequence[Mapping[str, Any]], name: str) -> None:
    """Refuse one file under two rows, a case counted twice, before any image is decoded.

    Files of one size are compared by both ends, and whole where these are equal.

    Args:
        items: data dictionaries of ``load_manifest``; those that cannot be read are left out.
        name: of the set, for messages.

    Raises:
        InputError: naming the first pairs of rows.
    """
    alike: list[Sequence[Mapping[str, Any]]] = [items]
    for key in (_size, _ends, file_sha256):
        alike = [rows for some in alike for rows in _equal(some, key)]
    pairs = [f"row {first['row']} and row {other['row']}" for first, *others in alike for other in others]
    if pairs:
        remedy = f"remove one{' of each' if len(pairs) > 1 else ''}"
        raise InputError(f"{name}: {first_of(pairs)} are the same file, byte for byte; {remedy}")


def _equal(items: Sequence[Mapping[str, Any]], key: Callable[[str], Hashable]) -> list[list[Mapping[str, Any]]]:
    """The items that share a key of their image with another; those that cannot be read are left out."""
    found: dict[Hashable, list[Mapping[str, Any]]] = {}
    for item in items:
        with suppress(OSError):
            found.setdefault(key(item["image"]), []).append(item)
    return [some for some in found.values() if len(some) > 1]


def _size(path: str) -> int:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise FileNotFoundError
    return found.st_size


def _ends(path: str) -> bytes:
    with open(path, "rb") as stream:
        first = stream.read(END)
        stream.seek(max(os.path.getsize(path) - END, 0))
        return hashlib.sha256(first + stream.read(END)).digest()


def files_sha256(
    items: Iterable[Mapping[str, Any]],
    states: Mapping[str, FileState | None],
    dataset_dir: str | Path,
    masks: Mapping[int, Path] | None = None,
) -> str:
    """SHA-256 of every row with its patient's name, path, size and time of the last change: another one after any of them has changed.

    A patient's name depends on the site's key, and a manifest without ``sha256`` is the same after a file was exported again.
    No file is opened, so two files of one size and time are taken for the same.

    Args:
        items: data dictionaries of ``load_manifest``.
        states: of the same call.
        dataset_dir: paths are taken relative to it, so a folder that was moved with its times is the same.
        masks: the lung masks of ``find_lung_masks``.
    """
    start = os.path.join(Path(dataset_dir).resolve(), "")
    digest = hashlib.sha256()
    for item in items:
        row = item["row"]
        facts = [row, item["patient"], item["image"].removeprefix(start), *(states.get(str(row)) or ())]
        if masks and row in masks:
            mask = masks[row].stat()
            facts += [mask.st_size, mask.st_mtime_ns]
        digest.update(repr(facts).encode() + b"\n")
    return digest.hexdigest()
