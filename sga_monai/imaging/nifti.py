"""From a two-dimensional NIfTI-1 file to gray values, rows x columns, as a radiograph hangs."""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterator
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from sga_monai.core.errors import ReadError
from sga_monai.imaging.geometry import make_square, ratio_of
from sga_monai.imaging.limits import MAX_PIXELS, refused_as

HEADER_BYTES = 352
NIFTI, GZIP = b"n+1\0", b"\x1f\x8b"
MOST_PADDING = 16
CHUNK = 1 << 23


def is_nifti(data: bytes) -> bool:
    """Whether ``data`` is a NIfTI-1 file or a gzip file, which only NIfTI uses here."""
    return data.startswith(GZIP) or data[344:348] == NIFTI


def read_nifti(data: bytes, lateral: bool = False) -> NDArray[np.float32]:
    """Gray values in [0, 1] (minimum to maximum) of a two-dimensional NIfTI image.

    NIfTI stores the first axis first, so the array is transposed to rows x columns, and the affine's axis codes decide how
    it is turned; see ``_upright``. Pixels become square by the affine's steps.

    Args:
        data: the bytes of the file.
        lateral: accept a sagittal plane too.

    Raises:
        ReadError: when the file is damaged, too large, or has more than one plane; "lateral"; "aspect".
    """
    with refused_as("truncated"), nib.imageglobals.LoggingOutputSuppressor():
        values, codes, aspect = _nifti_values(data)
    if not np.isfinite(values).all():
        raise ReadError("not_finite")
    values = make_square(values, aspect, MAX_PIXELS)
    if not lateral and set("".join(codes)) in ({"A", "S"}, {"A", "I"}, {"P", "S"}, {"P", "I"}):
        raise ReadError("lateral")
    values = _upright(values, *codes)
    low, high = values.min(), values.max()
    values -= low
    values /= np.float32(float(high - low) or 1.0)
    return values


def _upright(values: NDArray[np.float32], first: str, second: str) -> NDArray[np.float32]:
    """Rows x columns from an array with its first axis first, by where the axes point to.

    Rows of a radiograph run from the head to the feet, its columns to the patient's left, or, of a lateral view, from front
    to back. A computed radiograph has no position in space; its converters write it as an axial plane, whose upper edge is
    in front: dcm2niix from bottom to top (L, A), SimpleITK from top to bottom (L, P). "" for both axes, since the file says
    nothing of space, leaves the first axis as columns and the second as rows.
    """
    if first in ("S", "I") or (first in ("A", "P") and second in ("L", "R")):
        values, first, second = values.T, second, first
    if first in ("R", "A"):
        values = values[::-1]
    if second in ("S", "A"):
        values = values[:, ::-1]
    return values.T


def _axis_codes(header: nib.Nifti1Header, axes: list[int]) -> list[str]:
    """Where two axes point to; "" for both where no form is set, or an axial plane has nibabel's default: positive, diagonal."""
    affine = header.get_best_affine()
    steps = np.diag(affine[:3, :3])
    default = axes == [0, 1] and (affine[:3, :3] == np.diag(steps)).all() and (steps > 0).all()
    if default or not (int(header["sform_code"]) or int(header["qform_code"])):
        return ["", ""]
    codes = nib.aff2axcodes(affine)
    return ["" if codes[i] is None else codes[i] for i in axes]


def _aspect(header: nib.Nifti1Header, axes: list[int]) -> float:
    """Step along the first axis over that along the second; steps of 0 are blanks."""
    first, second = np.linalg.norm(header.get_best_affine()[:3, axes], axis=0)
    return 1.0 if first == second == 0 else ratio_of(float(first), float(second))


def _nifti_values(data: bytes) -> tuple[NDArray[np.float32], list[str], float]:
    """The only plane, first axis first, without its minimum, where its two axes point to, and ``_aspect``."""
    # The header first: what it states bounds how much of a compressed file is inflated.
    start = (gzip.GzipFile(fileobj=io.BytesIO(data)) if data.startswith(GZIP) else io.BytesIO(data)).read(HEADER_BYTES)
    if start[344:348] != NIFTI:
        raise ReadError("unknown_format")
    header = nib.Nifti1Image.header_class(start[:348])
    shape, dtype, offset = header.get_data_shape(), header.get_data_dtype(), int(header["vox_offset"])
    count = int(np.prod(shape, dtype=np.float64))
    if count > MAX_PIXELS:
        raise ReadError("too_large")
    axes = [i for i, length in enumerate(shape) if length != 1]
    if len(axes) != 2 or axes[1] > 2 or min(shape) < 1 or dtype.kind not in "iuf":
        raise ReadError("not_2d")
    # The minimum goes before float32 could round the differences away.
    low = float(np.min([raw.min() for raw in _chunks(data, offset, count, dtype)]))
    values = np.empty(count, dtype=np.float32)
    filled = 0
    for raw in _chunks(data, offset, count, dtype):
        values[filled : filled + len(raw)] = raw.astype(np.float64) - low
        filled += len(raw)
    slope, _ = header.get_slope_inter()
    if slope is not None and slope < 0:
        values *= np.float32(-1)
    return values.reshape([shape[i] for i in axes], order="F"), _axis_codes(header, axes), _aspect(header, axes)


def _chunks(data: bytes, offset: int, count: int, dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
    """The values of the file, inflated piece by piece; the end is checked, and with it the checksum of a compressed file."""
    compressed = data.startswith(GZIP)
    stream = gzip.GzipFile(fileobj=io.BytesIO(data)) if compressed else io.BytesIO(data)
    if offset < HEADER_BYTES or len(stream.read(HEADER_BYTES)) < HEADER_BYTES:
        raise ReadError("truncated")
    stream.seek(offset)
    left = count * dtype.itemsize
    while left:
        piece = stream.read(min(left, CHUNK))
        # CHUNK is a multiple of every item's size.
        if not piece or len(piece) % dtype.itemsize:
            raise ReadError("truncated")
        left -= len(piece)
        yield np.frombuffer(piece, dtype)
    if len(stream.read(MOST_PADDING + 1)) > MOST_PADDING:
        raise ReadError("truncated")
