"""Decoding one frame of a DICOM file's pixel data: bounded, complete, and the same whatever else is installed."""

from __future__ import annotations

from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder

from sga_monai.core.errors import ReadError
from sga_monai.imaging.limits import MOST_SCANS

DECODERS = {
    uid.JPEGBaseline8Bit: imagecodecs.jpeg8_decode,
    uid.JPEGExtended12Bit: imagecodecs.jpeg8_decode,
    uid.JPEGLossless: imagecodecs.jpeg8_decode,
    uid.JPEGLosslessSV1: imagecodecs.jpeg8_decode,
    uid.JPEGLSLossless: imagecodecs.jpegls_decode,
    uid.JPEGLSNearLossless: imagecodecs.jpegls_decode,
    uid.JPEG2000Lossless: imagecodecs.jpeg2k_decode,
    uid.JPEG2000: imagecodecs.jpeg2k_decode,
    uid.HTJ2KLossless: imagecodecs.jpeg2k_decode,
    uid.HTJ2KLosslessRPCL: imagecodecs.jpeg2k_decode,
    uid.HTJ2K: imagecodecs.jpeg2k_decode,
}
JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
J2K_START = b"\xff\x4f\xff\x51"


def transfer_syntax(dataset: pydicom.Dataset) -> uid.UID:
    """The file's TransferSyntaxUID, or the one that its encoding implies where the file meta lacks it."""
    stated = getattr(getattr(dataset, "file_meta", None), "TransferSyntaxUID", None)
    if isinstance(stated, uid.UID) and stated:
        return stated
    if stated:
        raise ReadError("unknown_syntax")
    implicit, little = dataset.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def returns_rgb(syntax: uid.UID, photometric: str) -> bool:
    """Whether ``decode_frame`` has turned color into RGB already.

    Lossy JPEG decoders do; JPEG 2000 decoders undo their own transforms (YBR_RCT, YBR_ICT), but not YBR_FULL.
    """
    if syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
        return True
    return DECODERS.get(syntax) is imagecodecs.jpeg2k_decode and photometric in ("RGB", "YBR_RCT", "YBR_ICT")


def decode_frame(dataset: pydicom.Dataset, frame: int = 1) -> NDArray[np.generic]:
    """One frame as it is stored, before any LUT.

    Args:
        dataset: with a checked header: Rows, Columns, SamplesPerPixel, BitsAllocated 8 or 16.
        frame: number of the frame, from 1.

    Returns:
        rows x columns, or rows x columns x 3.

    Raises:
        ReadError: "unknown_syntax"; "truncated" when the data are not one complete frame of the header's size.
    """
    syntax = transfer_syntax(dataset)
    rows, columns, samples = int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1)
    count = int(dataset.get("NumberOfFrames") or 1)
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise ReadError("unknown_syntax")
    try:
        if syntax in DECODERS:
            return _decode_stream(get_frame(dataset.PixelData, frame - 1, number_of_frames=count), dataset, syntax)
        if syntax == uid.RLELossless:
            # Decoded into a buffer of the header's size, so that a run-length bomb cannot grow.
            out: Any = np.zeros(rows * columns * samples * int(dataset.BitsAllocated) // 8, dtype=np.uint8)
            dtype = np.dtype(f"u{int(dataset.BitsAllocated) // 8}")
            stream = get_frame(dataset.PixelData, frame - 1, number_of_frames=count)
            _check_segments(stream, samples * dtype.itemsize)
            if len(imagecodecs.dicomrle_decode(stream, dtype, out=out)) != len(out):
                raise ReadError("truncated")
            planes = out.view(dtype).reshape(samples, rows, columns)
            return planes[0] if samples == 1 else planes.transpose(1, 2, 0)
        if not syntax.is_compressed or syntax.is_deflated:
            _check_native_length(dataset, count)
            # pydicom clears the bits above BitsStored, which hold the values where HighBit is higher.
            native: dict[str, Any] = {"raw": True, "bits_stored": int(dataset.BitsAllocated)}
            array, _ = get_decoder(syntax).as_array(dataset, index=frame - 1, **native)
            return np.asarray(array)
    except ReadError:
        raise
    except Exception:
        # Foreign decoders raise what they like on a damaged stream, with its content in the text.
        raise ReadError("truncated") from None
    raise ReadError("unknown_syntax")


def _decode_stream(stream: bytes, dataset: pydicom.Dataset, syntax: uid.UID) -> NDArray[np.generic]:
    samples = int(dataset.get("SamplesPerPixel") or 1)
    # Both are checked before decoding: a lying header must not allocate, a cut stream must not decode.
    # Real files pad the end marker FFD9 with 00 and FF.
    ends = stream.rstrip(b"\x00\xff").endswith(b"\xff\xd9")
    if not ends or codestream_shape(stream) != (int(dataset.Rows), int(dataset.Columns), samples):
        raise ReadError("truncated")
    jpeg = DECODERS[syntax] is imagecodecs.jpeg8_decode
    if jpeg and stream.count(b"\xff\xda") > MOST_SCANS:
        raise ReadError("truncated")
    options: dict[str, Any] = {}
    if jpeg and dataset.PhotometricInterpretation == "RGB" and not _states_color(stream):
        # Where no marker tells, libjpeg takes three components for YCbCr.
        options = {"colorspace": "RGB", "outcolorspace": "RGB"}
    array = np.asarray(DECODERS[syntax](stream, **options))
    _check_range(array, dataset)
    return array


def _check_range(array: NDArray[np.generic], dataset: pydicom.Dataset) -> None:
    """A stream has no overlay bits: values that BitsStored or PixelRepresentation cannot hold contradict the header."""
    stored = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    signed = bool(dataset.get("PixelRepresentation") or 0)
    low, high = int(array.min()), int(array.max())
    # A signed value is its own, or, in streams that know no sign, the two's complement in BitsStored or BitsAllocated.
    wide = (1 << int(dataset.BitsAllocated)) - 1 if signed else (1 << stored) - 1
    if high > wide or low < (-(1 << (stored - 1)) if signed else 0):
        raise ReadError("bits")


def _states_color(stream: bytes) -> bool:
    """Whether a JFIF or a complete Adobe segment tells libjpeg what the three components are."""
    position = 2
    while position + 4 < len(stream) and stream[position] == 0xFF and stream[position + 1] != 0xDA:
        marker, length = stream[position + 1], int.from_bytes(stream[position + 2 : position + 4], "big")
        content = stream[position + 4 : position + 2 + length]
        if (marker == 0xE0 and content.startswith(b"JFIF\0")) or (marker == 0xEE and content.startswith(b"Adobe") and length >= 14):
            return True
        position += 2 + length if marker != 0xFF else 1
    return False


def codestream_shape(stream: bytes) -> tuple[int, int, int] | None:
    """Rows, columns and components that a JPEG, JPEG-LS or JPEG 2000 stream itself states (its SOF or SIZ segment)."""
    start = stream.find(J2K_START, 0, 8192) if stream.startswith((J2K_START, JP2_SIGNATURE)) else -1
    if start >= 0:
        columns, rows, left, top = (int.from_bytes(stream[start + i : start + i + 4], "big") for i in (8, 12, 16, 20))
        return rows - top, columns - left, int.from_bytes(stream[start + 40 : start + 42], "big")
    position = 2
    while position + 9 < len(stream) and stream[position] == 0xFF:
        marker = stream[position + 1]
        # SOF0 to SOF15 without DHT, JPG and DAC, and SOF55 of JPEG-LS.
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            sizes = stream[position + 5 : position + 10]
            return int.from_bytes(sizes[:2], "big"), int.from_bytes(sizes[2:4], "big"), sizes[4]
        position += 2 + int.from_bytes(stream[position + 2 : position + 4], "big") if marker != 0xFF else 1
    return None


def _check_segments(stream: bytes, expected: int) -> None:
    """The RLE header (PS3.5 G.5) states one segment a byte plane, each beginning after the one before."""
    offsets = [int.from_bytes(stream[i : i + 4], "little") for i in range(4, 4 + 4 * expected, 4)]
    if int.from_bytes(stream[:4], "little") != expected or offsets != sorted(set(offsets)) or offsets[0] != 64:
        raise ReadError("truncated")


def _check_native_length(dataset: pydicom.Dataset, frames: int) -> None:
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        samples = 2
    expected = int(dataset.Rows) * int(dataset.Columns) * samples * int(dataset.BitsAllocated) // 8 * frames
    # Padding to an even length is required, and often forgotten.
    if len(dataset.PixelData) not in (expected, expected + expected % 2):
        raise ReadError("truncated")
