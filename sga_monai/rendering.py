"""How figures become text: rich tables for a terminal or a log, matplotlib's pictures as inline SVG, jinja's pages."""

from __future__ import annotations

import io

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table


def table_text(table: Table, width: int) -> str:
    """A table as plain text without blank lines, ``width`` characters at most."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines() if line.strip())


def inline_svg(figure: Figure) -> Markup:
    """A figure as inline SVG without date or document type; the figure is closed."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(figure)
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])


def page_templates() -> Environment:
    """The package's page templates; whatever is put into them is escaped."""
    return Environment(loader=PackageLoader("sga_monai"), autoescape=select_autoescape(default=True, default_for_string=True))
