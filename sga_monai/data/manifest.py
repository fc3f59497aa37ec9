"""Manifests: one CSV schema for training, internal test and every external site, read strictly.

Required columns are ``image, label, patient_id, site, split``. ``image`` is a path relative to ``dataset_dir``,
``label`` is 0 or 1, ``split`` is train, val or test. A row's number is the one a spreadsheet shows: the header is row 1.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import posixpath
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sga_monai.core.errors import REASONS, InputError
from sga_monai.core.files import FORMULA
from sga_monai.data.pseudonyms import patient_key, read_site_key

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
logger = logging.getLogger(__name__)
FEW_VALUES = ("label", "site", "split", "view", "sex", "age", "manufacturer", "negative_type", "period", "label_delta_days")

Row = dict[str, str]


def read_manifest(path: str | Path, require: Sequence[str] = REQUIRED) -> list[Row]:
    """Read and check a manifest; every error is collected and named by row.

    Args:
        path: a UTF-8 CSV file with a header.
        require: columns that must be there; ``("image",)`` for images without labels.

    Returns:
        One dictionary a row: the columns of ``REQUIRED``, empty where absent, those of ``OPTIONAL`` that the file has,
        and ``row``, its number.

    Raises:
        InputError: when the file is missing or not strict CSV, a column is missing, unknown or double, or a row has a
            wrong number of cells, an unsafe path, an unknown label or split, or an invalid optional value; when an
            image or a ``sha256`` is listed twice; when one patient (after strip and casefold) is in two splits.
    """
    name = Path(path).name
    errors: list[str] = []
    rows: list[Row] = []
    images: set[str] = set()
    hashes: set[str] = set()
    split_of: dict[str, str] = {}
    for row in _read_rows(Path(path), name, require, errors):
        number = row["row"]
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
        patient = row["patient_id"].casefold()
        if "split" in require and patient and split_of.setdefault(patient, row["split"]) != row["split"]:
            split = split_of[patient]
            first = next(r["row"] for r in rows if r["patient_id"].casefold() == patient)
            errors.append(f"row {number}: the patient of row {first} ({split}) is also in {row['split']}; keep one split")
        rows.append(row)
        if len(errors) > MOST_ERRORS:
            break
    if errors:
        more = " (and more)" if len(errors) > MOST_ERRORS else ""
        raise InputError(f"{name}: " + "; ".join(errors[:MOST_ERRORS]) + more)
    if not rows:
        raise InputError(f"{name} has no rows")
    return rows


def load_manifest(
    path: str | Path,
    dataset_dir: str | Path,
    split: str | None = None,
    require: Sequence[str] = REQUIRED,
    allow_missing: bool = False,
    site_key: str | Path | None = None,
) -> list[dict[str, Any]]:
    """Rows of a manifest as MONAI data dictionaries.

    Args:
        path: the manifest.
        dataset_dir: the folder that ``image`` is relative to; nothing outside it is opened.
        split: keep the rows of this split only.
        require: see ``read_manifest``.
        allow_missing: leave rows whose file is absent to the reader, which counts them as failed.
        site_key: file of ``new_site_key``, with which patients are named; without it they are numbered.

    Returns:
        Dictionaries of ``image`` (absolute path), ``label`` (0 or 1; -1 where not required), ``row``, ``sha256`` (may
        be empty), ``patient`` (a number by order of appearance or ``patient_key``, so that no identifier goes further
        than here), ``site`` (a number by order of appearance) and ``set`` (the manifest's name).

    Raises:
        InputError: see ``read_manifest``; also when an image is missing or outside ``dataset_dir``, or no row has
            ``split``.
    """
    rows = read_manifest(path, require)
    name, root = Path(path).name, Path(dataset_dir)
    key = None if site_key is None else read_site_key(site_key)
    patients = dict.fromkeys(row["patient_id"].casefold() for row in rows)
    names = {patient: patient_key(patient, key) if key else i for i, patient in enumerate(patients)}
    sites = {site: i for i, site in enumerate(dict.fromkeys(row["site"].casefold() for row in rows))}
    chosen = [row for row in rows if split is None or row["split"] == split]
    if not chosen:
        raise InputError(f"{name} has no row with split {split}")
    if allow_missing and len(chosen) < len(rows):
        logger.warning("%s: %d of %d rows have another split than %s and are left out", name, len(rows) - len(chosen), len(rows), split)
    if name.startswith(FORMULA):
        raise InputError("the manifest's name begins like a formula, which a spreadsheet would run; rename it")
    missing = check_files(chosen, root, name)
    if missing and not allow_missing:
        listed = ", ".join(missing[:MOST_ERRORS]) + (", ..." if len(missing) > MOST_ERRORS else "")
        raise InputError(f"{name}: no image inside dataset_dir for {len(missing)} rows (row {listed}): {REASONS['missing']}")
    root = root.resolve()
    return [
        {
            "image": str(root / row["image"]),
            "label": int(row["label"]) if "label" in require else -1,
            "row": int(row["row"]),
            "patient": names[row["patient_id"].casefold()],
            "sha256": row.get("sha256", ""),
            "site": sites[row["site"].casefold()],
            "set": Path(path).stem,
        }
        for row in chosen
    ]


def check_files(rows: Sequence[Row], dataset_dir: str | Path, name: str) -> list[str]:
    """The rows whose image is no file inside ``dataset_dir``; files are looked at, not opened.

    Raises:
        InputError: when ``dataset_dir`` is no folder, or an image leads outside it through a link.
    """
    if not Path(dataset_dir).is_dir():
        raise InputError(f"dataset_dir is not a folder; it must be the one that the images of {name} are relative to")
    root = Path(dataset_dir).resolve()
    inside: dict[str, bool] = {}
    missing, outside = [], []
    for row in rows:
        folder = posixpath.dirname(row["image"])
        try:
            if folder not in inside:
                inside[folder] = (root / folder).resolve().is_relative_to(root)
            path = os.path.join(root, row["image"])
            mode = os.lstat(path).st_mode
            if stat.S_ISLNK(mode):
                target = Path(path).resolve()
                inside[folder], mode = target.is_relative_to(root), os.stat(path).st_mode
        except (OSError, ValueError, RuntimeError):
            mode = 0
        if not inside.get(folder, True):
            outside.append(row["row"])
            inside.pop(folder)
        elif not stat.S_ISREG(mode):
            missing.append(row["row"])
    if outside:
        listed = ", ".join(outside[:MOST_ERRORS])
        raise InputError(f"{name}: {len(outside)} images lie outside dataset_dir by way of a link (row {listed}); remove the rows")
    return missing


def age_band(years: float) -> str:
    """0-17, 18-39, 40-64, 65-79, 80-89 or 90+: a single age beside other facts may name a patient."""
    return next((band for limit, band in AGE_BANDS if years < limit), "90+")


def check_external(training: Iterable[Row], external: Iterable[Row], name: str) -> None:
    """Refuse an external manifest that shares patients or known duplicates with the training manifest.

    Raises:
        InputError: naming the rows of a shared patient, or the two collections that overlap.
    """
    training, external = list(training), list(external)
    patients = {row["patient_id"].casefold(): row["row"] for row in training}
    shared = [row["row"] for row in external if row["patient_id"].casefold() in patients]
    if shared:
        raise InputError(
            f"{name}: {len(shared)} rows have a patient of the training manifest (row {', '.join(shared[:MOST_ERRORS])}); remove them"
        )
    sites = {row["site"].casefold() for row in training}, {row["site"].casefold() for row in external}
    for pair in OVERLAPS:
        for first in pair & sites[0]:
            for second in (pair - {first}) & sites[1]:
                raise InputError(f"{name}: {second} holds radiographs of {first}, which is in the training manifest; remove it")


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


def _read_rows(path: Path, name: str, require: Sequence[str], errors: list[str]) -> Iterator[Row]:
    """The rows one by one, so that a million of them needs no second copy in memory."""
    number = 0
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{name} is not a file; give the path of a CSV file as manifest")
        with path.open(encoding="utf-8-sig", newline="") as stream:
            # No cell of ours is longer; an unclosed quote would otherwise swallow the file.
            reader = csv.reader(stream, strict=True)
            header: list[str] = []
            for number, cells in enumerate(reader, 1):
                if any("\0" in cell for cell in cells):
                    raise InputError(f"{name}: row {number} holds NUL characters; save the file as CSV UTF-8")
                # A spreadsheet numbers blank lines too.
                if not cells:
                    continue
                if not header:
                    header = [sys.intern(cell.strip()) for cell in cells]
                    _check_header(header, name, require)
                elif len(cells) != len(header):
                    errors.append(f"row {number} has {len(cells)} cells, the header has {len(header)}")
                else:
                    row = dict.fromkeys(REQUIRED, "")
                    for key, cell in zip(header, cells, strict=True):
                        row[key] = sys.intern(cell.strip()) if key in FEW_VALUES else cell.strip()
                    row["row"] = str(number)
                    yield row
    except FileNotFoundError:
        raise InputError(f"no manifest {name}; check the path given as manifest") from None
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{name} is not a UTF-8 text file; save it as CSV UTF-8") from None
    except csv.Error as error:
        raise InputError(f"{name}: row {number + 1} is not valid CSV ({error})") from None
    if not header:
        raise InputError(f"{name} is empty")


def _check_header(header: list[str], name: str, require: Sequence[str]) -> None:
    """Only known names are quoted: where the header was forgotten, its cells are the first patient's."""
    known = REQUIRED + OPTIONAL
    if len(header) == 1 and re.search("[;\t|]", header[0]):
        raise InputError(f"{name}: cells must be separated by commas; save it as CSV UTF-8")
    for column in known:
        if header.count(column) > 1:
            raise InputError(f"{name}: column {column} is there twice; remove one")
    unknown = [i for i, column in enumerate(header, 1) if column not in known]
    for column in require:
        if column not in header:
            near = [i for i in unknown if get_close_matches(column, [header[i - 1].lower()], cutoff=0.75)]
            hint = f"; is the header of column {near[0]} meant?" if near else "; the first row must name the columns"
            raise InputError(f"{name}: column {column} is missing{hint}")
    if unknown:
        raise InputError(f"{name}: the header of column {unknown[0]} is unknown; known are {', '.join(known)}")


def _problems(row: Row, require: Sequence[str]) -> list[str]:
    """What is wrong with the cells of one row. Cells that may identify a patient are not quoted."""
    found = []
    unsafe = [column for column in ("image", "lung_mask") if _is_unsafe(row, column)]
    found += [f"{column} must be a relative path with / and without .. or :" for column in unsafe]
    if "label" in require and row["label"] not in ("0", "1"):
        found.append("label must be 0 or 1")
    if "split" in require and row["split"] not in SPLITS:
        found.append("split must be train, val or test")
    found += [f"{column} is empty" for column in ("patient_id", "site") if column in require and not row[column]]
    if row.get("age") and not re.fullmatch(r"\d{1,3}(\.\d+)?|\d{1,2}-\d{1,2}|90\+", row["age"]):
        found.append("age must be a number of years, a band as 40-64, or 90+")
    if row.get("period") and not re.fullmatch(r"\d{4}(H[12])?", row["period"]):
        found.append("period must be a year or half-year as 2021H1")
    if row.get("label_delta_days") and not re.fullmatch(r"-?\d{1,4}", row["label_delta_days"]):
        found.append("label_delta_days must be a whole number of days")
    if row.get("sex") and row["sex"] not in ("M", "F", "O"):
        found.append("sex must be M, F, O or empty")
    if row.get("sha256") and not re.fullmatch(r"[0-9a-f]{64}", row["sha256"]):
        found.append("sha256 must be 64 lower-case hexadecimal digits")
    if row.get("boxes") and not _are_boxes(row["boxes"]):
        found.append("boxes must be a JSON list of [x, y, width, height] in pixels of the image")
    return found


def _is_unsafe(row: Row, column: str) -> bool:
    path = row.get(column, "")
    if not path:
        return column == "image"
    climbs = path.startswith(("/", "~")) or "\\" in path or ":" in path or ".." in path.split("/")
    return climbs or not path.isprintable()


def _are_boxes(text: str) -> bool:
    try:
        boxes = [[float(value) for value in box] for box in json.loads(text)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return False
    # A reader's box may begin a little outside the image.
    return all(len(box) == 4 and all(map(math.isfinite, box)) and min(box[2:]) > 0 for box in boxes)
