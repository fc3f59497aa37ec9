"""Hooks are of programs: the literal commands have them, what embeds the package does not."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from sga_monai.core.process import is_program, keep_freed_memory


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


FAULTS = """
import resource, sys
import torch
from sga_monai.core.process import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()

def step():
    return [torch.ones(8, 1 << 20) for _ in range(3)]

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None) if sys.platform == "linux" else None, "mallopt"), reason="no glibc")
def test_memory_is_asked_for_once() -> None:
    """Pages of 4 kB that the system had to give in twenty steps of 96 MB, 24,576 pages each; the heap may grow by a block or two."""
    command = [sys.executable, "-c", FAULTS]
    plain, kept = (int(subprocess.run([*command, how], check=True, capture_output=True, text=True).stdout) for how in ("plain", "kept"))
    assert kept < 3 * 24_576
    assert plain > 5 * kept or plain < 1000


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    keep_freed_memory()
