"""Manifests of NIH ChestX-ray14 (Wang et al., CVPR 2017), whose labels were mined from reports.

In the reduced folder of 1,000 images the two classes come from different ranges of patients and differ in the mix of
views, so a comparison of both is confounded in itself; it is made within one view.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from sga_monai.cohorts.tables import FILLED, all_test, drop_copies, find_copies, make_row, missing, read_table
from sga_monai.data.manifest import Row

NIH_COLUMNS = ("image index", "finding labels", "patient id", "patient age", "patient gender", "view position")


def read_nih(root: Path, finding: str) -> list[Row]:
    """NIH ChestX-ray14: images with ``finding`` ("Pneumonia", or "No Finding" alone), label 0. Reads 2017 and v2020."""
    folder = root / "nih"
    names = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    path = next((folder / name for name in names if (folder / name).is_file()), folder / names[0])
    table = read_table(path, NIH_COLUMNS, {"patient id": FILLED})
    negative_type = "healthy" if finding == "No Finding" else "other_pneumonia"
    rows = []
    for line in table:
        labels = line["finding labels"].split("|")
        age = re.sub(r"^0*(\d+)Y?$", r"\1", line["patient age"])
        row = make_row(
            f"nih/images/{line['image index']}", "0", f"nih-{line['patient id']}", "nih", line["view position"], line["patient gender"], age
        )
        row["negative_type"] = negative_type
        row["dropped"] = missing(root, row) if finding in labels else f"finding is not {finding}"
        rows.append(row)
    return rows


def read_nih_pneumonia(root: Path) -> list[Row]:
    """NIH pneumonia, label 1, and no finding, label 0, one of each pair of equal files; rows of other findings are left out."""
    positive = [row | {"label": "1", "negative_type": ""} for row in read_nih(root, "Pneumonia")]
    rows = [row for row in positive + read_nih(root, "No Finding") if not row["dropped"]]
    return drop_copies(rows, find_copies(root, rows))


def nih_view(root: Path, seed: int = 0, *, view: str) -> list[Row]:
    """External set: NIH pneumonia against no finding within one view, every patient."""
    other = f"view is not {view}"
    return all_test([row if row["view"] == view else row | {"dropped": row["dropped"] or other} for row in read_nih_pneumonia(root)])


BUILDERS = {"nih-pa": partial(nih_view, view="PA"), "nih-ap": partial(nih_view, view="AP")}
