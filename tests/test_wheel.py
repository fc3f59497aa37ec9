"""What a user has who installed the wheel and has no clone: the source bundle, the plans, types, and a training that parses."""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT

SOURCE = ROOT / "bundles/sga"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree, installed into a folder of its own without what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)], check=True, timeout=300)
    wheel = next(folder.glob("*.whl"))
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "site"), str(wheel)], check=True, timeout=300)
    return wheel


def run(wheel: Path, cwd: Path, code_or_module: list[str]) -> subprocess.CompletedProcess[str]:
    """Python with the installed wheel in front, outside of the repository."""
    environment = os.environ | {"PYTHONPATH": str(wheel.parent / "site")}
    return subprocess.run(
        [sys.executable, *code_or_module], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.slow
def test_the_wheel_holds_the_source_bundle_and_nothing_of_tests(installed: Path) -> None:
    names = set(zipfile.ZipFile(installed).namelist())
    expected = {f"sga_monai/bundle_source/{path.relative_to(SOURCE).as_posix()}" for path in SOURCE.rglob("*") if path.is_file()}
    assert expected <= names
    assert "sga_monai/py.typed" in names
    assert {"sga_monai/hospital/templates/report.html.jinja", "sga_monai/hospital/templates/forest.svg.jinja"} <= names
    assert {"sga_monai/core/templates/page.html.jinja", "sga_monai/core/templates/style.css"} <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"sga_monai"}
    assert not [name for name in names if "__pycache__" in name or "/test" in name]


@pytest.mark.slow
def test_the_bundle_is_written_and_a_training_of_it_parses(installed: Path, tmp_path: Path) -> None:
    result = run(installed, tmp_path, ["-m", "sga_monai", "bundle", "mine"])
    assert result.returncode == 0, result.stderr
    assert "python -m monai.bundle run training --config_file mine/train.json" in result.stdout
    files = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*") if path.is_file())
    assert filecmp.cmpfiles(SOURCE, tmp_path / "mine", files, shallow=False) == (files, [], [])
    again = run(installed, tmp_path, ["-m", "sga_monai", "bundle", "mine"])
    assert (again.returncode, again.stderr.strip()) == (3, "sga-monai: mine is there already and not empty; give a new folder")
    # The literal command, as far as its first refusal, which comes before the phantom is drawn.
    training = ["-m", "monai.bundle", "run", "training", "--config_file", "mine/train.json"]
    refused = run(installed, tmp_path, [*training, "--max_epochs", "0"])
    assert refused.returncode == 3, refused.stderr[-2000:]
    assert refused.stderr.strip().splitlines()[-1] == "sga-monai: max_epochs must be a whole number, 1 or more, got 0"
    assert "Traceback" not in refused.stderr
    code = """
import sga_monai
from monai.bundle import ConfigParser
parser = ConfigParser()
parser.read_config("mine/train.json")
parser.update({"mask_fraction": 0.2, "device": "cpu"})
iteration = parser.get_parsed_content("train#iteration")
print(iteration.masking.mask_fraction, sga_monai.__file__)
"""
    parsed = run(installed, tmp_path, ["-c", code])
    assert parsed.returncode == 0, parsed.stderr
    assert parsed.stdout.split() == ["0.2", str(installed.parent / "site/sga_monai/__init__.py")]


@pytest.mark.slow
def test_plans_and_package_find_their_source_without_a_clone(installed: Path, tmp_path: Path) -> None:
    code = """
import json, sys
from pathlib import Path
from sga_monai.core.source import find_file, source_bundle
from sga_monai.experiments.plan import read_plan
plan = read_plan("bundles/sga/experiments/four_methods_phantom.json")
found = {"source": str(source_bundle()), "config": plan.config_file, "cells": len(plan.cells)}
print(json.dumps(found | {"other": str(find_file("a/b.json"))}))
"""
    result = run(installed, tmp_path, ["-c", code])
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    site = installed.parent / "site/sga_monai/bundle_source"
    assert Path(found["source"]) == site
    assert Path(found["config"]) == site / "train.json"
    assert found["cells"] > 0
    assert found["other"] == str(Path("a/b.json"))
    # A package is refused for its checkpoint, no longer for the folder that it is made in.
    result = run(installed, tmp_path, ["-m", "sga_monai", "package", "--checkpoint", "model.pt"])
    assert result.returncode == 3
    assert "run.json" in result.stderr
    missing = run(installed, tmp_path, ["-m", "sga_monai", "experiment", "bundles/sga/experiments/absent.json"])
    assert missing.returncode == 3
    assert "no plan absent.json" in missing.stderr


def test_a_plan_in_the_folder_comes_before_the_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sga_monai.core.source import find_file, source_bundle

    name = "bundles/sga/experiments/four_methods_phantom.json"
    monkeypatch.chdir(tmp_path)
    assert find_file(name) == source_bundle() / "experiments/four_methods_phantom.json"
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_text("{}")
    assert find_file(name) == Path(name)
    assert find_file("bundles/sga/absent.json") == Path("bundles/sga/absent.json")
