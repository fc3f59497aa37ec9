"""Split rows by patient, and audit a split."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from sga_monai.data.identity import same_id
from sga_monai.data.manifest import Row, age_band

SPLIT_SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}


def split_by_patient(rows: list[Row], seed: int) -> list[Row]:
    """Set ``split`` 6:2:2 within each group of patients with the same labels, whole patients at a time."""
    labels: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    # The first spelling of an id stands for all.
    spelled: dict[str, str] = {}
    for row in rows:
        if not row["dropped"]:
            patient = spelled.setdefault(same_id(row["patient_id"]), row["patient_id"])
            labels.setdefault(patient, set()).add(row["label"])
            counts[patient] = counts.get(patient, 0) + 1
    rng = np.random.default_rng(seed)
    split: dict[str, str] = {}
    for stratum in sorted({tuple(sorted(value)) for value in labels.values()}):
        patients = sorted(patient for patient, value in labels.items() if tuple(sorted(value)) == stratum)
        total = sum(counts[patient] for patient in patients)
        # The largest patients first, each into the split that lacks most images; equals in random order.
        order = sorted(rng.permutation(len(patients)), key=lambda i: -counts[patients[i]])
        room = {name: share * total for name, share in SPLIT_SHARES.items()}
        for index in order:
            name = max(room, key=lambda key: room[key] / SPLIT_SHARES[key])
            split[patients[index]] = name
            room[name] -= counts[patients[index]]
    return [row | {"split": split.get(spelled.get(same_id(row["patient_id"]), ""), "")} for row in rows]


def audit(rows: list[Row]) -> list[tuple[str, str, int, int]]:
    """Counts of the kept rows by split, site, view, sex and age band (label 0, label 1), patients, and dropped rows."""
    kept = [row for row in rows if not row["dropped"]]
    lines: list[tuple[str, str, int, int]] = []
    groupings: tuple[tuple[str, Callable[[Row], str]], ...] = (
        ("images", lambda _: "all"),
        ("split", lambda row: row["split"]),
        ("site", lambda row: row["site"]),
        ("view", lambda row: row["view"] or "unknown"),
        ("sex", lambda row: row["sex"] or "unknown"),
        ("age", lambda row: age_band(float(row["age"])) if row["age"] else "unknown"),
    )
    for name, of in groupings:
        for value in sorted({of(row) for row in kept}):
            chosen = [row for row in kept if of(row) == value]
            lines.append((name, value, *_by_label(chosen)))
    one_each = {(same_id(row["patient_id"]), row["label"]): row for row in kept}
    lines.append(("patients", "all", *_by_label(one_each.values())))
    for reason in sorted({row["dropped"] for row in rows} - {""}):
        chosen = [row for row in rows if row["dropped"] == reason]
        lines.append(("dropped", reason, *_by_label(chosen)))
    return lines


def _by_label(rows: Iterable[Row]) -> tuple[int, int]:
    labels = [row["label"] for row in rows]
    return labels.count("0"), labels.count("1")
