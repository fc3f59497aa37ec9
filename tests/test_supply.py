"""No code comes in with data, and the floors under the dependencies stay where the advisories put them."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.version import Version

SOURCES = sorted((ROOT / "sga_monai").rglob("*.py"))
# Below these versions: CVE-2026-21851, GHSA-6vm5-6jv9-rjpj, GHSA-x6ww-pf9m-m73m, GHSA-wvpx-5qmp-46g3 (monai), CVE-2026-24747 (torch),
# CVE-2026-32711 (pydicom).
UNSAFE_MODULES = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml")
UNSAFE_CALLS = (
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
    "torch.jit.load", "torch.package.PackageImporter", "pandas.read_pickle", "logging.config.fileConfig", "importlib.import_module",
)  # fmt: skip
UNSAFE_METHODS = ("extractall", "read_pickle", "fileConfig")
FLOORS = {"monai": "1.6.1", "torch": "2.10", "pydicom": "3.0.2"}


def problems(source: str) -> list[str]:
    """Calls and imports through which data could become code."""
    found = []
    names: dict[str, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name: alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    found += [name for name in names.values() if name.split(".")[0] in UNSAFE_MODULES or name in UNSAFE_CALLS]
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        first, dot, rest = ast.unparse(node.func).partition(".")
        name = names.get(first, first) + dot + rest
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in UNSAFE_CALLS or name.removeprefix("builtins.") in UNSAFE_CALLS or name.split(".")[-1] in UNSAFE_METHODS:
            found.append(name)
        if name == "torch.load" and keywords.get("weights_only") != "True":
            found.append("torch.load without weights_only")
        if name == "numpy.load" and (len(node.args) > 2 or keywords.get("allow_pickle", "False") != "False"):
            found.append("np.load with allow_pickle")
        if keywords.get("shell", "False") != "False":
            found.append("shell")
    return found


LINES = """
import pickle
from yaml import load
eval('1')
import builtins; builtins.eval('1')
import torch; torch.load(path)
import torch; torch.load(path, weights_only=False)
import torch as t; t.load(path)
from torch import load; load(path)
torch.jit.load(path)
import numpy as np; np.load(path, allow_pickle=True)
import numpy; numpy.load(path, None, True)
pandas.read_pickle(path)
subprocess.run(x, shell=True)
subprocess.run(x, shell=1)
subprocess.getoutput('x')
os.system('x')
from os import system
archive.extractall('.')
logging.config.fileConfig(path)
"""


@pytest.mark.parametrize("line", LINES.strip().splitlines())
def test_the_search_finds_what_it_should(line):
    assert problems(line)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_code_comes_in_with_data(path: Path):
    # The lazy indexes import modules of this package by names that stand in the code.
    known = ["importlib.import_module", "importlib.import_module"] if path.name == "lazy.py" else []
    assert [problem for problem in problems(path.read_text()) if problem not in known] == []


def test_floors():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    given = {}
    for line in project["dependencies"]:
        requirement = Requirement(line)
        given[requirement.name] = next(Version(s.version) for s in requirement.specifier if s.operator == ">=")
        assert requirement.url is None
    assert all(given[name] >= Version(floor) for name, floor in FLOORS.items())
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert all(Version(pinned[name]) >= floor for name, floor in given.items() if name in pinned)
    assert set(FLOORS) <= set(pinned)


def test_the_bundle_calls_only_what_is_known():
    allowed = ("torch.", "sga_monai.")
    for path in (ROOT / "bundles/sga").glob("*.json"):
        for target in re.findall(r'"_target_": "([^"]+)"', path.read_text()):
            assert "." not in target or target.startswith(allowed), (path.name, target)
        json.loads(path.read_text())
