from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from sga_monai.cohorts.inspection import inspect_manifest
from sga_monai.core.errors import InputError

# AUROC of the label from the frame and from a thumbnail, measured on the reduced collections by an independent program.
MEASURED = {"siim": (0.69, 0.75), "shenzhen": (0.86, 0.88), "montgomery": (0.68, 0.80), "kermany": (0.90, 0.98)}


@pytest.fixture
def framed(tmp_path):
    """Sixty images of noise whose frame is mostly brighter with label 1, and one row whose file is absent."""
    rng = np.random.default_rng(0)
    lines = ["image,label,patient_id,site,split"]
    for i in range(60):
        image = rng.integers(0, 200, (64, 64))
        # Some of label 1 have no brighter frame.
        image[:4] += 55 * (i % 2 and i % 7 > 0)
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{i % 2},p{i},here,test")
    (tmp_path / "set.csv").write_text("\n".join([*lines, "60.png,1,p60,here,test"]) + "\n")
    return tmp_path


def test_a_planted_frame_is_found_in_the_images_that_can_be_read(framed):
    found = inspect_manifest(framed / "set.csv", framed, shortcuts=True)
    assert found.flow["labeled"] == [60, 30, 30]
    assert found.shortcuts["frame_only"]["value"] > 0.8
    assert found.shortcuts["frame_only"]["n"] == found.shortcuts["thumbnail"]["n"] == 60
    assert inspect_manifest(framed / "set.csv", framed).shortcuts == {}


def test_shortcuts_need_labels(framed):
    with pytest.raises(InputError, match="shortcuts reads the label"):
        inspect_manifest(framed / "set.csv", framed, labels=False, shortcuts=True)


def test_the_command_prints_both_lines(framed):
    command = [sys.executable, "-m", "sga_monai", "manifest", "check", "set.csv", "--dataset-dir", ".", "--shortcuts"]
    environment = os.environ | {"COLUMNS": "160", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=framed, capture_output=True, text=True, env=environment, check=False)
    # One row has no file.
    assert done.returncode == 2, done.stderr
    found = inspect_manifest(framed / "set.csv", framed, shortcuts=True).shortcuts
    for title, name in (("the outer 8 % of each side", "frame_only"), ("20 x 20 pixels", "thumbnail")):
        line = next(line for line in done.stdout.splitlines() if title in line)
        assert f"{found[name]['value']:.3f}" in line
        assert f"[{found[name]['low']:.3f}, {found[name]['high']:.3f}]" in line
    assert "0.5 is chance" in done.stdout


@pytest.mark.real
@pytest.mark.parametrize("name", MEASURED)
def test_figures_of_the_collections_are_those_measured_elsewhere(real_data: Path, name):
    found = inspect_manifest(ROOT / f"data_manifests/{name}.csv", real_data, shortcuts=True)
    assert not found.failures
    # With 137 images the figure moves by 0.05 with the folds.
    tolerance = 0.05 if name == "montgomery" else 0.03
    for figure, measured in zip((found.shortcuts["frame_only"], found.shortcuts["thumbnail"]), MEASURED[name], strict=True):
        assert figure["value"] == pytest.approx(measured, abs=tolerance)
        assert figure["low"] < figure["value"] < figure["high"]


@pytest.mark.real
def test_no_view_of_nih_is_free_of_confounding(real_data: Path):
    for name in ("nih_pa", "nih_ap"):
        found = inspect_manifest(ROOT / f"data_manifests/{name}.csv", real_data, shortcuts=True)
        assert found.shortcuts["frame_only"]["low"] > 0.6
