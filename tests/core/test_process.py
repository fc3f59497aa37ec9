"""Hooks are of programs: the literal commands have them, what embeds the package does not."""

from __future__ import annotations

import sys

import pytest

from sga_monai.core.process import is_program


@pytest.mark.parametrize(
    ("program", "ours"),
    [
        ("/x/site-packages/monai/bundle/__main__.py", True),
        ("/usr/bin/sga-monai", True),
        ("sga-monai.exe", True),
        ("/x/sga_monai/__main__.py", True),
        ("/x/site-packages/ipykernel_launcher.py", False),
        ("/x/bin/pytest", False),
        ("/x/other/__main__.py", False),
        ("-c", False),
        ("", False),
    ],
)
def test_which_process_is_a_program_of_ours(monkeypatch: pytest.MonkeyPatch, program: str, ours: bool) -> None:
    monkeypatch.setattr(sys, "argv", [program, "run", "training"])
    assert is_program() is ours


def test_no_command_line_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    assert is_program() is False
