"""Checks of arguments: a value outside its range is refused with one sentence that names the option."""

from __future__ import annotations

from typing import Any

from sga_monai.core.errors import InputError


def as_flag(name: str, value: bool | str) -> bool:
    """A switch of a configuration; the command line gives "true" and "false" as text.

    Raises:
        InputError: when it is neither.
    """
    flags = {"true": True, "false": False}
    if str(value).lower() not in flags:
        raise InputError(f"{name} must be true or false, got {value!r}")
    return flags[str(value).lower()]


def as_count(name: str, value: Any) -> int:
    """A whole number, zero or more, of a configuration.

    Raises:
        InputError: when it is anything else, a flag included.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{name} must be a whole number, zero or more, got {value!r}")
    return value
