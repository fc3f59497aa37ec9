"""Padding of a DICOM image (PS3.3 C.7.5.1.1.2): pixels that a writer added around the picture."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sga_monai.core.errors import ReadError

ROWS_AT_ONCE = 256
# Padding is one value, or a few that lie close together; a range that spreads further covers anatomy.
MOST_SPREAD = 0.05


def find_padding(words: NDArray[np.unsignedinteger], padded: NDArray[np.bool_], values: NDArray[np.int32]) -> NDArray[np.bool_] | None:
    """Where the picture is padded: pixels of a padding value that reach the border through pixels of padding values.

    Such values inside the picture are anatomy.

    Args:
        words: stored words, rows x columns.
        padded: for each word, whether it lies in the padding range.
        values: for each word, the stored value.

    Returns:
        A mask, or ``None`` when nothing is padded.

    Raises:
        ReadError: "padding", when all is padding, or the padded values spread over more than ``MOST_SPREAD`` of the range of
            the others.
    """
    border = (words[0], words[-1], words[:, 0], words[:, -1])
    if not any(padded[edge].any() for edge in border):
        return None
    mask = np.empty(words.shape, dtype=bool)
    for top in range(0, len(words), ROWS_AT_ONCE):
        np.take(padded, words[top : top + ROWS_AT_ONCE], out=mask[top : top + ROWS_AT_ONCE], mode="clip")
    mask = _reaching_border(mask)
    inside, outside = np.zeros(len(padded), dtype=bool), np.zeros(len(padded), dtype=bool)
    for top in range(0, len(words), ROWS_AT_ONCE):
        block, kept = words[top : top + ROWS_AT_ONCE], mask[top : top + ROWS_AT_ONCE]
        outside[block[kept]] = True
        inside[block[~kept]] = True
    if not inside.any() or np.ptp(values[outside]) > MOST_SPREAD * np.ptp(values[inside]):
        raise ReadError("padding")
    return mask


def _reaching_border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The parts of ``mask`` that are connected, edge to edge, with the picture's border."""
    labels, count = ndimage.label(mask)
    reaching = np.zeros(count + 1, dtype=bool)
    for edge in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        reaching[edge] = True
    reaching[0] = False
    result = np.empty(mask.shape, dtype=bool)
    # Piece by piece, since NumPy widens the labels.
    for top in range(0, len(labels), ROWS_AT_ONCE):
        np.take(reaching, labels[top : top + ROWS_AT_ONCE], out=result[top : top + ROWS_AT_ONCE], mode="clip")
    return result
