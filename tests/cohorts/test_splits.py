from __future__ import annotations

import pytest

from sga_monai.cohorts.splits import SPLIT_SHARES, audit, split_by_patient
from sga_monai.data.identity import same_id


def rows_of(n: int) -> list[dict[str, str]]:
    return [{"patient_id": f"p{i % 40}", "label": str(i % 40 % 2), "dropped": ""} for i in range(n)]


def test_split_is_by_patient_stratified_and_seeded():
    rows = split_by_patient(rows_of(200), 0)
    patients = {split: {row["patient_id"] for row in rows if row["split"] == split} for split in ("train", "val", "test")}
    assert not patients["train"] & patients["val"]
    assert not patients["train"] & patients["test"]
    for split, share in SPLIT_SHARES.items():
        for label in "01":
            count = sum(row["split"] == split and row["label"] == label for row in rows)
            assert count == pytest.approx(100 * share, abs=5)
    assert rows == split_by_patient(rows_of(200), 0)
    assert rows != split_by_patient(rows_of(200), 1)


def test_one_patient_in_two_spellings_is_in_one_split():
    rows = rows_of(200)
    for row in rows[100:]:
        row["patient_id"] = f" {row['patient_id'].upper()}"
    split = split_by_patient(rows, 0)
    assert [row["split"] for row in split] == [row["split"] for row in split_by_patient(rows_of(200), 0)]
    empty = dict.fromkeys(("site", "view", "sex", "age"), "")
    count = {line[0]: line[2] + line[3] for line in audit([row | empty for row in split]) if line[1] == "all"}
    assert count == {"images": 200, "patients": len({same_id(row["patient_id"]) for row in rows})}
