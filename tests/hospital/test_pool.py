"""Which sites are in the pooled AUROC, with which limits, and that the page says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fixtures.evaluations import small_report, text_of
from typer.testing import CliRunner

from sga_monai.cli.main import app
from sga_monai.core.errors import InputError
from sga_monai.hospital.pool import pool_releases
from sga_monai.hospital.release import make_release
from sga_monai.statistics.pooling import pool_aurocs

Three = tuple[float | None, float | None, float | None]
GOOD: dict[str, Three] = {"A": (0.97, 0.89, 0.996), "B": (0.80, 0.70, 0.87), "C": (0.78, 0.68, 0.86)}


def write_release(folder: Path, site: str, auroc: Three, patients: int = 80, **changes: object) -> Path:
    report = small_report(0.8)
    report["cohort"] |= {"patients": patients, "positive_patients": patients // 2, "negative_patients": patients - patients // 2}
    model = report["models"]["model"] | {"auroc": dict(zip(("value", "low", "high"), auroc, strict=True))}
    report["models"] = {"model": model}
    out = folder / site
    out.mkdir()
    (out / "report.json").write_text(json.dumps(report))
    path = folder / f"{site}.json"
    release = make_release(out, path, site)
    path.write_text(json.dumps(release | changes))
    return path


def test_a_limit_that_rounding_put_at_1_does_not_lose_the_site(tmp_path):
    sites = {**GOOD, "D": (0.9998, 0.91, 0.99996)}
    paths = [write_release(tmp_path, site, auroc, 120 if site == "D" else 80) for site, auroc in sites.items()]
    pooled = pool_releases(paths, tmp_path / "pooled")
    model = pooled["models"]["model"]
    assert {line["site"]: line["taken"] for line in model["sites"]} == {
        "A": {"value": 0.97, "low": 0.89, "high": 0.995},
        "B": None,
        "C": None,
        "D": {"value": 0.9995, "low": 0.91, "high": 0.9995},
    }
    assert [(line["value"], line["high"]) for line in model["sites"]] == [(0.97, 1.0), (0.8, 0.87), (0.78, 0.86), (1.0, 1.0)]
    expected = pool_aurocs([line["taken"] or line for line in model["sites"]])
    assert (model["pooled"]["auroc"], model["pooled"]["high"]) == pytest.approx((expected.auroc, expected.high))
    assert pooled["left_out"] == []
    page = text_of(tmp_path / "pooled/pooled.html")
    assert "In the pooled AUROC: 4 of 4 sites, 360 patients (180 positive, 180 negative)." in page
    assert "* A: a figure was rounded to 1 or 0. It is moved inward by half a unit of its last digit: 0.97 [0.89, 0.995]." in page
    assert "* D: a figure was rounded" in page
    assert "* B" not in page


def test_one_site_under_two_names_is_said(tmp_path, caplog):
    paths = [write_release(tmp_path, site, auroc) for site, auroc in {"A": (0.8, 0.7, 0.9), "B": (0.8, 0.7, 0.9), "C": GOOD["C"]}.items()]
    pool_releases(paths, tmp_path / "pooled")
    assert [record.getMessage() for record in caplog.records] == ["the releases of A and B have the same figures: is one site given twice?"]


def test_one_site_in_two_spellings_is_refused(tmp_path):
    """A later release of a growing cohort, whose figures differ, was counted as another site."""
    paths = [write_release(tmp_path, site, auroc) for site, auroc in {"site-A": GOOD["A"], "Site-a": GOOD["B"], "B": GOOD["C"]}.items()]
    with pytest.raises(InputError, match="two releases are of the same site"):
        pool_releases(paths, tmp_path / "pooled")


def test_a_lower_limit_at_0_is_taken_inside_too(tmp_path):
    paths = [write_release(tmp_path, site, auroc) for site, auroc in {"A": (0.5, 0.004, 0.99), "B": (0.8, 0.7, 0.9)}.items()]
    line = pool_releases(paths, tmp_path / "pooled")["models"]["model"]["sites"][0]
    assert line["taken"] == {"value": 0.5, "low": 0.005, "high": 0.99}


@pytest.mark.parametrize(
    ("auroc", "reason"),
    [
        ((1.0, None, None), "its AUROC of 1 has no interval"),
        ((0.9, None, None), "its AUROC has no interval"),
        ((None, None, None), "it has no AUROC"),
        ((0.9, 0.9, 0.9), "its interval has no width after rounding"),
        ((0.999, 0.998, 0.9999), "its interval has no width after rounding"),
        ((0.6, 0.7, 0.9), "its AUROC does not lie in its interval"),
        ((0.9, 0.8, 1.2), "its AUROC does not lie in its interval"),
        ((0.9, 0.95, 0.85), "its AUROC does not lie in its interval"),
    ],
)
def test_a_site_that_cannot_be_pooled_is_named(tmp_path, auroc, reason):
    paths = [write_release(tmp_path, site, found) for site, found in {**GOOD, "D": auroc}.items()]
    pooled = pool_releases(paths, tmp_path / "pooled")
    assert pooled["left_out"] == [{"model": "model", "site": "D", "reason": reason}]
    assert pooled["n_sites"] == 4
    assert pooled["cohort"]["patients"] == 320
    assert pooled["models"]["model"]["cohort"] == {"patients": 240, "positive_patients": 120, "negative_patients": 120}
    assert [line["site"] for line in pooled["models"]["model"]["sites"]] == ["A", "B", "C"]
    page = text_of(tmp_path / "pooled/pooled.html")
    assert "Releases of 4 sites, 320 patients" in page
    assert f"In the pooled AUROC: 3 of 4 sites, 240 patients (120 positive, 120 negative). Left out: D, since {reason}." in page
    said = CliRunner().invoke(app, ["pool", *map(str, paths), "--out", str(tmp_path / "again")]).output
    assert f"D is not in the pooled AUROC of the model: {reason}" in " ".join(said.split())


def test_what_is_left_is_too_little(tmp_path):
    paths = [write_release(tmp_path, site, auroc) for site, auroc in {"A": (0.9, 0.8, 0.95), "B": (1.0, None, None)}.items()]
    with pytest.raises(InputError, match="at least two sites with an estimable AUROC; B: its AUROC of 1 has no interval"):
        pool_releases(paths, tmp_path / "pooled")


@pytest.mark.parametrize("content", ["", "[]", "[" * 200_000, '{"schema": 1}'])
def test_what_is_no_release_is_refused(tmp_path, content):
    path = write_release(tmp_path, "A", GOOD["A"])
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(InputError, match=r"other\.json is no release\.json|is not what may leave a site"):
        pool_releases([path, tmp_path / "other.json"], tmp_path / "pooled")


def test_estimates_without_width_or_order_are_refused():
    good = {"value": 0.9, "low": 0.8, "high": 0.95}
    for bad in ({"low": 0.9, "high": 0.9}, {"high": 1.0}, {"low": 0.0}, {"value": 0.7}, {"value": float("nan")}):
        with pytest.raises(InputError, match="an interval of some width around each AUROC"):
            pool_aurocs([good, good | bad])
