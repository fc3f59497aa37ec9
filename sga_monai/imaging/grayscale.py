"""From stored values to gray values in [0, 1]: modality LUT, VOI, presentation (PS3.4 N.2), as tables over all codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels import apply_color_lut, convert_color_space

from sga_monai.core.errors import ReadError
from sga_monai.imaging.codec import DECODERS, returns_rgb, transfer_syntax
from sga_monai.imaging.header import OVERLAY_GROUPS
from sga_monai.imaging.limits import LUMINANCE, refused_as

ROWS_AT_ONCE = 256
MOST_ENTRIES = 1 << 16
SEGMENTED = tuple(f"Segmented{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue", "Alpha"))


@dataclass(frozen=True)
class Tables:
    """What each stored word of a monochrome image means; all steps act on single values, so they are computed once for each.

    Attributes:
        shown: gray value in [0, 1], bright is dense.
        values: stored value.
        valid: whether the bits above BitsStored are zero, a sign's extension, or those of a declared overlay.
        padded: whether the value is in the range of PixelPaddingValue and PixelPaddingRangeLimit.
    """

    shown: NDArray[np.float32]
    values: NDArray[np.int32]
    valid: NDArray[np.bool_]
    padded: NDArray[np.bool_]


def tables(dataset: pydicom.Dataset, voi: str) -> Tables:
    """Modality LUT, VOI, then one inversion where low values are dense, for every word of BitsAllocated bits.

    Args:
        dataset: with a checked header.
        voi: "dicom" or "none".

    Raises:
        ReadError: "rescale", "voi" or "padding".
    """
    allocated = int(dataset.BitsAllocated)
    stored, shift, signed = _layout(dataset)
    # The upper half of the codes of BitsStored bits are the negative values where PixelRepresentation is 1.
    codes = np.arange(1 << stored, dtype=np.int32)
    values = np.where(codes >> (stored - 1) > 0, codes - (1 << stored), codes) if signed else codes
    table, span = _modality(values, dataset)
    if voi == "dicom" and dataset.get("VOILUTSequence"):
        table = _voi_lut(table, dataset)
    elif voi == "dicom" and dataset.get("WindowCenter") not in (None, "") and dataset.get("WindowWidth") not in (None, ""):
        table = _window(table, dataset)
    else:
        table = (table - span[0]) / (span[1] - span[0])
    # MONOCHROME1 means low is dense; DX says INVERSE in addition, never instead (PS3.3 C.8.11.3.1.2). With MONOCHROME2 it
    # contradicts that rule, and is done as it says: the output of the VOI is inverted (PS3.4 N.2).
    shape = str(dataset.get("PresentationLUTShape") or "").strip().upper()
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1" or shape == "INVERSE"
    shown = np.clip(1.0 - table if inverted else table, 0.0, 1.0).astype(np.float32)
    words = np.arange(1 << allocated, dtype=np.int32)
    code = (words >> shift) & ((1 << stored) - 1)
    above = words >> (shift + stored)
    valid = (above & ~(_overlay_bits(dataset) >> (shift + stored))) == 0
    if signed:
        valid |= (above == (1 << (allocated - shift - stored)) - 1) & (values[code] < 0)
    padded = _padded(values, dataset, signed)[code]
    padding = dataset.get("PixelPaddingValue")
    if isinstance(padding, int):
        # Some writers pad with a word that BitsStored has no room for.
        word = padding & ((1 << allocated) - 1)
        padded[word] |= not valid[word]
        valid[word] = True
        padded &= valid
    return Tables(shown[code], values[code], valid, padded)


def _layout(dataset: pydicom.Dataset) -> tuple[int, int, bool]:
    """BitsStored, the lowest bit of a value in its word, and whether values have a sign (PS3.5 8.1.1)."""
    stored = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    shift = int(dataset.get("HighBit", stored - 1)) - (stored - 1)
    # The samples of a compressed stream are values, not words: they begin at bit 0 whatever HighBit says (PS3.5 8.2).
    return stored, 0 if transfer_syntax(dataset) in DECODERS else shift, bool(dataset.get("PixelRepresentation") or 0)


def _padded(values: NDArray[np.int32], dataset: pydicom.Dataset, signed: bool) -> NDArray[np.bool_]:
    padding = dataset.get("PixelPaddingValue")
    if not isinstance(padding, int):
        return np.zeros(len(values), dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit", padding)
    # The value representation follows the sign of the pixels; a writer that says US for negative values, or SS for those
    # beyond 32767, is understood.
    given = (padding, limit if isinstance(limit, int) else padding)
    ends = [end - (1 << 16) if signed and end >= 1 << 15 else end + (1 << 16) if not signed and end < 0 else end for end in given]
    padded: NDArray[np.bool_] = (values >= min(ends)) & (values <= max(ends))
    if padded.sum() > len(values) // 2:
        raise ReadError("padding")
    return padded


def _overlay_bits(dataset: pydicom.Dataset) -> int:
    """The bits of a word in which an overlay is declared to lie (PS3.3 C.9.2.1.1, retired): those without OverlayData."""
    bits = 0
    for group in OVERLAY_GROUPS:
        position = dataset.get((group, 0x0102))
        if position is not None and (group, 0x3000) not in dataset and isinstance(position.value, int) and 0 < position.value < 16:
            bits |= 1 << position.value
    return bits


def as_words(array: NDArray[np.generic], allocated: int) -> NDArray[np.unsignedinteger]:
    """Decoded pixels as the words that an uncompressed file would hold, rows x columns.

    Raises:
        ReadError: "truncated", when they are not one plane of words.
    """
    if array.ndim != 2 or array.dtype.kind not in "iu" or array.dtype.itemsize > 2:
        raise ReadError("truncated")
    if array.dtype.itemsize == 1:
        # A decoder may give the short values of a deep image in bytes.
        return array.astype(np.int16).view(np.uint16) if array.dtype.kind == "i" and allocated == 16 else array.view(np.uint8)
    words = array.view(array.dtype.newbyteorder("=").str.replace("i", "u")) if array.dtype.isnative else array.astype(np.uint16)
    if allocated == 8 and int(words.max(initial=0)) > 0xFF:
        raise ReadError("bits")
    return words.astype(np.uint8) if allocated == 8 else words


def check_words(words: NDArray[np.unsignedinteger], valid: NDArray[np.bool_]) -> None:
    """Refuse values that BitsStored has no room for; they would wrap.

    Raises:
        ReadError: "bits".
    """
    # No word is greater than the union of all bits, which is one fast pass.
    if valid[: int(np.bitwise_or.reduce(words, axis=None)) + 1].all():
        return
    for top in range(0, len(words), ROWS_AT_ONCE):
        if not np.take(valid, words[top : top + ROWS_AT_ONCE], mode="clip").all():
            raise ReadError("bits")


def check_alignment(words: NDArray[np.unsignedinteger], dataset: pydicom.Dataset) -> None:
    """Refuse values that lie at bit 0 where HighBit places them higher: shifted, they would lose their lowest bits.

    Args:
        words: of ``as_words``.
        dataset: with a checked header.

    Raises:
        ReadError: "bits".
    """
    stored, shift, signed = _layout(dataset)
    if not shift:
        return
    padding = dataset.get("PixelPaddingValue")
    if isinstance(padding, int):
        words = words[words != padding & ((1 << int(dataset.BitsAllocated)) - 1)]
    sign = words >> (stored - 1)
    extended = signed and bool(((sign <= 1) | (sign == (1 << (8 * words.itemsize - stored + 1)) - 1)).all())
    below = int(np.bitwise_or.reduce(words, axis=None)) & ((1 << shift) - 1) & ~_overlay_bits(dataset)
    if below and (extended or int(words.max(initial=0)) < 1 << stored):
        raise ReadError("bits")


def _modality(values: NDArray[np.int32], dataset: pydicom.Dataset) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Modality values of ``values``, and the range that they can span."""
    # Attributes of any type and length may stand here.
    with refused_as("rescale"):
        if dataset.get("ModalityLUTSequence"):
            table, _ = _look_up(values.astype(np.float64), dataset.ModalityLUTSequence[0], dataset)
        else:
            slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
            slope = 1.0 if slope in (None, "") else float(slope)
            intercept = 0.0 if intercept in (None, "") else float(intercept)
            table = values.astype(np.float64) * slope + intercept
    span = (float(table.min()), float(table.max()))
    if not np.isfinite(table).all() or not span[0] < span[1] or span[1] - span[0] > 1e12:
        raise ReadError("rescale")
    return table, span


def _voi_lut(table: NDArray[np.float64], dataset: pydicom.Dataset) -> NDArray[np.float64]:
    """The first VOI LUT (PS3.3 C.11.2.1.1), mapped to [0, 1] by its stated number of bits."""
    with refused_as("voi"):
        result, bits = _look_up(table, dataset.VOILUTSequence[0], dataset)
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
    with refused_as("voi"):
        center, width = (float(np.atleast_1d(dataset[key].value)[0]) for key in ("WindowCenter", "WindowWidth"))
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
        # A palette may lack tables or entries, each of which pydicom refuses in its own way.
        with refused_as("photometric"):
            color = np.asarray(array)
            if photometric == "PALETTE COLOR":
                _check_segments(dataset)
                color = np.asarray(apply_color_lut(array, dataset))
            elif native and photometric.startswith("YBR"):
                color = convert_color_space(color, photometric, "RGB")
            scale = np.float32(np.iinfo(color.dtype).max)
        if color.ndim != 3 or color.shape[2] != 3:
            raise ReadError("truncated")
        out[:] = (color.astype(np.float32) @ LUMINANCE) / scale

    return show


def _check_segments(dataset: pydicom.Dataset) -> None:
    """Refuse a segmented palette (PS3.3 C.7.9.2) of more entries than a palette has: a few bytes may stand for any number.

    Segments that repeat others, as those may again, are refused too.
    """
    depth = int(dataset.RedPaletteColorLookupTableDescriptor[2])
    word = "u1" if depth // 8 == 1 else "<u2" if transfer_syntax(dataset).is_little_endian else ">u2"
    for keyword in SEGMENTED:
        data = dataset.get(keyword) or b""
        words = np.frombuffer(data[: len(data) // 2 * 2], dtype=word).tolist()
        position = entries = 0
        while position + 1 < len(words):
            kind, length = words[position : position + 2]
            position += 2 + (length if kind == 0 else 1)
            entries += length
            if kind > 1 or not length or entries > MOST_ENTRIES:
                raise ReadError("photometric")
