"""What the server writes: every site with what became of its answer, the releases as they came, and the pooled result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sga_monai.core.errors import InputError
from sga_monai.core.files import write_bytes, write_json
from sga_monai.hospital.pool import pool_releases
from sga_monai.integrations.federated.aggregation import read_release
from sga_monai.integrations.federated.refusals import REASONS, Refusal

RESULTS, SITES, RELEASES, ROUNDS = "sga_monai", "sites.json", "releases", "rounds.json"
# All that a task leaves, whichever it is.
WRITTEN = (SITES, RELEASES, "pooled.json", "pooled.html", ROUNDS, "model.pt")
SCHEMA = "sga_monai federated evaluation 1"
VALID = "valid"


@dataclass(frozen=True)
class Answer:
    """What one site answered.

    Attributes:
        name: of its connection.
        refused: code of why there is no release; ``None`` where there is one.
        release: the text of its release, unchecked.
    """

    name: str
    refused: str | None = None
    release: Any = None


def pool_answers(answers: Sequence[Answer], sums: str, folder: Path, min_sites: int = 2) -> dict[str, Any]:
    """Pool the valid releases; a site that refuses or sends something else is named, and spoils nothing.

    Writes to ``folder``: ``sites.json``, ``releases/<name>.json`` byte for byte as they came, and ``pooled.json`` and ``pooled.html``
    of ``pool_releases`` where enough sites are valid. Of several sites with one alias none is pooled: which of them it is cannot be told.

    Args:
        answers: one of each site.
        sums: SHA-256 of the ``SHA256SUMS`` of the bundle that was asked for.
        folder: is made.
        min_sites: fewer valid releases are not pooled.

    Returns:
        The content of ``sites.json``.
    """
    answers = sorted(answers, key=lambda answer: answer.name)
    read = [_read(answer, sums) for answer in answers]
    sites = Counter(alias for _, alias in read)
    lines, files = [], []
    for answer, (code, alias) in zip(answers, read, strict=True):
        status = "same alias" if code == VALID and sites[alias] > 1 else code
        if status == VALID:
            path = folder / RELEASES / f"{answer.name}.json"
            write_bytes(path, answer.release.encode())
            files.append((alias, path))
        lines.append({"name": answer.name, "alias": alias, "status": status, "reason": REASONS.get(status, "")})
    content: dict[str, Any] = {"schema": SCHEMA, "bundle_sha256sums": sums, "sites": lines, "valid": len(files), "not_pooled": None}
    if len(files) < min_sites:
        content["not_pooled"] = f"{len(files)} valid releases are fewer than the {min_sites} that were asked for"
    else:
        try:
            # In the order of the aliases, as a person would give the files.
            pool_releases([path for _, path in sorted(files)], folder)
        except InputError as error:
            content["not_pooled"] = str(error)
        except ArithmeticError:
            # So that every site is named, whatever numbers came together.
            content["not_pooled"] = f"the AUROCs cannot be pooled; look at the figures in {RELEASES}"
    write_json(folder / SITES, content)
    return content


def _read(answer: Answer, sums: str) -> tuple[str, str | None]:
    """What became of an answer, and the alias in a valid release."""
    if answer.refused is not None:
        return answer.refused, None
    try:
        return VALID, read_release(answer.release, sums)["site"]
    except Refusal as refusal:
        return refusal.code, None
