"""The regions of images that maps are measured against: lungs and boxes of the manifest, and folders of masks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from sga_monai.core.errors import InputError, ReadError
from sga_monai.data.dataset import CXRDataset
from sga_monai.data.listed_files import on_disk
from sga_monai.data.masks import check_turned, read_mask
from sga_monai.evaluation.cohort import Cohort
from sga_monai.imaging.read import read_cxr
from sga_monai.interpret.localization import boxes_to_mask


def read_regions(dataset: CXRDataset, cohort: Cohort, root: Path, regions: Mapping[str, str]) -> dict[str, Tensor]:
    """Regions by name, bool ``[N, size, size]``, empty where an image has none; regions that no image has are left out.

    Args:
        dataset: the images.
        cohort: with their rows, whose ``lung_mask`` and ``boxes`` are the regions "lung" and "boxes".
        root: the folder that the images are relative to.
        regions: folders below ``root`` by name, which hold the picture of each image under its ``picture_name``.

    Raises:
        InputError: when two images have one name, a picture lies outside ``root``, cannot be read or does not lie as its image is shown
            (see ``check_turned``), or a folder has none for any image.
    """
    root, size = root.resolve(), cohort.preparation.image_size
    if regions:
        _refuse_equal_names(dataset, cohort)
    pictures = {name: _find_pictures(root, folder, dataset, cohort, name) for name, folder in regions.items()}
    found: dict[str, list[Tensor]] = {}
    for item in dataset.data:
        row = cohort.cells[item["row"]]
        masks = {name: _read_picture(paths[item["row"]], row, name, size) for name, paths in pictures.items() if item["row"] in paths}
        lung = None if cohort.lung is None else cohort.lung(item["row"])
        if lung is not None:
            masks["lung"] = lung[0]
        if row.get("boxes"):
            image = root / on_disk(str(root), row["image"])
            shape = read_cxr(image, cohort.preparation.voi, orientation=cohort.preparation.orientation).shape
            masks["boxes"] = boxes_to_mask(json.loads(row["boxes"]), shape, size)
        for name in dict.fromkeys(["boxes", "lung", *regions]):
            found.setdefault(name, []).append(masks.get(name, torch.zeros((size, size), dtype=torch.bool)))
    stacked = {name: torch.stack(masks) for name, masks in found.items()}
    for name in regions:
        if not stacked[name].any():
            raise InputError(f"region {name}: no image of the manifest has a picture there; the folder is relative to dataset_dir")
    return {name: mask for name, mask in stacked.items() if mask.any()}


def picture_name(image: str) -> str:
    """The name of an image's picture in the folder of a region: ``.png`` in the place of its ending, or behind a name that has none.

    Digits are no ending: a file that is called by its UID has none.

    Example:
        >>> picture_name("a/chest.1.dcm"), picture_name("a/1.2.840.10008")
        ('chest.1.png', '1.2.840.10008.png')
    """
    path = Path(image)
    return f"{path.name if path.suffix[1:].isdigit() else path.stem}.png"


def _refuse_equal_names(dataset: CXRDataset, cohort: Cohort) -> None:
    """Refuse two images that would share one picture of a region."""
    first: dict[str, str] = {}
    for item in dataset.data:
        other = first.setdefault(picture_name(cohort.cells[item["row"]]["image"]), item["row"])
        if other != item["row"]:
            raise InputError(f"rows {other} and {item['row']} have images of one name, which a region's pictures go by; rename one")


def _find_pictures(root: Path, folder: str, dataset: CXRDataset, cohort: Cohort, name: str) -> dict[int, Path]:
    """The picture of each row that has one, by row number."""
    found = {}
    for item in dataset.data:
        picture = f"{folder}/{picture_name(cohort.cells[item['row']]['image'])}"
        path = (root / on_disk(str(root), picture)).resolve()
        if not path.is_relative_to(root):
            raise InputError(f"region {name}: the picture of row {item['row']} lies outside dataset_dir; correct the folder")
        if path.is_file():
            found[item["row"]] = path
    check_turned(cohort.items, found, f"region {name}: the picture", cohort.preparation.orientation)
    return found


def _read_picture(path: Path, row: Mapping[str, str], name: str, size: int) -> Tensor:
    try:
        return read_mask(path, size)
    except ReadError:
        raise InputError(f"region {name}: the picture of row {row['row']} cannot be read as a PNG; restore or remove it") from None
