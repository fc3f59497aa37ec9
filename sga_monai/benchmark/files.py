"""Radiographs of a hospital's size, drawn for a benchmark where no folder of real ones is given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydicom import uid

from sga_monai.cohorts.anatomy import ScannerStyle, draw_chest
from sga_monai.cohorts.phantom import Site, write_dicom

SHAPE = (2500, 2048)
SYNTAXES = {"raw": uid.ExplicitVRLittleEndian, "JPEG Lossless": uid.JPEGLosslessSV1, "JPEG 2000": uid.JPEG2000Lossless}
STEP = 8
STYLE = ScannerStyle(gamma=1.0, noise=0.02, sharpen=0.3, collimation=0.02)


def write_dicom_files(folder: Path, syntax: str, n_images: int, shape: tuple[int, int] = SHAPE) -> list[dict[str, Any]]:
    """Draw chests at an eighth of the size, enlarge them, add a detector's noise and write 12-bit DX files.

    Args:
        folder: for the files.
        syntax: one of ``SYNTAXES``.
        n_images: how many.
        shape: rows and columns.

    Returns:
        Data dictionaries as of ``load_manifest``: ``image`` (a path), ``label, patient, row, set``.
    """
    site = Site("bench", "absent", shape, STYLE, "Drawn", "DX", "MONOCHROME2", 12, SYNTAXES[syntax])
    rows = []
    for index in range(n_images):
        draw = np.random.default_rng(index)
        chest = draw_chest(draw, (shape[0] // STEP, shape[1] // STEP), STYLE, diseased=bool(index % 2))
        small = Image.fromarray(np.asarray(chest.image, dtype=np.float32))
        large = np.asarray(small.resize(shape[::-1], Image.Resampling.BILINEAR))
        noisy = np.clip(large + draw.normal(0, 0.01, shape), 0, 1).astype(np.float32)
        path = folder / f"{syntax.replace(' ', '_').lower()}_{index:03d}.dcm"
        row = {"patient_id": f"BENCH{index}", "sex": "F", "age": "50", "view": "PA"}
        write_dicom(path, replace(chest, image=noisy), site, row, 0, index)
        rows.append({"image": str(path), "label": index % 2, "patient": index, "row": index + 2, "set": "bench"})
    return rows


def write_small_files(folder: Path, n_images: int, image_size: int) -> list[dict[str, Any]]:
    """PNG files of noise that are as small as the prepared image, for what does not depend on decoding."""
    rows = []
    for index in range(n_images):
        pixels = np.random.default_rng(index).integers(0, 256, (image_size, image_size), dtype=np.uint8)
        path = folder / f"small_{index:06d}.png"
        Image.fromarray(pixels).save(path, compress_level=1)
        rows.append({"image": str(path), "label": index % 2, "patient": index, "row": index + 2, "set": "bench"})
    return rows
