"""Confounding strength as an axis: training manifests in which the source follows the label with strength r.

Pneumonia against no finding. Every negative is NIH's; of the positives a share r is Hannover's and the rest NIH's. At
r = 0 there is one source, of which the label is independent; at r = 1 the label is the source. The number of images of
each class and split is the same for every r, and a smaller r keeps the first of the images of a larger one. The test set
without Hannover, NIH pneumonia against NIH no finding, has other patients than every training manifest. It is one source,
not one free of confounding: its classes differ in the range of patients and in the mix of views (see ``nih``).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from sga_monai.cohorts.covid import read_cohen, read_hannover
from sga_monai.cohorts.nih import read_nih_pneumonia
from sga_monai.cohorts.splits import split_by_patient
from sga_monai.cohorts.tables import all_test
from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.data.manifest import Row

POOL_SHARE = 0.55


def mixture(root: Path, seed: int = 0, strength: float = 1.0) -> list[Row]:
    """Training manifest of strength r.

    Args:
        root: the folder that holds the collections.
        seed: of the splits and of the images that are drawn.
        strength: r in [0, 1].

    Raises:
        InputError: when ``strength`` is out of range or NIH has too few images.
    """
    check.number("strength", strength, low=0, high=1)
    hannover = split_by_patient(read_hannover(root), seed)
    nih = split_by_patient([row for row, pooled in _halves(root, seed) if pooled], seed)
    rng = np.random.default_rng((seed, 1))
    rows: list[Row] = []
    for split in ("train", "val", "test"):
        drawn = {}
        for name, source, label in (("hannover", hannover, "1"), ("positive", nih, "1"), ("negative", nih, "0")):
            found = [row for row in source if row["split"] == split and row["label"] == label and not row["dropped"]]
            drawn[name] = [found[i] for i in rng.permutation(len(found))]
        count = len(drawn["hannover"])
        from_hannover = round(strength * count)
        if min(len(drawn["positive"]), len(drawn["negative"])) < count:
            raise InputError(f"NIH has too few images for split {split}: {count} of each class are needed")
        wanted = {"hannover": from_hannover, "positive": count - from_hannover, "negative": count}
        for name, found in drawn.items():
            rows += [row | {"dropped": "" if i < wanted[name] else f"not drawn for strength {strength:g}"} for i, row in enumerate(found)]
    return rows


def nih_pneumonia(root: Path, seed: int = 0) -> list[Row]:
    """Test set of one source, confounded in itself (see ``nih``): NIH pneumonia against no finding, patients of no mixture."""
    return all_test([row if not pooled else row | {"dropped": "patient is in the mixtures"} for row, pooled in _halves(root, seed)])


def cohen_pneumonia(root: Path, seed: int = 0) -> list[Row]:
    """Another source of positives: Cohen pneumonia of any kind against the negatives of ``nih_pneumonia``."""
    cohen = [row | {"label": "1", "negative_type": ""} for row in read_cohen(root)]
    return all_test(cohen) + [row for row in nih_pneumonia(root, seed) if row["label"] == "0"]


BUILDERS: dict[str, Callable[..., list[Row]]] = {
    "mixture": mixture,
    "nih-pneumonia": nih_pneumonia,
    "cohen-pneumonia": cohen_pneumonia,
}


def _halves(root: Path, seed: int) -> list[tuple[Row, bool]]:
    """NIH rows of both classes with whether their patient is in the pool of the mixtures."""
    rows = [row for row in read_nih_pneumonia(root) if not row["dropped"]]
    labels: dict[str, set[str]] = {}
    for row in rows:
        labels.setdefault(row["patient_id"], set()).add(row["label"])
    rng = np.random.default_rng(seed)
    pooled: set[str] = set()
    for stratum in sorted({tuple(sorted(value)) for value in labels.values()}):
        patients = sorted(patient for patient, value in labels.items() if tuple(sorted(value)) == stratum)
        pooled |= {patients[i] for i in rng.permutation(len(patients))[: round(POOL_SHARE * len(patients))]}
    return [(row, row["patient_id"] in pooled) for row in rows]
