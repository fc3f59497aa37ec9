"""From stored values to gray values in [0, 1]: modality LUT, VOI, presentation (PS3.4 N.2), as tables over all codes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import apply_color_lut, convert_color_space

from sga_monai.core.errors import ReadError
from sga_monai.imaging.codec import returns_rgb, transfer_syntax
from sga_monai.imaging.limits import LUMINANCE


def grayscale(dataset: pydicom.Dataset, voi: str) -> Callable[[NDArray[np.generic], NDArray[np.float32]], None]:
    """Stored values to gray values: modality LUT, VOI, then one inversion where low values are dense.

    Args:
        dataset: with a checked header.
        voi: "dicom" or "none".

    Returns:
        A function from a block of stored values, rows x columns, to float32 in [0, 1], written to its second argument.

    Raises:
        ReadError: "rescale", "voi" or "padding"; "truncated" by the function where the block is not of stored values.
    """
    stored = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    shift = int(dataset.get("HighBit", stored - 1)) - (stored - 1)
    # All steps act on single values, so they are computed once for each code of BitsStored bits; the upper half of the
    # codes are the negative values where PixelRepresentation is 1.
    codes = np.arange(1 << stored, dtype=np.int32)
    signed = bool(dataset.get("PixelRepresentation") or 0)
    values = np.where(codes >> (stored - 1) > 0, codes - (1 << stored), codes) if signed else codes
    table, span = _modality(values, dataset)
    if voi == "dicom" and dataset.get("VOILUTSequence"):
        table = _voi_lut(table, dataset)
    elif voi == "dicom" and dataset.get("WindowCenter") not in (None, "") and dataset.get("WindowWidth") not in (None, ""):
        table = _window(table, dataset)
    else:
        table = (table - span[0]) / (span[1] - span[0])
    shape = str(dataset.get("PresentationLUTShape") or "").strip().upper()
    # MONOCHROME1 means low is dense; DX says INVERSE in addition, never instead (PS3.3 C.8.11.3.1.2).
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1" or shape == "INVERSE"
    shown = np.clip(1.0 - table if inverted else table, 0.0, 1.0).astype(np.float32)
    padding = dataset.get("PixelPaddingValue")
    if isinstance(padding, int):
        # Padding is shown as background (PS3.3 C.7.5.1.1.2), also where an inversion would make it dense.
        limit = dataset.get("PixelPaddingRangeLimit", padding)
        # The value representation follows the sign of the pixels; a writer that says US for negative values is understood.
        ends = [end - (1 << 16) if signed and end >= 1 << 15 else end for end in (padding, limit if isinstance(limit, int) else padding)]
        padded = (values >= min(ends)) & (values <= max(ends))
        if padded.sum() > len(values) // 2:
            raise ReadError("padding")
        shown[padded] = 0.0

    def show(array: NDArray[np.generic], out: NDArray[np.float32]) -> None:
        if array.ndim != 2 or array.dtype.kind not in "iu" or array.dtype.itemsize > 2:
            raise ReadError("truncated")
        # Overlay bits above HighBit and below the lowest stored bit are dropped.
        unsigned = array.astype(f"u{array.dtype.itemsize}", copy=False).astype(np.uint16, copy=False)
        # Every code is in the table; "clip" only spares NumPy a buffer.
        np.take(shown, (unsigned >> shift) & ((1 << stored) - 1), out=out, mode="clip")

    return show


def _modality(values: NDArray[np.int32], dataset: pydicom.Dataset) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Modality values of ``values``, and the range that they can span."""
    try:
        if dataset.get("ModalityLUTSequence"):
            table, _ = _look_up(values.astype(np.float64), dataset.ModalityLUTSequence[0], dataset)
        else:
            slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
            slope = 1.0 if slope in (None, "") else float(slope)
            intercept = 0.0 if intercept in (None, "") else float(intercept)
            table = values.astype(np.float64) * slope + intercept
    except Exception:
        # Attributes of any type and length may stand here; the reason code is all that may be told of them.
        raise ReadError("rescale") from None
    span = (float(table.min()), float(table.max()))
    if not np.isfinite(table).all() or not span[0] < span[1] or span[1] - span[0] > 1e12:
        raise ReadError("rescale")
    return table, span


def _voi_lut(table: NDArray[np.float64], dataset: pydicom.Dataset) -> NDArray[np.float64]:
    """The first VOI LUT (PS3.3 C.11.2.1.1), mapped to [0, 1] by its stated number of bits."""
    try:
        result, bits = _look_up(table, dataset.VOILUTSequence[0], dataset)
    except Exception:
        # As above.
        raise ReadError("voi") from None
    return result / float((1 << bits) - 1)


def _look_up(values: NDArray[np.float64], item: pydicom.Dataset, dataset: pydicom.Dataset) -> tuple[NDArray[np.float64], int]:
    """LUTData at ``values``, whose first and last entry also hold outside, and the bits of an entry (PS3.3 C.11.1.1)."""
    entries, first, bits = (int(value) for value in item.LUTDescriptor)
    entries = entries or 65536
    data = item.LUTData
    if isinstance(data, (bytes, bytearray)):
        _, little = dataset.original_encoding if dataset.original_encoding[1] is not None else (None, True)
        words = np.frombuffer(data[: len(data) // 2 * 2], dtype="<u2" if little is not False else ">u2")
        # Entries of 8 bits may be packed two to a word, the first in the lower half.
        packed = bits <= 8 and len(words) in (entries // 2, -(-entries // 2))
        data = np.stack([words & 255, words >> 8], axis=1).ravel() if packed else words
    lut = np.asarray(data, dtype=np.float64)
    if not 8 <= bits <= 16 or not entries <= len(lut) <= entries + 1 or lut.max() > (1 << bits) - 1:
        raise ValueError("not a LUT of this descriptor")
    # The descriptor is US or SS by the sign of the values, which a US reading of a negative start loses.
    first -= 65536 if first > 32767 and values.min() < 0 else 0
    return lut[np.clip(np.rint(values) - first, 0, entries - 1).astype(np.int64)], bits


def _window(table: NDArray[np.float64], dataset: pydicom.Dataset) -> NDArray[np.float64]:
    """The first window, mapped to [0, 1] (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    try:
        center, width = (np.atleast_1d(dataset[key].value)[0] for key in ("WindowCenter", "WindowWidth"))
        center, width = float(center), float(width)
    except Exception:
        # As above.
        raise ReadError("voi") from None
    function = str(dataset.get("VOILUTFunction") or "LINEAR").strip().upper()
    lowest_width = 1.0 if function == "LINEAR" else 0.0
    valid = np.isfinite([center, width]).all() and width >= lowest_width and width > 0
    if not valid or function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ReadError("voi")
    if function == "SIGMOID":
        return 1.0 / (1.0 + np.exp(np.clip(-4.0 * (table - center) / width, -700.0, 700.0)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1.0
    if width == 0:
        return (table > center).astype(np.float64)
    return np.clip((table - center) / width + 0.5, 0.0, 1.0)


def luminance(dataset: pydicom.Dataset) -> Callable[[NDArray[np.generic], NDArray[np.float32]], None]:
    """Stored color to luminance; arguments, result and errors as for ``grayscale``, with "photometric" for what fails."""
    photometric = str(dataset.PhotometricInterpretation)
    native = not returns_rgb(transfer_syntax(dataset), photometric)

    def show(array: NDArray[np.generic], out: NDArray[np.float32]) -> None:
        try:
            color = np.asarray(array)
            if photometric == "PALETTE COLOR":
                color = np.asarray(apply_color_lut(array, dataset))
            elif native and photometric.startswith("YBR"):
                color = convert_color_space(color, photometric, "RGB")
            scale = np.float32(np.iinfo(color.dtype).max)
        except Exception:
            # A palette may lack tables or entries, each of which pydicom refuses in its own way.
            raise ReadError("photometric") from None
        if color.ndim != 3 or color.shape[2] != 3:
            raise ReadError("truncated")
        out[:] = (color.astype(np.float32) @ LUMINANCE) / scale

    return show
