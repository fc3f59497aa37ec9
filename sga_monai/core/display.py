"""Tables as text for a terminal or a log, and page templates."""

from __future__ import annotations

import io

from jinja2 import Environment, PackageLoader, select_autoescape
from rich.console import Console
from rich.table import Table


def table_text(table: Table, width: int) -> str:
    """A table as plain text without blank lines, ``width`` characters at most."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines() if line.strip())


def page_templates(package: str) -> Environment:
    """The page templates of ``sga_monai.<package>``; whatever is put into them is escaped."""
    return Environment(loader=PackageLoader(f"sga_monai.{package}"), autoescape=select_autoescape(default=True, default_for_string=True))
