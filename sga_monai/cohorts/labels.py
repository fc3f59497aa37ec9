"""A site's table of labels, and its join with the files: both sides are counted, and what does not fit is explained."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from sga_monai.cohorts.header_values import is_possible, parse_date
from sga_monai.core.errors import InputError, first_of
from sga_monai.core.text import ALPHABET_IN_WORDS, plain_text
from sga_monai.data.identity import damaged_ids, same_id, same_name
from sga_monai.data.tables import read_cells

# Most particular first.
KEYS = ("image", "accession", "patient_id")
COLUMNS = (*KEYS, "label", "label_date", "negative_type")
# In a DICOM header each key goes by this keyword.
KEYWORDS = {"accession": "AccessionNumber", "patient_id": "PatientID"}
IMPOSSIBLE = "label_date is no possible day, taken as empty"
RESPELLED = f"negative_type is written in {ALPHABET_IN_WORDS}"
MOST_ROWS = 20
REPEATED = "patient_id, label_date or negative_type differs from an earlier row of the same key; the earlier row is taken"


@dataclass(frozen=True)
class Label:
    """One row of the table.

    Attributes:
        label: 0 or 1.
        patient_id: as it was given.
        label_date: when the label was given, where that is a possible day.
        negative_type: in the alphabet of a release.
    """

    label: int
    patient_id: str
    label_date: date | None
    negative_type: str

    @property
    def details(self) -> tuple[str, date | None, str]:
        """What two rows of one key and label may differ in."""
        return same_id(self.patient_id), self.label_date, self.negative_type


@dataclass
class Labels:
    """The labels by kind of key and key, and which of them found a file.

    Attributes:
        table: each label under the most particular key that its row has.
        warnings: what was changed, and ids that look damaged.
        fit: keys of labels that a file fits; True where such a file is listed.
        rows: where each key is first, as a spreadsheet numbers them.
        disagree: rows of two labels that fit one file and differ, the one that is taken first.
    """

    table: dict[tuple[str, str], Label] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    fit: dict[tuple[str, str], bool] = field(default_factory=dict)
    rows: dict[tuple[str, str], int] = field(default_factory=dict)
    disagree: set[tuple[int, int]] = field(default_factory=set)

    def of(self, keys: Mapping[str, str]) -> Label | None:
        """The most particular label of a file with these keys."""
        found = self._known(keys)
        for key in found:
            self.fit.setdefault(key, False)
            if self.table[key].label != self.table[found[0]].label:
                self.disagree.add((self.rows[found[0]], self.rows[key]))
        return self.table[found[0]] if found else None

    def list_file(self, keys: Mapping[str, str]) -> None:
        """Note that a file with these keys is listed."""
        self.fit |= dict.fromkeys(self._known(keys), True)

    def _known(self, keys: Mapping[str, str]) -> list[tuple[str, str]]:
        """Those of a file's keys that the table has; an empty one is none."""
        return [(kind, keys[kind]) for kind in KEYS if keys.get(kind) and (kind, keys[kind]) in self.table]

    def count(self) -> dict[str, list[int]]:
        """Labels that no listed image has: number, label 1, label 0."""
        lines: dict[str, list[int]] = {}
        for key, label in self.table.items():
            if not self.fit.get(key, False):
                name = "labels whose images are all left out" if key in self.fit else "labels without an image"
                line = lines.setdefault(name, [0, 0, 0])
                line[0] += 1
                line[2 - label.label] += 1
        return lines

    def disagreements(self) -> list[str]:
        """A sentence where files fit labels that differ."""
        if not self.disagree:
            return []
        first, second = min(self.disagree)
        return [
            f"{len(self.disagree)} pairs of rows label the same image differently, such as rows {first} and {second}; the more particular "
            f"key counts ({', '.join(KEYS)}, in this order)"
        ]

    def explain(self, keys: Sequence[Mapping[str, str]]) -> list[str]:
        """Where the labels without a listed image are, which keys were tried, and what would make more labels fit.

        Args:
            keys: of every image.
        """
        rows = [self.rows[key] for key in self.table if not self.fit.get(key, False)]
        sentences = [f"labels that no listed image has are in row {first_of(rows, MOST_ROWS)}"] if rows else []
        known = {kind: {file[kind] for file in keys if file.get(kind)} for kind in KEYS}
        for kind in KEYS:
            mine = {key for of, key in self.table if of == kind}
            left = {key for key in mine if (kind, key) not in self.fit}
            if not left:
                continue
            there = f"{len(known[kind])} different {KEYWORDS.get(kind, 'paths')} in the files"
            sentences.append(f"tried by {kind}: {len(mine) - len(left)} of {len(mine)} labels fit ({there})")
            sentences += [f"{sum(map(fits, left))} would fit {how}" for how, fits in _remedies(kind, known) if any(map(fits, left))]
        return sentences


def _remedies(kind: str, known: Mapping[str, set[str]]) -> list[tuple[str, Callable[[str], bool]]]:
    """Ways in which a key that fits no file would fit one."""
    if kind == "image":
        ends, lower = {path.rsplit("/", 1)[-1] for path in known[kind]}, {path.casefold() for path in known[kind]}
        return [
            ("by the name of the file alone: give its path below the folder", lambda key: key.rsplit("/", 1)[-1] in ends),
            ("in other capitals", lambda key: key.casefold() in lower),
        ]
    short, bare = {key.lstrip("0") for key in known[kind]}, {_bare(key) for key in known[kind]}
    ways = [
        ("with their leading zeros, which a spreadsheet drops: format the column as text", lambda key: key.lstrip("0") in short),
        (
            "without .0, which pandas and spreadsheets put behind whole numbers: write the column as text",
            lambda key: re.sub(r"[.,]0+$", "", key) != key and re.sub(r"[.,]0+$", "", key).lstrip("0") in short,
        ),
        ("but for punctuation", lambda key: key.lstrip("0") not in short and _bare(key) in bare),
    ]
    other = next(of for of in KEYWORDS if of != kind)
    return [*ways, (f"in a column {other}: they are the files' {KEYWORDS[other]}", lambda key: key in known[other])]


def _bare(key: str) -> str:
    return "".join(character for character in key if character.isalnum()).lstrip("0")


def read_labels(path: Path) -> Labels:
    """Read a table of labels; cells are never quoted in messages.

    Raises:
        InputError: when the table is malformed, or gives one key two labels or two patients.
    """
    labels = Labels()
    patients: dict[tuple[str, str], tuple[int, str]] = {}
    changed: dict[str, list[int]] = {}
    ids: dict[str, list[tuple[int, str]]] = {kind: [] for kind in KEYWORDS}
    for number, cells in read_cells(path, COLUMNS, ("label",)):
        if not set(KEYS) & set(cells):
            raise InputError(f"{path.name}: the columns must be label, one of {', '.join(KEYS)}, and may be label_date, negative_type")
        row = {name: cells.get(name, "") for name in COLUMNS}
        label, sentences = parse_label(row, f"{path.name}: row {number}")
        for sentence in sentences:
            changed.setdefault(sentence, []).append(number)
        # As they are compared: what looks like a cell with content may be one invisible character.
        keys = {kind: same_name(row[kind]) if kind == "image" else same_id(row[kind]) for kind in KEYS}
        kind = next((kind for kind in KEYS if keys[kind]), None)
        if kind is None:
            raise InputError(f"{path.name}: row {number} has no {', '.join(KEYS)}")
        for column, known in ids.items():
            known += [(number, row[column])] if row[column] else []
        # The most particular key that the row has; a patient's label is not that of each of the accessions.
        key = kind, keys[kind]
        first = labels.table.setdefault(key, label)
        labels.rows.setdefault(key, number)
        if first.label != label.label:
            raise InputError(f"{path.name}: row {number} gives another label than an earlier row of the same {kind}; keep one")
        if keys["patient_id"]:
            earlier, patient = patients.setdefault(key, (number, keys["patient_id"]))
            if patient != keys["patient_id"]:
                raise InputError(f"{path.name}: row {number} gives another patient_id than row {earlier} of the same {kind}; keep one")
        if first.details != label.details:
            changed.setdefault(REPEATED, []).append(number)
    if not labels.table:
        raise InputError(f"{path.name} has no rows")
    labels.warnings += changes(changed)
    for column, given in ids.items():
        labels.warnings += damaged_ids(given, column)
    return labels


def parse_label(row: Mapping[str, str], where: str) -> tuple[Label, list[str]]:
    """The label of one row, and sentences that say what of it was changed.

    Args:
        row: its cells; ``label`` must be there.
        where: table and row, for messages.

    Raises:
        InputError: when a cell is not as it must be. Cells are not quoted.
    """
    changed = []
    if row["label"] not in ("0", "1"):
        raise InputError(f"{where}: label must be 0 or 1")
    text = row.get("label_date", "")
    day = parse_date(text)
    if text and day is None:
        raise InputError(f"{where}: label_date must be YYYY-MM-DD")
    if day is not None and not is_possible(day):
        changed.append(IMPOSSIBLE)
        day = None
    given = row.get("negative_type", "")
    negative_type = plain_text(given)
    if given and not negative_type:
        raise InputError(f"{where}: negative_type must be written in {ALPHABET_IN_WORDS}")
    if negative_type != given:
        changed.append(RESPELLED)
    return Label(int(row["label"]), row.get("patient_id", ""), day, negative_type), changed


def changes(changed: Mapping[str, Sequence[int]]) -> list[str]:
    """One sentence for each kind of change, with the first of its rows.

    Args:
        changed: rows by the sentences of ``parse_label``, and by ``REPEATED``.
    """
    rows = {what: changed[what] for what in (IMPOSSIBLE, RESPELLED, REPEATED) if what in changed}
    return [f"{what} (row {first_of(numbers)})" for what, numbers in rows.items()]
