"""The sets that a run is tested on, and how it ends when some of their rows failed."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sga_monai.cohorts import phantom
from sga_monai.core.errors import EXIT_SOME_ROWS_FAILED, InputError
from sga_monai.data.datalist import load_manifest, other_splits
from sga_monai.data.manifest import check_external, read_manifest
from sga_monai.data.sets import INTERNAL, VALIDATION

logger = logging.getLogger(__name__)


def load_test_sets(manifest: str, dataset_dir: str, external_manifests: Sequence[str] | None) -> list[dict[str, Any]]:
    """Rows of the final table: validation, internal test, each external site.

    Args:
        manifest: the training manifest.
        dataset_dir: the folder that all images are relative to.
        external_manifests: manifests of external sites, whose rows with split "test" are taken; ``None`` means the
            phantom's three when ``manifest`` is the phantom's, and none otherwise.

    Raises:
        InputError: see ``load_manifest`` and ``check_external``.
    """
    if external_manifests is None:
        external_manifests = phantom.external_of(manifest, dataset_dir)
        if not external_manifests:
            logger.info("no external_manifests: the final table will have no external site")
    if isinstance(external_manifests, str):
        external_manifests = [external_manifests]
    training = read_manifest(manifest)
    for split in ("train", "val", "test"):
        if len({row["label"] for row in training if row["split"] == split}) < 2:
            what = "teaches nothing" if split == "train" else "has no AUROC"
            raise InputError(f"{Path(manifest).name}: split {split} needs rows of both labels, or it {what}")
    sets = [("val", VALIDATION), ("test", INTERNAL)]
    rows = [row | {"set": name} for split, name in sets for row in load_manifest(manifest, dataset_dir, split)]
    names = [Path(path).stem for path in external_manifests]
    # A pair of rows that was accepted within the training manifest must not let an external one of its name in.
    if len(set(names)) < len(names) or {INTERNAL, VALIDATION, Path(manifest).stem} & set(names):
        others = f"{INTERNAL} and the training manifest's"
        raise InputError(f"two sets have the same name; give every external manifest its own file name, other than {others}")
    for path in external_manifests:
        external = read_manifest(path)
        check_external(training, external, Path(path).name)
        tested = load_manifest(path, dataset_dir, "test")
        for sentence in other_splits(len(tested), len(external), "test"):
            logger.warning("%s: %s", Path(path).name, sentence)
        rows += tested
    return rows


def exit_by_failures(failures: Sequence[Mapping[str, Any]]) -> None:
    """End the program with code 2 when some rows failed, so that scripts can tell; return otherwise."""
    if failures:
        listed = ", ".join(f"row {failure['row']} ({failure['code']})" for failure in failures[:5])
        logger.warning("%d rows failed: %s", len(failures), listed)
        raise SystemExit(EXIT_SOME_ROWS_FAILED)
