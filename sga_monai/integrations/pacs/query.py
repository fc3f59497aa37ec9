"""The table of studies that a site wants from its archive, with their labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from sga_monai.cohorts.header_values import is_possible, parse_date
from sga_monai.cohorts.labels import REPEATED, Label, changes, parse_label
from sga_monai.core.errors import InputError
from sga_monai.data.identity import damaged_ids, same_id
from sga_monai.data.tables import read_cells

COLUMNS = ("accession", "patient_id", "date_from", "date_to", "label", "label_date", "negative_type")
# PS3.4 C.2.2.2.4: in a key these would match other studies than the one that is asked for.
WILDCARDS = "*?\\"


@dataclass(frozen=True)
class Wanted:
    """One row of the table: which studies, and their label.

    Attributes:
        row: its number.
        accession: AccessionNumber; empty where patient and dates say which.
        patient_id: PatientID; beside an accession it must fit too.
        first: the earliest StudyDate.
        last: the latest StudyDate.
        label: of every study that fits.
    """

    row: int
    accession: str = field(repr=False)
    patient_id: str = field(repr=False)
    first: date | None = field(repr=False)
    last: date | None = field(repr=False)
    label: Label = field(repr=False)

    @property
    def dates(self) -> str:
        """A range of StudyDate as a key (PS3.4 C.2.2.2.5); empty where every day fits."""
        return "" if self.first is None or self.last is None else f"{self.first:%Y%m%d}-{self.last:%Y%m%d}"

    def fits(self, accession: str, patient_id: str, day: str) -> bool:
        """Whether a study that was found is one that was asked for: archives ignore keys that they do not know.

        Args:
            accession: its AccessionNumber.
            patient_id: its PatientID.
            day: its StudyDate.
        """
        if self.accession and same_id(accession) != same_id(self.accession):
            return False
        if self.patient_id and same_id(patient_id) != same_id(self.patient_id):
            return False
        found = parse_date(day)
        return self.first is None or self.last is None or (found is not None and self.first <= found <= self.last)


@dataclass(frozen=True)
class Query:
    """The rows of a table, and what may be wrong with its ids."""

    rows: Sequence[Wanted]
    warnings: Sequence[str] = ()


def read_query(path: Path) -> Query:
    """Read a table of studies; its cells are never quoted in messages.

    Args:
        path: CSV with ``label`` (0 or 1) and ``accession``, or ``patient_id`` with ``date_from`` (YYYY-MM-DD) and, unless it
            is the same day, ``date_to``; optional ``label_date`` and ``negative_type`` as in ``manifest_from_dicom``.

    Raises:
        InputError: naming the row that does not say which studies it wants, or that gives a study another label.
    """
    rows: list[Wanted] = []
    changed: dict[str, list[int]] = {}
    seen: dict[tuple[str, str, str], Label] = {}
    ids: dict[str, list[tuple[int, str]]] = {"accession": [], "patient_id": []}
    for number, cells in read_cells(path, COLUMNS, ("label",)):
        row = {name: cells.get(name, "") for name in COLUMNS}
        where = f"{path.name}: row {number}"
        wanted = _wanted(row, number, where, changed)
        for column, known in ids.items():
            known += [(number, row[column])] if row[column] else []
        key = same_id(wanted.accession), same_id(wanted.patient_id), wanted.dates
        first = seen.setdefault(key, wanted.label)
        if first.label != wanted.label.label:
            raise InputError(f"{where} gives another label than an earlier row for the same studies; keep one")
        if first.details != wanted.label.details:
            changed.setdefault(REPEATED, []).append(number)
        rows.append(wanted)
    if not rows:
        raise InputError(f"{path.name} has no rows")
    warnings = changes(changed)
    for column, given in ids.items():
        warnings += damaged_ids(given, column)
    return Query(tuple(rows), tuple(warnings))


def _wanted(row: dict[str, str], number: int, where: str, changed: dict[str, list[int]]) -> Wanted:
    label, sentences = parse_label(row, where)
    for sentence in sentences:
        changed.setdefault(sentence, []).append(number)
    for column in ("accession", "patient_id"):
        if any(sign in row[column] for sign in WILDCARDS):
            raise InputError(f"{where}: {column} holds *, ? or a backslash, which would match other studies too; write it out")
    first, last = (_day(row[column], column, where) for column in ("date_from", "date_to"))
    if last is not None and first is None:
        raise InputError(f"{where}: date_to needs date_from")
    last = last or first
    if first is not None and last is not None and last < first:
        raise InputError(f"{where}: date_to is before date_from")
    if not row["accession"] and not (row["patient_id"] and first):
        raise InputError(f"{where} needs accession, or patient_id with date_from")
    return Wanted(number, row["accession"], row["patient_id"], first, last, label)


def _day(text: str, column: str, where: str) -> date | None:
    day = parse_date(text)
    if text and (day is None or not is_possible(day)):
        raise InputError(f"{where}: {column} must be a possible day, YYYY-MM-DD")
    return day
