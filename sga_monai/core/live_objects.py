"""What live objects are: all settings of a transform or network as JSON values, and the processor behind a device."""

from __future__ import annotations

import enum
import math
import platform
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import LoadImage

from sga_monai.core.errors import InputError


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
