"""Tables in CSV as people save them, with commas, semicolons, tabs or bars: read row by row, or refused in a sentence."""

from __future__ import annotations

import csv
import re
import sys
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from sga_monai.core.errors import InputError
from sga_monai.data.identity import same_id

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
# The name that pandas gives to a column without one.
UNNAMED = re.compile(r"(unnamed: \d+)?", re.IGNORECASE)
REMEDY = "save it as CSV UTF-8, with commas"
LONGEST_LINE = 1 << 20
SEP_LINE = re.compile(r"sep=[,;\t|]?", re.IGNORECASE)
SEPARATING = "".join(SEPARATORS) + ',"\r\n'


def read_cells(
    path: Path, known: Sequence[str], require: Sequence[str], few: Sequence[str] = (), ragged: list[str] | None = None
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a table one by one, so that a million of them needs no second copy in memory.

    Args:
        path: UTF-8, with or without a byte order mark, the first row naming the columns; see ``read_header`` for what separates them.
        known: the columns that may be there.
        require: the columns that must be there.
        few: columns with few different values, which are kept once each.
        ragged: gets a sentence for each row with another number of cells than the header, which is then left out; such a
            row is an error when ``None``.

    Yields:
        The number of the row, as a spreadsheet shows it, and its cells, stripped, by column. Empty rows are left out, and a cell in
        which nothing can be seen is empty.

    Raises:
        InputError: when the file is missing, no text in UTF-8 or no strict CSV, or its header is not as it must be.
    """
    name, number, header = path.name, 0, list[str]()
    first = Header(",", [], 0)
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{name} is not a file; give the path of a CSV file")
        first = read_header(path, known)
        number = first.above
        if not first.cells:
            raise InputError(f"{name} is empty")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            # No cell of ours is longer than the reader's limit; an unclosed quote would otherwise swallow the file.
            for _ in range(first.above):
                stream.readline(LONGEST_LINE)
            reader = csv.reader(stream, strict=True, delimiter=first.separator)
            for number, cells in enumerate(reader, first.above + 1):
                if any("\0" in cell for cell in cells):
                    raise InputError(f"{name}: row {number} holds NUL characters; {REMEDY}")
                # A spreadsheet numbers blank lines too, and writes rows of commas for those that were cleared.
                if not any(cell and not cell.isspace() for cell in cells):
                    continue
                if not header:
                    header = [sys.intern(cell.strip()) for cell in cells]
                    check_header(header, name, known, require)
                elif len(cells) != len(header):
                    sentence = f"row {number} has {len(cells)} cells, the header has {len(header)}"
                    if ragged is None:
                        raise InputError(f"{name}: {sentence}; put a cell that holds the separator in quotes")
                    ragged.append(sentence)
                else:
                    pairs = zip(header, cells, strict=True)
                    yield number, {key: sys.intern(_text(cell)) if key in few else _text(cell) for key, cell in pairs}
    except FileNotFoundError:
        raise InputError(f"no table {name}; check the path") from None
    except UnicodeDecodeError:
        raise InputError(f"{name} is not a UTF-8 text file; {REMEDY}") from None
    except OSError:
        raise InputError(f"{name} cannot be opened; close it in other programs, or ask for access") from None
    except csv.Error as error:
        if not header:
            # What is wrong with the header's names helps more.
            check_header(first.cells, name, known, require)
        raise InputError(f"{name}: row {number + 1} is not valid CSV ({error})") from None


class Header(NamedTuple):
    """Where and what the header of a table is.

    Attributes:
        separator: between cells.
        cells: empty where nothing but separators and space is in the file.
        above: lines before it.
    """

    separator: str
    cells: list[str]
    above: int


def read_header(path: Path, known: Sequence[str]) -> Header:
    """The first row that is not empty, divided by the separator that gives most of the known names, a comma where none does.

    A spreadsheet writes semicolons where its country has decimal commas, and may name the separator in a line ``sep=;`` first.

    Args:
        path: UTF-8.
        known: names of columns; capitals do not matter.

    Raises:
        OSError, UnicodeDecodeError: as reading the file does.
    """
    above, header = 0, ""
    with path.open(encoding="utf-8-sig") as stream:
        for line in iter(lambda: stream.readline(LONGEST_LINE), ""):
            empty = all(character in SEPARATING or character.isspace() for character in line)
            if not empty and not SEP_LINE.fullmatch(line.strip()):
                header = line
                break
            above += 1
    if not header:
        return Header(",", [], above)
    cells = {separator: _split(header, separator) for separator in (",", *SEPARATORS)}
    best = max(cells, key=lambda separator: len({cell.lower() for cell in cells[separator]} & set(known)))
    return Header(best, cells[best], above)


def _split(header: str, separator: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([header], delimiter=separator), [])]
    except csv.Error:
        # Longer than any of ours.
        return [header]


def _text(cell: str) -> str:
    text = cell.strip()
    # An id of invisible characters alone would be that of everyone who has none.
    return text if text.isascii() or same_id(text) else ""


def check_header(header: Sequence[str], name: str, known: Sequence[str], require: Sequence[str]) -> None:
    """Refuse a header that cannot be used. Only known names are quoted: where it was forgotten, its cells are a patient's.

    Raises:
        InputError: naming the separator, or the column by its number.
    """
    for separator, word in SEPARATORS.items():
        parts = [part.strip().strip('"').lower() for cell in header for part in cell.split(separator)]
        if len(parts) > len(header) and len(set(parts) & set(known)) > len({cell.lower() for cell in header} & set(known)):
            raise InputError(f"{name}: several cells are in one pair of quotes, separated by {word}; {REMEDY}")
    for column in known:
        if list(header).count(column) > 1:
            raise InputError(f"{name}: column {column} is there twice; remove one")
    unnamed = [i for i, column in enumerate(header, 1) if UNNAMED.fullmatch(column)]
    if unnamed == [1] and len(header) > 1:
        raise InputError(
            f"{name}: column 1 has no name, as pandas writes its index; write the table with index=False, or delete the column"
        )
    if unnamed:
        end = ", since the header ends with a separator" if unnamed[-1] == len(header) else ""
        raise InputError(f"{name}: column {unnamed[0]} has no name{end}; delete the column")
    unknown = [i for i, column in enumerate(header, 1) if column not in known]
    for column in require:
        if column not in header:
            near = [i for i in unknown if get_close_matches(column, [header[i - 1].lower()], cutoff=0.75)]
            hint = f"; is the header of column {near[0]} meant?" if near else "; the first row must name the columns"
            raise InputError(f"{name}: column {column} is missing{hint}")
    if unknown:
        raise InputError(f"{name}: the header of column {unknown[0]} is unknown; known are {', '.join(known)}")
