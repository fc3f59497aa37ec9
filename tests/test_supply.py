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

SOURCES = sorted((ROOT / "sga_monai").glob("*.py"))
# Below these versions: CVE-2026-21851, GHSA-6vm5-6jv9-rjpj, GHSA-x6ww-pf9m-m73m, GHSA-wvpx-5qmp-46g3 (monai), CVE-2026-24747 (torch),
# CVE-2026-32711 (pydicom).
UNSAFE_MODULES = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "yaml")
FLOORS = {"monai": "1.6.1", "torch": "2.10", "pydicom": "3.0.2"}


def problems(source: str) -> list[str]:
    """Calls and imports through which data could become code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [name for name in modules if name.split(".")[0] in UNSAFE_MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen") or name.endswith(".extractall"):
            found.append(name)
        if name.endswith("torch.load") and keywords.get("weights_only") != "True":
            found.append("torch.load without weights_only")
        if name in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
            found.append("np.load with allow_pickle")
        if keywords.get("shell") == "True":
            found.append("shell")
    return found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from yaml import load", "eval('1')", "torch.load(path)", "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)", "subprocess.run(x, shell=True)", "os.system('x')", "archive.extractall('.')",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_should(line):
    assert problems(line)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_no_code_comes_in_with_data(path: Path):
    assert problems(path.read_text()) == []


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
