"""The columns of ``predictions.csv`` and the names of the sets in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def row_columns(batch: Mapping[str, Any]) -> dict[str, list[Any]]:
    """``set, row, patient, label`` of a collated batch as plain values, whether they were collated to tensors or not."""
    keys = ("set", "row", "patient", "label")
    return {key: [value.item() if isinstance(value, Tensor) else value for value in batch[key]] for key in keys}


def image_features(image: Tensor) -> dict[str, Any]:
    """Three figures of each prepared image ``[N, 1, H, W]`` for comparing sites: mean, standard deviation, dark share."""
    flat = image.detach().double().flatten(1).cpu()
    dark = (flat < 0.05).double().mean(dim=1)
    return {"image_mean": flat.mean(dim=1).numpy(), "image_sd": flat.std(dim=1).numpy(), "image_dark": dark.numpy()}


INTERNAL, VALIDATION = "internal", "internal (validation)"
# The columns of a site's manifest by which a report is divided.
GROUPS = ("sex", "age", "view", "manufacturer", "negative_type", "period")
FEATURES = ("image_mean", "image_sd", "image_dark")
