"""What the builders of manifests share: a collection's own table, a row, equal files."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256
from sga_monai.data.manifest import Row

Table = list[dict[str, str]]
NOT_THERE = "image is not in the folder"
# What the cells of a column must match, and how that is said.
Rule = tuple[str, str]
# Two patients without an id would be one.
FILLED: Rule = (".+", "must not be empty")


def read_table(path: Path, require: Iterable[str] = (), rules: Mapping[str, Rule] | None = None) -> Table:
    """A collection's CSV with its header normalized (lower case, no spaces around), in UTF-8 or Latin-1; empty rows are left out.

    Each line also has ``row``, its number as a spreadsheet shows it.

    Args:
        path: the file.
        require: columns that must be there.
        rules: of some of them, for every row.

    Raises:
        InputError: when the file is missing, empty or no CSV, lacks a column of ``require``, or a row has too few or too many cells or
            breaks a rule.
    """
    if not path.is_file():
        raise InputError(f"no {path.name} in {path.parent.name}/; give the folder that holds the collections")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        lacking = [name for name in require if name not in header]
        if lacking:
            raise InputError(f"{path.name} lacks the column {lacking[0]}; is it the collection's own table?")
        lines = [(number, cells) for number, cells in enumerate(reader, 2) if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise InputError(f"{path.name}: row {reader.line_num} is not valid CSV ({error})") from None
    table = []
    for number, cells in lines:
        line = dict(zip(header, (cell.strip() for cell in cells), strict=False))
        if not set(require) <= set(line):
            raise InputError(f"{path.name}: row {number} has {len(cells)} cells, the header has {len(header)}; fill in or remove the row")
        if any(cell.strip() for cell in cells[len(header) :]):
            raise InputError(
                f"{path.name}: row {number} has {len(cells)} cells, the header has {len(header)}; put a cell that holds a comma in quotes"
            )
        for column, (pattern, words) in (rules or {}).items():
            if not re.fullmatch(pattern, line[column]):
                raise InputError(f"{path.name}: row {number}: {column} {words}")
        line["row"] = str(number)
        table.append(line)
    return table


def make_row(image: str, label: str, patient: str, site: str, view: str = "", sex: str = "", age: str = "") -> Row:
    """A row of a manifest with ``dropped`` empty; a sex that is not M or F and an age that is no number stay empty."""
    sex = sex.upper() if sex.upper() in ("M", "F") else ""
    years = re.fullmatch(r"\d{1,3}(\.\d+)?", age)
    return {
        "image": image,
        "label": label,
        "patient_id": patient,
        "site": site,
        "view": view.upper() if view not in ("", "?") else "",
        "sex": sex,
        "age": f"{float(age):g}" if years and float(age) <= 120 else "",
        "dropped": "",
    }


def missing(root: Path, row: Row) -> str:
    """Why a row whose image is not there is dropped, or ""."""
    return "" if (root / row["image"]).is_file() else NOT_THERE


def find_mask(root: Path, collection: str, image: str) -> str:
    """``lung_masks/<name of the image>.png`` of a collection, relative to ``root``; empty where there is none."""
    mask = f"{collection}/lung_masks/{Path(image).stem}.png"
    return mask if (root / mask).is_file() else ""


def refuse_shared_masks(rows: Sequence[Row], table: Table, name: str) -> None:
    """Refuse one mask for two images that are kept: ``find_mask`` goes by the image's name, whatever its folder and ending.

    Args:
        rows: of the lines of ``table``, with ``lung_mask`` and ``dropped``.
        table: of ``read_table``.
        name: of the table, for the message.

    Raises:
        InputError: naming the first two rows.
    """
    first: dict[str, str] = {}
    for row, line in zip(rows, table, strict=True):
        if row["lung_mask"] and not row["dropped"]:
            other = first.setdefault(row["lung_mask"], line["row"])
            if other != line["row"]:
                raise InputError(f"{name}: rows {other} and {line['row']} have images of one name, by which lung_masks/ goes; rename one")


def kept_rows(rows: Iterable[Row]) -> list[Row]:
    """The rows that are not dropped.

    Raises:
        InputError: when all of one label are, as where a folder was not fetched, with the most frequent reasons.
    """
    rows = list(rows)
    kept = [row for row in rows if not row["dropped"]]
    for label in {"0", "1"} - {row["label"] for row in kept}:
        reasons = Counter(row["dropped"] for row in rows if row["label"] == label or not kept)
        named = "; ".join(f"{count} rows: {reason}" for reason, count in reasons.most_common(3)) or "the table has none"
        raise InputError(
            f"no image{f' of label {label}' if kept else ''} can be listed ({named}); put the files where data_manifests/README.md says"
        )
    return kept


def all_test(rows: list[Row]) -> list[Row]:
    """The rows with ``split`` "test"."""
    return [row | {"split": "test"} for row in rows]


def find_copies(root: Path, rows: Sequence[Row]) -> list[list[int]]:
    """Positions of the kept rows whose files are equal byte for byte, one list for each such file."""
    positions: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        path = root / row["image"]
        if not row["dropped"] and path.is_file():
            positions.setdefault(file_sha256(path), []).append(i)
    return [group for group in positions.values() if len(group) > 1]


def drop_copies(rows: Sequence[Row], copies: Iterable[Sequence[int]]) -> list[Row]:
    """Drop copies of a file: all but one where the labels agree (the first with boxes, or the first), all where they differ.

    Args:
        rows: with ``dropped``.
        copies: of ``find_copies``.
    """
    reasons: dict[int, str] = {}
    for group in copies:
        if len({rows[i]["label"] for i in group}) > 1:
            reasons |= dict.fromkeys(group, "equal byte for byte to an image of the other label")
            continue
        keep = next((i for i in group if rows[i].get("boxes")), group[0])
        reasons |= dict.fromkeys((i for i in group if i != keep), "equal byte for byte to another image")
    return [row | {"dropped": reasons.get(i, row["dropped"])} for i, row in enumerate(rows)]
