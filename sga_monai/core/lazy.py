"""Lazy package indexes: a public name is imported when it is first used (PEP 562)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_index(package: str, index: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package, so that importing it costs nothing until a name is used.

    Args:
        package: ``__name__`` of the package.
        index: module of the package by public name.

    Example:
        >>> from sga_monai.sga import Masking  # imports sga_monai.sga.options, and torch with it, now
    """

    def getattr_(name: str) -> Any:
        if name not in index:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{index[name]}"), name)

    return getattr_, lambda: sorted(index)
