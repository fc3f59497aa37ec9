"""Single cases of an evaluation for the pages that stay at the site: which calls were wrong, how far off, and their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from sga_monai.core.files import read_earlier
from sga_monai.evaluation.predictions import FILE, GROUPS, read_predictions
from sga_monai.hospital.formats import MODEL

# Where an evaluation puts the pictures of its cases, and what it says of them.
FOLDER, FACTS = "heatmaps", "heat_maps.json"
KINDS = ("false negative", "false positive", "true positive", "true negative")


@dataclass(frozen=True)
class Case:
    """One image and the model's call.

    Attributes:
        row: of the manifest, as a spreadsheet numbers it.
        kind: of ``KINDS``.
        score: of the model.
        facts: view, sex, age and others that the manifest has, in words.
        picture: path below the evaluation's folder; ``None`` where there is none.
    """

    row: int
    kind: str
    score: float
    facts: str
    picture: str | None


@dataclass(frozen=True)
class Calls:
    """The calls of a model at a site.

    Attributes:
        cases: by kind of ``KINDS``, farthest from the threshold first.
        threshold: scores from here on are called positive.
        low: score where the axis of the scores begins.
        high: score where it ends.
        method: of the heat maps; ``None`` where none was drawn.
        lungs: whether lungs are outlined where their masks are known.
        most_errors: of each kind that pictures were drawn of.
    """

    cases: Mapping[str, list[Case]]
    threshold: float
    low: float
    high: float
    method: str | None
    lungs: bool
    most_errors: int

    @property
    def wrong(self) -> list[Case]:
        """False negatives, then false positives."""
        return [case for kind in KINDS[:2] for case in self.cases[kind]]


def read_calls(report: Mapping[str, Any], out: Path) -> Calls | None:
    """The calls of an evaluation; ``None`` for a table of scores.

    Args:
        report: of ``make_report``.
        out: its folder, with ``predictions.csv`` and ``heatmaps/``.
    """
    model = report["models"][MODEL]
    if report["scores"] is not None or model["operating_point"] is None or not (out / FILE).is_file():
        return None
    table = read_predictions(out / FILE)
    scored = table[table["score"].notna()].set_index("row")
    threshold = model["operating_point"]["threshold"]
    wrong, right = ranked_calls(scored, threshold)
    drawn, facts = set(rows_of_pictures(out)), read_earlier(out / FOLDER / FACTS)
    cases = {kind: [_case(scored.loc[row], row, kind, drawn) for row in rows] for kind, rows in zip(KINDS, wrong + right, strict=True)}
    low, high = _axis(model["distributions"], threshold)
    return Calls(cases, threshold, low, high, facts.get("method"), bool(facts.get("lungs")), int(facts.get("most_errors", 0)))


def ranked_calls(scored: pd.DataFrame, threshold: float) -> tuple[list[list[int]], list[list[int]]]:
    """Wrong and right calls, each of positives and of negatives, farthest from the threshold first.

    Args:
        scored: ``label`` and ``score``, indexed by row.
        threshold: scores from here on are called positive.

    Returns:
        Rows: (false negatives, false positives), (true positives, true negatives).
    """
    margin = scored["score"] - threshold
    called = margin >= 0
    kinds = [[called != (scored["label"] == 1), scored["label"] == label] for label in (1, 0)]
    wrong = [_farthest(margin[is_wrong & of_class]) for is_wrong, of_class in kinds]
    right = [_farthest(margin[~is_wrong & of_class]) for is_wrong, of_class in kinds]
    return wrong, right


def rows_of_pictures(out: Path) -> Sequence[int]:
    """Numbers of the rows that have a picture."""
    return sorted(int(path.stem.removeprefix("row_")) for path in (out / FOLDER).glob("row_*.jpg"))


def _case(line: pd.Series, row: int, kind: str, drawn: set[int]) -> Case:
    facts = [f"{name.replace('_', ' ')} {line[name]}" for name in GROUPS if name in line and isinstance(line[name], str) and line[name]]
    picture = f"{FOLDER}/row_{row:06d}.jpg" if row in drawn else None
    text = ", ".join(facts)
    return Case(row, kind, float(line["score"]), text[:1].upper() + text[1:], picture)


def _axis(distributions: Mapping[str, Any], threshold: float) -> tuple[float, float]:
    """Round ends of the middle of the scores, so that a place on the axis gives no extreme score away; the threshold lies inside."""
    step = distributions["step"]
    return min(distributions["low"], threshold) - step, max(distributions["high"], threshold) + step


def _farthest(margin: pd.Series) -> list[int]:
    return [int(row) for row in margin.abs().sort_values(ascending=False, kind="stable").index]
