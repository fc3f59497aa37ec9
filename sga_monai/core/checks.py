"""Checks of arguments: a value outside its range is refused with one sentence that names the option and the range.

Each check returns the value as the type that it stands for, so that it is written once:

    >>> from sga_monai.core import checks as check
    >>> check.number("mask_fraction", 0.1, low=0, below=1)
    0.1
    >>> check.flag("resume", "true")
    True
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, TypeVar

from sga_monai.core.errors import InputError

Choice = TypeVar("Choice")


def number(
    name: str, value: Any, *, low: float | None = None, high: float | None = None, above: float | None = None, below: float | None = None
) -> float:
    """A finite number within its range.

    Args:
        name: the option, as the user writes it.
        value: what was given; a flag or a text is no number.
        low: the smallest value allowed.
        high: the largest value allowed.
        above: the value must be greater than this.
        below: the value must be less than this.

    Returns:
        The value as a float.

    Raises:
        InputError: when it is anything else.

    Example:
        >>> number("failure_limit", 1, low=0, high=1)
        1.0
        >>> number("mask_fraction", 1, low=0, below=1)
        Traceback (most recent call last):
        sga_monai.core.errors.InputError: mask_fraction must be in [0, 1), got 1
    """
    if not _is_number(value) or not _within(value, low, high, above, below):
        raise InputError(f"{name} must be {_range('a number', low, high, above, below)}, got {value!r}")
    return float(value)


def whole(name: str, value: Any, *, low: int | None = None, high: int | None = None) -> int:
    """A whole number within its range, its ends included.

    Returns:
        The value as an int.

    Raises:
        InputError: when it is anything else: a flag, a text, 2.5 or 2.0.

    Example:
        >>> whole("seed", -1, low=0)
        Traceback (most recent call last):
        sga_monai.core.errors.InputError: seed must be a whole number, zero or more, got -1
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or not _within(int(value), low, high, None, None):
        raise InputError(f"{name} must be {_range('a whole number', low, high, None, None)}, got {value!r}")
    return int(value)


def choice(name: str, value: Choice, choices: Iterable[Choice]) -> Choice:
    """One of ``choices``, which are listed in the refusal in their order.

    Raises:
        InputError: when it is none of them.

    Example:
        >>> choice("voi", "auto", ("dicom", "none"))
        Traceback (most recent call last):
        sga_monai.core.errors.InputError: voi must be one of dicom, none, got 'auto'
    """
    known = tuple(choices)
    # 1 and True are equal, and so are 1 and 1.0: the type decides, too.
    if not any(type(one) is type(value) and one == value for one in known):
        raise InputError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}")
    return value


def flag(name: str, value: bool | str) -> bool:
    """A switch; the command line gives "true" and "false" as text, which would all count as true.

    Raises:
        InputError: when it is neither.
    """
    flags = {"true": True, "false": False}
    if not isinstance(value, (bool, str)) or str(value).lower() not in flags:
        raise InputError(f"{name} must be true or false, got {value!r}")
    return flags[str(value).lower()]


def pair(name: str, value: Any, *, low: float | None = None, high: float | None = None, distinct: bool = False) -> tuple[float, float]:
    """A range ``[low, high]`` of two finite numbers in ascending order.

    Args:
        name: the option, as the user writes it.
        value: a list or tuple of two numbers.
        low: the smallest value allowed for both.
        high: the largest value allowed for both.
        distinct: the two must differ.

    Returns:
        The two as floats.

    Raises:
        InputError: when it is anything else.

    Example:
        >>> pair("epsilon_range", [0, 0.03], low=0, high=1)
        (0.0, 0.03)
        >>> pair("epsilon_range", [0.03, 0], low=0, high=1)
        Traceback (most recent call last):
        sga_monai.core.errors.InputError: epsilon_range must be [low, high] with 0 <= low <= high <= 1, got [0.03, 0]
    """
    numbers = isinstance(value, (list, tuple)) and len(value) == 2 and all(_is_number(one) for one in value)
    if (
        not numbers
        or not all(_within(one, low, high, None, None) for one in value)
        or value[0] > value[1]
        or (distinct and value[0] == value[1])
    ):
        ends = ("" if low is None else f"{low:g} <= ", "" if high is None else f" <= {high:g}")
        raise InputError(f"{name} must be [low, high] with {ends[0]}low {'<' if distinct else '<='} high{ends[1]}, got {value!r}")
    return float(value[0]), float(value[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def _within(value: float, low: float | None, high: float | None, above: float | None, below: float | None) -> bool:
    return (
        (low is None or value >= low)
        and (high is None or value <= high)
        and (above is None or value > above)
        and (below is None or value < below)
    )


def _range(kind: str, low: float | None, high: float | None, above: float | None, below: float | None) -> str:
    """The allowed values in words for one end, as an interval for two."""
    start, end = low if above is None else above, high if below is None else below
    if start is not None and end is not None:
        interval = f"in {'[' if above is None else '('}{start:g}, {end:g}{']' if below is None else ')'}"
        return interval if kind == "a number" else f"{kind} {interval}"
    if start is not None:
        least = "zero" if start == 0 else f"{start:g}"
        return f"{kind}, {least} or more" if above is None else f"{kind} greater than {least}"
    if end is not None:
        return f"{kind}, {end:g} or less" if below is None else f"{kind} less than {end:g}"
    return kind
