"""``embedding.json``: a network's features over a whole set as mean, variance and, of internal images, a source profile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from numpy.typing import ArrayLike

from sga_monai.core.errors import InputError
from sga_monai.core.files import read_json, write_json
from sga_monai.core.schema import record, validate
from sga_monai.statistics.feature_shift import FEWEST, moments
from sga_monai.statistics.separability import FEWEST as FEWEST_PATIENTS
from sga_monai.statistics.separability import LABELS, N_AXES, source_profile

_NUMBERS = {"type": "number", "minimum": -1e12, "maximum": 1e12}
_POSITIVE = {"type": "number", "minimum": 1e-24, "maximum": 1e24}
_COORDINATES = {"type": "array", "minItems": 2, "maxItems": N_AXES + 1}
_GAUSSIAN = record(
    n_patients={"type": "integer", "minimum": FEWEST_PATIENTS, "maximum": 10**9},
    mean=_COORDINATES | {"items": _NUMBERS},
    covariance=_COORDINATES | {"items": _COORDINATES | {"items": _NUMBERS}},
)
_BY_LABEL = record(**dict.fromkeys(LABELS, _GAUSSIAN))


def embedding_schema(n_features: int) -> dict[str, Any]:
    """JSON schema of an embedding of a network with ``n_features`` features."""
    each = {"type": "array", "minItems": n_features, "maxItems": n_features}
    half = record(
        center=each | {"items": _NUMBERS},
        axes={"type": "array", "items": each | {"items": _NUMBERS}, "minItems": 1, "maxItems": N_AXES},
        rest=each | {"items": _POSITIVE},
        drawn=_BY_LABEL,
        judge=_BY_LABEL,
    )
    schema = record(
        n={"type": "integer", "minimum": FEWEST, "maximum": 10**9},
        mean=each | {"items": _NUMBERS},
        variance=each | {"items": _NUMBERS | {"minimum": 0}},
    )
    # Of internal images only.
    schema["properties"]["profile"] = {"type": "array", "items": half, "minItems": 2, "maxItems": 2}
    return schema


def write_embedding(path: Path, features: ArrayLike, label: ArrayLike | None = None, patient: ArrayLike | None = None) -> None:
    """Write ``moments`` as JSON; nothing, and nothing of an earlier run stays, below ``FEWEST`` images.

    With ``label`` and ``patient``, ``[N]`` each, it has ``source_profile`` too, where there are patients enough.
    """
    content = moments(features)
    profile = None if label is None or patient is None else source_profile(features, label, patient)
    write_moments(path, content, profile)


def write_moments(path: Path, content: dict[str, Any] | None, profile: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Write moments, with a profile where there is one; nothing, and nothing of an earlier run stays, where they are ``None``."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    write_json(path, content if profile is None else content | {"profile": profile}, indent=None)


def read_embedding(path: Path, n_features: int) -> dict[str, Any] | None:
    """What ``write_embedding`` wrote of a network with ``n_features`` features; ``None`` where there is no such file.

    Raises:
        InputError: when it is something else.
    """
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = read_json(path)
        check_embedding(content, n_features)
    except (OSError, ValueError, RecursionError, jsonschema.ValidationError):
        raise InputError(f"{path.name} is damaged; run again what wrote it") from None
    return content


def check_embedding(embedding: Any, n_features: int) -> None:
    """Compare an embedding with its schema.

    Raises:
        jsonschema.ValidationError: when a field is not as it must be.
        ValueError: on what a schema does not see: NaN, which JSON as Python reads it may hold, and numbers of axes that differ.
    """
    validate(embedding, embedding_schema(n_features))
    if not _is_sound(embedding):
        raise ValueError("NaN, or sizes that differ")


def _is_sound(embedding: Mapping[str, Any]) -> bool:
    """Every number finite, and as many axes everywhere."""
    arrays = [embedding["mean"], embedding["variance"]]
    for half in embedding.get("profile", ()):
        size = len(half["axes"]) + 1
        arrays += [half["center"], half["axes"], half["rest"]]
        for gaussian in (half[role][label] for role in ("drawn", "judge") for label in LABELS):
            if len(gaussian["mean"]) != size or [len(line) for line in gaussian["covariance"]] != [size] * size:
                return False
            arrays += [gaussian["mean"], gaussian["covariance"]]
    return all(bool(np.isfinite(array).all()) for array in arrays)
