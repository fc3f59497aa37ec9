"""What made a result: settings of live objects, versions, the code itself, the machine; and how two such records differ."""

from __future__ import annotations

import enum
import hashlib
import math
import platform
import subprocess
import threading
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import LoadImage

from sga_monai.core.errors import InputError

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


def processor(device: torch.device | str = "cpu") -> str:
    """Name of the GPU or CPU that ``device`` is: another may give other bits.

    Example:
        >>> bool(processor("cpu"))
        True
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as stream:
            return next(line.split(":", 1)[1].strip() for line in stream if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def describe(thing: Any) -> Any:
    """An object and all its settings as JSON values, equal for equal settings.

    Raises:
        InputError: when a setting is an object whose own settings cannot be seen.
    """
    if isinstance(thing, enum.Enum):
        return describe(thing.value)
    if isinstance(thing, float) and not math.isfinite(thing):
        return str(thing)
    if thing is None or isinstance(thing, (bool, int, float, str)):
        return thing
    if isinstance(thing, (list, tuple)):
        return [describe(value) for value in thing]
    if isinstance(thing, Mapping):
        return {str(key): describe(value) for key, value in thing.items()}
    if isinstance(thing, (np.ndarray, np.generic)):
        return thing.tolist()
    if isinstance(thing, (torch.dtype, torch.device, np.dtype)):
        return str(thing)
    if isinstance(thing, type):
        return f"{thing.__module__}.{thing.__qualname__}"
    name = f"{type(thing).__module__}.{type(thing).__qualname__}"
    if isinstance(thing, np.random.RandomState):
        return name
    if hasattr(thing, "__dict__"):
        # MONAI's lazy transforms gain a thread-local at first use.
        settings = {key: value for key, value in vars(thing).items() if not isinstance(value, threading.local)}
        if isinstance(thing, LoadImage):
            # The reader that was asked for comes last and is tried first; the others depend on what is installed.
            settings = settings | {"readers": settings["readers"][-1:]}
        return {"class": name} | {key: describe(value) for key, value in sorted(settings.items())}
    raise InputError(f"{name} hides its settings; without it this can be cached and resumed")


def flatten(record: Any, name: str = "") -> dict[str, Any]:
    """Nested dictionaries and lists as one, with dotted names."""
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
