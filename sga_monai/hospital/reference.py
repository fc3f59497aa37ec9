"""``reference.json``: what travels with a model so that a site needs no training data. Plain numbers and strings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
from scipy.special import expit
from sklearn.metrics import roc_curve

from sga_monai.core.errors import InputError
from sga_monai.core.files import plain, read_json
from sga_monai.core.schema import record, validate
from sga_monai.evaluation.embedding import check_embedding
from sga_monai.evaluation.predictions import FEATURES, INTERNAL, VALIDATION, is_internal
from sga_monai.hospital import development
from sga_monai.hospital.formats import BASELINE, MODEL, REFERENCE, is_schema_1
from sga_monai.model.architectures import find_architecture
from sga_monai.model.preparation import SETTINGS, Preparation
from sga_monai.statistics.calibration import assess_calibration, fit_temperature
from sga_monai.statistics.decisions import operating_point, youden_threshold
from sga_monai.statistics.discrimination import auroc, paired_difference

REFUSAL = "reference.json is missing or not as sga-monai package writes it; ask for the bundle again"

FPR_GRID = tuple(round(0.05 * i, 2) for i in range(21))
NUMBER = {"type": ["number", "null"]}
NUMBERS = {"type": "array", "items": {"type": "number"}}
ESTIMATE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["value", "low", "high"],
    "properties": {"value": NUMBER, "low": NUMBER, "high": NUMBER, "p": NUMBER},
}
MODEL_FACTS = record(
    network={"type": "string", "pattern": "^[a-z0-9_]{1,64}$"},
    sha256={"type": "string", "pattern": "^[0-9a-f]{64}$"},
    threshold={"type": "number"},
    temperature={"type": "number", "exclusiveMinimum": 0},
    auroc=NUMBER,
    variance=NUMBER,
    n_positive={"type": "integer"},
    n_negative={"type": "integer"},
    n_patients={"type": "integer"},
    roc=NUMBERS | {"minItems": len(FPR_GRID), "maxItems": len(FPR_GRID)},
    slope=ESTIMATE,
    intercept=ESTIMATE,
    brier=ESTIMATE,
)
# Bundles of before have neither.
MODEL_FACTS["properties"] |= {"sensitivity": ESTIMATE, "specificity": ESTIMATE}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["schema", "name", "version", *SETTINGS, "models", "model_minus_baseline", "image_features"],
    "properties": {
        "schema": {"const": REFERENCE},
        "name": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,64}$"},
        "version": {"type": "string", "pattern": "^[A-Za-z0-9_.-]{1,32}$"},
        "image_size": {"type": "integer", "minimum": 16, "maximum": 2048},
        "voi": {"enum": ["dicom", "none"]},
        "orientation": {"enum": ["header", "stored"]},
        "models": {
            "type": "object",
            "additionalProperties": False,
            "required": [MODEL],
            "properties": {MODEL: MODEL_FACTS, BASELINE: MODEL_FACTS},
        },
        "model_minus_baseline": {"anyOf": [ESTIMATE, {"type": "null"}]},
        "image_features": {
            "type": "object",
            "additionalProperties": False,
            "properties": {name: record(edges=NUMBERS, shares=NUMBERS) for name in FEATURES},
        },
        "embedding": {"type": "object"},
        "development": development.SCHEMA,
    },
}


def reference_preparation(reference: Mapping[str, Any]) -> Preparation:
    """How the images of a reference's models are prepared."""
    return Preparation(**{name: reference[name] for name in SETTINGS})


def make_reference(
    predictions: Mapping[str, pd.DataFrame],
    weights: Mapping[str, Mapping[str, str]],
    embedding: Mapping[str, Any] | None = None,
    temperature: bool = False,
    **facts: Any,
) -> dict[str, Any]:
    """The reference of a model, and of a baseline where there is one, from the predictions of their training runs.

    Args:
        predictions: by role, "model" and "baseline": tables of ``read_predictions``. The threshold is Youden's on the
            validation set; every other figure is of the internal test set.
        weights: by role: the name of the ``network`` and the ``sha256`` of its weights.
        embedding: of the model's features of the internal images, the run's ``embedding.json``; left out when ``None``.
        temperature: fit one to each model's validation scores; otherwise it is 1, and probabilities are the network's own.
        facts: ``name, version``, the fields of ``Preparation`` and, where it is known, ``development`` of ``development_shares``.

    Raises:
        InputError: when a set is missing or has one class only, no temperature fits, or the two models were not tested on the
            same images.
    """
    own = predictions[MODEL]
    reference: dict[str, Any] = {
        "schema": REFERENCE,
        **facts,
        "models": {role: dict(weights[role]) | _internal_figures(frame, temperature, role) for role, frame in predictions.items()},
        "model_minus_baseline": _internal_comparison(predictions),
        "image_features": {name: _histogram(own.loc[own["set"].map(is_internal), name]) for name in FEATURES},
    }
    if embedding is not None:
        reference["embedding"] = embedding
    result: dict[str, Any] = plain(reference)
    return result


def _internal_figures(predictions: pd.DataFrame, temperature: bool, role: str) -> dict[str, Any]:
    sets = {name: predictions[predictions["set"] == name] for name in (VALIDATION, INTERNAL)}
    for name, rows in sets.items():
        if rows["label"].nunique() < 2 or rows["score"].isna().any():
            raise InputError(f"the run's predictions need complete scores of both classes in the set {name}; train with such a manifest")
    validation, test = sets[VALIDATION], sets[INTERNAL]
    figure = auroc(test["score"], test["label"], test["patient"])
    fitted = _temperature(validation, role) if temperature else 1.0
    fit = assess_calibration(expit(test["score"] / fitted), test["label"], test["patient"])
    threshold = youden_threshold(validation["score"], validation["label"])
    point = operating_point(test["score"], test["label"], threshold, test["patient"])
    return {
        "threshold": threshold,
        "temperature": fitted,
        "auroc": figure.auroc,
        "variance": figure.variance,
        "n_positive": figure.n_positive,
        "n_negative": figure.n_negative,
        "n_patients": figure.n_patients,
        "roc": roc_on_grid(test["score"], test["label"]),
        "slope": asdict(fit.slope),
        "intercept": asdict(fit.intercept),
        "brier": asdict(fit.brier),
        "sensitivity": asdict(point.sensitivity),
        "specificity": asdict(point.specificity),
    }


def _temperature(validation: pd.DataFrame, role: str) -> float:
    try:
        return fit_temperature(validation["score"], validation["label"])
    except ValueError as error:
        raise InputError(f"the {role}'s temperature cannot be fitted on its validation set: {error}; leave out --fit-temperature") from None


def _internal_comparison(predictions: Mapping[str, pd.DataFrame]) -> dict[str, Any] | None:
    """AUROC of the model minus that of the baseline on the internal test set."""
    if BASELINE not in predictions:
        return None
    tests = (predictions[role][predictions[role]["set"] == INTERNAL].reset_index(drop=True) for role in (MODEL, BASELINE))
    first, second = tests
    if not first[["row", "label"]].equals(second[["row", "label"]]):
        raise InputError("the baseline was not tested on the same images; train both with the same manifest")
    return asdict(paired_difference(first["score"], second["score"], first["label"], first["patient"]))


def read_reference(path: str | Path) -> dict[str, Any]:
    """A reference as received: JSON of known fields only, in which no string is ever evaluated.

    Raises:
        InputError: when it is missing, of an earlier version or not of the schema, or names a network that is not in ``NETWORKS``.
    """
    try:
        reference: Any = read_json(path)
    except (OSError, ValueError, RecursionError):
        raise InputError(REFUSAL) from None
    if is_schema_1(reference):
        raise InputError("reference.json is of an earlier version (schema 1); ask for the model to be packaged again with this version")
    try:
        validate(reference, SCHEMA)
    except (RecursionError, jsonschema.ValidationError):
        raise InputError(REFUSAL) from None
    networks = {role: find_architecture(facts["network"], trained=True) for role, facts in reference["models"].items()}
    try:
        if "embedding" in reference:
            check_embedding(reference["embedding"], networks[MODEL].n_features)
    except (ValueError, RecursionError, jsonschema.ValidationError):
        raise InputError(REFUSAL) from None
    result: dict[str, Any] = reference
    return result


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
