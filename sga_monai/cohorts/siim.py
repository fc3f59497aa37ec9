"""Manifest of SIIM-FISABIO-RSNA COVID-19 Detection (Lakhani et al. 2021), training part: the paper's Dataset I."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from sga_monai.cohorts.splits import split_by_patient
from sga_monai.cohorts.tables import FILLED, NOT_THERE, Rule, drop_copies, find_copies, make_row, read_table
from sga_monai.core import checks as check
from sga_monai.core.errors import InputError, ReadError
from sga_monai.data.manifest import Row
from sga_monai.imaging.dicom import is_dicom, read_header
from sga_monai.imaging.head import read_head

RULES = {
    "any_appearance": ("Typical Appearance", "Indeterminate Appearance", "Atypical Appearance"),
    "typical_indeterminate": ("Typical Appearance", "Indeterminate Appearance"),
    "typical_only": ("Typical Appearance",),
    "opacity_box": (),
}
PIXELS: Rule = ("[1-9][0-9]*", "must be a whole number of pixels")


def siim(root: Path, seed: int = 0, rule: str = "any_appearance", drop_unboxed_duplicates: bool = False) -> list[Row]:
    """The paper's Dataset I, split 6:2:2 by patient, or by study where PatientID is not there."""
    return split_by_patient(read_siim(root, rule, drop_unboxed_duplicates), seed)


def read_siim(root: Path, rule: str = "any_appearance", drop_unboxed_duplicates: bool = False) -> list[Row]:
    """Every training image, with its boxes in pixels of the file that is read.

    The images are the competition's ``train/*/*/*.dcm`` or, without any, ``images256/*.jpg``, stretched copies named by
    the image, to which boxes are scaled; with neither, the manifest lists the DICOM paths of ``file_tree.csv``.
    PatientID stands in the DICOM headers alone; without them the study is the unit. Files that are equal byte for byte
    are dropped, and studies that share one, or that ``near_duplicate_studies.csv`` groups, count as one patient.

    Args:
        root: the folder with ``siim/``.
        rule: what is positive; a key of ``RULES``. "opacity_box" takes images with a box.
        drop_unboxed_duplicates: leave out images without a box in a study that has a boxed image.

    Raises:
        InputError: on an unknown rule, a missing table, a row that cannot be used, or a box that cannot be scaled.
    """
    check.choice("rule", rule, RULES)
    folder = root / "siim"
    labels = read_table(folder / "train_study_level.csv", ("id", "typical appearance"))
    studies = {line["id"].removesuffix("_study"): line for line in labels}
    images = read_table(folder / "train_image_level.csv", ("id", "boxes", "studyinstanceuid"), {"studyinstanceuid": FILLED})
    paths = {Path(path).stem: path for path in _image_paths(folder)}
    sizes = _native_sizes(folder)
    boxed = {line["studyinstanceuid"] for line in images if line["boxes"]}
    rows = []
    for line in images:
        name, study = line["id"].removesuffix("_image"), line["studyinstanceuid"]
        appearance = studies.get(study, {})
        positive = bool(line["boxes"]) if rule == "opacity_box" else any(appearance.get(key.lower()) == "1" for key in RULES[rule])
        path = folder / paths.get(name, "")
        row = make_row(f"siim/{paths.get(name, '')}", str(int(positive)), f"siim-{study}", "siim")
        row["study_id"] = study
        if name not in paths:
            row["dropped"] = NOT_THERE
        elif not appearance:
            row["dropped"] = "study has no label"
        elif drop_unboxed_duplicates and not line["boxes"] and study in boxed:
            row["dropped"] = "unboxed beside a boxed image of its study"
        elif path.suffix == ".dcm" and path.is_file():
            patient = _dicom_patient(path)
            row["dropped"] = "" if patient is not None else "DICOM header cannot be read"
            # An empty PatientID would be that of everyone without one.
            row["patient_id"] = f"siim-{patient or study}"
        if line["boxes"] and not row["dropped"]:
            boxes = _scaled(_parse_boxes(line["boxes"]), path, sizes.get(name))
            row["dropped"] = "" if boxes is not None else "image cannot be read"
            row["boxes"] = json.dumps(boxes or [])
        rows.append(row)
    # DICOM files of one exposure differ in their headers, so equal bytes are looked for among the copies alone.
    copies = [] if any(path.endswith(".dcm") for path in paths.values()) else find_copies(root, rows)
    same = [[rows[i]["patient_id"] for i in group] for group in copies] + _near_duplicates(folder, rows)
    return drop_copies(merge_patients(rows, same), copies)


def merge_patients(rows: Sequence[Row], same: Iterable[Sequence[str]]) -> list[Row]:
    """Give the patients of each group of ``same`` one ``patient_id``, the first in order; groups that meet become one."""
    name: dict[str, str] = {}
    for group in same:
        linked = {name.get(patient, patient) for patient in group}
        members = {patient for patient, value in name.items() if value in linked} | linked | set(group)
        name |= dict.fromkeys(members, min(members))
    return [row | {"patient_id": name.get(row["patient_id"], row["patient_id"])} for row in rows]


BUILDERS = {"siim": siim}


def _near_duplicates(folder: Path, rows: Sequence[Row]) -> list[list[str]]:
    """Patients of each group of near-duplicate studies; none where the list is not there."""
    path = folder / "near_duplicate_studies.csv"
    if not path.is_file():
        return []
    group_of = {line["study_id"]: line["group"] for line in read_table(path, ("study_id", "group"))}
    patients: dict[str, list[str]] = {}
    for row in rows:
        if row["study_id"] in group_of:
            patients.setdefault(group_of[row["study_id"]], []).append(row["patient_id"])
    return list(patients.values())


def _image_paths(folder: Path) -> list[str]:
    """Image paths below ``siim/``: DICOM files, else stretched copies, else what ``file_tree.csv`` lists."""
    for pattern in ("train/*/*/*.dcm", "images256/*.jpg"):
        found = [path.relative_to(folder).as_posix() for path in sorted(folder.glob(pattern))]
        if found:
            return found
    return [line["path"] for line in read_table(folder / "file_tree.csv", ("path",))]


def _native_sizes(folder: Path) -> dict[str, tuple[int, int]]:
    """Native width and height by image; empty where ``file_tree.csv`` is not there."""
    path = folder / "file_tree.csv"
    if not path.is_file():
        return {}
    lines = read_table(path, ("path", "height", "width"), {"height": PIXELS, "width": PIXELS})
    return {Path(line["path"]).stem: (int(line["width"]), int(line["height"])) for line in lines}


def _parse_boxes(text: str) -> list[list[float]]:
    """x, y, width and height of each box in the competition's column, a list of Python dictionaries in that order."""
    numbers = [float(value) for value in re.findall(r":\s*(-?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?)", text)]
    return [numbers[i : i + 4] for i in range(0, len(numbers), 4)]


def _scaled(boxes: list[list[float]], path: Path, native: tuple[int, int] | None) -> list[list[float]] | None:
    """Native boxes in pixels of the file that is read; ``None`` where it is no picture."""
    scale = (1.0, 1.0)
    if path.suffix != ".dcm":
        if native is None:
            raise InputError("siim/file_tree.csv lacks the native size of an image with boxes; use the table that came with the images")
        try:
            with Image.open(path) as picture:
                scale = (picture.width / native[0], picture.height / native[1])
        except UnidentifiedImageError:
            return None
    return [[round(value * scale[i % 2], 1) for i, value in enumerate(box)] for box in boxes]


def _dicom_patient(path: Path) -> str | None:
    """PatientID, empty where there is none; ``None`` for what is no DICOM file, or a damaged one."""
    try:
        head = read_head(path)
        return read_header(head, ("PatientID",)).get("PatientID", "") if is_dicom(head) else None
    except ReadError:
        return None
