"""A manifest of parts of its images, as the lungs alone or the image without its frame: what is left of a shortcut without the rest?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sga_monai.core import checks as check
from sga_monai.core.display import track
from sga_monai.core.errors import InputError, ReadError
from sga_monai.core.files import FORMULA, file_sha256
from sga_monai.data.datalist import data_rows
from sga_monai.data.listed_files import file_states
from sga_monai.data.manifest import REQUIRED, Row, is_safe, read_manifest
from sga_monai.data.manifest_writer import replace_manifest
from sga_monai.data.masks import check_turned, find_lung_masks, lung_pixels, refuse_bad_masks
from sga_monai.imaging.decoded import ReadOptions
from sga_monai.imaging.read import decode, read_bytes, sha256_of
from sga_monai.statistics.shortcuts import FRAME_SHARE

PARTS = ("lungs", "outline", "interior")


def write_parts(
    manifest: str | Path, dataset_dir: str | Path, keep: str, folder: str, out: str | Path, options: ReadOptions | None = None
) -> Counter[str]:
    """Write a part of each image as a 16-bit PNG below ``dataset_dir``, and the manifest of these; all of it or nothing.

    Args:
        manifest: CSV; see ``read_manifest``.
        dataset_dir: the folder that its images and lung masks are relative to.
        keep: "lungs" (what is outside the row's ``lung_mask`` becomes the mean of the lungs; a row without one is left out),
            "outline" (the mask alone, white on black: a control, since who drew the masks saw the disease) or "interior" (8 % of
            each side are cut off).
        folder: new folder below ``dataset_dir`` for the images.
        out: the new manifest.
        options: how the images are read; masks are of the image as it is read. Default ``ReadOptions()``.

    Returns:
        The number of images "listed", "without lung_mask" and "left out", by reason code (of the image or of its part) or for
        BurnedInAnnotation YES.

    Raises:
        InputError: when the manifest is refused, an image leads outside ``dataset_dir`` through a link, a mask cannot be read,
            marks nothing or everything, or does not lie as its image is shown (naming its row), two rows give the same part, none
            gives one, the folder is there or cannot stand in a manifest, or ``out`` lies in it.
    """
    check.choice("keep", keep, PARTS)
    root, source, options = Path(dataset_dir), Path(manifest), options or ReadOptions()
    target, place = root / folder, _place(root, folder)
    if Path(out).resolve().is_relative_to(target.resolve()):
        raise InputError("out lies inside the new folder, which holds the images alone; give a path elsewhere")
    rows = read_manifest(source)
    # What is no file is counted by the reader; what leads outside is refused.
    file_states(rows, root, source.name)
    items = data_rows(rows, rows, source, root, None, REQUIRED)
    masks = find_lung_masks(rows, root, source.name) if keep != "interior" else {}
    refuse_bad_masks(masks, source.name)
    check_turned(items, masks, f"{source.name}: the lung_mask", options.orientation)
    counts: Counter[str] = Counter()
    written: dict[str, Row] = {}
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".parts-", dir=target.parent) as draft:
        # Not the temporary folder itself, whose mode (its owner alone) would stay.
        images = Path(draft) / target.name
        images.mkdir()
        for row, item in track(list(zip(rows, items, strict=True)), f"keeping the {keep}"):
            kept = _part(item, masks.get(item["row"]), keep, source.name, options)
            path = images / f"{item['row']:06d}.png"
            reason = kept if isinstance(kept, str) else _write(path, kept)
            counts[reason or "listed"] += 1
            if reason:
                continue
            sha256 = file_sha256(path)
            if sha256 in written:
                # A manifest cannot list one file twice.
                first = written[sha256]["row"]
                raise InputError(f"{source.name}: rows {first} and {item['row']} have the same {keep}, pixel for pixel; remove one")
            written[sha256] = row | {"image": f"{place}/{path.name}", "sha256": sha256, "lung_mask": "", "boxes": ""}
        if not written:
            reasons = "; ".join(f"{number} {what}" for what, number in counts.items())
            raise InputError(f"{source.name}: no image can be listed: {reasons}")
        replace_manifest(Path(out), written.values())
        images.rename(target)
    return counts


def _place(root: Path, folder: str) -> str:
    """The new folder as a manifest lists it, relative to ``root``.

    Raises:
        InputError: when it is there, not below ``root``, or cannot stand in a manifest.
    """
    target, inside = (root / folder).resolve(), root.resolve()
    if (root / folder).exists() or not target.is_relative_to(inside):
        raise InputError("folder must be a new one below dataset_dir; give another name")
    place = target.relative_to(inside).as_posix()
    if not is_safe(place) or place.startswith(FORMULA):
        raise InputError("folder must have a name that a manifest can hold: no : or \\, and not begun like a formula; give another name")
    return place


def _part(item: Mapping[str, Any], lung_mask: Path | None, keep: str, name: str, options: ReadOptions) -> NDArray[np.float32] | str:
    """The part of a row's image that is kept, or why there is none.

    Raises:
        InputError: when the mask cannot be read, or has no inside or no outside.
    """
    if keep != "interior" and lung_mask is None:
        return "without lung_mask"
    try:
        image = _read(item, options)
        if image is None:
            return "left out: BurnedInAnnotation YES"
        if lung_mask is None:
            return _interior(image)
    except ReadError as error:
        return f"left out: {error.code}"
    mask = lung_pixels(lung_mask, item["row"], name, (image.shape[0], image.shape[1]))
    return mask.astype(np.float32) if keep == "outline" else _lungs(image, mask)


def _write(path: Path, kept: NDArray[np.float32]) -> str:
    """Write a part, and say why it is left out after all, or "": lungs of few pixels are an image that no training would read."""
    Image.fromarray(_sixteen_bits(kept)).save(path)
    try:
        decode(read_bytes(path), ReadOptions())
    except ReadError as error:
        path.unlink()
        return f"left out: {error.code}"
    return ""


def _read(item: Mapping[str, Any], options: ReadOptions) -> NDArray[np.float32] | None:
    """The image of a row; ``None`` with BurnedInAnnotation YES, since a PNG has no header that says so, and would be drawn."""
    data = read_bytes(item["image"])
    if item["sha256"] and item["sha256"] != sha256_of(data):
        raise ReadError("hash")
    decoded = decode(data, options)
    return None if decoded.facts.get("burned_in") == "YES" else decoded.image


def _lungs(image: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The image with all but the lungs replaced by their mean."""
    return np.where(mask, image, image[mask].mean(dtype=np.float64)).astype(np.float32)


def _interior(image: NDArray[np.float32]) -> NDArray[np.float32]:
    top, left = (round(FRAME_SHARE * side) for side in image.shape)
    return image[top : image.shape[0] - top, left : image.shape[1] - left]


def _sixteen_bits(image: NDArray[np.float32]) -> NDArray[Any]:
    low, high = float(image.min()), float(image.max())
    span = high - low if high > low else 1.0
    return np.rint(65535 * (image.astype(np.float64) - low) / span).astype(np.uint16)
