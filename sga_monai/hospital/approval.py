"""The approval of a release: who was shown which values, when, and the hash of exactly these."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema

from sga_monai.core.errors import InputError
from sga_monai.core.folders import first_free
from sga_monai.core.provenance import utc_time
from sga_monai.core.schema import record
from sga_monai.core.text import ALPHABET, ALPHABET_IN_WORDS, plain_text

logger = logging.getLogger(__name__)
FIELD = "approval"
# JSON schema of the field; a release without approval has none.
SCHEMA = record(
    approved_by={"type": "string", "pattern": ALPHABET},
    time={"type": "string", "pattern": r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\+00:00$"},
    values_shown={"type": "integer", "minimum": 1},
    sha256={"type": "string", "pattern": "^[0-9a-f]{64}$"},
)
REMEDY = "give the command without --approved-by, read what it prints, then give it again with it"
APPROVED, MISSING, CHANGED = "approved", "missing", "changed"


def content_sha256(release: Mapping[str, Any]) -> str:
    """SHA-256 of a release without its approval, however its file is laid out.

    The hashed bytes are its JSON in ASCII with sorted keys and without spaces.

    Example:
        >>> content_sha256({"site": "A", "approval": {"approved_by": "IRB"}}) == content_sha256({"site": "A"})
        True
    """
    content = {key: value for key, value in release.items() if key != FIELD}
    data = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(data.encode("ascii")).hexdigest()


def make_approval(release: Mapping[str, Any], shown: Mapping[str, Any], approved_by: str, values: int) -> dict[str, Any]:
    """The approval of a release that was shown before.

    Args:
        release: what would be written now.
        shown: what an earlier call wrote and printed; empty where there is none.
        approved_by: person, role or committee, in the alphabet of a release once it is spelled plainly.
        values: how many of its values were printed.

    Raises:
        InputError: when ``approved_by`` holds no letter or digit, nothing was shown, or other values were.
    """
    name = plain_text(approved_by)
    if not name:
        raise InputError(f"--approved-by must be written in {ALPHABET_IN_WORDS}")
    if not shown:
        raise InputError(f"nothing was shown yet: {REMEDY}")
    if content_sha256(shown) != content_sha256(release):
        raise InputError(f"the values are not those that were shown: {REMEDY}")
    return {"approved_by": name, "time": utc_time(), "values_shown": values, "sha256": content_sha256(release)}


def standing_approval(release: Mapping[str, Any], shown: Mapping[str, Any]) -> dict[str, Any] | None:
    """The approval that an earlier call recorded of exactly these values; ``None`` where there is none.

    Args:
        release: what would be written now.
        shown: as for ``make_approval``.
    """
    found = shown.get(FIELD)
    if not isinstance(found, dict) or not jsonschema.Draft202012Validator(SCHEMA).is_valid(found):
        return None
    return found if found["sha256"] == content_sha256(release) else None


def keep_approved(path: Path, release: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
    """Rename what ``path`` holds to the first free ``<stem>.N<suffix>`` when it was approved and ``release`` has other values.

    An approved release may have left the site, whose record of it would be gone.

    Args:
        path: where ``release`` will be written.
        release: what would be written now.
        shown: what ``path`` holds.
    """
    if standing_approval(shown, shown) is None or content_sha256(shown) == content_sha256(release):
        return
    kept = path.rename(first_free(path, path.suffix))
    logger.info("%s held an approved release of other values; it is now %s", path.name, kept.name)


def approval_state(release: Mapping[str, Any]) -> str:
    """``APPROVED``, ``MISSING``, or ``CHANGED`` where the values are not those that were approved."""
    if FIELD not in release:
        return MISSING
    return APPROVED if release[FIELD]["sha256"] == content_sha256(release) else CHANGED
