"""``errors.html``: every image that the model calls wrongly, to look at; one page for each order, never part of a release."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from string import Formatter
from urllib.parse import quote

from sga_monai.core.display import page_templates
from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, read_earlier, write_utf8
from sga_monai.data.manifest import read_manifest
from sga_monai.hospital.cases import Calls, Case

PAGE = "errors.html"
ORDERS = {"score": "farthest from the threshold first", "row": "in manifest order"}
A_PAGE = 60
FIELDS = ("study_id", "patient_id", "image", "row")


def write_errors(calls: Calls, title: str, out: str | Path, viewer: Mapping[int, str] | None = None, a_page: int = A_PAGE) -> Path:
    """Write the pages of errors; those of an earlier report are removed.

    Args:
        calls: of ``read_calls``.
        title: of the report.
        out: the evaluation's folder; pictures are taken from it by relative links.
        viewer: of ``viewer_links``.
        a_page: images on one page.

    Returns:
        The first page.
    """
    out = Path(out)
    for path in out.glob("errors*.html"):
        if re.fullmatch(r"errors(_by_row)?(_\d+)?\.html", path.name):
            path.unlink()
    template = page_templates("hospital").get_template("errors.html.jinja")
    wrong = calls.wrong
    for order in ORDERS:
        cases = wrong if order == "score" else sorted(wrong, key=lambda case: case.row)
        pages = max(math.ceil(len(cases) / a_page), 1)
        for number in range(1, pages + 1):
            first = (number - 1) * a_page
            content = template.render(
                calls=calls,
                title=title,
                order=order,
                orders=ORDERS,
                number=number,
                pages=pages,
                first=first + 1,
                shown=cases[first : first + a_page],
                counts={kind: len(calls.cases[kind]) for kind in calls.cases},
                viewer=viewer or {},
                page_name=page_name,
                links=_links(cases, a_page),
            )
            write_utf8(out / page_name(order, number), content)
    return out / PAGE


def page_name(order: str, number: int = 1) -> str:
    """File name of a page.

    Example:
        >>> page_name("score"), page_name("score", 2), page_name("row", 3)
        ('errors.html', 'errors_2.html', 'errors_by_row_3.html')
    """
    return f"errors{'' if order == 'score' else f'_by_{order}'}{'' if number == 1 else f'_{number}'}.html"


def viewer_links(template: str, manifest: str | Path, output_dir: str | Path | None = None) -> dict[int, str]:
    """Addresses of a local viewer by row of the manifest.

    Args:
        template: an address with fields in braces, columns of the manifest, as "http://viewer/{study_id}".
        manifest: of the site. What it holds gets into the pages of errors, which stay at the site.
        output_dir: of the evaluation, which must be of this manifest: rows of another are other patients.

    Returns:
        Rows whose fields are all filled.

    Raises:
        InputError: when the address is none, a field is unknown, or the manifest is refused or not that of the evaluation.

    Example:
        >>> viewer_links("http://viewer/{patient_name}", "site.csv")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        sga_monai.core.errors.InputError: viewer_url must begin with http:// or https:// and name a field in braces: ...
    """
    try:
        fields = {name for _, name, form, conversion in Formatter().parse(template) if name is not None and not form and not conversion}
        named = {name for _, name, _, _ in Formatter().parse(template) if name is not None}
    except ValueError:
        fields, named = set(), {""}
    if not re.match(r"https?://[^\s/{}]", template) or not fields or fields != named or not fields <= set(FIELDS):
        raise InputError(f"viewer_url must begin with http:// or https:// and name a field in braces: {', '.join(FIELDS)}")
    run = {} if output_dir is None else read_earlier(Path(output_dir) / "run.json")
    if run and run.get("manifest_sha256") != file_sha256(manifest):
        raise InputError("the evaluation was made with another manifest; give that one")
    found = {}
    for row in read_manifest(manifest):
        values = {name: quote(row.get(name, ""), safe="") for name in fields}
        if all(values.values()):
            found[int(row["row"])] = template.format(**values)
    return found


def _links(cases: list[Case], a_page: int) -> list[tuple[int, int, int]]:
    """Number, first and last image of each page."""
    return [(i // a_page + 1, i + 1, min(i + a_page, len(cases))) for i in range(0, len(cases), a_page)]
