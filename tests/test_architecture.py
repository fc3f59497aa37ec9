"""The packages: JSON names packages, indexes name what is there, imports are lazy."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from conftest import ROOT
from fixtures.evaluations import small_report

from sga_monai.cli.main import app
from sga_monai.core.files import file_sha256
from sga_monai.hospital.release import make_release

PACKAGES = sorted(path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in (ROOT / "sga_monai").rglob("__init__.py"))
JSON = "".join(path.read_text() for path in sorted((ROOT / "bundles/sga").glob("*.json")))
TARGETS = sorted(set(re.findall(r'"(sga_monai\.[\w.]+)"', JSON)))
HEAVY = {"torch", "monai", "ignite", "sklearn", "matplotlib", "pandas", "scipy.stats", "pydicom"}
# What a hospital runs without a network, and the help of everything: no torch, no MONAI.
COMMANDS = typer.main.get_command(app)
NAMES = sorted(COMMANDS.commands)
GROUPS = {name: sorted(group.commands) for name, group in COMMANDS.commands.items() if hasattr(group, "commands")}
HELP = [[name] for name in NAMES] + [[name, inner] for name, commands in GROUPS.items() for inner in commands]
LIGHT = [["version"], ["--help"], *([*name, "--help"] for name in HELP)]


@pytest.mark.parametrize("target", TARGETS)
def test_json_names_packages_and_what_is_in_their_index(target: str) -> None:
    package, _, name = target.rpartition(".")
    module = importlib.import_module(package)
    assert name in module.__all__
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


def without(modules: set[str], arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, which fails when it has imported one of ``modules``."""
    code = (
        "import sys; from sga_monai.cli.main import main\n"
        f"sys.argv = ['sga-monai', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"heavy = {modules!r} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_help_does_without_torch() -> None:
    # All in one process, which is stricter than one each and sixteen times as fast.
    code = (
        "import sys; from sga_monai.cli.main import main\n"
        f"for arguments in {LIGHT!r}:\n"
        "    sys.argv = ['sga-monai', *arguments]\n"
        "    try:\n        main()\n    except SystemExit as end:\n        assert not end.code, arguments\n"
        f"    heavy = {HEAVY | {'scipy', 'numpy'}!r} & set(sys.modules)\n"
        "    assert not heavy, (arguments, heavy)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Usage:") == len(LIGHT) - 1


def test_verify_does_without_torch(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/evaluate.json").write_text('{"device": "$torch.device(0)"}')
    (tmp_path / "SHA256SUMS").write_text(f"{file_sha256(tmp_path / 'configs/evaluate.json')}  configs/evaluate.json\n")
    result = without(HEAVY | {"scipy", "numpy", "jsonschema"}, ["verify", str(tmp_path)])
    assert result.returncode == 0, result.stderr
    assert "1 files are what was packaged" in result.stdout


def test_release_and_pool_do_without_torch(tmp_path: Path) -> None:
    names = ("A", "B", "C")
    for i, name in enumerate(names):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(small_report(0.75 + i / 20)))
        out = tmp_path / f"{name}.json"
        if i == 0:
            result = without(HEAVY | {"scipy"}, ["release", str(tmp_path / name), "--out", str(out), "--site", name])
            assert result.returncode == 0, result.stderr
            assert "this is all that leaves" in result.stdout
        else:
            make_release(tmp_path / name, out, name)
    result = without(HEAVY, ["pool", *(str(tmp_path / f"{name}.json") for name in names), "--out", str(tmp_path)])
    assert result.returncode == 0, result.stderr
    pooled = json.loads((tmp_path / "pooled.json").read_text())
    assert pooled["n_sites"] == 3
    assert all(0.7 < model["pooled"]["auroc"] < 0.9 for model in pooled["models"].values())


def test_importing_changes_nothing_global() -> None:
    code = (
        "import logging, signal, sys, warnings\n"
        "state = lambda: (sys.excepthook, signal.getsignal(signal.SIGTERM), list(warnings.filters), logging.root.level, "
        "{n: l.level for n, l in logging.root.manager.loggerDict.items() if isinstance(l, logging.Logger)})\n"
        "before = state()\nimport sga_monai\nassert state() == before\nassert 'torch' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
