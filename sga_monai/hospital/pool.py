"""Several sites' releases as one: random effects on the logit of the AUROC, heterogeneity, a forest plot."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sga_monai.core.display import p_text, page_templates
from sga_monai.core.errors import InputError
from sga_monai.core.files import plain, read_json, write_json, write_utf8
from sga_monai.data.identity import same_id
from sga_monai.hospital.approval import CHANGED, FIELD, MISSING, approval_state
from sga_monai.hospital.formats import MODEL, POOLED, ROLES
from sga_monai.hospital.release import check_release, decimals, numbers
from sga_monai.hospital.suppression import COUNTS
from sga_monai.statistics.pooling import can_be_pooled, pool_aurocs

logger = logging.getLogger(__name__)
# The largest number up to which a float holds every whole number; no count and no figure of a report is beyond it.
MOST = 2**53


def pool_releases(paths: Sequence[str | Path], out: str | Path, require_approval: bool = False) -> dict[str, Any]:
    """Pool ``release.json`` files; write ``pooled.json`` and ``pooled.html`` to ``out``.

    A limit, or an AUROC, that rounding has put at 1 or 0 is taken half a unit of its last place inside, as 0.995 or 0.9995: a site that
    ranks almost perfectly would otherwise be lost. A site that cannot be pooled all the same is named with its reason.

    Args:
        paths: of the files.
        out: the folder of the result, which names the approval of each site, or that there is none.
        require_approval: refuse a release without one.

    Raises:
        InputError: when a file is no release, two are of one site, they are of different bundles, the values of one are not those
            that were approved there or have a number that no report gives, or fewer than two sites can be pooled.
    """
    releases = [_read_release(Path(path), require_approval) for path in paths]
    _refuse_apart(releases)
    models: dict[str, Any] = {}
    left_out: list[dict[str, str]] = []
    for key in ROLES:
        if not any(key in release["models"] for release in releases):
            continue
        reasons = {release["site"]: _why_not(release, key) for release in releases}
        left_out += [{"model": key, "site": site, "reason": reason} for site, reason in reasons.items() if reason]
        usable = [release for release in releases if reasons[release["site"]] is None]
        if len(usable) >= 2:
            models[key] = {
                "sites": [_line(release, key) for release in usable],
                "cohort": _together(usable),
                "pooled": plain(asdict(pool_aurocs([_taken(release, key) for release in usable]))),
            }
    if MODEL not in models:
        named = "".join(f"; {line['site']}: {line['reason']}" for line in left_out if line["model"] == MODEL)
        raise InputError(f"pooling needs at least two sites with an estimable AUROC{named}")
    pooled = {
        "schema": POOLED,
        "bundle": releases[0]["bundle"],
        "n_sites": len(releases),
        "cohort": _together(releases),
        "models": models,
        "left_out": left_out,
        "approvals": [{"site": release["site"], FIELD: release.get(FIELD)} for release in releases],
    }
    folder = Path(out)
    write_json(folder / "pooled.json", pooled, sort_keys=True)
    environment = page_templates("hospital")
    environment.filters["p_value"] = p_text
    page = environment.get_template("pooled.html.jinja").render(pooled=pooled)
    write_utf8(folder / "pooled.html", page)
    return pooled


def _read_release(path: Path, require_approval: bool) -> dict[str, Any]:
    """A release as its site wrote it, with no number that would leave the floats."""
    try:
        release: dict[str, Any] = read_json(path)
    except (OSError, ValueError, RecursionError):
        raise InputError(f"{path.name} is no release.json") from None
    check_release(release)
    if not is_countable(release):
        raise InputError(f"{path.name} holds a number that no report gives; ask {release['site']} for its file again")
    _refuse_unapproved(release, path.name, require_approval)
    return release


def _refuse_apart(releases: Sequence[Mapping[str, Any]]) -> None:
    """Refuse releases that are not of one bundle at several sites; warn of two with the same figures."""
    if len({same_id(release["site"]) for release in releases}) < len(releases):
        raise InputError("two releases are of the same site; give each site its own alias")
    sites: dict[str, str] = {}
    for release in releases:
        first = sites.setdefault(json.dumps({key: release[key] for key in ("cohort", "models")}, sort_keys=True), release["site"])
        if first != release["site"]:
            logger.warning("the releases of %s and %s have the same figures: is one site given twice?", first, release["site"])
    if len({release["bundle"]["sha256sums"] for release in releases}) > 1:
        raise InputError("the releases are of different bundles; pool only sites that ran the same")


def is_countable(release: Mapping[str, Any]) -> bool:
    """Whether every number of a release is finite and at most ``MOST``; sums of others leave the floats."""
    return all(abs(value) <= MOST for _, value in numbers(release) if isinstance(value, (int, float)))


def _taken(release: Mapping[str, Any], role: str) -> dict[str, float]:
    """The AUROC with its limits, those at 0 or 1 half a unit of the last place inside: they were rounded there."""
    digits = decimals(release["cohort"])
    half = 0.5 * 10**-digits
    ends = {0: half, 1: round(1 - half, digits + 1)}
    return {key: ends.get(value, value) for key, value in release["models"][role]["auroc"].items()}


def _why_not(release: Mapping[str, Any], role: str) -> str | None:
    """Why a site cannot be pooled; ``None`` where it can."""
    if role not in release["models"]:
        return f"its bundle has no {role}"
    value, low, high = (release["models"][role]["auroc"][key] for key in ("value", "low", "high"))
    if value is None:
        return "it has no AUROC"
    if low is None or high is None:
        return "its AUROC of 1 has no interval" if value == 1 else "its AUROC has no interval"
    if not 0 <= low <= value <= high <= 1:
        return "its AUROC does not lie in its interval"
    return None if can_be_pooled(_taken(release, role)) else "its interval has no width after rounding"


def _line(release: Mapping[str, Any], role: str) -> dict[str, Any]:
    """A site's AUROC as it was released, and as it was taken where that is another."""
    released, taken = release["models"][role]["auroc"], _taken(release, role)
    return {"site": release["site"], **released, "taken": None if taken == released else taken}


def _together(releases: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    """The sites' counts added up; ``None`` where a site left one out."""
    counts = {key: [release["cohort"].get(key) for release in releases] for key in COUNTS}
    return {key: None if None in values else sum(values) for key, values in counts.items()}


def _refuse_unapproved(release: dict[str, Any], file: str, required: bool) -> None:
    state = approval_state(release)
    if state == CHANGED:
        raise InputError(f"{file}: the values are not those that were approved at {release['site']}; ask that site for its file again")
    if state == MISSING and required:
        raise InputError(
            f"{file}: no approval is recorded (an earlier version writes none); ask {release['site']} for sga-monai release --approved-by"
        )
