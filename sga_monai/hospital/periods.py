"""The periods of a site's evaluations: several evaluations, or one whose manifest has a ``period``."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sga_monai.core.errors import InputError
from sga_monai.evaluation.predictions import FEATURES
from sga_monai.evaluation.results import few_failed
from sga_monai.hospital.evaluated import read_evaluation

# Share of patients in several periods above which the reader is told.
MANY_RETURN = 0.1
# Share of a period's images above which it cannot be compared with another that has them too.
MANY_SHARED = 0.01


@dataclass(frozen=True)
class Period:
    """The rows of one period.

    Attributes:
        name: shown; never a folder's name, which may name a person.
        rows: of ``predictions.csv``.
        failure_limit: share of failed images above which the period has no figures.
    """

    name: str
    rows: pd.DataFrame
    failure_limit: float

    def scored(self) -> pd.DataFrame:
        """The rows with a score; none where too many failed."""
        scored = self.rows[self.rows["score"].notna()]
        return scored if self.reportable() else scored.iloc[:0]

    def reportable(self) -> bool:
        """Whether few enough images failed; see ``few_failed``."""
        return few_failed(int(self.rows["score"].isna().sum()), len(self.rows), self.failure_limit)

    def fewest_patients(self) -> int:
        """Patients of the class that has fewer."""
        scored = self.scored()
        return min(int(scored.loc[scored["label"] == label, "patient"].nunique()) for label in (0, 1))


def read_periods(evaluations: Sequence[str | Path]) -> tuple[list[Period], list[dict[str, Any]], list[str]]:
    """The periods in the order of time, what ran, and what a reader should know.

    Args:
        evaluations: see ``make_monitor``.

    Returns:
        Periods, the ``run.json`` of each evaluation, and notes.

    Raises:
        InputError: see ``make_monitor``.
    """
    read = [read_evaluation(folder, f"folder {number}") for number, folder in enumerate(evaluations, 1)]
    runs = [run for run, _ in read]
    if len({run["bundle"]["sha256sums"] for run in runs}) > 1:
        raise InputError("the evaluations are of different bundles; monitor one model at a time")
    if len({run["manifest_sha256"] for run in runs}) < len(runs):
        raise InputError("two evaluations are of the same manifest; give each period once")
    _refuse_shared([rows for _, rows in read])
    periods, notes = _by_column(*read[0]) if len(read) == 1 else (_by_evaluation(read), [])
    if len({json.dumps(run["software"], sort_keys=True) for run in runs}) > 1:
        notes.append("The evaluations were made with different versions of the software: run sga-monai selftest with each.")
    # Without a site key patients are numbers, which mean others in another evaluation, as names of another key do.
    without = len(read) > 1 and any(pd.api.types.is_numeric_dtype(rows["patient"]) for _, rows in read)
    if without or len({run["site_key"] for run in runs if "site_key" in run}) > 1:
        why = "an evaluation was made without a site key" if without else "the evaluations were made with different site keys"
        notes.append(
            f"Patients who are in more than one period are not known, since {why}: with many, false alarms are more frequent than stated."
        )
    else:
        notes += _returning(periods)
    return periods, runs, notes


def _refuse_shared(tables: Sequence[pd.DataFrame]) -> None:
    """Refuse evaluations of the same images, as of a folder that grows: what changed in the new ones is hidden by the old ones.

    Raises:
        InputError: naming the first two.
    """
    if not all(name in rows for rows in tables for name in FEATURES):
        return
    # Brightness, contrast and dark share of one picture, which no rounding of a score changes.
    pictures = [np.unique(pd.util.hash_pandas_object(rows[list(FEATURES)].dropna().round(9), index=False)) for rows in tables]
    for (first, some), (second, others) in itertools.combinations(enumerate(pictures, 1), 2):
        shared = len(np.intersect1d(some, others, assume_unique=True))
        if shared > MANY_SHARED * min(len(some), len(others)):
            raise InputError(
                f"{shared} images of folder {first} are in folder {second} too, and would hide a change; evaluate each period's images "
                "alone, or give one evaluation of all with the column period"
            )


def _returning(periods: Sequence[Period]) -> list[str]:
    """A sentence where many patients are in several periods, which makes periods alike and then suddenly different."""
    times = pd.concat([pd.Series(period.rows["patient"].unique()) for period in periods]).value_counts()
    share = float((times > 1).mean())
    if share <= MANY_RETURN:
        return []
    return [f"{share:.0%} of the patients are in more than one period: false alarms are more frequent than stated."]


def _by_column(run: Mapping[str, Any], rows: pd.DataFrame) -> tuple[list[Period], list[str]]:
    known = rows["period"].notna() if "period" in rows else np.zeros(len(rows), dtype=bool)
    names = sorted(rows.loc[known, "period"].unique()) if known.any() else []
    if len(names) < 2:
        raise InputError("one evaluation needs two values of period in its manifest; fill it in, or give several evaluations")
    if years := [name for name in names if any(other != name and other.startswith(name) for other in names)]:
        raise InputError(f"the column period has {years[0]} and a half of it, which overlap; give years alone, or half-years alone")
    missing = int((~known).sum())
    notes = [f"{missing} images have no period and are in no figure."] if missing else []
    return [Period(name, rows[rows["period"] == name], run["failure_limit"]) for name in names], notes


def _by_evaluation(read: Sequence[tuple[Mapping[str, Any], pd.DataFrame]]) -> list[Period]:
    spans = []
    for _, rows in read:
        known = sorted(rows["period"].dropna().unique()) if "period" in rows else []
        spans.append((known[0], known[-1]) if known else None)
    dated = [span for span in spans if span is not None]
    if len(dated) == len(spans) and [span[0] for span in dated] != sorted(span[0] for span in dated):
        raise InputError("the evaluations are not in the order of time; give the earliest first")
    for (number, earlier), (_, later) in itertools.pairwise([(i, span) for i, span in enumerate(spans, 1) if span is not None]):
        if _half(later[0], 1) < _half(earlier[1], 2):
            raise InputError(
                f"folder {number} ends in {earlier[1]}, after the next begins ({later[0]}): periods must not overlap; evaluate each alone, "
                "or give one evaluation of all with the column period"
            )
    names = [a if a == b else f"{a}-{b}" for a, b in dated]
    if len(set(names)) < len(spans):
        names = [f"evaluation {number}" for number in range(1, len(spans) + 1)]
    return [Period(name, rows, run["failure_limit"]) for name, (run, rows) in zip(names, read, strict=True)]


def _half(period: str, half: int) -> str:
    """A half-year, or one of a year."""
    return period if "H" in period else f"{period}H{half}"
