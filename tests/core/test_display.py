"""Figures with intervals, as people read them."""

from __future__ import annotations

import doctest
import math
from typing import Any

import pytest
from rich.table import Table

from sga_monai.core import display
from sga_monai.core.display import estimate_text, figure_text, interval_text, table_text, track

WHOLE = {"value": 0.81249, "low": 0.7041, "high": 0.9209}


@pytest.mark.parametrize(
    ("estimate", "options", "text"),
    [
        (WHOLE, {}, "0.812 [0.704, 0.921]"),
        (WHOLE, {"digits": 2}, "0.81 [0.70, 0.92]"),
        ({"value": 0.02, "low": -0.01, "high": 0.05}, {"signed": True}, "+0.020 [-0.010, +0.050]"),
        (WHOLE | {"low": None}, {}, "0.812"),
        (WHOLE | {"high": math.nan}, {}, "0.812"),
        (WHOLE | {"low": None}, {"absent_interval": "[not estimable]"}, "0.812 [not estimable]"),
        (WHOLE | {"value": None}, {}, "-"),
        (WHOLE | {"value": math.nan}, {"absent": "not estimable"}, "not estimable"),
        (None, {}, "-"),
        (None, {"absent": "not estimable", "absent_interval": "[not estimable]"}, "not estimable"),
    ],
)
def test_an_estimate_with_its_interval(estimate: dict[str, Any] | None, options: dict[str, Any], text: str) -> None:
    assert estimate_text(estimate, **options) == text


def test_brackets_and_colons_of_a_name_are_text() -> None:
    table = Table("a")
    table.add_row("site [b] [/x] :x:")
    assert "site [b] [/x] :x:" in table_text(table, 60)


def test_negative_ends_are_figures() -> None:
    assert interval_text(-0.5, -0.25, 2) == "[-0.50, -0.25]"
    assert figure_text(-0.0004) == "-0.000"
    assert interval_text(None, 1.0, absent="none") == "none"


def test_progress_gives_every_item_once_and_is_silent_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track(iter(range(3)), "counting", total=3)) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_the_examples_are_true() -> None:
    result = doctest.testmod(display)
    assert result.attempted >= 4
    assert result.failed == 0
