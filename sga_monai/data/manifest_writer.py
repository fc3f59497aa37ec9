"""Manifests as they are written: in one schema, and never in the place of a file that is none."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from sga_monai.core.errors import InputError
from sga_monai.core.files import FORMULA, write_whole
from sga_monai.data.manifest import OPTIONAL, REQUIRED, Row, read_manifest


def write_manifest(path: str | Path, rows: Iterable[Row], columns: Sequence[str] = REQUIRED + OPTIONAL) -> None:
    """Write rows as a manifest with Unix line ends; columns that are empty in every row and optional are left out.

    Raises:
        InputError: naming the row of a cell that a spreadsheet would take for a formula.
    """
    rows = list(rows)
    columns = [column for column in columns if column in REQUIRED or any(row.get(column) for row in rows)]
    for number, row in enumerate(rows, 2):
        for column in columns:
            # A negative number of days is a number, not a formula.
            if column != "label_delta_days" and str(row.get(column, "")).startswith(FORMULA):
                raise InputError(f"row {number}: {column} begins like a formula, which a spreadsheet would run; put a letter before it")
    with Path(path).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def replace_manifest(path: Path, rows: Iterable[Row]) -> None:
    """Write a manifest that ``read_manifest`` takes, in place of an earlier one, or none.

    Raises:
        InputError: see ``write_manifest`` and ``read_manifest``.
        DiskError: see ``write_whole``.
    """

    def write(draft: Path) -> None:
        write_manifest(draft, rows)
        try:
            read_manifest(draft)
        except InputError as error:
            raise InputError(f"{path.name}{str(error).removeprefix(draft.name)}") from None

    write_whole(path, write)


def refuse_other_file(option: str, output: Path) -> None:
    """Refuse to put a manifest in the place of a file that is none: an image, a lung mask, another table.

    Args:
        option: as it is typed, such as ``--out``.
        output: where the manifest would be written.

    Raises:
        InputError: without the file's name, which may be a patient's.
    """
    if not output.exists():
        return
    try:
        read_manifest(output)
    except InputError:
        raise InputError(f"{option} would replace a file that is no manifest; give another path") from None
