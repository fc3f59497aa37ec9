"""``report.html``: the report as one self-contained page with inline SVG, no scripts and nothing from elsewhere."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from sga_monai.core.display import estimate_text, figure_text, p_text, page_templates
from sga_monai.core.errors import REASONS
from sga_monai.core.files import write_utf8
from sga_monai.hospital.acceptance import limit_text
from sga_monai.hospital.cases import KINDS, Calls, read_calls
from sga_monai.hospital.errors_page import write_errors
from sga_monai.hospital.formats import MIN_PATIENTS, MODEL
from sga_monai.hospital.page_figures import draw_figures, probability_text
from sga_monai.hospital.protocol import MEASURES

# Errors of each kind, and right calls of each, that the page shows; all errors are on pages of their own.
SHOWN = {"false negative": 4, "false positive": 4, "true positive": 1, "true negative": 1}
# Names of the controls on the page, what is expected of each, and whether it is 0.5.
CONTROLS = {
    "lungs_blank": ("lungs blanked (mask)", "about 0.5 is expected; higher means that the label can be read outside the lungs"),
    "only_lungs": ("only lungs (mask)", "about the model's AUROC is expected; lower means that it uses what is not lung"),
    "center_blank": ("lungs blanked (ellipse)", "about 0.5 is expected; higher means that the label can be read outside the lungs"),
    "border_blank": ("border blanked (12 %)", "lower than the model's AUROC means that it uses the border: markers, collimation"),
    "metadata_only": ("view, manufacturer and sex alone", "close to the model's AUROC means that the cohort is confounded"),
}
# What the three conclusions ask.
QUESTIONS = {
    "ranking": "Does it rank diseased above healthy?",
    "threshold": "Does the locked threshold work?",
    "probabilities": "Do its probabilities mean what they say?",
}


def write_html(report: Mapping[str, Any], output_dir: str | Path, viewer: Mapping[int, str] | None = None) -> Path:
    """Write ``report.html`` beside ``report.json`` and, for an evaluation, the pages of all errors.

    Args:
        report: of ``make_report`` or ``report_scores``.
        output_dir: its folder; pictures are taken from ``heatmaps/``.
        viewer: of ``viewer_links``, for the pages of errors.

    Returns:
        The page's path.
    """
    out = Path(output_dir)
    environment = page_templates("hospital")
    environment.filters["figure"] = figure_text
    environment.filters["p_value"] = p_text
    environment.filters["limit"] = limit_text
    environment.filters["probability"] = probability_text
    environment.filters["range"] = range_text
    environment.filters["percent"] = percent_text
    environment.filters["interval"] = partial(estimate_text, absent="not estimable", absent_interval="[not estimable]")
    calls = read_calls(report, out)
    page = environment.get_template("report.html.jinja").render(
        report=report,
        figures=draw_figures(report),
        calls=calls,
        cases=_pictures(calls, out),
        names={name: label for name, (_, _, label) in MEASURES.items()},
        groups=group_rows(report),
        controls=CONTROLS,
        questions=QUESTIONS,
        reasons=REASONS,
    )
    write_utf8(out / "report.html", page)
    if calls is not None:
        write_errors(calls, report["title"], out, viewer)
    return out / "report.html"


def range_text(estimate: Mapping[str, float | None]) -> str:
    """The interval of a number of patients in whole ones.

    Example:
        >>> range_text({"low": 2.4, "high": 17.8}), range_text({"low": None, "high": None})
        ('2 to 18', 'not estimable')
    """
    low, high = estimate["low"], estimate["high"]
    return "not estimable" if low is None or high is None else f"{low:.0f} to {high:.0f}"


def percent_text(share: float | None) -> str:
    """A share in whole percent; "-" where there is none.

    Example:
        >>> percent_text(0.314), percent_text(0.002), percent_text(0.0), percent_text(None)
        ('31 %', '< 1 %', '0 %', '-')
    """
    if share is None:
        return "-"
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def group_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of the forest plot: all, then each subgroup, with the numbers of patients of each class."""
    model = report["models"][MODEL]
    point = model["operating_point"] or {"sensitivity": None, "specificity": None}
    lines = [{"name": "all", **report["cohort"], "auroc": model["auroc"], **{key: point[key] for key in ("sensitivity", "specificity")}}]
    lines += [line | {"name": f"{line['by'].replace('_', ' ')}: {line['level']}"} for line in report["subgroups"]]
    return [
        {
            **{key: line[key] for key in ("name", "auroc", "sensitivity", "specificity")},
            "positive": line["positive_patients"],
            "negative": line["negative_patients"],
            "small": min(line["positive_patients"], line["negative_patients"]) < MIN_PATIENTS,
        }
        for line in lines
    ]


def _pictures(calls: Calls | None, out: Path) -> list[tuple[Any, str]]:
    """The cases that the page shows, and their pictures in base64: false negatives first, then false positives, then right calls."""
    if calls is None:
        return []
    chosen = [case for kind in KINDS for case in [case for case in calls.cases[kind] if case.picture][: SHOWN[kind]]]
    return [(case, base64.b64encode((out / str(case.picture)).read_bytes()).decode()) for case in chosen]
