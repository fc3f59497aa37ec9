"""How a radiograph lies in its file: the turn that its PatientOrientation asks for, and pixels that are not square."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image

from sga_monai.core.errors import ReadError

# Rows of a frontal view that hangs as it should run to the patient's left, its columns to the feet (PS3.3 C.7.6.1.1.1).
STANDARD = "L\\F"
FRONTAL = tuple(f"{a}\\{b}" for one, other in (("LR", "FH"), ("FH", "LR")) for a in one for b in other)
SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
# Spacings are rounded: less than one in a hundred is square. No detector has pixels four times as long as wide.
SQUARE, MOST_ASPECT = 0.01, 4.0
STRIP = 256


def orientation_of(dataset: pydicom.Dataset) -> str:
    """What PatientOrientation says: one of the eight pairs of ``FRONTAL``, or why it is none of them.

    "lateral" where rows run front to back, or columns do while rows run along the body; "oblique" where a direction of a
    frontal view has more than one letter; "contradictory" for what is no frontal or lateral plane, no pair, or an animal's;
    "" when absent.
    """
    value = dataset.get("PatientOrientation")
    several = value if isinstance(value, (list, tuple, pydicom.multival.MultiValue)) else str(value or "").split("\\")
    directions = [str(one).strip("\0 ").upper() for one in several]
    if not any(directions):
        return ""
    animal = str(dataset.get("AnatomicalOrientationType") or "").strip().upper() == "QUADRUPED"
    if animal or len(directions) != 2 or not all(re.fullmatch("[LRFHAP]{1,3}", direction) for direction in directions):
        # What its writer did not finish may still say that the rows run front to back.
        return "lateral" if not animal and re.fullmatch("[AP][LRFHAP]{0,2}", directions[0]) else "contradictory"
    row, column = (direction[0] for direction in directions)
    if row in "AP" or (row in "FH" and column in "AP"):
        return "lateral"
    if f"{row}\\{column}" not in FRONTAL:
        return "contradictory"
    return "oblique" if max(map(len, directions)) > 1 else "\\".join(directions)


def turn(image: NDArray[Any], orientation: str) -> NDArray[Any]:
    """``image`` with the given PatientOrientation, one of ``FRONTAL``, turned to ``STANDARD``; a view where it can be one."""
    row, column = orientation.split("\\")
    if row in "FH":
        image, row, column = image.T, column, row
    return image[:: -1 if column == "H" else 1, :: -1 if row == "R" else 1]


def aspect_of(dataset: pydicom.Dataset) -> float:
    """Height of a pixel over its width; 1 where nothing says otherwise.

    PixelSpacing, ImagerPixelSpacing and NominalScannedPixelSpacing are the spacing of rows, then of columns; PixelAspectRatio
    is the vertical, then the horizontal size (PS3.3 C.7.6.3.1.7). Values of 0 are blanks.

    Raises:
        ReadError: "aspect", when two of them differ, one is no pair of numbers, or the ratio is beyond ``MOST_ASPECT``.
    """
    ratios = []
    for keyword in SPACINGS:
        value = dataset.get(keyword)
        if value in (None, "") or not len(np.atleast_1d(value)):
            continue
        try:
            vertical, horizontal = (float(one) for one in value)
        except (TypeError, ValueError):
            raise ReadError("aspect") from None
        if (vertical, horizontal) != (0, 0):
            ratios.append(ratio_of(vertical, horizontal))
    if ratios and max(ratios) > (1 + SQUARE) * min(ratios):
        raise ReadError("aspect")
    return ratios[0] if ratios and abs(np.log(ratios[0])) > SQUARE else 1.0


def ratio_of(vertical: float, horizontal: float) -> float:
    """``vertical`` over ``horizontal``.

    Raises:
        ReadError: "aspect", when they are not positive, or the ratio is beyond ``MOST_ASPECT``.
    """
    ratio = vertical / horizontal if horizontal > 0 else -1.0
    if not 1 / MOST_ASPECT <= ratio <= MOST_ASPECT:
        raise ReadError("aspect")
    return ratio


def make_square(image: NDArray[np.float32], aspect: float, most: int) -> NDArray[np.float32]:
    """``image``, whose pixels have this height over width, with square pixels; itself where they are square already."""
    return image if abs(np.log(aspect)) <= SQUARE else resample(image, square_shape(image.shape, aspect, most))


def square_shape(shape: tuple[int, ...], aspect: float, most: int) -> tuple[int, int]:
    """Rows and columns with square pixels: the coarser axis gets more of them, or, beyond ``most`` pixels, the finer fewer."""
    rows, columns = shape
    if aspect > 1:
        grown, shrunk = (round(rows * aspect), columns), (rows, max(round(columns / aspect), 2))
    else:
        grown, shrunk = (rows, round(columns / aspect)), (max(round(rows * aspect), 2), columns)
    return grown if grown[0] * grown[1] <= most else shrunk


def resample(image: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """``image`` with another number of rows, or of columns: linear, averaging where it shrinks."""
    if image.shape[1] != shape[1]:
        return resample(image.T, shape[::-1]).T
    result = np.empty(shape, dtype=np.float32)
    # Columns do not depend on each other; in strips, Pillow's copies stay small.
    for left in range(0, shape[1], STRIP):
        strip = Image.fromarray(np.ascontiguousarray(image[:, left : left + STRIP]))
        result[:, left : left + STRIP] = np.asarray(strip.resize((strip.width, shape[0]), Image.Resampling.BILINEAR))
    return result
