"""Several sites' releases as one: random effects on the logit of the AUROC, heterogeneity, a forest plot."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from matplotlib import pyplot as plt
from scipy.stats import chi2, norm, t

from sga_monai.errors import InputError
from sga_monai.files import plain, write_whole
from sga_monai.release import check_release
from sga_monai.rendering import inline_svg, page_templates


@dataclass(frozen=True)
class Pooled:
    """A random-effects summary on the logit scale, given as AUROC.

    Attributes:
        auroc: pooled.
        low: of its 95 % interval.
        high: of its 95 % interval.
        prediction_low: lower end of the interval for a new site; NaN with fewer than three sites.
        prediction_high: upper end.
        tau2: variance between sites, on the logit scale.
        q: Cochran's Q.
        q_p: its p-value.
        i2: share of the variance that is between sites, in [0, 1].
        n_sites: number of sites.
    """

    auroc: float
    low: float
    high: float
    prediction_low: float
    prediction_high: float
    tau2: float
    q: float
    q_p: float
    i2: float
    n_sites: int


def pool_effects(effects: Sequence[float], variances: Sequence[float]) -> tuple[float, float, float, float]:
    """Random-effects mean, its standard error, tau2 and Q (DerSimonian and Laird, Controlled Clinical Trials 7, 1986).

    With three sites or more the standard error is Hartung and Knapp's (Statistics in Medicine 20, 2001).
    """
    fixed = [1 / variance for variance in variances]
    center = sum(w * e for w, e in zip(fixed, effects, strict=True)) / sum(fixed)
    q = sum(w * (e - center) ** 2 for w, e in zip(fixed, effects, strict=True))
    scale = sum(fixed) - sum(w * w for w in fixed) / sum(fixed)
    tau2 = max(0.0, (q - (len(effects) - 1)) / scale)
    weights = [1 / (variance + tau2) for variance in variances]
    mean = sum(w * e for w, e in zip(weights, effects, strict=True)) / sum(weights)
    error = math.sqrt(1 / sum(weights))
    if len(effects) > 2:
        spread = sum(w * (e - mean) ** 2 for w, e in zip(weights, effects, strict=True)) / (len(effects) - 1)
        error *= math.sqrt(spread)
    return mean, error, tau2, q


def pool_aurocs(estimates: Sequence[Mapping[str, float]]) -> Pooled:
    """Pool AUROCs given with 95 % intervals that were made on the logit scale.

    Raises:
        InputError: with fewer than two sites.
    """
    if len(estimates) < 2:
        raise InputError("pooling needs at least two sites with an estimable AUROC")
    effects = [_logit(estimate["value"]) for estimate in estimates]
    z = float(norm.ppf(0.975))
    variances = [((_logit(estimate["high"]) - _logit(estimate["low"])) / (2 * z)) ** 2 for estimate in estimates]
    mean, error, tau2, q = pool_effects(effects, variances)
    k = len(effects)
    quantile = float(t.ppf(0.975, k - 1)) if k > 2 else z
    prediction = (math.nan, math.nan)
    if k > 2:
        half = float(t.ppf(0.975, k - 2)) * math.sqrt(tau2 + error**2)
        prediction = (_expit(mean - half), _expit(mean + half))
    return Pooled(
        _expit(mean), _expit(mean - quantile * error), _expit(mean + quantile * error), *prediction,
        tau2, q, float(chi2.sf(q, k - 1)), max(0.0, (q - (k - 1)) / q) if q > 0 else 0.0, k,
    )  # fmt: skip


def pool_releases(paths: Sequence[str | Path], out: str | Path) -> dict[str, Any]:
    """Pool ``release.json`` files; write ``pooled.json`` and ``pooled.html`` to ``out``.

    Raises:
        InputError: when a file is no release, two are of one site, or they are of different bundles.
    """
    releases = []
    for path in paths:
        try:
            release = json.loads(Path(path).read_text())
        except (OSError, ValueError):
            raise InputError(f"{Path(path).name} is no release.json") from None
        check_release(release)
        releases.append(release)
    if len({release["site"] for release in releases}) < len(releases):
        raise InputError("two releases are of the same site; give each site its own alias")
    if len({release["bundle"]["sha256sums"] for release in releases}) > 1:
        raise InputError("the releases are of different bundles; pool only sites that ran the same")
    models = {}
    for key in ("sga", "nt"):
        sites = [(release["site"], release["models"].get(key, {}).get("auroc")) for release in releases]
        usable = [
            (site, estimate)
            for site, estimate in sites
            if estimate and None not in estimate.values() and 0 < estimate["low"] <= estimate["high"] < 1
        ]
        if len(usable) < 2:
            continue
        models[key] = {
            "sites": [{"site": site, **estimate} for site, estimate in usable],
            "pooled": plain(asdict(pool_aurocs([e for _, e in usable]))),
        }
    if "sga" not in models:
        raise InputError("pooling needs at least two sites with an estimable AUROC")
    cohort = {key: sum(release["cohort"][key] for release in releases) for key in ("patients", "positive_patients", "negative_patients")}
    pooled = {"schema": "sga_monai pooled 1", "bundle": releases[0]["bundle"], "n_sites": len(releases), "cohort": cohort, "models": models}
    folder = Path(out)
    write_whole(folder / "pooled.json", lambda path: path.write_text(json.dumps(pooled, indent=1, sort_keys=True) + "\n"))
    page = page_templates().get_template("pooled.html.jinja").render(pooled=pooled, forest=_forest(models["sga"]))
    write_whole(folder / "pooled.html", lambda path: path.write_text(page, encoding="utf-8"))
    return pooled


def _forest(model: Mapping[str, Any]) -> Markup:
    pooled = model["pooled"]
    rows = [(line["site"], line["value"], line["low"], line["high"]) for line in model["sites"]]
    rows.append(("pooled", pooled["auroc"], pooled["low"], pooled["high"]))
    with plt.rc_context({"svg.hashsalt": "sga_monai", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure, axis = plt.subplots(figsize=(6.6, 0.7 + 0.3 * len(rows)), layout="constrained")
        for y, (name, value, low, high) in enumerate(reversed(rows)):
            color = "#b3402a" if name == "pooled" else "#1f5a99"
            axis.plot([low, high], [y, y], color=color, lw=1.4)
            axis.plot(value, y, "D" if name == "pooled" else "s", color=color, ms=5)
        axis.axvline(0.5, color="#dddddd", lw=1, zorder=0)
        axis.set(yticks=range(len(rows)), yticklabels=[row[0] for row in reversed(rows)], xlabel="AUROC, 95 % interval", xlim=(0.3, 1.01))
        return inline_svg(figure)


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _expit(x: float) -> float:
    return 1 / (1 + math.exp(-x))
