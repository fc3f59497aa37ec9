"""What can be read without a model's score: the label from metadata, the site from features. Pure functions on arrays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from sga_monai.statistics.discrimination import auroc, logit_interval
from sga_monai.statistics.folds import ENOUGH_PATIENTS, FOLDS

VARIANCE_FACTOR = 1 + FOLDS / (FOLDS - 1)
# Columns of a manifest from which a label should not be readable.
METADATA = ("view", "manufacturer", "sex")


def metadata_auroc(columns: Mapping[str, ArrayLike], label: ArrayLike, patient: ArrayLike) -> dict[str, float] | None:
    """Can the label be read from metadata alone? Cross-validated logistic regression, patients kept together.

    Args:
        columns: texts ``[N]`` by name; a column with one value only is left out.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys.

    Returns:
        As ``out_of_fold_auroc``; ``None`` when no column is left or a class has fewer than 10 patients.
    """
    label, patient = np.asarray(label), np.asarray(patient)
    used = [text for text in (np.asarray(values, dtype=str) for values in columns.values()) if len(np.unique(text)) > 1]
    if not used or min(len(np.unique(patient[label == value])) for value in (0, 1)) < ENOUGH_PATIENTS:
        return None
    design = OneHotEncoder(handle_unknown="ignore").fit_transform(np.column_stack(used))
    # Unequal shares of a class in the folds would pull a useless probe below 0.5, and may leave a fold without the class.
    folds = StratifiedGroupKFold(FOLDS)
    score = cross_val_predict(LogisticRegression(), design, label, groups=patient, cv=folds, method="decision_function")
    return out_of_fold_auroc(score, label, patient)


def site_probe(features: ArrayLike, site: ArrayLike, patient: ArrayLike, label: ArrayLike) -> dict[str, Any] | None:
    """Can the source site be read from a model's features? Logistic regression on standardized features, cross-validated.

    Patients are kept together and sites stratified over five folds. Site and label may be confounded, so the probe is made
    again within each label.

    Args:
        features: ``[N, D]``.
        site: ``[N]``, any keys.
        patient: ``[N]``, any keys; a patient of two sites has one key.
        label: ``[N]``.

    Returns:
        As ``out_of_fold_auroc``; with three or more sites ``value`` is the mean of
        the sites' one-against-the-rest AUROCs, without interval, and ``sites`` has each with its own. ``within_label`` has
        the same by label. ``None`` where not estimable: fewer than two sites, or than 10 patients at one.
    """
    features, site, patient, label = (np.asarray(values) for values in (features, site, patient, label))
    whole = _probe(features, site, patient)
    if whole is None:
        return None
    parts = {int(value): label == value for value in np.unique(label)}
    return whole | {"within_label": {value: _probe(features[part], site[part], patient[part]) for value, part in parts.items()}}


def _probe(features: NDArray[Any], site: NDArray[Any], patient: NDArray[Any]) -> dict[str, Any] | None:
    names = np.unique(site)
    people = [len(np.unique(patient[site == name])) for name in names]
    if len(names) < 2 or min(people) < ENOUGH_PATIENTS:
        return None
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    # Unequal shares of a site in the folds would pull a useless probe below 0.5.
    folds = StratifiedGroupKFold(FOLDS)
    score = cross_val_predict(model, features, site, groups=patient, cv=folds, method="decision_function")
    if len(names) == 2:
        return out_of_fold_auroc(score, site == names[1], patient) | {"n_patients": sum(people)}
    each = {}
    for i, name in enumerate(names):
        # Log odds of the site against all others; probabilities would saturate and tie.
        odds = score[:, i] - logsumexp(np.delete(score, i, axis=1), axis=1)
        each[str(name)] = out_of_fold_auroc(odds, site == name, patient) | {"n_patients": sum(people)}
    mean = float(np.mean([line["value"] for line in each.values()]))
    return {"value": mean, "low": np.nan, "high": np.nan, "n": len(site), "n_patients": sum(people), "sites": each}


def out_of_fold_auroc(score: ArrayLike, label: ArrayLike, patient: ArrayLike) -> dict[str, Any]:
    """AUROC of the scores of a cross-validation in five folds, with an interval that allows for the fits.

    Training sets of the folds overlap and depend on the tested patients, so this AUROC varies more than that of one model: the
    variance between patients is multiplied by 1 + 5 / 4 (Nadeau and Bengio, Machine Learning 52, 2003: 1 / K + n_test / n_train in
    place of 1 / K). In simulated sets with nothing to read, 95 to 99 % of these intervals hold 0.5, instead of 80 to 88 %; where much
    is read, they are wider than need be.

    Args:
        score: ``[N]``, each of the fit without its fold.
        label: ``[N]``, 0 or 1.
        patient: ``[N]``, any keys.

    Returns:
        ``value, low, high``, ``n`` (images) and ``n_patients``.
    """
    figure = auroc(score, np.asarray(label, dtype=int), patient)
    low, high = logit_interval(figure.auroc, VARIANCE_FACTOR * figure.variance) if figure.variance > 0 else (np.nan, np.nan)
    return figure.estimate | {"low": low, "high": high, "n": figure.n_positive + figure.n_negative, "n_patients": figure.n_patients}
