"""reference.json: what travels with a model so that a site needs no training data. Plain numbers and strings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from sga_monai.core.errors import InputError
from sga_monai.core.files import plain
from sga_monai.evaluation.embedding import SCHEMA as EMBEDDING
from sga_monai.evaluation.embedding import is_sound
from sga_monai.evaluation.predictions import FEATURES, INTERNAL, VALIDATION
from sga_monai.statistics.calibration import assess_calibration
from sga_monai.statistics.decisions import youden_threshold
from sga_monai.statistics.discrimination import auroc, auroc_covariance, paired_difference

FPR_GRID = tuple(round(0.05 * i, 2) for i in range(21))
NUMBER = {"type": ["number", "null"]}
ESTIMATE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["value", "low", "high"],
    "properties": {"value": NUMBER, "low": NUMBER, "high": NUMBER, "p": NUMBER},
}
MODEL = {
    "type": "object",
    "additionalProperties": False,
    "required": "sha256 threshold auroc variance n_positive n_negative n_patients roc slope intercept brier".split(),
    "properties": {
        "sha256": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        "threshold": {"type": "number"},
        "auroc": NUMBER,
        "variance": NUMBER,
        "n_positive": {"type": "integer"},
        "n_negative": {"type": "integer"},
        "n_patients": {"type": "integer"},
        "roc": {"type": "array", "items": {"type": "number"}, "minItems": len(FPR_GRID), "maxItems": len(FPR_GRID)},
        "slope": ESTIMATE,
        "intercept": ESTIMATE,
        "brier": ESTIMATE,
    },
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["schema", "name", "version", "image_size", "voi", "models", "paired", "covariance", "features"],
    "properties": {
        "schema": {"const": "sga_monai reference 1"},
        "name": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"},
        "version": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,32}$"},
        "image_size": {"type": "integer", "minimum": 16, "maximum": 2048},
        "voi": {"enum": ["dicom", "none"]},
        "models": {"type": "object", "additionalProperties": False, "required": ["sga"], "properties": {"sga": MODEL, "nt": MODEL}},
        "paired": {"anyOf": [ESTIMATE, {"type": "null"}]},
        "covariance": NUMBER,
        "features": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                name: {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["edges", "shares"],
                    "properties": {part: {"type": "array", "items": {"type": "number"}} for part in ("edges", "shares")},
                }
                for name in FEATURES
            },
        },
        "embedding": EMBEDDING,
    },
}


def make_reference(
    predictions: Mapping[str, pd.DataFrame], sha256: Mapping[str, str], embedding: Mapping[str, Any] | None = None, **facts: Any
) -> dict[str, Any]:
    """The reference of one or two models from their training runs' predictions.

    Args:
        predictions: "sga" and, where there is a twin, "nt": columns ``set, row, patient, label, score`` and features.
            The threshold is Youden's on the validation set; every other figure is of the internal test set.
        sha256: of each model's weights.
        embedding: of the internal images' features, the run's ``embedding.json``; left out when ``None``.
        facts: ``name, version, image_size, voi``.

    Raises:
        InputError: when a set is missing or has one class only, or the two models were not tested on the same images.
    """
    tests = {key: frame[frame["set"] == INTERNAL].reset_index(drop=True) for key, frame in predictions.items()}
    models = {}
    for key, frame in predictions.items():
        validation, test = frame[frame["set"] == VALIDATION], tests[key]
        for name, rows in ((VALIDATION, validation), (INTERNAL, test)):
            if rows["label"].nunique() < 2 or rows["score"].isna().any():
                raise InputError(f"the run's predictions need complete scores of both classes in the set {name}")
        figure = auroc(test["score"], test["label"], test["patient"])
        fit = assess_calibration(test["probability"], test["label"], test["patient"])
        models[key] = {
            "sha256": sha256[key],
            "threshold": youden_threshold(validation["score"], validation["label"]),
            "auroc": figure.auroc,
            "variance": figure.variance,
            "n_positive": figure.n_positive,
            "n_negative": figure.n_negative,
            "n_patients": figure.n_patients,
            "roc": roc_on_grid(test["score"], test["label"]),
            "slope": asdict(fit.slope),
            "intercept": asdict(fit.intercept),
            "brier": asdict(fit.brier),
        }
    paired, covariance = None, None
    if "nt" in tests:
        first, second = tests["sga"], tests["nt"]
        if not first[["row", "label"]].equals(second[["row", "label"]]):
            raise InputError("the twin was not tested on the same images; train both with the same manifest")
        paired = asdict(paired_difference(first["score"], second["score"], first["label"], first["patient"]))
        covariance = auroc_covariance(first["score"], second["score"], first["label"], first["patient"])
    inside = predictions["sga"][predictions["sga"]["set"].isin((INTERNAL, VALIDATION))]
    shapes = {name: _histogram(inside[name]) for name in FEATURES}
    reference = {"schema": "sga_monai reference 1", **facts, "models": models, "paired": paired, "covariance": covariance}
    reference["features"] = shapes
    if embedding is not None:
        reference["embedding"] = embedding
    result: dict[str, Any] = plain(reference)
    return result


def read_reference(path: str | Path) -> dict[str, Any]:
    """A reference as received: JSON of known fields only, in which no string is ever evaluated.

    Raises:
        InputError: when it is missing or not of the schema.
    """
    try:
        reference: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        jsonschema.validate(reference, SCHEMA)
        if "embedding" in reference and not is_sound(reference["embedding"]):
            raise ValueError("NaN, or sizes that differ")
    except (OSError, ValueError, RecursionError, jsonschema.ValidationError):
        raise InputError("reference.json is missing or not as sga-monai package writes it; ask for the bundle again") from None
    return reference


def roc_on_grid(score: Any, label: Any) -> list[float]:
    """Sensitivity at false-positive rates 0, 0.05, ... 1; a full curve would give single scores away."""
    fpr, tpr, _ = roc_curve(label, score, drop_intermediate=False)
    # The best sensitivity that has at most this false-positive rate.
    return [float(tpr[fpr <= x + 1e-12].max()) for x in FPR_GRID]


def _histogram(values: pd.Series) -> dict[str, list[float]]:
    """Shares of ten bins of equal size, open at both ends."""
    values = values.dropna()
    edges = np.unique(np.quantile(values, np.linspace(0, 1, 11)[1:-1]))
    counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1)
    return {"edges": [float(edge) for edge in edges], "shares": [float(count) for count in counts / len(values)]}
