"""Several sites' releases as one: random effects on the logit of the AUROC, heterogeneity, a forest plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sga_monai.core.display import p_text, page_templates
from sga_monai.core.errors import InputError
from sga_monai.core.files import plain, write_json, write_whole
from sga_monai.hospital.approval import CHANGED, FIELD, MISSING, approval_state
from sga_monai.hospital.formats import MODEL, POOLED, ROLES
from sga_monai.hospital.release import check_release
from sga_monai.statistics.pooling import pool_aurocs


def pool_releases(paths: Sequence[str | Path], out: str | Path, require_approval: bool = False) -> dict[str, Any]:
    """Pool ``release.json`` files; write ``pooled.json`` and ``pooled.html`` to ``out``.

    Args:
        paths: of the files.
        out: the folder of the result, which names the approval of each site, or that there is none.
        require_approval: refuse a release without one.

    Raises:
        InputError: when a file is no release, two are of one site, they are of different bundles, or the values of one
            are not those that were approved there.
    """
    releases = []
    for path in paths:
        try:
            release = json.loads(Path(path).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError):
            raise InputError(f"{Path(path).name} is no release.json") from None
        check_release(release)
        _refuse_unapproved(release, Path(path).name, require_approval)
        releases.append(release)
    if len({release["site"] for release in releases}) < len(releases):
        raise InputError("two releases are of the same site; give each site its own alias")
    if len({release["bundle"]["sha256sums"] for release in releases}) > 1:
        raise InputError("the releases are of different bundles; pool only sites that ran the same")
    models = {}
    for key in ROLES:
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
    if MODEL not in models:
        raise InputError("pooling needs at least two sites with an estimable AUROC")
    cohort = {key: sum(release["cohort"][key] for release in releases) for key in ("patients", "positive_patients", "negative_patients")}
    pooled = {
        "schema": POOLED,
        "bundle": releases[0]["bundle"],
        "n_sites": len(releases),
        "cohort": cohort,
        "models": models,
        "approvals": [{"site": release["site"], FIELD: release.get(FIELD)} for release in releases],
    }
    folder = Path(out)
    write_json(folder / "pooled.json", pooled, sort_keys=True)
    environment = page_templates("hospital")
    environment.filters["p_value"] = p_text
    page = environment.get_template("pooled.html.jinja").render(pooled=pooled)
    write_whole(folder / "pooled.html", lambda path: path.write_text(page, encoding="utf-8"))
    return pooled


def _refuse_unapproved(release: dict[str, Any], file: str, required: bool) -> None:
    state = approval_state(release)
    if state == CHANGED:
        raise InputError(f"{file}: the values are not those that were approved at {release['site']}; ask that site for its file again")
    if state == MISSING and required:
        raise InputError(
            f"{file}: no approval is recorded (an earlier version writes none); ask {release['site']} for sga-monai release --approved-by"
        )
