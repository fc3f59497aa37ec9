"""The figure of a reader study: the model's ROC with the readers' operating points."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from sga_monai.core.figures import ACCENT, BAD, RULE, subplots


def readers_roc(report: Mapping[str, Any]) -> Figure | None:
    """The model's ROC on the readers' cases, each reader's operating point, and their average.

    Args:
        report: of ``report_scores``.

    Returns:
        ``None`` where there are no readers.
    """
    study = report.get("readers")
    if not study:
        return None
    figure, ((axis,),) = subplots(size=(3.6, 3.4))
    axis.plot([0, 1], [0, 1], color=RULE, lw=1)
    axis.plot(*zip(*study["model"]["roc"], strict=True), color=ACCENT, lw=1.4, label="model")
    if study["model"]["sensitivity"] is not None:
        axis.plot(*_point(study["model"]), "s", color=ACCENT, ms=5, label="model at its threshold")
    points = [_point(one) for one in study["readers"] if one["sensitivity"] is not None]
    if points:
        axis.plot(*zip(*points, strict=True), "o", mfc="none", color=BAD, ms=5, label="readers")
        mean = [sum(values) / len(points) for values in zip(*points, strict=True)]
        axis.plot(*mean, "D", color=BAD, ms=6, label="average of the readers")
    axis.set(xlabel="1 - specificity", ylabel="sensitivity", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axis.legend(frameon=False, loc="lower right")
    return figure


def _point(observer: Mapping[str, Any]) -> tuple[float, float]:
    return 1 - observer["specificity"]["value"], observer["sensitivity"]["value"]
