"""Cross-checks of a site's predictions: are its images like the internal ones, and does the model rely on the lungs?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import chi2

from sga_monai.evaluation.predictions import FEATURES, SITE_SCORE, control_column
from sga_monai.hospital.formats import MODEL
from sga_monai.statistics.discrimination import auroc
from sga_monai.statistics.estimates import mean_change
from sga_monai.statistics.feature_shift import chance_distance, frechet_distance
from sga_monai.statistics.probes import METADATA, metadata_auroc
from sga_monai.statistics.separability import site_auroc

PSI_FLAG = 0.2


def drift(scored: pd.DataFrame, reference: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Population stability index and Kolmogorov-Smirnov distance of the prepared images against the internal ones.

    Of two samples of one population, of n and m, the index times nm / (n + m) is about chi squared with one degree of freedom
    less than there are bins (Yurdakul and Naranjo, Journal of Risk Model Validation 14(4), 2020): a small site exceeds 0.2 by
    chance. Patients are counted, since images of one are alike.

    Args:
        scored: the scored rows of ``evaluate_bundle``'s predictions.
        reference: of ``read_reference``.

    Returns:
        ``feature, psi, ks``, ``chance``, which the index exceeds by chance in one of a hundred sites, and ``flag`` (an index above
        both 0.2 and ``chance``) of each known feature.
    """
    table, patients = [], scored["patient"].nunique()
    for name in FEATURES:
        known = reference["image_features"].get(name)
        if not known:
            continue
        edges, expected = np.asarray(known["edges"]), np.asarray(known["shares"])
        values = scored[name].to_numpy()
        observed = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(expected)) / len(values)
        # An empty bin would make the index infinite; half a patient stands in for none.
        p, q = (np.maximum(shares, 0.5 / patients) for shares in (observed, expected))
        psi = float(((p - q) * np.log(p / q)).sum())
        ks = float(abs(np.cumsum(observed) - np.cumsum(expected)).max())
        chance = float(chi2.ppf(0.99, max(len(expected) - 1, 1))) * (1 / patients + 1 / _internal_patients(reference))
        table.append({"feature": name, "psi": psi, "ks": ks, "chance": chance, "flag": psi > max(PSI_FLAG, chance)})
    return table


def _internal_patients(reference: Mapping[str, Any]) -> float:
    """Patients of the internal images: those of the test set, in proportion where more images were compared."""
    test = reference["models"][MODEL]
    images = test["n_positive"] + test["n_negative"]
    compared = reference["embedding"]["n"] if "embedding" in reference else images
    return float(compared * test["n_patients"] / images)


def embedding_distance(site: Mapping[str, Any] | None, internal: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Distance of the network's features at the site from those of the internal images.

    Args:
        site: of ``read_embedding``.
        internal: the same of the internal images.

    Returns:
        ``distance`` of ``frechet_distance``, ``chance`` of ``chance_distance``, and the numbers of images ``n`` and
        ``n_internal``; ``None`` where either side is unknown. No limit is set: none is known above which a model fails.
    """
    if site is None or internal is None:
        return None
    chance = chance_distance(site["n"], internal["n"])
    return {"distance": frechet_distance(site, internal), "chance": chance, "n": site["n"], "n_internal": internal["n"]}


def site_separability(scored: pd.DataFrame, internal: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """AUROC of telling this site's images from internal ones by the network's features.

    Args:
        scored: the scored rows of ``evaluate_bundle``'s predictions.
        internal: ``embedding`` of ``read_reference``.

    Returns:
        ``value, low, high, n`` of ``site_auroc``; ``None`` where the bundle has no profile, or with too few patients.
    """
    profile = (internal or {}).get("profile")
    if profile is None or SITE_SCORE not in scored:
        return None
    return site_auroc(scored[SITE_SCORE], scored["label"], scored["patient"], profile)


def shortcut_audit(scored: pd.DataFrame) -> dict[str, Any]:
    """AUROC without lungs, without the border, and of the files' metadata alone; how far a planted marker moves the score.

    Args:
        scored: the scored rows of ``evaluate_bundle``'s predictions.

    Returns:
        ``value, low, high`` of the AUROC, ``n`` images of ``n_patients``, and how many of these have images of either class,
        ``positive_patients`` and ``negative_patients``, under ``center_blank``, ``border_blank`` and, where images have lung masks,
        ``lungs_blank`` and ``only_lungs`` (else ``None``); ``metadata_only`` of ``metadata_auroc``; under ``tag`` the mean change
        of the logit difference, with the scores' standard deviation ``score_sd``.
    """
    audit: dict[str, Any] = {}
    for name in ("center_blank", "border_blank", "lungs_blank", "only_lungs"):
        column = control_column(name)
        if column not in scored or not scored[column].notna().any():
            audit[name] = None
            continue
        rows = scored[scored[column].notna()]
        figure = auroc(rows[column], rows["label"], rows["patient"])
        patients = [int(rows.loc[rows["label"] == label, "patient"].nunique()) for label in (1, 0)]
        audit[name] = {**figure.estimate, "n": len(rows), "n_patients": figure.n_patients}
        audit[name] |= dict(zip(("positive_patients", "negative_patients"), patients, strict=True))
    audit["tag"] = _tag(scored) if control_column("tag") in scored else None
    columns = {key: scored[key].fillna("") for key in METADATA if key in scored}
    audit["metadata_only"] = metadata_auroc(columns, scored["label"], scored["patient"])
    return audit


def _tag(scored: pd.DataFrame) -> dict[str, Any]:
    """Mean change of the logit difference when a lead letter is planted, and the scores' standard deviation beside it."""
    mean = mean_change(scored[control_column("tag")], scored["score"], scored["patient"])
    sd = float(scored["score"].std(ddof=0))
    return {
        "value": mean.value,
        "low": mean.low,
        "high": mean.high,
        "n": len(scored),
        "n_patients": int(scored["patient"].nunique()),
        "score_sd": sd,
    }
