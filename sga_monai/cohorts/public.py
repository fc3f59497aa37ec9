"""Manifests from the public collections' own tables: which rows, which label, which patient."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pydicom

from sga_monai.cohorts.splits import split_by_patient
from sga_monai.core.errors import InputError
from sga_monai.data.manifest import Row

NIH_COLUMNS = ("image index", "finding labels", "patient id", "patient age", "patient gender", "view position")
Table = list[dict[str, str]]
COVID = ("covid-19",)
# The Cohen collection took these in from the Hannover repository, whose images are the internal site.
HANNOVER_URL = "ml-workgroup/covid-19-image-repository"
# Findings of the Cohen collection that are a pneumonia other than COVID-19, last part of both label styles.
PNEUMONIAS = (
    "pneumonia", "sars", "mers", "pneumocystis", "streptococcus", "klebsiella", "legionella", "lipoid", "varicella",
    "influenza", "mycoplasma", "e.coli", "bacterial", "viral", "mycoplasma bacterial pneumonia", "chlamydophila",
    "aspiration", "herpes", "nocardia", "staphylococcus", "mrsa", "fungal", "aspergillosis", "h1n1",
)  # fmt: skip
SIIM_RULES = {
    "any_appearance": ("Typical Appearance", "Indeterminate Appearance", "Atypical Appearance"),
    "typical_indeterminate": ("Typical Appearance", "Indeterminate Appearance"),
    "typical_only": ("Typical Appearance",),
    "opacity_box": (),
}


def read_table(path: Path, require: Iterable[str] = ()) -> Table:
    """A collection's CSV with its header normalized (lower case, no spaces around), in UTF-8 or Latin-1.

    Raises:
        InputError: when the file is missing or empty, or lacks a column of ``require``.
    """
    if not path.is_file():
        raise InputError(f"no {path.name} in {path.parent.name}/; give the folder that holds the collections")
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    reader = csv.reader(io.StringIO(text, newline=""))
    header = [name.strip().lower() for name in next(reader, [])]
    lacking = [name for name in require if name not in header]
    if lacking:
        raise InputError(f"{path.name} lacks the column {lacking[0]}; is it the collection's own table?")
    return [dict(zip(header, (cell.strip() for cell in cells), strict=False)) for cells in reader if cells]


def read_hannover(root: Path) -> list[Row]:
    """COVID-19 Image Repository, Hannover Medical School: every frontal radiograph, label 1."""
    rows = []
    for line in read_table(root / "hannover/data.csv", ("image_id", "patient_id", "projection", "sex", "age")):
        view = line["projection"].upper()
        row = _row(
            f"hannover/dicom/{line['image_id']}.dcm", "1", f"hannover-{line['patient_id']}", "hannover", view, line["sex"], line["age"]
        )
        row["dropped"] = "" if view in ("PA", "AP") else "view is not PA or AP"
        rows.append(row)
    return rows


def read_nih(root: Path, finding: str) -> list[Row]:
    """NIH ChestX-ray14: images with ``finding`` ("Pneumonia", or "No Finding" alone), label 0. Reads 2017 and v2020."""
    folder = root / "nih"
    names = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    table = read_table(next((folder / name for name in names if (folder / name).is_file()), folder / names[0]), NIH_COLUMNS)
    negative_type = "healthy" if finding == "No Finding" else "other_pneumonia"
    rows = []
    for line in table:
        labels = line["finding labels"].split("|")
        age = re.sub(r"^0*(\d+)Y?$", r"\1", line["patient age"])
        row = _row(
            f"nih/images/{line['image index']}", "0", f"nih-{line['patient id']}", "nih", line["view position"], line["patient gender"], age
        )
        row["negative_type"] = negative_type
        row["dropped"] = "" if finding in labels else f"finding is not {finding}"
        rows.append(row)
    return rows


def read_cohen(root: Path, views: Iterable[str] = ("PA", "AP")) -> list[Row]:
    """COVID-19 image data collection: COVID-19 label 1, other pneumonias label 0, other findings dropped.

    Reads both label styles ("COVID-19, ARDS" and "Pneumonia/Viral/COVID-19") and all header variants. Images that came
    from the Hannover repository are dropped, by ``url`` and by file name: they are the internal site's.
    """
    views, rows = tuple(views), []
    seen: set[str] = set()
    table = root / "hannover/data.csv"
    hannover = {line["image_id"] for line in read_table(table, ("image_id",))} if table.is_file() else set()
    for line in read_table(root / "cohen/metadata.csv", ("patientid", "sex", "age", "finding", "view", "modality", "folder", "filename")):
        parts = [part.strip().lower() for part in re.split(r"[/,]", line["finding"]) if part.strip()]
        positive = any(part in COVID for part in parts)
        view, modality = line["view"].strip(), line["modality"]
        row = _row(
            f"cohen/images/{line['filename']}", str(int(positive)), f"cohen-{line['patientid']}", "cohen", view, line["sex"], line["age"]
        )
        row["negative_type"] = "" if positive else "other_pneumonia"
        row["dropped"] = ""
        if HANNOVER_URL in line.get("url", "").lower() or Path(line["filename"]).stem in hannover:
            row["dropped"] = "image is in the Hannover repository"
        elif modality != "X-ray" or line["folder"] != "images":
            row["dropped"] = "not an X-ray image"
        elif not positive and not any(part in PNEUMONIAS for part in parts):
            row["dropped"] = "finding is not a pneumonia"
        elif view not in views:
            row["dropped"] = f"view is not {' or '.join(views)}"
        elif not (root / row["image"]).is_file():
            row["dropped"] = "image is not in the folder"
        elif row["image"] in seen:
            row["dropped"] = "image is listed twice"
        else:
            seen.add(row["image"])
        mask = f"cohen/lung_masks/{Path(line['filename']).stem}.png"
        row["lung_mask"] = mask if (root / mask).is_file() else ""
        rows.append(row)
    return rows


def read_siim(root: Path, rule: str = "any_appearance", drop_unboxed_duplicates: bool = False) -> list[Row]:
    """SIIM-FISABIO-RSNA COVID-19 Detection, training part.

    PatientID stands in the DICOM headers alone. It is read where the images are there; otherwise the study is the
    unit, and the audit says so: rebuild the manifest beside the images before training.

    Args:
        root: the folder with ``siim/``.
        rule: what is positive; a key of ``SIIM_RULES``. "opacity_box" takes images with a box.
        drop_unboxed_duplicates: leave out images without a box in a study that has a boxed image.

    Raises:
        InputError: on an unknown rule or a missing table.
    """
    if rule not in SIIM_RULES:
        raise InputError(f"rule must be one of {', '.join(SIIM_RULES)}, got {rule!r}")
    folder = root / "siim"
    labels = read_table(folder / "train_study_level.csv", ("id", "typical appearance"))
    studies = {line["id"].removesuffix("_study"): line for line in labels}
    images = read_table(folder / "train_image_level.csv", ("id", "boxes", "studyinstanceuid"))
    paths = {Path(path).stem: path for path in _siim_paths(folder)}
    boxed = {line["studyinstanceuid"] for line in images if line["boxes"]}
    rows = []
    for line in images:
        name, study = line["id"].removesuffix("_image"), line["studyinstanceuid"]
        boxes = line["boxes"]
        appearance = studies.get(study, {})
        positive = bool(boxes) if rule == "opacity_box" else any(appearance.get(key.lower()) == "1" for key in SIIM_RULES[rule])
        row = _row(f"siim/{paths.get(name, '')}", str(int(positive)), f"siim-{study}", "siim", "", "", "")
        row["study_id"], row["dropped"] = study, ""
        if boxes:
            numbers = [float(value) for value in re.findall(r":\s*(-?[\d.]+)", boxes)]
            row["boxes"] = json.dumps([[round(v, 1) for v in numbers[i : i + 4]] for i in range(0, len(numbers), 4)])
        if name not in paths:
            row["dropped"] = "image is not in the folder"
        elif not appearance:
            row["dropped"] = "study has no label"
        elif drop_unboxed_duplicates and not boxes and study in boxed:
            row["dropped"] = "unboxed beside a boxed image of its study"
        elif (folder / paths[name]).is_file():
            row["patient_id"] = f"siim-{_dicom_patient(folder / paths[name])}"
        rows.append(row)
    return rows


def hannover_nih(root: Path, seed: int = 0) -> list[Row]:
    """Internal site: Hannover COVID-19 against NIH pneumonia, split 6:2:2 by patient."""
    return split_by_patient(read_hannover(root) + read_nih(root, "Pneumonia"), seed)


def cohen(root: Path, seed: int = 0) -> list[Row]:
    """External site whose two classes come from one source: Cohen COVID-19 against Cohen other pneumonias."""
    return all_test(read_cohen(root))


def cohen_nih(root: Path, seed: int = 0, min_age: int = 18) -> list[Row]:
    """The paper's Dataset II: Cohen COVID-19 PA and AP against NIH No Finding, 1:1 and PA:AP matched.

    One NIH image a patient, adults only, and no patient who has a pneumonia image, since those are in hannover_nih.
    """
    positives = read_cohen(root)
    for row in positives:
        row["dropped"] = row["dropped"] or ("" if row["label"] == "1" else "finding is not COVID-19")
    negatives = read_nih(root, "No Finding")
    pneumonia = {row["patient_id"] for row in read_nih(root, "Pneumonia") if not row["dropped"]}
    rng = np.random.default_rng(seed)
    wanted = {view: sum(not r["dropped"] and r["view"] == view for r in positives) for view in ("PA", "AP")}
    used: set[str] = set()
    for index in rng.permutation(len(negatives)):
        row = negatives[index]
        if row["dropped"]:
            continue
        if row["patient_id"] in pneumonia:
            row["dropped"] = "patient is in hannover_nih"
        elif float(row["age"] or 0) < min_age:
            row["dropped"] = f"younger than {min_age}"
        elif row["patient_id"] in used:
            row["dropped"] = "one image a patient"
        elif not wanted.get(row["view"]):
            row["dropped"] = "not needed for 1:1 with matched views"
        else:
            wanted[row["view"]] -= 1
            used.add(row["patient_id"])
    return all_test(positives + negatives)


def siim(root: Path, seed: int = 0, rule: str = "any_appearance", drop_unboxed_duplicates: bool = False) -> list[Row]:
    """The paper's Dataset I: SIIM-FISABIO-RSNA, split 6:2:2 by patient."""
    return split_by_patient(read_siim(root, rule, drop_unboxed_duplicates), seed)


BUILDERS: dict[str, Callable[..., list[Row]]] = {
    "hannover-nih": hannover_nih,
    "cohen-nih": cohen_nih,
    "cohen": cohen,
    "siim": siim,
}


def all_test(rows: list[Row]) -> list[Row]:
    """The rows with ``split`` "test"."""
    return [row | {"split": "test"} for row in rows]


def _row(image: str, label: str, patient: str, site: str, view: str, sex: str, age: str) -> Row:
    sex = sex.upper() if sex.upper() in ("M", "F") else ""
    years = re.fullmatch(r"\d{1,3}(\.\d+)?", age)
    return {
        "image": image,
        "label": label,
        "patient_id": patient,
        "site": site,
        "view": view.upper() if view not in ("", "?") else "",
        "sex": sex,
        "age": f"{float(age):g}" if years and float(age) <= 120 else "",
    }


def _siim_paths(folder: Path) -> list[str]:
    """Image paths below ``siim/``: of the files where they are, otherwise of the list ``file_tree.csv``."""
    found = [path.relative_to(folder).as_posix() for path in sorted(folder.glob("train/*/*/*.dcm"))]
    return found or [line["path"] for line in read_table(folder / "file_tree.csv")]


def _dicom_patient(path: Path) -> str:
    return str(pydicom.dcmread(path, specific_tags=["PatientID"], stop_before_pixels=True).get("PatientID", ""))
