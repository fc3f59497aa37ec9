"""Pages by keyboard and screen reader, in daylight and dark: axe-core finds nothing serious; no page needs a script or a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import zlib
from collections.abc import Callable
from html import unescape
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, take_few_samples
from fixtures.evaluations import write_evaluation

from sga_monai.core.display import p_text, page_templates
from sga_monai.core.files import write_json
from sga_monai.hospital.cases import FACTS, FOLDER
from sga_monai.hospital.heatmaps import case_picture, jpeg
from sga_monai.hospital.html import write_html
from sga_monai.hospital.protocol import Plan, write_protocol
from sga_monai.hospital.report import make_report

DARK = "@media screen and (prefers-color-scheme: dark)"
RUN = """<script>axe.run(document, {resultTypes: ["violations"]}).then(found => {
  const out = document.createElement("pre"); out.id = "found";
  out.dataset.over = document.documentElement.scrollWidth - document.documentElement.clientWidth;
  out.textContent = JSON.stringify(found.violations.map(v => [v.impact, v.id, v.nodes.slice(0, 3).map(n => n.html.slice(0, 160))]));
  document.body.append(out); });</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation with pictures of its errors and a protocol."""
    out = write_evaluation(tmp_path_factory.mktemp("site"), patients=60)
    write_protocol(
        Plan("Does it work?", "1: pneumonia", "RT-PCR", limits=["auroc>=0.8"], subgroups=["sex"], setting="ward"), out / "p.json"
    )
    with pytest.MonkeyPatch.context() as patch:
        take_few_samples(patch)
        report = make_report(out, 0.12, out / "p.json")
    (out / FOLDER).mkdir()
    write_json(out / FOLDER / FACTS, {"method": "FullGrad", "lungs": False, "most_errors": 500})
    picture = jpeg(case_picture(torch.rand(32, 32), torch.rand(32, 32), None))
    for row in range(2, 122):
        (out / FOLDER / f"row_{row:06d}.jpg").write_bytes(picture)
    write_html(report, out)
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> list[Path]:
    """The report, the errors, the protocol, and two sites pooled."""
    estimate = {"auroc": 0.8, "low": 0.7, "high": 0.9, "i2": 0.3, "tau2": 0.1, "q": 1.0, "q_p": 0.3, "prediction_low": None}
    taken = {"value": 0.8, "low": 0.7, "high": 0.995}
    sites = [{"site": name, "value": 0.8, "low": 0.7, "high": 1.0, "taken": taken} for name in "AB"]
    cohort = {"patients": 200, "positive_patients": 100, "negative_patients": 100}
    pooled = {
        "bundle": {"name": "cxr", "version": "1"},
        "n_sites": 2,
        "cohort": cohort,
        "approvals": [{"site": "A", "approval": None}],
        "left_out": [{"model": "model", "site": "C", "reason": "its AUROC has no interval"}],
        "models": {"model": {"sites": sites, "cohort": cohort | {"patients": None}, "pooled": estimate}},
    }
    environment = page_templates("hospital")
    environment.filters["p_value"] = p_text
    (site / "pooled.html").write_text(environment.get_template("pooled.html.jinja").render(pooled=pooled))
    return [site / name for name in ("report.html", "errors.html", "errors_by_row.html", "p.html", "pooled.html")]


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], list[list]]:
    """A function from a page's text and a name to what axe-core finds in it; CONTRIBUTING.md says how to get axe-core."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    source = Path(os.environ.get("SGA_AXE", ROOT / "node_modules/axe-core/axe.min.js"))
    if program is None or not source.is_file():
        pytest.skip("no Chromium, or no axe-core")
    folder = tmp_path_factory.mktemp("axe")

    def check(text: str, name: str, width: int = 1240) -> list[list]:
        # A page forbids scripts; the copy that is looked at has one.
        text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
        text = text.replace("<details>", "<details open>")
        (folder / name).write_text(text.replace("</body>", f"<script>{source.read_text()}</script>{RUN}</body>"))
        options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --virtual-time-budget=20000".split()
        command = [program, *options, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},1000", "--dump-dom"]
        result = subprocess.run([*command, (folder / name).as_uri()], capture_output=True, text=True, check=True, timeout=120)
        found = re.search(r'<pre id="found" data-over="(-?\d+)">(.*?)</pre>', result.stdout, re.DOTALL)
        assert found, "axe-core did not run"
        assert found[1] == "0", "the page is wider than the window"
        return json.loads(unescape(found[2]))

    return check


@pytest.mark.slow
@pytest.mark.browser
def test_axe_finds_nothing_serious(axe, pages):
    for page in pages:
        for dark in (False, True) if page.name in ("report.html", "errors.html") else (False,):
            text = page.read_text()
            assert DARK in text
            # The dark page also on a small screen.
            found = axe(text.replace(DARK, "@media all"), page.name, 700) if dark else axe(text, page.name)
            assert [line for line in found if line[0] in ("serious", "critical")] == [], (page.name, dark)


@pytest.mark.slow
@pytest.mark.browser
def test_axe_would_find_what_is_wrong(axe, pages):
    text = pages[0].read_text().replace("--muted: #555555", "--muted: #cccccc").replace('lang="en"', "")
    assert {"color-contrast", "html-has-lang"} <= {line[1] for line in axe(text, "wrong.html")}


def test_pages_without_scripts_and_with_everything_named(pages):
    for page in pages:
        text = page.read_text()
        assert len(text) < 1_000_000
        assert "<script" not in text
        assert "default-src 'none'" in text
        assert not re.search(r'(?:src|href)="(?!data:|#|errors[a-z_0-9]*\.html"|report\.html"|heatmaps/row_\d+\.jpg")', text)
        assert "@import" not in text
        assert text.count("<main>") == text.count("<h1>") == 1
        levels = [int(level) for level in re.findall(r"<h([1-6])", text)]
        assert all(after <= before + 1 for before, after in pairwise(levels))
        assert all(re.search(r"\bscope=", cell) for cell in re.findall(r"<th\b[^>]*>", text))
        assert all("alt=" in image for image in re.findall(r"<img\b[^>]*>", text))
        assert all('role="img" aria-label="' in svg for svg in re.findall(r"<svg\b[^>]*>", text))
        # One identifier for one thing.
        names = re.findall(r'\bid="([^"]+)"', re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
        assert len(names) == len(set(names))
        # A style sheet of a figure would be that of the whole page.
        assert text.count("<style") == 1


@pytest.mark.slow
@pytest.mark.browser
def test_pages_fit_a_phone(phone, pages):
    """The counts per 1,000 patients and most tables of the report were cut off: it was two and a half times as wide."""
    assert {page.name: phone(page) for page in pages} == {page.name: [] for page in pages}


@pytest.mark.slow
@pytest.mark.browser
def test_no_table_makes_the_whole_print_smaller(chromium, pages, tmp_path):
    """A browser shrinks all pages to the widest table: the report's letters had 7 points instead of 8.6."""
    for page in pages:
        chromium(page, "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'page.pdf'}")
        content = (tmp_path / "page.pdf").read_bytes()
        # The two scales that each sheet begins with: a CSS pixel is 0.75 points where nothing is too wide.
        parts = [zlib.decompressobj().decompress(content[at.end() :]) for at in re.finditer(rb"FlateDecode[^>]*>>\s*stream\r?\n", content)]
        scales = [re.match(rb"([.\d]+) 0 0 -[.\d]+ 0 [.\d]+ cm\s+q\s+([.\d]+) 0 0", part) for part in parts]
        found = [float(scale[1]) * float(scale[2]) for scale in scales if scale]
        assert found, page.name
        assert min(found) > 0.74, page.name


@pytest.mark.slow
@pytest.mark.browser
def test_in_the_dark_ink_is_light_on_a_dark_page(browser, pages, tmp_path):
    (tmp_path / "dark.html").write_text(pages[0].read_text().replace(DARK, "@media all"))
    brightness = [np.asarray(browser(page).convert("L"))[:1200] for page in (pages[0], tmp_path / "dark.html")]
    assert np.median(brightness[0]) > 230
    assert np.median(brightness[1]) < 50
    assert (brightness[1] > 170).mean() > 0.01
