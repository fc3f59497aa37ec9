"""Files written whole or not at all, and tables that a spreadsheet cannot take for formulas."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sga_monai.core.errors import DISK, DiskError, InputError

if TYPE_CHECKING:
    import pandas as pd

# What a file system answers that has no fsync of folders, as some of networks and of FUSE.
NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write ``path`` by way of a temporary file beside it, so that a crash or a full disk leaves the old content.

    Args:
        path: where the content ends up; its folder is made.
        write: writes the content to the path that it is given.

    Raises:
        DiskError: naming the file, when the disk will not take it. No temporary file stays.
    """
    if path.is_dir():
        # A path such as "." has no name that a file beside it could have.
        raise DiskError(path.name or "a file", errno.EISDIR)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        with temporary.open("r+b") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in DISK:
            raise DiskError(path.name, error.errno) from None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_utf8(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all.

    Raises:
        DiskError: see ``write_whole``.
    """
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes, whole or not at all.

    Raises:
        DiskError: see ``write_whole``.
    """
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def read_json(path: str | Path) -> Any:
    """The content of a JSON file, with the mark that Windows puts before a text or without it.

    Raises:
        OSError: when it cannot be read.
        ValueError: when it is no JSON in UTF-8.
    """
    return json.loads(Path(path).read_text(encoding="utf-8-sig"))


def copy_folder(source: Path, target: Path, ignore: Sequence[str] = (), *, into: bool = False) -> None:
    """Copy a folder with all that is in it.

    Args:
        source: the folder.
        target: the new one; its parent is made.
        ignore: patterns of names that are left out.
        into: ``target`` may be there.

    Raises:
        DiskError: naming the first file that could not be copied, where ``shutil.copytree`` would copy on and then list all.
    """

    def copy(one: str, other: str) -> None:
        try:
            shutil.copy2(one, other)
        except OSError as error:
            raise DiskError(f"a copy of {Path(one).name}", error.errno or 0) from None

    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*ignore), copy_function=copy, dirs_exist_ok=into)


def read_earlier(path: Path) -> dict[str, Any]:
    """A JSON file of an earlier call; empty where it is absent or was cut."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_json(path: Path, content: Any, *, indent: int | None = 1, sort_keys: bool = False) -> None:
    """Write ``plain(content)`` as JSON, whole or not at all.

    Args:
        path: where it ends up.
        content: what ``json`` can write, and NumPy's numbers.
        indent: spaces of a level; ``None`` puts everything on one line, for long arrays.
        sort_keys: equal content gives equal bytes, in whatever order it was put together.

    Raises:
        DiskError: see ``write_whole``.
    """
    write_utf8(path, json.dumps(plain(content), indent=indent, sort_keys=sort_keys, allow_nan=False) + "\n")


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file as 64 hexadecimal digits; the file may be larger than memory."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, without which a rename may be lost in a power failure."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            # The file is in its place all the same.
            if error.errno not in NO_SYNC:
                raise
        finally:
            os.close(descriptor)


def write_csv(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV, whole or not at all.

    Raises:
        InputError: when a text begins like a formula, which a spreadsheet would run.
        DiskError: see ``write_whole``.
    """
    for column in table.select_dtypes(exclude="number"):
        for value in (str(column), *table[column].unique()):
            if isinstance(value, str) and value.startswith(FORMULA):
                raise InputError(f"{path.name}: a cell of column {column!r} would begin with {value[0]!r}; rename what it names")
    write_whole(path, lambda temporary: table.to_csv(temporary, index=False, lineterminator="\n"))


def plain(value: Any) -> Any:
    """Plain JSON values: NaN and infinity, which are not JSON, as null; NumPy's numbers as Python's."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    # NumPy's numbers, without importing NumPy for those who have none.
    if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
