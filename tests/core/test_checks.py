"""Checks of arguments: what is taken, what is returned, and the sentence of a refusal."""

from __future__ import annotations

import doctest
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda: check.number("x", 1, low=0, high=1), 1.0),
        (lambda: check.number("x", 0, low=0), 0.0),
        (lambda: check.number("x", -3), -3.0),
        (lambda: check.number("x", np.float32(0.5), above=0, below=1), 0.5),
        (lambda: check.whole("x", 0, low=0), 0),
        (lambda: check.whole("x", np.int64(7), low=1, high=7), 7),
        (lambda: check.choice("x", "b", ("a", "b")), "b"),
        (lambda: check.choice("x", 2, iter((1, 2))), 2),
        (lambda: check.flag("x", True), True),
        (lambda: check.flag("x", "False"), False),
        (lambda: check.flag("x", "true"), True),
        (lambda: check.pair("x", [0, 1], low=0, high=1), (0.0, 1.0)),
        (lambda: check.pair("x", (2, 2)), (2.0, 2.0)),
    ],
)
def test_what_is_within_its_range_comes_back_as_its_type(call: Callable[[], Any], value: Any) -> None:
    result = call()
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check.number("x", 1.5, low=0, high=1), "x must be in [0, 1], got 1.5"),
        (lambda: check.number("x", 1, low=0, below=1), "x must be in [0, 1), got 1"),
        (lambda: check.number("x", 0, above=0, high=0.5), "x must be in (0, 0.5], got 0"),
        (lambda: check.number("x", -1, low=0), "x must be a number, zero or more, got -1"),
        (lambda: check.number("x", 0, above=0), "x must be a number greater than zero, got 0"),
        (lambda: check.number("x", 0, low=2), "x must be a number, 2 or more, got 0"),
        (lambda: check.number("x", 3, high=2), "x must be a number, 2 or less, got 3"),
        (lambda: check.number("x", 2, below=2), "x must be a number less than 2, got 2"),
        (lambda: check.number("x", "0.1", low=0), "x must be a number, zero or more, got '0.1'"),
        (lambda: check.number("x", None), "x must be a number, got None"),
        (lambda: check.number("x", True, low=0), "x must be a number, zero or more, got True"),
        (lambda: check.number("x", math.nan), "x must be a number, got nan"),
        (lambda: check.number("x", math.inf, low=0), "x must be a number, zero or more, got inf"),
        (lambda: check.whole("x", 2.0, low=0), "x must be a whole number, zero or more, got 2.0"),
        (lambda: check.whole("x", True, low=0), "x must be a whole number, zero or more, got True"),
        (lambda: check.whole("x", "2"), "x must be a whole number, got '2'"),
        (lambda: check.whole("x", 0, low=1), "x must be a whole number, 1 or more, got 0"),
        (lambda: check.whole("x", 9, low=1, high=8), "x must be a whole number in [1, 8], got 9"),
        (lambda: check.choice("x", "c", ("a", "b")), "x must be one of a, b, got 'c'"),
        (lambda: check.choice("x", True, (1, 2)), "x must be one of 1, 2, got True"),
        (lambda: check.choice("x", ["a"], ("a", "b")), "x must be one of a, b, got ['a']"),
        (lambda: check.flag("x", "yes"), "x must be true or false, got 'yes'"),
        (lambda: check.flag("x", 1), "x must be true or false, got 1"),  # type: ignore[arg-type]
        (lambda: check.pair("x", [1, 0]), "x must be [low, high] with low <= high, got [1, 0]"),
        (lambda: check.pair("x", [0, 2], low=0, high=1), "x must be [low, high] with 0 <= low <= high <= 1, got [0, 2]"),
        (lambda: check.pair("x", [1, 1], distinct=True), "x must be [low, high] with low < high, got [1, 1]"),
        (lambda: check.pair("x", 0.1, low=0), "x must be [low, high] with 0 <= low <= high, got 0.1"),
        (lambda: check.pair("x", [0, True]), "x must be [low, high] with low <= high, got [0, True]"),
        (lambda: check.pair("x", [0, math.nan]), "x must be [low, high] with low <= high, got [0, nan]"),
        (lambda: check.pair("x", [0, 1, 2]), "x must be [low, high] with low <= high, got [0, 1, 2]"),
        (lambda: check.pair("x", "01"), "x must be [low, high] with low <= high, got '01'"),
    ],
)
def test_a_refusal_is_one_sentence_with_option_and_range(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value) == message


def test_the_examples_are_true() -> None:
    result = doctest.testmod(check)
    assert result.attempted >= 8
    assert result.failed == 0
