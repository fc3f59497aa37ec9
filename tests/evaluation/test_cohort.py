"""What audits, explanations and hospitals share before a network sees an image."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from sga_monai.core.errors import InputError
from sga_monai.data.manifest import read_manifest
from sga_monai.data.manifest_writer import write_manifest
from sga_monai.evaluation.cohort import list_cohort, read_cohorts
from sga_monai.evaluation.predictions import GROUPS
from sga_monai.model.preparation import Preparation


def test_rows_cells_and_masks_belong_together(phantom_dir):
    cohort = list_cohort(phantom_dir / "northgate.csv", phantom_dir, Preparation(24), "val")
    listed = [row for row in read_manifest(phantom_dir / "northgate.csv") if row["split"] == "val"]
    assert cohort.name == "northgate"
    assert [item["row"] for item in cohort.items] == [int(row["row"]) for row in listed] == list(cohort.groups().index)
    assert all(cohort.cells[int(row["row"])] == row for row in listed)
    for row in listed:
        assert cohort.groups().loc[int(row["row"])].to_dict() == {key: row.get(key, "") for key in GROUPS}
    mask = cohort.lung(cohort.items[0]["row"])
    assert mask.shape == (1, 24, 24)
    assert mask.dtype == torch.bool
    (dataset,) = read_cohorts([cohort])
    assert dataset[0]["image"].shape == (1, 24, 24)
    assert [item["row"] for item in dataset.data] == list(cohort.groups().index)


def test_a_limit_takes_evenly_spaced_rows(phantom_dir):
    every = list_cohort(phantom_dir / "harbor.csv", phantom_dir, Preparation(24))
    for limit, expected in ((5, 5), (1, 1), (10_000, len(every.items))):
        some = list_cohort(phantom_dir / "harbor.csv", phantom_dir, Preparation(24), limit=limit)
        assert len(some.items) == len(some.groups()) == expected
        assert some.items[0] == every.items[0]
    five = [item["row"] for item in list_cohort(phantom_dir / "harbor.csv", phantom_dir, Preparation(24), limit=5).items]
    assert five[-1] == every.items[-1]["row"]
    gaps = [b - a for a, b in itertools.pairwise(five)]
    assert max(gaps) - min(gaps) <= 1


def test_missing_images_are_counted_equal_ones_and_masks_outside_are_refused(phantom_dir, tmp_path, caplog):
    rows = read_manifest(phantom_dir / "harbor.csv")[:4]
    for i, row in enumerate(rows):
        shutil.copy(phantom_dir / row["image"], tmp_path / f"{i}.dcm")
        row["image"], row["lung_mask"], row["sha256"] = f"{i}.dcm", "", ""
    write_manifest(tmp_path / "site.csv", rows)
    (tmp_path / "3.dcm").unlink()
    cohort = list_cohort(tmp_path / "site.csv", tmp_path, Preparation(24))
    assert cohort.lung is None
    (dataset,) = read_cohorts([cohort], tmp_path / "cache")
    assert [(failure["row"], failure["code"]) for failure in dataset.failures] == [(5, "missing")]
    assert "site: 1 images cannot be read" in caplog.text
    assert list((tmp_path / "cache").rglob("*"))
    shutil.copy(tmp_path / "0.dcm", tmp_path / "3.dcm")
    with pytest.raises(InputError, match="site row 2 and site row 5 are the same file"):
        read_cohorts([cohort])
    rows[1]["lung_mask"] = rows[2]["lung_mask"] = "none.png"
    write_manifest(tmp_path / "site.csv", rows)
    with pytest.raises(InputError, match="the lung_mask of row 3, 4 is no file inside dataset_dir"):
        list_cohort(tmp_path / "site.csv", tmp_path, Preparation(24))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("text", "the lung_mask of row 3, 6 cannot be read as a PNG"),
        ("black", "the lung_mask of row 3, 6 marks nothing or everything as lung"),
        ("dot", "in the lung_mask of row 3, 6 the lungs, or what is outside, are too small to be seen with image_size 24"),
    ],
)
def test_every_bad_mask_is_named_before_any_image_is_read(phantom_dir, tmp_path, bad, message, monkeypatch):
    rows = read_manifest(phantom_dir / "harbor.csv")[:6]
    for i, row in enumerate(rows):
        shutil.copy(phantom_dir / row["image"], tmp_path / f"{i}.dcm")
        pixels = np.zeros((8, 8), dtype=np.uint8)
        pixels[2:4] = 0 if bad == "black" and i in (1, 4) else 255
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        if bad == "dot" and i in (1, 4):
            pixels = np.zeros((240, 240), dtype=np.uint8)
            pixels[0, 0] = 255
            Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        if bad == "text" and i in (1, 4):
            (tmp_path / f"{i}.png").write_text("no picture")
        row["image"], row["lung_mask"], row["sha256"] = f"{i}.dcm", f"{i}.png", ""
    write_manifest(tmp_path / "site.csv", rows)
    monkeypatch.setattr("sga_monai.evaluation.cohort.CXRDataset", None)
    with pytest.raises(InputError, match=rf"site\.csv: {message}"):
        read_cohorts([list_cohort(tmp_path / "site.csv", tmp_path, Preparation(24))])
