"""What made a result: versions and the code itself; and how two records of it differ."""

from __future__ import annotations

import hashlib
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

# What decodes, prepares and trains: another version may give other bits.
PACKAGES = ("sga_monai", "monai", "torch", "pytorch-ignite", "numpy", "pydicom", "imagecodecs", "pillow", "nibabel")


def versions() -> dict[str, str]:
    """Version of each of ``PACKAGES``."""
    return {name: version(name) for name in PACKAGES}


def code_digest() -> str:
    """SHA-256 over the Python files of this package, 16 digits: the code that ran, whatever its version says."""
    folder, digest = Path(__file__).parents[1], hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def code_facts() -> dict[str, Any]:
    """``code_digest`` and ``versions``: with others a training, and thus a cell of an experiment, is another one."""
    return {"digest": code_digest(), "versions": versions()}


def software() -> dict[str, str]:
    """What an evaluation or a report was made with, on one level."""
    return versions() | {"python": platform.python_version(), "code": code_digest()}


def utc_time() -> str:
    """Now, to the second, as records have it: "2026-01-31T12:00:00+00:00"."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def git_revision() -> str | None:
    """The commit that this package's files are of, with "+" when they were changed since; ``None`` outside a repository."""
    folder = Path(__file__).parents[1]
    output = []
    try:
        for command in (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "."]):
            result = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True, timeout=10)
            output.append(result.stdout.strip())
    except (OSError, subprocess.SubprocessError):
        return None
    return output[0] + ("+" if output[1] else "")


def flatten(record: Any, name: str = "") -> dict[str, Any]:
    """Nested dictionaries and lists as one, with dotted names; an empty one inside is a value, or none would equal an absent one."""
    if name and record in ({}, []):
        return {name: record}
    if isinstance(record, Mapping):
        items = record.items()
    elif isinstance(record, list):
        # Numbers are written as names below.
        items = enumerate(record)  # type: ignore[assignment]
    else:
        return {name: record}
    return {key: value for part, inner in items for key, value in flatten(inner, f"{name}.{part}" if name else str(part)).items()}


def differences(before: Any, now: Any) -> list[str]:
    """One line for each value that is not the same in two records: "name: was X, is Y"."""
    old, new = flatten(before), flatten(now)
    names = [name for name in (old | new) if old.get(name) != new.get(name)]
    return [f"{name}: was {old.get(name, 'absent')}, is {new.get(name, 'absent')}" for name in names]
