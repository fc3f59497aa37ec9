"""Outputs that must not take the place of what a command reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from sga_monai.core.errors import InputError


def refuse_inputs(option: str, output: Path | None, inputs: Iterable[Path | None]) -> None:
    """Refuse an output that would replace an input of the same command, under whatever name.

    Args:
        option: as it is typed, such as ``--out``.
        output: the file that would be written; ``None`` where the option is not given.
        inputs: the files that are read; ``None`` where an option is not given.

    Raises:
        InputError: naming the option and the input.
    """
    for path in inputs:
        if output is not None and path is not None and is_same(output, path):
            raise InputError(f"{option} would replace {path.name}, which is read; give another path")


def refuse_other_kind(option: str, output: Path | None, is_own: Callable[[Path], bool], kind: str) -> None:
    """Refuse to replace a file that no earlier call can have written there: a slip of the keyboard must not cost a site its key.

    Args:
        option: as it is typed, such as ``--out``.
        output: the file that would be written; ``None`` where the option is not given.
        is_own: whether a file is one that this option writes.
        kind: what that is, for the message.

    Raises:
        InputError: naming the option, not the file, whose name may be a patient's.
    """
    if output is not None and output.is_dir():
        raise InputError(f"{option} is a folder; give the path of a file")
    if output is not None and output.exists() and not is_own(output):
        raise InputError(f"{option} would replace a file that is no {kind}; give another path")


def refuse_inside(option: str, output: Path, folder: Path, name: str) -> None:
    """Refuse an output that is a folder which is read, or lies inside it.

    Args:
        option: as it is typed.
        output: the file or folder that would be written.
        folder: what must stay as it is.
        name: of that folder, for the message.

    Raises:
        InputError: naming the option and ``name``.
    """
    # A link is followed, and also looked at where it lies: a file is written in its place.
    places = (output.resolve(), output.parent.resolve() / output.name)
    if any(is_same(parent, folder) for place in places for parent in (place, *place.parents)):
        raise InputError(f"{option} lies inside {name}, which must stay as it is; give a path elsewhere")


def refuse_around(option: str, folder: Path, inputs: Mapping[str, str | Path | None]) -> None:
    """Refuse a folder that an input lies in, since it may be moved aside, and the input with it.

    Args:
        option: as it is typed.
        folder: where outputs go.
        inputs: files and folders that are read, by their name for the message; ``None`` where one is not given.

    Raises:
        InputError: naming the option and the input.
    """
    for name, path in inputs.items():
        if path is not None and any(is_same(parent, folder) for parent in (Path(path).resolve(), *Path(path).resolve().parents)):
            raise InputError(f"{option} is a folder that the {name} is in; give another")


def is_same(path: Path, other: Path) -> bool:
    """Whether two paths lead to one file or folder, which need not exist: by a link, or another spelling."""
    try:
        return path.samefile(other)
    except OSError:
        return path.resolve() == other.resolve()
