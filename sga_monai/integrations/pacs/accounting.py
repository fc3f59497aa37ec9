"""What became of every row of the query, of every study and of every object; no identifier is in it."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sga_monai.cohorts.listing import LEFT_OUT
from sga_monai.core.errors import REASONS
from sga_monai.core.files import write_whole
from sga_monai.integrations.pacs.server import FAILURES

COMPLETE, NOT_FOUND, CONFLICT, AGAIN, NOT_TRIED = "complete", "not found", "two labels", "found by an earlier row", "not tried"
SEVERAL = "rejected: several patients"
FETCHED, THERE = "fetched", "there already"
REMEDIES = {
    NOT_FOUND: "the archive has no such study, or shows it to nobody with these rights; check the row",
    CONFLICT: "rows with different labels find this study; keep one",
    AGAIN: "",
    NOT_TRIED: "give the same command again",
    "several patients": "studies of several patients have this accession; put patient_id beside it",
    "modality": "no series with Modality CR or DX",
}
COLUMNS = ("row", "study", "label", "outcome", "objects", FETCHED, THERE, "rejected", "failed", "reasons")


@dataclass
class Line:
    """One study, or one row for which none was found.

    Attributes:
        row: of the query.
        label: of the row.
        study: its pseudonym, also the name of its folder; empty where none was found.
        objects: number of objects by outcome: ``FETCHED``, ``THERE``, "rejected: CODE", "failed: CODE".
        outcome: set where the objects do not tell.
    """

    row: int
    label: int
    study: str = ""
    objects: Counter[str] = field(default_factory=Counter)
    outcome: str = ""

    @property
    def result(self) -> str:
        """``COMPLETE`` when at least one image is there and none failed; else why not."""
        if self.outcome:
            return self.outcome
        if not self.objects:
            return "rejected: modality"
        failed = [what for what in self.objects if what.startswith("failed")]
        if failed:
            return failed[0]
        if self.objects[FETCHED] + self.objects[THERE]:
            return COMPLETE
        return self.objects.most_common(1)[0][0]

    def count(self, start: str) -> int:
        """The number of objects whose outcome begins so."""
        return sum(number for what, number in self.objects.items() if what.startswith(start))


@dataclass
class Accounting:
    """All lines, in the order of the rows."""

    lines: list[Line] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every row has a study, and every study its images."""
        return all(line.result in (COMPLETE, AGAIN) for line in self.lines)

    def studies(self) -> dict[str, tuple[int, int, int]]:
        """Number of lines by result: all, with label 1, with label 0; the complete ones first."""
        counts: dict[str, tuple[int, int, int]] = {}
        for line in sorted(self.lines, key=lambda line: (line.result != COMPLETE, line.result)):
            before = counts.get(line.result, (0, 0, 0))
            counts[line.result] = (before[0] + 1, before[1] + line.label, before[2] + 1 - line.label)
        return counts

    def objects(self) -> Counter[str]:
        """Number of objects by outcome."""
        total: Counter[str] = Counter()
        for line in self.lines:
            total += line.objects
        return total

    def write(self, path: Path) -> None:
        """Write one line for each study, and for each row without one, as CSV.

        Raises:
            DiskError: see ``write_whole``.
        """
        rows = [_cells(line) for line in sorted(self.lines, key=lambda line: line.row)]
        write_whole(path, lambda draft: _write(draft, rows))


def remedy(result: str) -> str:
    """What to do about a result or an outcome; empty where nothing is wrong."""
    code = result.removeprefix("rejected: ").removeprefix("failed: ")
    return REMEDIES.get(code) or FAILURES.get(code) or LEFT_OUT.get(code) or REASONS.get(code, "")


def _cells(line: Line) -> list[str | int]:
    reasons = "; ".join(f"{what.partition(': ')[2]} {number}" for what, number in sorted(line.objects.items()) if ": " in what)
    counts = (sum(line.objects.values()), line.objects[FETCHED], line.objects[THERE], line.count("rejected"), line.count("failed"))
    return [line.row, line.study, line.label, line.result, *counts, reasons]


def _write(path: Path, rows: Sequence[Sequence[str | int]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(rows)
