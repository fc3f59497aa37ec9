"""The images of one manifest that trained models are evaluated on: rows, lung masks, prepared images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sga_monai.data.datalist import load_manifest
from sga_monai.data.dataset import CXRDataset, refuse_same_bytes
from sga_monai.data.listed_files import FileState, files_sha256
from sga_monai.data.manifest import read_manifest
from sga_monai.data.masks import check_turned, find_lung_masks, lung_reader, refuse_bad_masks
from sga_monai.data.transforms import preprocessing
from sga_monai.evaluation.predictions import GROUPS
from sga_monai.evaluation.scoring import LungReader
from sga_monai.model.preparation import Preparation

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Cohort:
    """The rows of one manifest, listed and checked before any image is read.

    Attributes:
        name: file name of the manifest without its ending; the name of the set.
        items: MONAI data dictionaries of ``load_manifest``.
        cells: the manifest's own cells of each item, by row number.
        lung: from a row number to the lung mask, bool ``[1, H, W]``, or to ``None``; ``None`` itself where no row has a mask.
        preparation: of the images; the masks have their size.
        files_sha256: of the items' patients and files; see ``files_sha256``.
        masks: path of the lung mask by row number.
    """

    name: str
    items: Sequence[dict[str, Any]]
    cells: Mapping[int, Mapping[str, str]]
    lung: LungReader | None
    preparation: Preparation
    files_sha256: str
    masks: Mapping[int, Path]

    def check_masks(self) -> None:
        """Read every lung mask and the headers of its image, before any image is read; see ``refuse_bad_masks`` and ``check_turned``.

        Raises:
            InputError: naming rows whose mask is no picture, marks nothing or everything, or lies as a turned image is stored.
        """
        refuse_bad_masks(self.masks, f"{self.name}.csv", self.preparation.image_size)
        check_turned(self.items, self.masks, f"{self.name}: the lung_mask", self.preparation.orientation)

    def groups(self) -> pd.DataFrame:
        """The manifest's columns ``GROUPS`` by row number, empty text where a cell is empty: a few texts, kept as numbers."""
        rows = self.cells.values()
        return pd.DataFrame({key: pd.Categorical([row.get(key, "") for row in rows]) for key in GROUPS}, index=list(self.cells))


def list_cohort(
    manifest: str | Path,
    dataset_dir: str | Path,
    preparation: Preparation,
    split: str = "test",
    site_key: str | Path | None = None,
    limit: int | None = None,
) -> Cohort:
    """List the rows of a manifest and find their lung masks; a missing image is left to ``read_cohorts``, which counts it.

    Args:
        manifest: CSV; see ``read_manifest``.
        dataset_dir: the folder that images and lung masks are relative to.
        preparation: of the images.
        split: the rows that are taken.
        site_key: see ``load_manifest``.
        limit: at most so many rows, evenly spaced; ``None`` takes all.

    Raises:
        InputError: when the manifest is refused, or a lung mask is no file inside ``dataset_dir`` (naming its row).
    """
    path = Path(manifest)
    states: dict[str, FileState | None] = {}
    items = load_manifest(path, dataset_dir, split, allow_missing=True, site_key=site_key, states=states)
    if limit is not None and limit < len(items):
        items = [items[i] for i in np.unique(np.linspace(0, len(items) - 1, limit).round().astype(int))]
    listed = {int(row["row"]): row for row in read_manifest(path)}
    cells = {item["row"]: listed[item["row"]] for item in items}
    masks = find_lung_masks(cells.values(), dataset_dir, path.name)
    lung = lung_reader(masks, path.name, preparation.image_size)
    return Cohort(path.stem, items, cells, lung, preparation, files_sha256(items, states, dataset_dir, masks), masks)


def read_cohorts(cohorts: Sequence[Cohort], cache_dir: str | Path | None = None, num_workers: int = 0) -> list[CXRDataset]:
    """Read and prepare the images of each cohort. What cannot be read is counted in ``failures`` and logged.

    Args:
        cohorts: of ``list_cohort``.
        cache_dir: see ``CXRDataset``.
        num_workers: processes that read.

    Raises:
        InputError: when one file is in two rows, byte for byte, no image of a cohort can be read, or a lung mask is refused (see
            ``Cohort.check_masks``).
    """
    for cohort in cohorts:
        cohort.check_masks()
    cache = None if cache_dir is None else str(cache_dir)
    datasets = []
    for cohort in cohorts:
        transform = preprocessing(cohort.preparation)
        datasets.append(CXRDataset(cohort.items, transform, skip_failed=True, cache_dir=cache, num_workers=num_workers))
        if datasets[-1].failures:
            logger.warning("%s: %d images cannot be read and have no score", cohort.name, len(datasets[-1].failures))
    refuse_same_bytes(datasets)
    return datasets
