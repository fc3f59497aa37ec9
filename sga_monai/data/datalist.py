"""Rows of a manifest as MONAI data dictionaries (MONAI's word is datalist), by which images are read and scored."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sga_monai.core.errors import REASONS, InputError, first_of
from sga_monai.core.files import FORMULA
from sga_monai.data.identity import same_id
from sga_monai.data.listed_files import FileState, file_states, on_disk
from sga_monai.data.manifest import REQUIRED, Row, read_manifest, several_sites
from sga_monai.data.pseudonyms import patient_key, read_site_key

logger = logging.getLogger(__name__)


def load_manifest(
    path: str | Path,
    dataset_dir: str | Path,
    split: str | None = None,
    require: Sequence[str] = REQUIRED,
    allow_missing: bool = False,
    site_key: str | Path | None = None,
    states: dict[str, FileState | None] | None = None,
) -> list[dict[str, Any]]:
    """Rows of a manifest as MONAI data dictionaries.

    Args:
        path: the manifest.
        dataset_dir: the folder that ``image`` is relative to; nothing outside it is opened.
        split: keep the rows of this split only.
        require: see ``read_manifest``.
        allow_missing: leave rows whose file is absent to the reader, which counts them as failed.
        site_key: file of ``new_site_key``, with which patients are named; without it they are numbered.
        states: gets the ``file_states`` of the rows.

    Returns:
        Dictionaries of ``image`` (absolute path), ``label`` (0 or 1; -1 where not required), ``row``, ``sha256`` (may
        be empty), ``patient`` (a number by order of appearance or ``patient_key``, so that no identifier goes further
        than here), ``site`` (a number by order of appearance) and ``set`` (the manifest's name).

    Raises:
        InputError: see ``read_manifest``; also when an image is missing or outside ``dataset_dir``, or no row has
            ``split``.
    """
    warnings: list[str] = []
    rows = read_manifest(path, require, warnings)
    name, root = Path(path).name, Path(dataset_dir)
    key = None if site_key is None else read_site_key(site_key)
    chosen = [row for row in rows if split is None or row["split"] == split]
    if not chosen:
        raise InputError(f"{name} has no row with split {split}")
    if allow_missing:
        warnings += [*other_splits(len(chosen), len(rows), split), *several_sites(chosen)]
    for sentence in warnings:
        logger.warning("%s: %s", name, sentence)
    found = file_states(chosen, root, name)
    if states is not None:
        states.update(found)
    missing = [row for row, state in found.items() if state is None]
    if missing and not allow_missing:
        listed = first_of(missing)
        raise InputError(f"{name}: no image inside dataset_dir for {len(missing)} rows (row {listed}): {REASONS['missing']}")
    return data_rows(rows, chosen, path, root, key, require)


def other_splits(n_chosen: int, n_rows: int, split: str | None) -> list[str]:
    """The sentence that says how many rows of a manifest have another split than the one that is taken, where there are any."""
    return [f"{n_rows - n_chosen} of {n_rows} rows have another split than {split} and are left out"] if n_chosen < n_rows else []


def data_rows(
    rows: Sequence[Row], chosen: Sequence[Row], path: str | Path, dataset_dir: str | Path, key: bytes | None, require: Sequence[str]
) -> list[dict[str, Any]]:
    """The data dictionaries of ``load_manifest``.

    Args:
        rows: all of the manifest, by which patients and sites are numbered.
        chosen: those to be read.
        path: the manifest.
        dataset_dir: see ``load_manifest``.
        key: of ``read_site_key``.
        require: see ``read_manifest``.

    Raises:
        InputError: when the manifest's name, which goes into tables as that of the set, begins like a formula.
    """
    if Path(path).name.startswith(FORMULA):
        raise InputError("the manifest's name begins like a formula, which a spreadsheet would run; rename it")
    root = Path(dataset_dir).resolve()
    patients = dict.fromkeys(same_id(row["patient_id"]) for row in rows)
    names = {patient: patient_key(patient, key) if key else i for i, patient in enumerate(patients)}
    sites = {site: i for i, site in enumerate(dict.fromkeys(same_id(row["site"]) for row in rows))}
    name, labeled, start = Path(path).stem, "label" in require, os.path.join(root, "")
    return [
        {
            "image": start + on_disk(start, row["image"]),
            "label": int(row["label"]) if labeled else -1,
            "row": int(row["row"]),
            "patient": names[same_id(row["patient_id"])],
            "sha256": row.get("sha256", ""),
            "site": sites[same_id(row["site"])],
            "set": name,
        }
        for row in chosen
    ]
