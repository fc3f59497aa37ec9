"""The columns of predictions.csv, written and read."""

from __future__ import annotations

import pandas as pd
import pytest

from sga_monai.core.errors import InputError
from sga_monai.evaluation.predictions import ROW, SCORED, add_failures, is_internal, read_predictions

TABLE = pd.DataFrame([["site", 2, "p1", 1, 0.5, 0.6, 0.4, 0.2, 0.1], ["site", 4, "p2", 0, -0.5, 0.4, 0.4, 0.2, 0.1]], columns=list(SCORED))


def test_failures_are_rows_without_a_score(tmp_path):
    failure = {"row": 3, "label": 0, "patient": "p1", "set": "site", "code": "truncated"}
    table = add_failures(TABLE, [failure])
    assert table["error"].tolist() == ["", "", "truncated"]
    assert table["score"].isna().tolist() == [False, False, True]
    assert table.loc[2, list(ROW)].tolist() == ["site", 3, "p1", 0]
    assert table["label"].dtype == TABLE["label"].dtype
    assert add_failures(TABLE, [])["error"].tolist() == ["", ""]
    assert "error" not in TABLE
    table.to_csv(tmp_path / "predictions.csv", index=False)
    assert read_predictions(tmp_path / "predictions.csv")["score"].isna().sum() == 1


def test_groups_are_read_as_texts(tmp_path):
    TABLE.assign(age=["45", ""], sex="F", period="2021").to_csv(tmp_path / "predictions.csv", index=False)
    read = read_predictions(tmp_path / "predictions.csv")
    assert read["age"].tolist()[0] == "45"
    assert read["age"].isna().tolist() == [False, True]
    assert read["period"].tolist() == ["2021", "2021"]
    assert read["row"].tolist() == [2, 4]


def test_a_level_that_looks_like_an_empty_cell_keeps_its_name(tmp_path):
    table = TABLE.assign(negative_type=["", "None"], manufacturer=["NA", "GE"], view=["", ""])
    table.to_csv(tmp_path / "predictions.csv", index=False)
    read = read_predictions(tmp_path / "predictions.csv")
    assert read[["negative_type", "manufacturer", "view"]].fillna("empty").values.tolist() == [
        ["empty", "NA", "empty"],
        ["None", "GE", "empty"],
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "missing or damaged"),
        (b"", "missing or damaged"),
        (b"\xff\xfe\x00", "missing or damaged"),
        (b"row,score\n2,1\n", "no column set"),
    ],
)
def test_what_is_no_table_of_predictions_is_refused(tmp_path, content, message):
    if content is not None:
        (tmp_path / "predictions.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_predictions(tmp_path / "predictions.csv")


def test_names_of_internal_sets():
    assert [is_internal(name) for name in ("internal", "internal (validation)")] == [True, True]
    assert not any(is_internal(name) for name in ("internal_2022", "internal (2022)", "harbor", "", None))
