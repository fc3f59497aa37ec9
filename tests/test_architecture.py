"""The packages: JSON names packages, indexes name what is there, imports are lazy."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys

import pytest
from conftest import ROOT

PACKAGES = sorted(path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / "sga_monai").rglob("__init__.py"))
JSON = "".join(path.read_text() for path in sorted((ROOT / "bundles/sga").glob("*.json")))
TARGETS = sorted(set(re.findall(r'"(sga_monai\.[\w.]+)"', JSON)))
# What a hospital runs without a network: no torch, no MONAI.
HELP = ("verify", "evaluate", "report", "release", "pool", "audit", "explain", "experiment", "package", "manifest", "benchmark")
LIGHT = (["version"], ["--help"], *([name, "--help"] for name in HELP))


@pytest.mark.parametrize("target", TARGETS)
def test_json_names_packages_and_what_is_in_their_index(target: str) -> None:
    package, _, name = target.rpartition(".")
    module = importlib.import_module(package)
    assert package == "sga_monai.bundle" or name in module.__all__
    assert callable(getattr(module, name))


@pytest.mark.parametrize("package", PACKAGES)
def test_an_index_names_what_is_there_to_readers_and_type_checkers(package: str) -> None:
    module = importlib.import_module(package)
    tree = ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
    lines = [line for block in tree.body if isinstance(block, ast.If) for line in block.body if isinstance(line, ast.ImportFrom)]
    typed = {alias.name: line.module for line in lines for alias in line.names}
    index = getattr(module, "_MODULES", {})
    assert {name: f"{package}.{place}" for name, place in index.items()} == typed
    assert sorted(index) == sorted(getattr(module, "__all__", []))
    for name in index:
        assert not inspect.ismodule(getattr(module, name))
    assert module.__doc__
    assert "\n" not in module.__doc__.strip()


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_light_commands_do_without_torch(arguments: list[str]) -> None:
    code = (
        "import sys; from sga_monai.cli.main import main\n"
        f"sys.argv = ['sga-monai', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'monai', 'sklearn', 'matplotlib', 'pandas', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_importing_changes_nothing_global() -> None:
    code = (
        "import logging, signal, sys, warnings\n"
        "state = lambda: (sys.excepthook, signal.getsignal(signal.SIGTERM), list(warnings.filters), logging.root.level, "
        "{n: l.level for n, l in logging.root.manager.loggerDict.items() if isinstance(l, logging.Logger)})\n"
        "before = state()\nimport sga_monai\nassert state() == before\nassert 'torch' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
