"""Figures without pyplot: no window, no global state, the same bytes for the same data."""

from __future__ import annotations

import io
import re
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from markupsafe import Markup, escape
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

# Colors of a page in daylight, and what ``page_svg`` makes of them: those of ``templates/style.css``.
INK, RULE, PANEL, ACCENT, GRAY, BAD = "#1c1c1c", "#dddddd", "#f5f5f3", "#1f5a99", "#707070", "#b3402a"
# Letters as text are smaller than as paths and can be searched.
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "sga_monai",
    "svg.fonttype": "none",
    "font.size": 8.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def subplots(rows: int = 1, columns: int = 1, *, size: tuple[float, float], sharey: bool = False) -> tuple[Figure, NDArray[Any]]:
    """A figure of ``size`` inches and its axes, ``[rows, columns]``; no window, no global state, nothing to close.

    Example:
        >>> figure, axes = subplots(size=(3.1, 2.9))
        >>> axes[0, 0].plot([0, 1], [0, 1])  # doctest: +ELLIPSIS
        [<matplotlib.lines.Line2D object at ...>]
    """
    figure = Figure(figsize=size, layout="constrained")
    axes: NDArray[Any] = figure.subplots(rows, columns, sharey=sharey, squeeze=False)
    return figure, axes


def figure_style() -> AbstractContextManager[None]:
    """The style of every SVG: equal data give equal bytes, text stays text, two spines. Draw and save within it."""
    return rc_context(STYLE)


def page_style() -> AbstractContextManager[None]:
    """``figure_style`` for ``page_svg``: lines and letters in the ink of the page, no paper of its own."""
    parts = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color")
    return rc_context(STYLE | {"savefig.transparent": True, "axes.facecolor": "none"} | dict.fromkeys(parts, INK))


def figure_image(figure: Figure) -> NDArray[np.uint8]:
    """A figure as pixels, ``[H, W, 3]``."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def page_svg(figure: Figure, label: str) -> Markup:
    """A figure drawn in ``page_style`` as inline SVG in the colors of the page, which change on a dark screen.

    Args:
        figure: drawn with the colors ``INK, RULE, PANEL, ACCENT, GRAY, BAD``; others stay.
        label: what it shows, for those who do not see it.
    """
    text = str(inline_svg(figure))
    # Several figures on one page must not have parts of the same name; those that are referred to come from a hash of their content.
    text = re.sub(r'<g id="[^"]*">', "<g>", text)
    # Its style sheet would be that of the whole page.
    text = re.sub(r"<(metadata|style).*?</\1>", "", text, flags=re.DOTALL)
    for color, name in ((INK, "ink"), (RULE, "rule"), (PANEL, "panel"), (ACCENT, "accent"), (GRAY, "gray"), (BAD, "bad")):
        text = text.replace(color, f"var(--{name})")
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{escape(label)}" stroke-linejoin="round"', 1))


def inline_svg(figure: Figure) -> Markup:
    """A figure as inline SVG without date or document type."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])
