"""The features before the last layer as one distribution of a whole set: mean and variance, and how far two are apart."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from numpy.typing import ArrayLike

from sga_monai.core.errors import InputError
from sga_monai.core.files import write_json
from sga_monai.statistics.feature_shift import FEWEST, moments
from sga_monai.statistics.separability import FEWEST as FEWEST_PATIENTS
from sga_monai.statistics.separability import LABELS, N_AXES, source_profile

N_FEATURES = 512
_NUMBERS = {"type": "number", "minimum": -1e12, "maximum": 1e12}
_POSITIVE = {"type": "number", "minimum": 1e-24, "maximum": 1e24}
_EACH_FEATURE = {"type": "array", "minItems": N_FEATURES, "maxItems": N_FEATURES}
_COORDINATES = {"type": "array", "minItems": 2, "maxItems": N_AXES + 1}
_GAUSSIAN = {
    "type": "object",
    "additionalProperties": False,
    "required": ["n_patients", "mean", "covariance"],
    "properties": {
        "n_patients": {"type": "integer", "minimum": FEWEST_PATIENTS, "maximum": 10**9},
        "mean": _COORDINATES | {"items": _NUMBERS},
        "covariance": _COORDINATES | {"items": _COORDINATES | {"items": _NUMBERS}},
    },
}
_BY_LABEL = {"type": "object", "additionalProperties": False, "required": [*LABELS], "properties": dict.fromkeys(LABELS, _GAUSSIAN)}
_HALF = {
    "type": "object",
    "additionalProperties": False,
    "required": ["center", "axes", "rest", "drawn", "judge"],
    "properties": {
        "center": _EACH_FEATURE | {"items": _NUMBERS},
        "axes": {"type": "array", "items": _EACH_FEATURE | {"items": _NUMBERS}, "minItems": 1, "maxItems": N_AXES},
        "rest": _EACH_FEATURE | {"items": _POSITIVE},
        "drawn": _BY_LABEL,
        "judge": _BY_LABEL,
    },
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["n", "mean", "variance"],
    "properties": {
        "n": {"type": "integer", "minimum": FEWEST, "maximum": 10**9},
        "mean": {"type": "array", "items": _NUMBERS, "minItems": N_FEATURES, "maxItems": N_FEATURES},
        "variance": {"type": "array", "items": _NUMBERS | {"minimum": 0}, "minItems": N_FEATURES, "maxItems": N_FEATURES},
        "profile": {"type": "array", "items": _HALF, "minItems": 2, "maxItems": 2},
    },
}


def write_embedding(path: Path, features: ArrayLike, label: ArrayLike | None = None, patient: ArrayLike | None = None) -> None:
    """Write ``moments`` as JSON; nothing, and nothing of an earlier run stays, below ``FEWEST`` images.

    With ``label`` and ``patient``, ``[N]`` each, it has ``source_profile`` too, where there are patients enough.
    """
    content = moments(features)
    if content is None:
        path.unlink(missing_ok=True)
        return
    profile = None if label is None or patient is None else source_profile(features, label, patient)
    if profile is not None:
        content["profile"] = profile
    write_json(path, content, indent=None)


def read_embedding(path: Path) -> dict[str, Any] | None:
    """What ``write_embedding`` wrote; ``None`` where there is no such file.

    Raises:
        InputError: when it is something else.
    """
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.validate(content, SCHEMA)
        if not is_sound(content):
            raise ValueError("NaN, or sizes that differ")
    except (OSError, ValueError, RecursionError, jsonschema.ValidationError):
        raise InputError(f"{path.name} is damaged; run again what wrote it") from None
    return content


def is_sound(embedding: Mapping[str, Any]) -> bool:
    """What a schema does not see: no NaN, which JSON as Python reads it may hold, and as many axes everywhere."""
    arrays = [embedding["mean"], embedding["variance"]]
    for half in embedding.get("profile", ()):
        size = len(half["axes"]) + 1
        arrays += [half["center"], half["axes"], half["rest"]]
        for gaussian in (half[role][label] for role in ("drawn", "judge") for label in LABELS):
            if len(gaussian["mean"]) != size or [len(line) for line in gaussian["covariance"]] != [size] * size:
                return False
            arrays += [gaussian["mean"], gaussian["covariance"]]
    return all(bool(np.isfinite(array).all()) for array in arrays)
