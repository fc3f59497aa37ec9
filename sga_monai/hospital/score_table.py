"""A table of a model's scores as people save it: commas, semicolons or tabs, decimal points or commas; or what is wrong in which row."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from sga_monai.core.errors import InputError, first_of
from sga_monai.core.text import ALPHABET_IN_WORDS, plain_text
from sga_monai.data.identity import damaged_ids, same_id
from sga_monai.data.manifest import AGE, is_age
from sga_monai.data.tables import read_cells, read_header
from sga_monai.evaluation.predictions import BASELINE_SCORE, CONTROLS, FEATURES, GROUPS, SITE_SCORE, control_column

logger = logging.getLogger(__name__)

PROBABILITY, BASELINE_PROBABILITY = "probability", "probability_baseline"
NUMBERS = ("score", PROBABILITY, BASELINE_SCORE, BASELINE_PROBABILITY)
COLUMNS = ("case", "label", "patient", *NUMBERS, *GROUPS, "error")
# Of our own predictions.csv; what images would be needed for is not taken.
UNUSED = ("set", "row", SITE_SCORE, *FEATURES, *map(control_column, CONTROLS))
# One column for each reader: "reader_" and any name.
READER = "reader_"
NO_SCORE = "no score"


def read_scores(path: str | Path) -> pd.DataFrame:
    """A table of scores, of which one row is one case.

    Args:
        path: CSV in UTF-8 with commas, semicolons or tabs. Columns: ``label`` (0 or 1), ``patient``, and ``score`` or
            ``probability`` or both; ``case`` is compared for duplicates. A second model's are ``score_baseline`` and
            ``probability_baseline``. Columns of ``GROUPS`` divide the report. A case without a score counts as failed,
            with the reason in ``error``. Decimal commas are read where no decimal point is in the column. The columns of
            our own ``predictions.csv`` are known; its rows must be of one set. Columns ``reader_<name>`` have ratings of
            readers, on any scale on which higher is more likely positive, and are empty where a reader did not rate the case.

    Returns:
        ``set, patient, label, score, error``, and the other columns that there are; ``score`` is the probability where
        there is no score. No column ``case``. The rows of the file in their order. Patients whose keys look damaged, as nan or
        1.23E+05, are warned of.

    Raises:
        InputError: naming the column or the rows, and no cell.
    """
    path = Path(path)
    readers = _readers(path)
    # Where there is none, a refusal names one as an example of what is known.
    known = (*COLUMNS, *UNUSED, *(readers or (f"{READER}1",)))
    rows = list(read_cells(path, known, ("label", "patient"), GROUPS))
    if not rows:
        raise InputError(f"{path.name} has no rows")
    table = pd.DataFrame([cells for _, cells in rows], index=pd.Index([number for number, _ in rows]))
    if not {"score", PROBABILITY} & set(table):
        raise InputError(f"{path.name}: column score or probability is missing; the first row must name the columns")
    for name in (name for name in (*NUMBERS, *readers) if name in table):
        table[name] = _numbers(table[name], path.name)
    _refuse(table, path.name)
    for sentence in damaged_ids(table["patient"].items(), "patient"):
        logger.warning("%s: %s", path.name, sentence)
    result = pd.DataFrame({"set": "scores", "patient": table["patient"].map(same_id), "label": table["label"].astype(int)})
    for name in (name for name in (*NUMBERS, *readers) if name in table):
        result[name] = table[name]
    if "score" not in table:
        result["score"] = table[PROBABILITY]
    if BASELINE_SCORE not in table and BASELINE_PROBABILITY in table:
        result[BASELINE_SCORE] = table[BASELINE_PROBABILITY]
    reasons = table["error"].map(plain_text) if "error" in table else pd.Series("", index=table.index)
    result["error"] = reasons.where(result["score"].isna(), "").mask(result["score"].isna() & (reasons == ""), NO_SCORE)
    for name in (name for name in GROUPS if name in table):
        result[name] = table[name].map(lambda text: plain_text(text) or None)
    return result.reset_index(drop=True)


def reader_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a table of ``read_scores`` that have readers' ratings, in their order."""
    return [name for name in table if name.startswith(READER)]


def reader_name(column: str) -> str:
    """The name of the reader of a column."""
    return column.removeprefix(READER)


def _readers(path: Path) -> list[str]:
    """The readers' columns.

    Raises:
        InputError: when a reader's name is empty, or not in the alphabet of names.
    """
    try:
        # A pipe would be waited for.
        cells = read_header(path, (*COLUMNS, *UNUSED)).cells if path.is_file() else []
    except (OSError, UnicodeDecodeError):
        # Refused in a sentence when the rows are read.
        return []
    readers = [cell for cell in cells if cell.startswith(READER)]
    for number, cell in enumerate(cells, 1):
        name = cell.removeprefix(READER)
        if cell in readers and (not name or plain_text(name) != name):
            raise InputError(f"{path.name}: column {number}: a reader's name must be of {ALPHABET_IN_WORDS}; a number is enough")
    return readers


def _numbers(texts: pd.Series, name: str) -> pd.Series:
    """A column as numbers, NaN where empty; a comma is the decimal sign where there is no point in the column."""
    commas, points = (texts.str.contains(sign, regex=False) for sign in (",", "."))
    if commas.any() and points.any():
        raise InputError(f"{name}: column {texts.name} has decimal commas and decimal points; use one of them")
    numbers = pd.Series([_number(text.replace(",", ".")) for text in texts], index=texts.index, dtype=float)
    wrong = numbers.index[np.isinf(numbers)]
    if len(wrong):
        raise InputError(f"{name}: {texts.name} is not a number{_in_rows(wrong)}; leave the cell empty where there is none")
    return numbers


def _number(text: str) -> float:
    """Infinite where the text is no finite number."""
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        return math.inf
    return value if math.isfinite(value) and "_" not in text else math.inf


def _refuse(table: pd.DataFrame, name: str) -> None:
    """Refuse rows that cannot be counted."""
    if "set" in table and table["set"].nunique() > 1:
        raise InputError(f"{name}: column set names several sets, and a patient's number is of one; give the rows of one set alone")
    problems = {
        "label must be 0 or 1": ~table["label"].isin(["0", "1"]),
        "patient is empty; give the case's own number where it is unknown": table["patient"] == "",
    }
    for column in (column for column in (PROBABILITY, BASELINE_PROBABILITY) if column in table):
        problems[f"{column} must be in [0, 1]; name the column {column.replace(PROBABILITY, 'score')} if it is none"] = (
            table[column] < 0
        ) | (table[column] > 1)
    if "case" in table:
        problems["case is there twice"] = (table["case"] != "") & table["case"].map(same_id).duplicated()
    if "age" in table:
        # A decimal comma, as in the other columns.
        table["age"] = table["age"].str.replace(",", ".", regex=False)
        problems[AGE] = ~table["age"].map(is_age)
    missing = table["score" if "score" in table else PROBABILITY].isna()
    for column in (column for column in NUMBERS if column in table):
        problems[f"{column} is empty where the case has a score"] = table[column].isna() & ~missing
    for sentence, wrong in problems.items():
        if wrong.any():
            raise InputError(f"{name}: {sentence}{_in_rows(table.index[wrong])}")


def _in_rows(numbers: Sequence[int]) -> str:
    return f" ({'row' if len(numbers) == 1 else 'rows'} {first_of(numbers)})"
