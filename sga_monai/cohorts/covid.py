"""Manifests of the COVID-19 Image Repository (Hannover) and of the COVID-19 image data collection (Cohen et al. 2020)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sga_monai.cohorts.nih import read_nih
from sga_monai.cohorts.splits import split_by_patient
from sga_monai.cohorts.tables import FILLED, all_test, find_mask, make_row, missing, read_table, refuse_shared_masks
from sga_monai.data.manifest import Row

COVID = ("covid-19",)
# The Cohen collection took these in from the Hannover repository, whose images are the internal site.
HANNOVER_URL = "ml-workgroup/covid-19-image-repository"
# Findings of the Cohen collection that are a pneumonia other than COVID-19, last part of both label styles.
PNEUMONIAS = (
    "pneumonia", "sars", "mers", "pneumocystis", "streptococcus", "klebsiella", "legionella", "lipoid", "varicella",
    "influenza", "mycoplasma", "e.coli", "bacterial", "viral", "mycoplasma bacterial pneumonia", "chlamydophila",
    "aspiration", "herpes", "nocardia", "staphylococcus", "mrsa", "fungal", "aspergillosis", "h1n1",
)  # fmt: skip


def read_hannover(root: Path) -> list[Row]:
    """COVID-19 Image Repository, Hannover Medical School: every frontal radiograph, label 1."""
    rows = []
    for line in read_table(root / "hannover/data.csv", ("image_id", "patient_id", "projection", "sex", "age"), {"patient_id": FILLED}):
        view = line["projection"].upper()
        row = make_row(
            f"hannover/dicom/{line['image_id']}.dcm", "1", f"hannover-{line['patient_id']}", "hannover", view, line["sex"], line["age"]
        )
        row["dropped"] = missing(root, row) if view in ("PA", "AP") else "view is not PA or AP"
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
    columns = ("patientid", "sex", "age", "finding", "view", "modality", "folder", "filename")
    lines = read_table(root / "cohen/metadata.csv", columns, {"patientid": FILLED})
    for line in lines:
        parts = [part.strip().lower() for part in re.split(r"[/,]", line["finding"]) if part.strip()]
        positive = any(part in COVID for part in parts)
        view, modality = line["view"].strip(), line["modality"]
        row = make_row(
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
        elif absent := missing(root, row):
            row["dropped"] = absent
        elif row["image"] in seen:
            row["dropped"] = "image is listed twice"
        else:
            seen.add(row["image"])
        row["lung_mask"] = find_mask(root, "cohen", line["filename"])
        rows.append(row)
    refuse_shared_masks(rows, lines, "metadata.csv")
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


BUILDERS = {"hannover-nih": hannover_nih, "cohen": cohen, "cohen-nih": cohen_nih}
