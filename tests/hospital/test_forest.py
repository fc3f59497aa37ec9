"""The forest plot of pooled sites: every mark where its value is, every letter inside the picture."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest

from sga_monai.core.display import page_templates

ROWS = [
    ("A hospital with quite a long alias of sixty-four letters (N/S) 01", 0.35, 0.214, 0.5),
    ("WWWWWWWWWWWWWWWWWWWW", 0.93, 0.88, 0.985),
    ("B", 0.75, 0.69, 0.8),
    ("pooled", 0.745, 0.281, 0.956),
]


def drawn(rows: list[tuple[str, float, float, float]]) -> str:
    return str(page_templates("hospital").get_template("forest.svg.jinja").module.forest(rows, "AUROC by site")).strip()


@pytest.mark.parametrize(("rows", "first"), [(ROWS, 0.2), ([ROWS[2], ("pooled", 0.75, 0.5, 0.9)], 0.3), ([("a", 0.5, 0.01, 1.0)], 0.0)])
def test_every_mark_is_where_its_value_is(rows: list[tuple[str, float, float, float]], first: float) -> None:
    svg = ElementTree.fromstring(drawn(rows))
    ticks = {float(text.text or ""): float(text.get("x", "")) for text in svg.iter("text") if re.fullmatch(r"[01]\.\d", text.text or "")}
    assert min(ticks) == first
    assert max(ticks) == 1.0
    scale = (ticks[1.0] - ticks[first]) / (1 - first)
    lines = [line for line in svg.iter("line") if line.get("stroke-width") == "1.8"]
    assert len(lines) == len(rows)
    for (_, value, low, high), line, mark in zip(rows, lines, svg.iter("rect"), strict=True):
        for name, number in (("x1", low), ("x2", high)):
            assert float(line.get(name, "")) == pytest.approx(ticks[first] + scale * (number - first), abs=0.11)
        assert float(mark.get("x", "")) + 4 == pytest.approx(ticks[first] + scale * (value - first), abs=0.11)


def test_every_letter_is_inside_the_picture(tmp_path: Path) -> None:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium")
    page = tmp_path / "page.html"
    page.write_text(
        f"<!DOCTYPE html><html><head><meta charset='utf-8'></head><body>{drawn(ROWS)}<p id='found'></p><script>"
        "const frame = document.querySelector('svg').getBoundingClientRect();"
        "const texts = [...document.querySelectorAll('text')].map(text => text.getBoundingClientRect());"
        "const out = texts.filter(t => t.left < frame.left || t.right > frame.right || t.top < frame.top || t.bottom > frame.bottom);"
        "document.getElementById('found').textContent = `${texts.length} texts, ${out.length} outside`;</script></body></html>"
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    result = subprocess.run([program, *options, page.as_uri()], capture_output=True, text=True, check=True, timeout=120)
    # A name and an interval for each row, the ticks from 0.2 to 1.0, the label of the axis.
    assert "18 texts, 0 outside" in result.stdout
