"""What ``lint_bundle`` takes for code, and what it does not: the list of large files, the packaged file of logging."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import ROOT

from sga_monai.hospital.verify import lint_bundle

LIST = 'large_files:\n  - path: "a.pt"\n    url: "https://example.org/x/a.pt"\n    hash_val: "00"\n    hash_type: "sha256"\n'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A bundle with the configurations and the file of logging that are packaged, and a list of large files."""
    (tmp_path / "configs").mkdir()
    for name in ("evaluate.json", "logging.conf"):
        (tmp_path / "configs" / name).write_bytes((ROOT / "bundles/sga" / name).read_bytes())
    (tmp_path / "large_files.yml").write_text(LIST)
    return tmp_path


def test_a_folder_for_the_model_zoo_holds_no_code(folder: Path) -> None:
    """The command ``verify`` refused it for its list of large files, which the zoo asks for."""
    lint = lint_bundle(folder)
    assert (lint.foreign, lint.code) == ([], [])


@pytest.mark.parametrize("line", ['run: "$1"', '  - path: "$1"', "    url: [1]", '_target_: "os.system"'])
def test_a_list_of_large_files_holds_nothing_else(folder: Path, line: str) -> None:
    (folder / "large_files.yml").write_text(f"{LIST}{line}\n")
    assert lint_bundle(folder).code == ["large_files.yml"]


@pytest.mark.parametrize("line", ["class=__import__('os').system('x')", "args=(open('x', 'w'),)", "kwargs={'stream': 1}", "no value"])
def test_a_file_of_logging_that_would_be_evaluated_is_code(folder: Path, line: str) -> None:
    """Python evaluates class and arguments of a handler; the bundle passed as one without code."""
    path = folder / "configs/logging.conf"
    path.write_text(f"{path.read_text()}\n[handler_more]\n{line}\n")
    assert lint_bundle(folder).code == ["configs/logging.conf"]


def test_expressions_are_listed_of_every_file_that_a_configuration_may_include(folder: Path) -> None:
    """A reference such as %docs/more.JSON::x was followed to a file that was not looked through."""
    (folder / "docs").mkdir()
    (folder / "docs/more.JSON").write_text('{"x": "$1", "y": {"_target_": "os.getcwd"}}')
    lint = lint_bundle(folder)
    assert "docs/more.JSON: x: $1" in lint.expressions
    assert lint.foreign == ["docs/more.JSON: os.getcwd"]
