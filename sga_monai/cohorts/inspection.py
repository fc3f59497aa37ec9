"""What a manifest and its images are, before anything is trained or evaluated on them: a flow, counts, a contact sheet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from sga_monai.core.errors import InputError, ReadError
from sga_monai.core.files import write_whole
from sga_monai.data.manifest import REQUIRED, load_manifest, read_manifest
from sga_monai.data.parallel import read_rows
from sga_monai.imaging.decoded import ReadOptions
from sga_monai.imaging.examination import LATERAL_VIEWS, OBLIQUE_VIEWS
from sga_monai.imaging.read import decode, read_bytes, sha256_of

STEPS = ("listed", "found", "readable", "frontal", "labeled")
FACTS = {
    "transfer_syntax": "TransferSyntaxUID",
    "photometric": "PhotometricInterpretation",
    "presentation": "PresentationLUTShape",
    "modality": "Modality",
    "body_part": "BodyPartExamined",
    "view": "ViewPosition",
    "orientation": "PatientOrientation",
    "burned_in": "BurnedInAnnotation",
}
THUMBNAIL = 144
COLUMNS, MOST_THUMBNAILS = 8, 48


@dataclass
class Inspection:
    """What was found.

    Attributes:
        flow: for each of ``STEPS`` the number of rows that passed it and all before: all, label 0, label 1.
        facts: for each of ``FACTS`` how many images have which value.
        failures: ``row`` and reason ``code`` of each row that cannot be read.
        thumbnails: ``row``, ``label`` and picture of the images that may be drawn, those with BurnedInAnnotation YES
            left out.
    """

    flow: dict[str, list[int]] = field(default_factory=lambda: {step: [0, 0, 0] for step in STEPS})
    facts: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in FACTS})
    failures: list[tuple[int, str]] = field(default_factory=list)
    thumbnails: list[tuple[int, int, NDArray[np.uint8]]] = field(default_factory=list)


def inspect_manifest(
    path: str | Path, dataset_dir: str | Path, labels: bool = True, voi: str = "dicom", num_workers: int = 0, thumbnails: bool = False
) -> Inspection:
    """Read every image of a manifest as an evaluation would, and count.

    Args:
        path: the manifest.
        dataset_dir: see ``load_manifest``.
        labels: whether the manifest must have labels, patients and splits.
        voi: see ``read_cxr``.
        num_workers: see ``read_rows``.
        thumbnails: keep small pictures for ``write_contact_sheet``.

    Raises:
        InputError: see ``load_manifest``; when two rows are the same file.
    """
    require = REQUIRED if labels else ("image",)
    rows = load_manifest(path, dataset_dir, require=require, allow_missing=True)
    views = {int(row["row"]): row.get("view", "").upper() for row in read_manifest(path, require)}
    result = Inspection()
    seen: dict[str, int] = {}
    for row, found in zip(rows, read_rows(rows, partial(_look, voi=voi, thumbnail=thumbnails), num_workers), strict=True):
        number, label = row["row"], row["label"]
        if "code" in found:
            result.failures.append((number, found["code"]))
        else:
            first = seen.setdefault(found["sha256"], number)
            if first != number:
                raise InputError(f"rows {first} and {number} are the same file, byte for byte; remove one")
            for name, value in found["facts"].items():
                result.facts[name][value or "(absent)"] += 1
            if found["thumbnail"] is not None:
                result.thumbnails.append((number, label, found["thumbnail"]))
        if found.get("refusal"):
            # The flow counts it out one step later than the evaluation, which would refuse to read it.
            result.failures.append((number, found["refusal"]))
        # A PNG has no header to ask: the manifest's own column counts.
        view = found.get("facts", {}).get("view") or views[number]
        frontal = view not in LATERAL_VIEWS + OBLIQUE_VIEWS and not found.get("refusal")
        passed = (True, found.get("code") not in ("missing", "not_a_file"), "code" not in found, frontal, label >= 0)
        for step, ok in zip(STEPS, passed, strict=True):
            if not ok:
                break
            result.flow[step][0] += 1
            if label >= 0:
                result.flow[step][1 + label] += 1
    return result


def _look(row: dict[str, Any], voi: str, thumbnail: bool) -> dict[str, Any]:
    data = read_bytes(row["image"])
    sha256 = sha256_of(data)
    if row["sha256"] and row["sha256"] != sha256:
        raise ReadError("hash")
    # What an evaluation would leave out for its examination or view is counted and drawn all the same.
    decoded = decode(data, ReadOptions(voi, lateral=True, other_examinations=True))
    small = _shrink(decoded.image) if thumbnail and decoded.facts.get("burned_in") != "YES" else None
    return {"sha256": sha256, "facts": decoded.facts, "thumbnail": small, "refusal": decoded.refusal}


def _shrink(image: NDArray[np.float32]) -> NDArray[np.uint8]:
    low, high = np.percentile(image[::4, ::4], (0.5, 99.5))
    picture = Image.fromarray(np.uint8(255 * np.clip((image - low) / max(high - low, 1e-6), 0, 1)))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    tile = Image.new("L", (THUMBNAIL, THUMBNAIL))
    tile.paste(picture, ((THUMBNAIL - picture.width) // 2, (THUMBNAIL - picture.height) // 2))
    return np.asarray(tile)


def write_contact_sheet(path: str | Path, thumbnails: Sequence[tuple[int, int, NDArray[np.uint8]]]) -> int:
    """Write a PNG of small pictures with their row numbers, label 0 above label 1; nothing else is in the file.

    Args:
        path: the PNG.
        thumbnails: of an ``Inspection``; at most 48 of a label are drawn, evenly spaced.

    Returns:
        The number of pictures drawn.

    Raises:
        InputError: when there is nothing to draw.
    """
    if not thumbnails:
        raise InputError("no image may be drawn on the contact sheet: none is readable without BurnedInAnnotation YES")
    strips = []
    drawn = 0
    for label in sorted({label for _, label, _ in thumbnails}):
        group = [entry for entry in thumbnails if entry[1] == label]
        chosen = [group[i] for i in np.unique(np.linspace(0, len(group) - 1, MOST_THUMBNAILS).astype(int))]
        drawn += len(chosen)
        lines = -(-len(chosen) // COLUMNS)
        strip = Image.new("L", (COLUMNS * (THUMBNAIL + 4), 18 + lines * (THUMBNAIL + 16)), 40)
        draw = ImageDraw.Draw(strip)
        draw.text((4, 3), f"label {label}" if label >= 0 else "no label", fill=255)
        for i, (row, _, picture) in enumerate(chosen):
            left, top = (i % COLUMNS) * (THUMBNAIL + 4), 18 + (i // COLUMNS) * (THUMBNAIL + 16)
            strip.paste(Image.fromarray(picture), (left, top))
            draw.text((left + 2, top + THUMBNAIL + 2), f"row {row}", fill=200)
        strips.append(np.asarray(strip))
    sheet = Image.fromarray(np.vstack(strips))
    write_whole(Path(path), lambda temporary: sheet.save(temporary, format="PNG"))
    return drawn
