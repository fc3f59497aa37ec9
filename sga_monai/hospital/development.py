"""Who the model was developed on, as shares that travel with it, and who was evaluated at a site, in the same groups."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256
from sga_monai.core.text import ALPHABET
from sga_monai.data.manifest import age_band, read_manifest
from sga_monai.hospital.formats import MIN_PATIENTS

COLUMNS = ("age", "sex", "view", "manufacturer")
MISSING, OTHER = "missing", "other"
SPLITS = ("train", "val")
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
SHARES = {"type": "object", "propertyNames": {"pattern": ALPHABET}, "additionalProperties": SHARE}
# Of the field "development" in reference.json; bundles of before have none.
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["images", "patients", "positive", "columns"],
    "properties": {
        "images": {"type": "integer", "minimum": MIN_PATIENTS},
        "patients": {"type": "integer", "minimum": MIN_PATIENTS},
        "positive": SHARE,
        "columns": {"type": "object", "additionalProperties": False, "properties": dict.fromkeys(COLUMNS, SHARES)},
    },
}


def cohort_shares(rows: pd.DataFrame) -> dict[str, Any] | None:
    """Shares of images by age band, sex, view and manufacturer.

    Args:
        rows: ``label, patient`` and those of ``COLUMNS`` that there are, ages as bands; empty or NaN is missing.

    Returns:
        ``images, patients, positive`` (the share) and ``columns``: by column the share of each level. Levels of fewer than ten
        patients are put together as "other", with a further one where "other" would still be smaller. ``None`` with fewer
        than ten patients.
    """
    if rows["patient"].nunique() < MIN_PATIENTS:
        return None
    columns = {name: _shares(rows[name].fillna(""), rows["patient"]) for name in COLUMNS if name in rows}
    return {
        "images": len(rows),
        "patients": int(rows["patient"].nunique()),
        "positive": float((rows["label"] == 1).mean()),
        "columns": columns,
    }


def _shares(level: pd.Series, patient: pd.Series) -> dict[str, float]:
    level = level.replace("", MISSING)
    size = patient.groupby(level).nunique().sort_values(kind="stable")
    small = [name for name, n in size.items() if n < MIN_PATIENTS]
    if small:
        merged = patient[level.isin(small)].nunique()
        if merged < MIN_PATIENTS:
            # One small group alone could be had by subtraction, and so could a small sum.
            small += [name for name in size.index if name not in small][:1]
        level = level.where(~level.isin(small), OTHER)
    return {str(name): float(share) for name, share in level.value_counts(normalize=True).sort_index().items()}


def development_shares(manifest: str | Path, manifest_sha256: str) -> dict[str, Any] | None:
    """``cohort_shares`` of the rows that a model was trained and chosen on.

    Args:
        manifest: the one that the training read.
        manifest_sha256: of it, in the training's ``run.json``.

    Raises:
        InputError: when it is another file, or is refused.
    """
    path = Path(manifest)
    if not path.is_file() or file_sha256(path) != manifest_sha256:
        raise InputError("the manifest is not the one that the model was trained with; give that one, or leave it out")
    table = pd.DataFrame([row for row in read_manifest(path) if row["split"] in SPLITS]).rename(columns={"patient_id": "patient"})
    return cohort_shares(with_age_bands(table.assign(label=table["label"].astype(int))))


def with_age_bands(rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` with ages in years as bands; bands stay."""
    return rows if "age" not in rows else rows.assign(age=rows["age"].fillna("").map(age_group))


def age_group(age: str) -> str:
    """18-39, 40-64, ... 90+ of a number of years; a band, and what is no number, stays.

    Example:
        >>> age_group("67"), age_group("40-64")
        ('65-79', '40-64')
    """
    try:
        years = float(age)
    except ValueError:
        return age
    return age_band(years)


def compare_cohorts(scored: pd.DataFrame, development: Mapping[str, Any] | None) -> dict[str, Any]:
    """This site beside the development data.

    Args:
        scored: the scored rows of a site's predictions.
        development: of the bundle's reference; ``None`` where it does not say.

    Returns:
        ``site`` and ``development``, each of ``cohort_shares`` or ``None``.
    """
    return {"site": cohort_shares(with_age_bands(scored)), "development": development}
