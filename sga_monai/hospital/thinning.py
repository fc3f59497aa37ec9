"""What of a site's curves is hidden before they leave: points between which, or beyond which, few patients lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sga_monai.hospital.suppression import round_number


def thin_curve(roc: Sequence[Sequence[float]], cohort: Mapping[str, int], min_cell: int, digits: int) -> list[list[float | None]]:
    """A ROC curve whose points without sensitivity are those that are not ``far_apart``.

    Args:
        roc: false and true positive rates, in rising order.
        cohort: with ``positive_patients`` and ``negative_patients``.
        min_cell: smallest number of patients.
        digits: of the true positive rate.
    """
    shown = far_apart(roc, cohort, min_cell)
    return [[fpr, round(tpr, digits) if one else None] for (fpr, tpr), one in zip(roc, shown, strict=True)]


def far_apart(points: Sequence[Sequence[float]], cohort: Mapping[str, int], min_cell: int) -> list[bool]:
    """Which points of a ROC curve may leave: any two differ by ``min_cell`` patients or more of each class that moved between them.

    Points near an end, which would show what a handful of patients scored, and those too close to the one before may not.

    Args:
        points: false and true positive rates, both rising or both falling.
        cohort: with ``positive_patients`` and ``negative_patients``.
        min_cell: smallest number of patients; rates are those of images, and patients are worked out from them.
    """
    positive, negative = cohort["positive_patients"], cohort["negative_patients"]
    found = []
    last: tuple[float, float] | None = None
    for fpr, tpr in points:
        here = (fpr * negative, tpr * positive)
        # A hair below a whole number is that number.
        cells = [round(cell, 6) for cell in (*here, negative - here[0], positive - here[1])]
        moved = [] if last is None else [round(abs(a - b), 6) for a, b in zip(here, last, strict=True)]
        found.append(min(cells) >= min_cell and all(step == 0 or step >= min_cell for step in moved))
        last = here if found[-1] else last
    return found


def thin_net_benefit(
    lines: Sequence[Sequence[float]], rates: Sequence[Sequence[float]], cohort: Mapping[str, int], min_cell: int, digits: int
) -> list[list[float | None]]:
    """Net benefits, of which those of the model are left out where the calls at their thresholds are not ``far_apart``.

    At a known prevalence, a net benefit and the numbers of the classes tell the calls of either class nearly exactly.

    Args:
        lines: threshold, net benefit of the model and of treating all, by rising threshold.
        rates: threshold, false and true positive rate; these thresholds and others.
        cohort: with ``positive_patients`` and ``negative_patients``.
        min_cell: smallest number of patients.
        digits: of the net benefits.
    """
    points = {threshold: point for threshold, *point in rates}
    shown = far_apart([points[line[0]] for line in lines], cohort, min_cell)
    return [
        [threshold, round_number(value, digits) if one else None, round_number(treat_all, digits)]
        for (threshold, value, treat_all), one in zip(lines, shown, strict=True)
    ]
