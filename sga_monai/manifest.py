"""Manifests: one CSV schema for training, internal test and every external site, read strictly.

Required columns are ``image, label, patient_id, site, split``. ``image`` is a path relative to ``dataset_dir``,
``label`` is 0 or 1, ``split`` is train, val or test. A row's number is the one a spreadsheet shows: the header is row 1.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Any

from sga_monai.errors import REASONS, InputError

REQUIRED = ("image", "label", "patient_id", "site", "split")
OPTIONAL = ("study_id", "view", "sex", "age", "manufacturer", "negative_type", "sha256", "boxes", "lung_mask")
SPLITS = ("train", "val", "test")
# Collections that hold the same radiographs under other names (data_manifests/README.md): never one for training and the
# other for an external test.
OVERLAPS = (frozenset({"siim", "bimcv"}), frozenset({"siim", "ricord"}), frozenset({"rsna", "nih"}))
MOST_ERRORS = 5

Row = dict[str, str]


def read_manifest(path: str | Path, require: Sequence[str] = REQUIRED) -> list[Row]:
    """Read and check a manifest; every error is collected and named by row.

    Args:
        path: a UTF-8 CSV file with a header.
        require: columns that must be there; ``("image",)`` for images without labels.

    Returns:
        One dictionary a row, every known column present (empty when absent), plus ``row``, its number.

    Raises:
        InputError: when the file is missing or not strict CSV, a column is missing, unknown or double, or a row has a
            wrong number of cells, an unsafe path, an unknown label or split, or an invalid optional value; when an
            image is listed twice; when one patient (after strip and casefold) is in two splits.
    """
    name = Path(path).name
    header, records = _read_csv(Path(path), name)
    _check_header(header, name, require)
    errors: list[str] = []
    rows: list[Row] = []
    seen: dict[str, int] = {}
    split_of: dict[str, tuple[str, int]] = {}
    for number, cells in records:
        if len(cells) != len(header):
            errors.append(f"row {number} has {len(cells)} cells, the header has {len(header)}")
            continue
        row = dict.fromkeys(REQUIRED + OPTIONAL, "") | {key: cell.strip() for key, cell in zip(header, cells, strict=True)}
        row["row"] = str(number)
        errors += [f"row {number}: {problem}" for problem in _problems(row, require)]
        image = PurePosixPath(row["image"]).as_posix()
        if seen.setdefault(image, number) != number:
            errors.append(f"row {number} lists the image of row {seen[image]} again; remove one")
        if "split" in require and row["patient_id"]:
            split, first = split_of.setdefault(row["patient_id"].casefold(), (row["split"], number))
            if split != row["split"]:
                errors.append(f"row {number}: the patient of row {first} ({split}) is also in {row['split']}; keep one split")
        rows.append(row)
    if errors:
        more = f" (and {len(errors) - MOST_ERRORS} more)" if len(errors) > MOST_ERRORS else ""
        raise InputError(f"{name}: " + "; ".join(errors[:MOST_ERRORS]) + more)
    if not rows:
        raise InputError(f"{name} has no rows")
    return rows


def load_manifest(
    path: str | Path, dataset_dir: str | Path, split: str | None = None, require: Sequence[str] = REQUIRED
) -> list[dict[str, Any]]:
    """Rows of a manifest as MONAI data dictionaries.

    Args:
        path: the manifest.
        dataset_dir: the folder that ``image`` is relative to; nothing outside it is opened.
        split: keep the rows of this split only.
        require: see ``read_manifest``.

    Returns:
        Dictionaries of ``image`` (absolute path), ``label`` (0 or 1; -1 where not required), ``row``, ``patient`` (a
        number by order of appearance, so that no identifier goes further than here) and ``set`` (the manifest's name).

    Raises:
        InputError: see ``read_manifest``; also when an image is missing or outside ``dataset_dir``, or no row has
            ``split``.
    """
    rows = read_manifest(path, require)
    name, root = Path(path).name, Path(dataset_dir)
    if not root.is_dir():
        raise InputError(f"dataset_dir is not a folder; it must be the one that the images of {name} are relative to")
    root = root.resolve()
    patients = {key: i for i, key in enumerate(dict.fromkeys(row["patient_id"].casefold() for row in rows))}
    chosen = [row for row in rows if split is None or row["split"] == split]
    if not chosen:
        raise InputError(f"{name} has no row with split {split}")
    missing = [row["row"] for row in chosen if not _is_file_inside(root, row["image"])]
    if missing:
        listed = ", ".join(missing[:MOST_ERRORS]) + (", ..." if len(missing) > MOST_ERRORS else "")
        raise InputError(f"{name}: no image inside dataset_dir for {len(missing)} rows (row {listed}): {REASONS['missing']}")
    return [
        {
            "image": str(root / row["image"]),
            "label": int(row["label"]) if "label" in require else -1,
            "row": int(row["row"]),
            "patient": patients[row["patient_id"].casefold()],
            "set": Path(path).stem,
        }
        for row in chosen
    ]


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
            f"{name}: {len(shared)} rows have a patient of the training manifest (row {', '.join(shared[:MOST_ERRORS])}); "
            "remove them"
        )
    sites = {row["site"].casefold() for row in training}, {row["site"].casefold() for row in external}
    for pair in OVERLAPS:
        for first in pair & sites[0]:
            for second in (pair - {first}) & sites[1]:
                raise InputError(f"{name}: {second} holds radiographs of {first}, which is in the training manifest; remove it")


def write_manifest(path: str | Path, rows: Iterable[Row], columns: Sequence[str] = REQUIRED + OPTIONAL) -> None:
    """Write rows as a manifest with Unix line ends; columns that are empty in every row and optional are left out."""
    rows = list(rows)
    columns = [column for column in columns if column in REQUIRED or any(row.get(column) for row in rows)]
    with Path(path).open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _read_csv(path: Path, name: str) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"no manifest {name}; check the path given as manifest") from None
    except (OSError, UnicodeDecodeError):
        raise InputError(f"{name} is not a UTF-8 text file; save it as CSV UTF-8") from None
    if "\0" in text:
        raise InputError(f"{name} holds NUL characters; save it as CSV UTF-8")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    records: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            records.append((len(records) + 1, cells))
    except csv.Error as error:
        raise InputError(f"{name}: row {len(records) + 1} is not valid CSV ({error})") from None
    # A spreadsheet numbers blank lines too, so they are dropped only after counting.
    records = [(number, cells) for number, cells in records if cells]
    if not records:
        raise InputError(f"{name} is empty")
    return [cell.strip() for cell in records[0][1]], records[1:]


def _check_header(header: list[str], name: str, require: Sequence[str]) -> None:
    double = sorted({column for column in header if header.count(column) > 1})
    if double:
        raise InputError(f"{name}: column {double[0]} is there twice; remove one")
    known = REQUIRED + OPTIONAL
    missing = [column for column in require if column not in header]
    unknown = [column for column in header if column not in known]
    if missing:
        near = get_close_matches(missing[0], unknown, n=1)
        hint = f"; is {near[0]!r} meant?" if near else f"; the columns are {', '.join(header)}"
        raise InputError(f"{name}: column {missing[0]} is missing{hint}")
    if unknown:
        raise InputError(f"{name}: column {unknown[0]!r} is unknown; known are {', '.join(known)}")


def _problems(row: Row, require: Sequence[str]) -> list[str]:
    """What is wrong with the cells of one row. Cells that may identify a patient are not quoted."""
    found = []
    image = row["image"]
    unsafe = image.startswith(("/", "~")) or "\\" in image or ":" in image or ".." in PurePosixPath(image).parts
    if not image or unsafe or not image.isprintable():
        found.append("image must be a relative path with / and without .. or :")
    if "label" in require and row["label"] not in ("0", "1"):
        found.append(f"label must be 0 or 1, got {row['label'][:20]!r}")
    if "split" in require and row["split"] not in SPLITS:
        found.append(f"split must be train, val or test, got {row['split'][:20]!r}")
    found += [f"{column} is empty" for column in ("patient_id", "site") if column in require and not row[column]]
    if row["age"] and not re.fullmatch(r"\d{1,3}(\.\d+)?|90\+", row["age"]):
        found.append("age must be a number of years or 90+")
    if row["sex"] and row["sex"] not in ("M", "F", "O"):
        found.append("sex must be M, F, O or empty")
    if row["sha256"] and not re.fullmatch(r"[0-9a-f]{64}", row["sha256"]):
        found.append("sha256 must be 64 lower-case hexadecimal digits")
    if row["boxes"] and not _are_boxes(row["boxes"]):
        found.append("boxes must be a JSON list of [x, y, width, height] in pixels of the image")
    return found


def _are_boxes(text: str) -> bool:
    try:
        boxes = json.loads(text)
        return isinstance(boxes, list) and all(len([float(value) for value in box]) == 4 for box in boxes)
    except (ValueError, TypeError):
        return False


def _is_file_inside(root: Path, image: str) -> bool:
    try:
        path = (root / image).resolve()
        return path.is_relative_to(root) and path.is_file()
    except (OSError, ValueError):
        return False
