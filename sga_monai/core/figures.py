"""Figures without pyplot: no window, no global state, the same bytes for the same data."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray


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


def figure_style(font_size: float = 8, text: bool = False) -> AbstractContextManager[None]:
    """The style of every figure: equal data give equal bytes, two spines, one font size. Draw and save within it.

    Args:
        font_size: in points.
        text: letters of an SVG stay text, which is smaller and can be searched, instead of paths.
    """
    style: dict[Any, Any] = {"svg.hashsalt": "sga_monai", "font.size": font_size, "axes.spines.top": False, "axes.spines.right": False}
    return rc_context(style | ({"svg.fonttype": "none"} if text else {}))


def figure_image(figure: Figure, dpi: float | None = None) -> NDArray[np.uint8]:
    """A figure as pixels, ``[H, W, 3]``."""
    if dpi is not None:
        figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def inline_svg(figure: Figure) -> Markup:
    """A figure as inline SVG without date or document type."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])
