"""``predictions.csv``: its columns, the names of its sets, and how it is read.

Every evaluation writes one line for each row of its manifests. A row that was scored has the columns ``SCORED``; one whose
image could not be read has the reason in ``error`` and no score. A site's evaluation adds ``CONTROLS``, ``BASELINE_SCORE``,
``SITE_SCORE`` and ``GROUPS``. No path and no identifier is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sga_monai.core.errors import InputError
from sga_monai.data.sets import INTERNAL, VALIDATION, is_internal

if TYPE_CHECKING:
    from torch import Tensor  # a report reads predictions without it

__all__ = [
    "BASELINE_SCORE", "CONTROLS", "FEATURES", "FILE", "GROUPS", "INTERNAL", "ROW", "SCORED", "SITE_SCORE", "VALIDATION", "add_failures",
    "control_column", "image_features", "is_internal", "read_predictions", "read_sets", "row_columns",
]  # fmt: skip

FILE = "predictions.csv"
# The set, the manifest's row, the patient as a number or a key made with the site's key, and the label.
ROW = ("set", "row", "patient", "label")
# Mean, standard deviation and share of dark pixels of the prepared image, for the comparison of sites.
FEATURES = ("image_mean", "image_sd", "image_dark")
# The score is the difference of the two logits.
SCORED = (*ROW, "score", "probability", *FEATURES)
# The baseline model's score, and how unlike the internal images an image is.
BASELINE_SCORE, SITE_SCORE = "score_baseline", "site_score"
# Changes of the images under which a site's are scored again (sga_monai.interpret.controls); the last two where there are lung masks.
CONTROLS = ("center_blank", "border_blank", "tag", "lungs_blank", "only_lungs")
# The columns of a site's manifest by which a report is divided.
GROUPS = ("sex", "age", "view", "manufacturer", "negative_type", "period")


def control_column(control: str) -> str:
    """The column with the scores under a control, as ``score_center_blank``."""
    return f"score_{control}"


def row_columns(batch: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The columns ``ROW`` of a collated batch as plain values, whether they were collated to tensors or not."""
    return {key: [value.item() if hasattr(value, "item") else value for value in batch[key]] for key in ROW}


def image_features(image: Tensor) -> dict[str, Any]:
    """The columns ``FEATURES`` of prepared images ``[N, 1, H, W]``."""
    flat = image.detach().double().flatten(1).cpu()
    dark = (flat < 0.05).double().mean(dim=1)
    return dict(zip(FEATURES, (flat.mean(dim=1).numpy(), flat.std(dim=1).numpy(), dark.numpy()), strict=True))


def add_failures(scored: pd.DataFrame, failures: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The scored rows and, below them, those that could not be read; both with a column ``error``, empty where scored.

    Args:
        scored: with the columns ``SCORED`` and any others.
        failures: of ``CXRDataset``.
    """
    scored = scored.assign(error="")
    if not failures:
        return scored
    failed = pd.DataFrame(list(failures))[[*ROW, "code"]].rename(columns={"code": "error"})
    return pd.concat([scored, failed], ignore_index=True)


def read_sets(path: str | Path, texts: Sequence[str] = (), **options: Any) -> pd.DataFrame:
    """A table with a column ``set``, whose names stay texts: a manifest may be called ``NA.csv`` or ``001.csv``.

    Args:
        path: a CSV.
        texts: other columns that stay texts, as a vendor called NA; an empty cell is missing there.
        options: of ``pandas.read_csv``.
    """
    # pandas would take NA, None and the like for empty cells.
    empty: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
    return pd.read_csv(path, dtype=dict.fromkeys(("set", *texts), str), **empty, **options)


def read_predictions(path: str | Path) -> pd.DataFrame:
    """A ``predictions.csv`` with the columns ``GROUPS``, where it has them, as texts.

    Raises:
        InputError: when it is missing, no table, or has no scores.
    """
    try:
        table = read_sets(path, texts=GROUPS)
    except (OSError, ValueError):
        raise InputError(f"{FILE} is missing or damaged; run again what writes it") from None
    absent = [name for name in (*ROW, "score", "probability") if name not in table]
    if absent:
        raise InputError(f"{FILE} has no column {absent[0]}; run again what writes it")
    return table
