"""What people see: figures with intervals, tables as text, progress on a terminal, page templates."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from jinja2 import Environment

Item = TypeVar("Item")


def figure_text(value: float | None, digits: int = 3, signed: bool = False) -> str:
    """A figure; "-" where there is none.

    Example:
        >>> figure_text(0.81249), figure_text(0.02, digits=2, signed=True), figure_text(None)
        ('0.812', '+0.02', '-')
    """
    return "-" if value is None or math.isnan(value) else f"{value:{'+' if signed else ''}.{digits}f}"


def interval_text(low: float | None, high: float | None, digits: int = 3, signed: bool = False, absent: str = "-") -> str:
    """An interval in brackets; ``absent`` where an end is not estimable.

    Example:
        >>> interval_text(0.704, 0.921), interval_text(0.704, float("nan"))
        ('[0.704, 0.921]', '-')
    """
    ends = figure_text(low, digits, signed), figure_text(high, digits, signed)
    return absent if "-" in ends else f"[{ends[0]}, {ends[1]}]"


def p_text(p: float | None, name: str = "") -> str:
    """A p-value, of which three decimals are shown and none is 0; "-" where there is none.

    Args:
        p: in [0, 1]; ``None`` or NaN where not estimable.
        name: stands before it with a sign of equality, as in a sentence.

    Example:
        >>> p_text(0.0312), p_text(0.0312, "p"), p_text(1e-9, "p"), p_text(None)
        ('0.031', 'p = 0.031', 'p < 0.001', '-')
    """
    if p is None or math.isnan(p):
        return f"{name} not estimable" if name else "-"
    if p < 0.001:
        return f"{name} < 0.001".lstrip()
    return f"{name} = {p:.3f}" if name else f"{p:.3f}"


def estimate_text(
    estimate: Mapping[str, Any] | None, digits: int = 3, signed: bool = False, absent: str = "-", absent_interval: str = ""
) -> str:
    """A figure with its interval.

    Args:
        estimate: with ``value``, ``low`` and ``high``; ``None`` or NaN where not estimable.
        digits: after the point.
        signed: a plus before what is not negative, for differences.
        absent: stands for a figure that is not estimable.
        absent_interval: stands for an interval that is not estimable, behind its figure.

    Example:
        >>> estimate_text({"value": 0.812, "low": 0.704, "high": 0.921})
        '0.812 [0.704, 0.921]'
        >>> estimate_text(None, absent="not estimable")
        'not estimable'
    """
    value = None if estimate is None else estimate["value"]
    if estimate is None or value is None or math.isnan(value):
        return absent
    interval = interval_text(estimate["low"], estimate["high"], digits, signed, absent_interval)
    return f"{figure_text(value, digits, signed)} {interval}".rstrip()


def track(items: Iterable[Item], description: str, total: float | None = None) -> Iterator[Item]:
    """``items`` with a bar of progress, rate and time left, which goes when it is full; without one where the output is no terminal."""
    if not sys.stdout.isatty():
        yield from items
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Items a second."""

        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.3g}/s" if task.speed else "")

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


class _TextForConsole(io.StringIO):
    """Text in memory by which rich asks what the console can show."""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the console."""
        return getattr(sys.stdout, "encoding", None) or "utf-8"


def table_text(table: Table, width: int) -> str:
    """A table as plain text without blank lines, ``width`` characters at most; rules in ASCII where the console has no others."""
    stream = _TextForConsole()
    Console(file=stream, width=width, color_system=None, markup=False, emoji=False).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines() if line.strip())


def page_templates(package: str) -> Environment:
    """The page templates of ``sga_monai.<package>`` and those that all packages share; whatever is put into them is escaped."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, select_autoescape

    loader = ChoiceLoader([PackageLoader(f"sga_monai.{package}"), PackageLoader("sga_monai.core")])
    return Environment(loader=loader, autoescape=select_autoescape(default=True, default_for_string=True))
