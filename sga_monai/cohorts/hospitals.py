"""Manifests of hospitals that hold both classes: tuberculosis in Shenzhen and Montgomery County, children in Guangzhou.

Shenzhen and Montgomery: Jaeger, Candemir et al., 2014, US National Library of Medicine. Children: Kermany et al., 2018.
Each folder has a ``table.csv`` with one line an image: image, label, patient_id, site, sha256, and sex and age where known.
"""

from __future__ import annotations

from pathlib import Path

from sga_monai.cohorts.splits import split_by_patient
from sga_monai.cohorts.tables import (
    FILLED,
    all_test,
    drop_copies,
    find_copies,
    find_mask,
    make_row,
    missing,
    read_table,
    refuse_shared_masks,
)
from sga_monai.data.manifest import Row

COLUMNS = ("image", "label", "patient_id", "site", "sha256")
RULES = {
    "image": FILLED,
    "label": ("[01]", "must be 0 or 1"),
    "patient_id": FILLED,
    "site": FILLED,
    "sha256": ("([0-9A-Fa-f]{64})?", "must be 64 hexadecimal digits or empty"),
}


def read_hospital(root: Path, collection: str) -> list[Row]:
    """Every image of a collection's ``table.csv``; a negative is a normal radiograph."""
    rows = []
    table = read_table(root / collection / "table.csv", COLUMNS, RULES)
    for line in table:
        image, site = f"{collection}/{line['image']}", line["site"]
        row = make_row(image, line["label"], f"{site}-{line['patient_id']}", site, sex=line.get("sex", "")[:1], age=line.get("age", ""))
        row["sha256"] = line["sha256"]
        row["negative_type"] = "" if row["label"] == "1" else "healthy"
        row["lung_mask"] = find_mask(root, collection, line["image"])
        row["dropped"] = missing(root, row)
        rows.append(row)
    rows = drop_copies(rows, find_copies(root, rows))
    refuse_shared_masks(rows, table, "table.csv")
    return rows


def shenzhen_tb(root: Path, seed: int = 0) -> list[Row]:
    """Internal site: Shenzhen No. 3 People's Hospital, tuberculosis against normal, split 6:2:2 by patient."""
    return split_by_patient(read_hospital(root, "shenzhen_tb"), seed)


def montgomery_tb(root: Path, seed: int = 0) -> list[Row]:
    """External site: the tuberculosis control program of Montgomery County, tuberculosis against normal."""
    return all_test(read_hospital(root, "montgomery_tb"))


def kermany_children(root: Path, seed: int = 0) -> list[Row]:
    """Stress test for models of adults: Guangzhou Women and Children's Medical Center, pneumonia against normal."""
    return all_test(read_hospital(root, "kermany_children"))


BUILDERS = {"shenzhen-tb": shenzhen_tb, "montgomery-tb": montgomery_tb, "kermany-children": kermany_children}
