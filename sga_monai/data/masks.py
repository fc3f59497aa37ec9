"""Lung masks of a manifest: PNG files beside the images, in which any value above zero is lung."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sga_monai.core.display import track
from sga_monai.core.errors import InputError, ReadError, first_of
from sga_monai.data.listed_files import on_disk
from sga_monai.imaging.dicom import is_dicom, read_facts, read_header, turned_from
from sga_monai.imaging.geometry import STANDARD
from sga_monai.imaging.head import read_head
from sga_monai.imaging.raster import read_picture
from sga_monai.imaging.read import read_bytes

logger = logging.getLogger(__name__)
RESTORE = "restore it or leave the cell empty"


def find_lung_masks(rows: Iterable[Mapping[str, str]], dataset_dir: str | Path, name: str) -> dict[int, Path]:
    """The mask file of each row that has one.

    Args:
        rows: of ``read_manifest``.
        dataset_dir: the folder that ``lung_mask`` is relative to; nothing outside it is opened.
        name: of the manifest, for messages.

    Returns:
        Paths by row number; rows without ``lung_mask`` are left out.

    Raises:
        InputError: naming the first rows whose mask is no file inside ``dataset_dir``.
    """
    root = Path(dataset_dir).resolve()
    found, absent = {}, []
    for row in rows:
        if not row.get("lung_mask"):
            continue
        try:
            path = (root / on_disk(str(root), row["lung_mask"])).resolve()
            inside = path.is_relative_to(root) and path.is_file()
        except (OSError, ValueError, RuntimeError):
            inside = False
        if inside:
            found[int(row["row"])] = path
        else:
            absent.append(int(row["row"]))
    if absent:
        raise InputError(f"{name}: the lung_mask of row {first_of(absent)} is no file inside dataset_dir; {RESTORE}")
    return found


def refuse_bad_masks(masks: Mapping[int, Path], name: str, image_size: int | None = None) -> None:
    """Read every mask, so that a bad one is known before the images are read, and the others with it.

    Args:
        masks: of ``find_lung_masks``.
        name: of the manifest, for messages.
        image_size: with which they will be read, where that is known.

    Raises:
        InputError: naming the first rows whose mask is no picture, or else those in which lung is nowhere or everywhere, or else
            those in which it is when they have ``image_size``.
    """
    unreadable, uniform, lost = [], [], []
    for row, path in track(masks.items(), "reading lung masks"):
        try:
            mask = read_picture(read_bytes(path)) > 0
        except ReadError:
            unreadable.append(row)
            continue
        if _is_uniform(mask):
            uniform.append(row)
        elif image_size is not None and _is_uniform(_resized(mask, (image_size, image_size))):
            lost.append(row)
    if unreadable:
        raise InputError(_unreadable(name, unreadable))
    if uniform:
        raise InputError(_uniform(name, uniform))
    if lost:
        raise InputError(
            f"{name}: in the lung_mask of row {first_of(lost)} the lungs, or what is outside, are too small to be seen with image_size "
            f"{image_size}; correct it or leave the cell empty"
        )


def lung_reader(masks: Mapping[int, Path], name: str, image_size: int) -> Callable[[int], Tensor | None] | None:
    """A function from a row's number to its mask (see ``read_lung_mask``), or to ``None``; ``None`` where no row has a mask.

    Args:
        masks: of ``find_lung_masks``.
        name: of the manifest, for messages.
        image_size: of the masks that are read.
    """
    if not masks:
        return None
    return lambda row: read_lung_mask(masks[row], row, name, image_size) if row in masks else None


def read_lung_mask(path: Path, row: int, name: str, image_size: int) -> Tensor:
    """A mask as bool ``[1, image_size, image_size]``; see ``read_mask``.

    Raises:
        InputError: naming the row, when the file is no picture, or lung is nowhere or everywhere.
    """
    return torch.from_numpy(lung_pixels(path, row, name, (image_size, image_size)))[None]


def lung_pixels(path: Path, row: int, name: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask as bool of ``shape``; see ``mask_pixels``.

    Args:
        path: of ``find_lung_masks``.
        row: its number, for messages.
        name: of the manifest, for messages.
        shape: rows and columns.

    Raises:
        InputError: naming the row, when the file is no picture, or lung is nowhere or everywhere.
    """
    try:
        mask = mask_pixels(path, shape)
    except ReadError:
        raise InputError(_unreadable(name, [row])) from None
    if _is_uniform(mask):
        raise InputError(_uniform(name, [row]))
    return mask


def _is_uniform(mask: NDArray[np.bool_]) -> bool:
    """Whether lung is nowhere or everywhere."""
    return bool(mask.all() or not mask.any())


def _unreadable(name: str, rows: Sequence[int]) -> str:
    return f"{name}: the lung_mask of row {first_of(rows)} cannot be read as a PNG; {RESTORE}"


def _uniform(name: str, rows: Sequence[int]) -> str:
    return f"{name}: the lung_mask of row {first_of(rows)} marks nothing or everything as lung; correct it or leave the cell empty"


def read_mask(path: Path, image_size: int) -> Tensor:
    """A PNG as bool ``[image_size, image_size]``, true above zero, by nearest neighbor over the whole picture.

    Raises:
        ReadError: when the file is no picture.
    """
    return torch.from_numpy(mask_pixels(path, (image_size, image_size)))


def mask_pixels(path: Path, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A PNG as bool of ``shape``, true above zero, by nearest neighbor over the whole picture.

    Raises:
        ReadError: when the file is no picture.
    """
    return _resized(read_picture(read_bytes(path)) > 0, shape)


def _resized(mask: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask by nearest neighbor over the whole picture."""
    index = [((np.arange(wanted) + 0.5) * size / wanted).astype(np.int64) for wanted, size in zip(shape, mask.shape, strict=True)]
    found: NDArray[np.bool_] = mask[np.ix_(*index)]
    return found


def check_turned(items: Iterable[Mapping[str, Any]], masks: Mapping[int, Path], name: str, orientation: str) -> None:
    """Masks lie as an image is shown: say whose images their PatientOrientation turns, and refuse a mask that is stored unturned.

    Whether a mask was turned too can be seen of its sides alone, where a turn by a quarter exchanges unequal ones.

    Args:
        items: data dictionaries of ``load_manifest``; an image that cannot be read is left to who reads it.
        masks: path of the mask by row number.
        name: of manifest and mask, for messages.
        orientation: with which the images are read; "stored" turns none.

    Raises:
        InputError: naming the first row whose mask has the sides of the stored pixels, and not of the image that is shown.
    """
    turned = []
    for item in items if orientation == "header" else ():
        if item["row"] not in masks:
            continue
        try:
            stored = _sides_before_turn(item["image"])
            sides = None if stored is None else read_picture(read_bytes(masks[item["row"]])).shape
        except ReadError:
            continue
        if stored is None or sides is None:
            continue
        turned.append(item["row"])
        (rows, columns), quarter = stored
        if quarter and _are_alike(sides, (rows, columns)) and not _are_alike(sides, (columns, rows)):
            raise InputError(
                f"{name} of row {item['row']} lies as the pixels are stored, and the image is shown turned by its PatientOrientation; "
                "turn the mask, too"
            )
    if turned:
        logger.warning(
            "%s: %d images are shown turned by their PatientOrientation (row %s); their masks must lie as the images are shown",
            name, len(turned), first_of(turned),
        )  # fmt: skip


def _sides_before_turn(image: str | Path) -> tuple[tuple[int, int], bool] | None:
    """Stored rows and columns of an image that is shown turned, and whether by a quarter; ``None`` for all others."""
    data = read_head(image)
    if not is_dicom(data):
        return None
    orientation = turned_from(read_facts(data))
    if orientation == STANDARD:
        return None
    found = read_header(data, ("Rows", "Columns"))
    try:
        return (int(found["Rows"]), int(found["Columns"])), orientation[0] in "FH"
    except (KeyError, ValueError):
        return None


def _are_alike(sides: tuple[int, ...], others: tuple[int, int]) -> bool:
    """Whether two pictures have the same proportions, but for the rounding of a side."""
    return abs(sides[0] * others[1] - sides[1] * others[0]) <= 0.01 * sides[1] * others[1]
