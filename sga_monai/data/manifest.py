"""Manifests: one CSV schema for training, internal test and every external site, read strictly.

Required columns are ``image, label, patient_id, site, split``. ``image`` is a path relative to ``dataset_dir``,
``label`` is 0 or 1, ``split`` is train, val or test. A row's number is the one a spreadsheet shows: the header is row 1.
"""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sga_monai.core.errors import InputError, first_of
from sga_monai.core.text import ALPHABET_IN_WORDS, is_plain, plain_text
from sga_monai.data.identity import damaged_ids, same_id
from sga_monai.data.tables import read_cells

REQUIRED = ("image", "label", "patient_id", "site", "split")
OPTIONAL = (
    "study_id", "view", "sex", "age", "manufacturer", "negative_type", "period", "label_delta_days", "sha256", "boxes", "lung_mask",
)  # fmt: skip
SPLITS = ("train", "val", "test")
# Collections that hold the same radiographs under other names (data_manifests/README.md): never one for training and the
# other for an external test.
OVERLAPS = (frozenset({"siim", "bimcv"}), frozenset({"siim", "ricord"}), frozenset({"rsna", "nih"}))
MOST_ERRORS = 5
AGE_BANDS = ((18, "0-17"), (40, "18-39"), (65, "40-64"), (80, "65-79"), (90, "80-89"))
AGE, OLDEST = "age must be a number of years, a band as 40-64, or 90+", 120
FEW_VALUES = ("label", "site", "split", "view", "sex", "age", "manufacturer", "negative_type", "period", "label_delta_days")

# Free texts that may leave a site.
TEXTS = ("site", "view", "manufacturer", "negative_type")

Row = dict[str, str]


def read_manifest(path: str | Path, require: Sequence[str] = REQUIRED, warnings: list[str] | None = None) -> list[Row]:
    """Read and check a manifest; every error is collected and named by row.

    Args:
        path: a UTF-8 CSV file with a header.
        require: columns that must be there; ``("image",)`` for images without labels.
        warnings: gets a sentence for whatever was changed, or may be wrong: text outside the alphabet of a release, ids that
            look damaged.

    Returns:
        One dictionary a row: the columns of ``REQUIRED``, empty where absent, those of ``OPTIONAL`` that the file has,
        and ``row``, its number. Texts are in the alphabet of ``plain_text``, a ``sha256`` is in small letters.

    Raises:
        InputError: when the file is missing or not strict CSV, a column is missing, unknown or double, or a row has a
            wrong number of cells, an unsafe path, an unknown label or split, or an invalid optional value; when an
            image or a ``sha256`` is listed twice; when one patient (see ``same_id``) is in two splits.
    """
    name = Path(path).name
    errors: list[str] = []
    rows: list[Row] = []
    images: set[str] = set()
    hashes: set[str] = set()
    split_of: dict[str, str] = {}
    texts = _Texts()
    for row in _read_rows(Path(path), require, errors):
        number = row["row"]
        texts.put_right(row)
        errors += [f"row {number}: {problem}" for problem in _problems(row, require)]
        image = posixpath.normpath(row["image"])
        if image in images:
            first = next(r["row"] for r in rows if posixpath.normpath(r["image"]) == image)
            errors.append(f"row {number} lists the image of row {first} again; remove one")
        images.add(image)
        sha256 = row.get("sha256")
        if sha256 and sha256 in hashes:
            first = next(r["row"] for r in rows if r["sha256"] == sha256)
            errors.append(f"row {number} has the sha256 of row {first}, so the same file is listed twice; remove one")
        hashes.add(sha256 or "")
        patient = same_id(row["patient_id"])
        if "split" in require and patient and split_of.setdefault(patient, row["split"]) != row["split"]:
            split = split_of[patient]
            first = next(r["row"] for r in rows if same_id(r["patient_id"]) == patient)
            errors.append(f"row {number}: the patient of row {first} ({split}) is also in {row['split']}; keep one split")
        rows.append(row)
        if len(errors) > MOST_ERRORS:
            break
    if errors:
        more = " (and more)" if len(errors) > MOST_ERRORS else ""
        raise InputError(f"{name}: " + "; ".join(errors[:MOST_ERRORS]) + more)
    if not rows:
        raise InputError(f"{name} has no rows")
    if warnings is not None:
        warnings += texts.sentences()
        warnings += damaged_ids(((int(row["row"]), row["patient_id"]) for row in rows), "patient_id")
    return rows


class _Texts:
    """Puts the texts of rows into the alphabet of a release, and remembers where that changed them."""

    def __init__(self) -> None:
        self.plain: dict[str, str] = {}
        self.changed: dict[str, list[str]] = {}
        self.emptied: dict[str, list[str]] = {}

    def put_right(self, row: Row) -> None:
        """Change a row's texts and ``sha256``."""
        for column in TEXTS:
            text = row.get(column)
            if not text:
                continue
            if text not in self.plain:
                self.plain[text] = text if is_plain(text) else plain_text(text)
            if self.plain[text] != text:
                where = self.changed if self.plain[text] else self.emptied
                where.setdefault(column, []).append(row["row"])
                # A site that has no name any more is refused with its own sentence.
                row[column] = self.plain[text] or ("\0" if column == "site" else "")
        if row.get("sha256"):
            row["sha256"] = row["sha256"].lower()

    def sentences(self) -> list[str]:
        """What was changed, by column and row."""
        said = [f"{c}: other characters than {ALPHABET_IN_WORDS} are spelled out or left out{_rows(n)}" for c, n in self.changed.items()]
        said += [f"{c}: no letter A to Z and no digit, taken as empty{_rows(n)}" for c, n in self.emptied.items()]
        return said


def _rows(numbers: Sequence[str]) -> str:
    return f" in {len(numbers)} rows (row {first_of(numbers)})"


def several_sites(rows: Iterable[Row]) -> list[str]:
    """A sentence when rows to be scored are of several sites, whose differences one pooled figure would hide."""
    count = len({same_id(row["site"]) for row in rows} - {""})
    if count < 2:
        return []
    return [f"{count} sites in one manifest: every figure is of all together; write one manifest for each site"]


def is_age(text: str) -> bool:
    """Whether a cell is empty, a number of years that somebody reaches, a band as 40-64, or 90+.

    Example:
        >>> is_age("67.5"), is_age("40-64"), is_age("1950"), is_age("45y")
        (True, True, False, False)
    """
    if re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", text):
        return float(text) <= OLDEST
    return text == "" or bool(re.fullmatch(r"[0-9]{1,2}-[0-9]{1,2}|90\+", text))


def age_band(years: float) -> str:
    """0-17, 18-39, 40-64, 65-79, 80-89 or 90+: a single age beside other facts may name a patient."""
    return next((band for limit, band in AGE_BANDS if years < limit), "90+")


def check_external(training: Iterable[Row], external: Iterable[Row], name: str) -> None:
    """Refuse an external manifest that shares patients or known duplicates with the training manifest.

    Raises:
        InputError: naming the rows of a shared patient, or the two collections that overlap.
    """
    training, external = list(training), list(external)
    patients = {same_id(row["patient_id"]): row["row"] for row in training}
    shared = [row["row"] for row in external if same_id(row["patient_id"]) in patients]
    if shared:
        raise InputError(
            f"{name}: {len(shared)} rows have a patient of the training manifest (row {', '.join(shared[:MOST_ERRORS])}); remove them"
        )
    sites = {same_id(row["site"]) for row in training}, {same_id(row["site"]) for row in external}
    for pair in OVERLAPS:
        for first in pair & sites[0]:
            for second in (pair - {first}) & sites[1]:
                raise InputError(f"{name}: {second} holds radiographs of {first}, which is in the training manifest; remove it")


def _read_rows(path: Path, require: Sequence[str], errors: list[str]) -> Iterator[Row]:
    """The rows one by one, each with every column of ``REQUIRED`` and its number."""
    if not path.exists():
        raise InputError(f"no manifest {path.name}; check the path given as manifest")
    for number, cells in read_cells(path, REQUIRED + OPTIONAL, require, FEW_VALUES, errors):
        yield {**dict.fromkeys(REQUIRED, ""), **cells, "row": str(number)}


def _problems(row: Row, require: Sequence[str]) -> list[str]:
    """What is wrong with the cells of one row. Cells that may identify a patient are not quoted."""
    found = []
    paths = {"image": row["image"]} | ({"lung_mask": row["lung_mask"]} if row.get("lung_mask") else {})
    unsafe = [column for column, path in paths.items() if not is_safe(path)]
    found += [f"{column} must be a relative path with / and without .. or :" for column in unsafe]
    if "label" in require and row["label"] not in ("0", "1"):
        found.append("label must be 0 or 1")
    if "split" in require and row["split"] not in SPLITS:
        found.append("split must be train, val or test")
    if row["site"] == "\0":
        found.append("site must hold a letter A to Z or a digit")
    found += [f"{column} is empty" for column in ("patient_id", "site") if column in require and not row[column]]
    if not is_age(row.get("age", "")):
        found.append(AGE)
    if row.get("period") and not re.fullmatch(r"[0-9]{4}(H[12])?", row["period"]):
        found.append("period must be a year or half-year as 2021H1")
    if row.get("label_delta_days") and not re.fullmatch(r"-?[0-9]{1,4}", row["label_delta_days"]):
        found.append("label_delta_days must be a whole number of days")
    if row.get("sex") and row["sex"] not in ("M", "F", "O"):
        found.append("sex must be M, F, O or empty")
    if row.get("sha256") and not re.fullmatch(r"[0-9a-f]{64}", row["sha256"]):
        found.append("sha256 must be 64 hexadecimal digits")
    if row.get("boxes") and not _are_boxes(row["boxes"]):
        found.append("boxes must be a JSON list of [x, y, width, height] in pixels of the image")
    return found


def is_safe(path: str) -> bool:
    """Whether a manifest can list a path: relative, with ``/``, and nothing that leads elsewhere or cannot be seen."""
    climbs = path.startswith(("/", "~")) or "\\" in path or ":" in path or ".." in path.split("/")
    return bool(path) and path.isprintable() and not climbs


def _are_boxes(text: str) -> bool:
    try:
        boxes = json.loads(text)
        return isinstance(boxes, list) and all(map(_is_box, boxes))
    except (ValueError, OverflowError, RecursionError):
        return False


def _is_box(box: Any) -> bool:
    # A text of four digits has four parts, too.
    numbers = isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) and math.isfinite(value) for value in box)
    # A reader's box may begin a little outside the image.
    return numbers and min(box[2:]) > 0
