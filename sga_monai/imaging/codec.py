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
from sga_monai.imaging import jpeg, jpeg2000
from sga_monai.imaging.jpeg_complete import check_complete
from sga_monai.imaging.limits import MAX_PIXELS, refused_as

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
# OpenJPEG takes 24 bytes for each pixel of three components.
MAX_COLOR_JPEG2000 = 16_000_000
# Color of 8 bits, or gray of up to 24.
MAX_STORED = 3 * MAX_PIXELS


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
    """One frame as it is stored, before any LUT; ``dataset`` loses its PixelData.

    Args:
        dataset: with a checked header: Rows, Columns, SamplesPerPixel, BitsAllocated 8 or 16.
        frame: number of the frame, from 1.

    Returns:
        rows x columns, or rows x columns x 3.

    Raises:
        ReadError: "unknown_syntax"; "too_large"; "truncated" when the data are not one complete frame of the header's size.
    """
    syntax = transfer_syntax(dataset)
    rows, columns, samples = int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1)
    count = int(dataset.get("NumberOfFrames") or 1)
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise ReadError("unknown_syntax")
    # A header that lies must not allocate: what is beyond the limits is no shortage of memory.
    if rows * columns * samples * max(int(dataset.BitsAllocated) // 8, 1) > MAX_STORED:
        raise ReadError("too_large")
    # Foreign decoders raise what they like on a damaged stream, with its content in the text.
    with refused_as("truncated", rows * columns * samples):
        if syntax in DECODERS:
            return _decode_stream(_take_frame(dataset, frame, count), dataset, syntax)
        if syntax == uid.RLELossless:
            # Decoded into a buffer of the header's size, so that a run-length bomb cannot grow.
            out: Any = np.zeros(rows * columns * samples * int(dataset.BitsAllocated) // 8, dtype=np.uint8)
            dtype = np.dtype(f"u{int(dataset.BitsAllocated) // 8}")
            stream = _take_frame(dataset, frame, count)
            _check_segments(stream, samples * dtype.itemsize)
            if len(imagecodecs.dicomrle_decode(stream, dtype, out=out)) != len(out):
                raise ReadError("truncated")
            planes = out.view(dtype).reshape(samples, rows, columns)
            return planes[0] if samples == 1 else planes.transpose(1, 2, 0)
        if not syntax.is_compressed or syntax.is_deflated:
            _check_native_length(dataset, count)
            pixels = dataset.PixelData
            # pydicom clears the bits above BitsStored, which hold the values where HighBit is higher.
            native: dict[str, Any] = {"raw": True, "bits_stored": int(dataset.BitsAllocated)}
            if samples == 1 and int(dataset.BitsAllocated) == 16:
                # A view of the bytes; pydicom copies them.
                word = ("<" if syntax.is_little_endian else ">") + ("i2" if dataset.get("PixelRepresentation") else "u2")
                del dataset.PixelData
                stored = np.frombuffer(pixels, word, rows * columns, 2 * rows * columns * (frame - 1))
                return stored.reshape(rows, columns)
            array, _ = get_decoder(syntax).as_array(dataset, index=frame - 1, **native)
            del dataset.PixelData
            return np.asarray(array)
    raise ReadError("unknown_syntax")


def _take_frame(dataset: pydicom.Dataset, frame: int, count: int) -> bytes:
    """The stream of one frame; PixelData, as long as all of them, goes."""
    stream = get_frame(dataset.PixelData, frame - 1, number_of_frames=count)
    del dataset.PixelData
    return stream


def _decode_stream(stream: bytes, dataset: pydicom.Dataset, syntax: uid.UID) -> NDArray[np.generic]:
    samples = int(dataset.get("SamplesPerPixel") or 1)
    expected = int(dataset.Rows), int(dataset.Columns), samples
    # Before decoding, since a lying header must not allocate and a cut stream must not decode.
    if DECODERS[syntax] is imagecodecs.jpeg2k_decode:
        jpeg2000.check(stream, expected)
        if samples > 1 and expected[0] * expected[1] > MAX_COLOR_JPEG2000:
            raise ReadError("too_large")
        array = np.asarray(imagecodecs.jpeg2k_decode(stream))
    else:
        structure = jpeg.parse(stream)
        if structure.shape != expected:
            raise ReadError("truncated")
        options: dict[str, Any] = {}
        if DECODERS[syntax] is imagecodecs.jpeg8_decode and dataset.PhotometricInterpretation == "RGB" and not structure.states_color:
            # Where no marker tells, libjpeg takes three components for YCbCr.
            options = {"colorspace": "RGB", "outcolorspace": "RGB"}
        array = np.asarray(DECODERS[syntax](stream, **options))
        check_complete(stream, structure, lambda rows, columns: array[rows, columns])
    _check_range(array, dataset)
    return array


def _check_range(array: NDArray[np.generic], dataset: pydicom.Dataset) -> None:
    """A stream knows the sign and the depth of its values; ones that the header has no room for contradict it."""
    signed = bool(dataset.get("PixelRepresentation") or 0)
    low, high = int(array.min()), int(array.max())
    # A signed value is its own, or, in streams that know no sign, the two's complement.
    if high > (1 << int(dataset.BitsAllocated)) - 1 or (low < 0 and not signed):
        raise ReadError("bits")


def _check_segments(stream: bytes, expected: int) -> None:
    """The RLE header (PS3.5 G.5) states one segment a byte plane, each beginning after the one before."""
    offsets = [int.from_bytes(stream[i : i + 4], "little") for i in range(4, 4 + 4 * expected, 4)]
    if int.from_bytes(stream[:4], "little") != expected or offsets != sorted(set(offsets)) or offsets[0] != 64:
        raise ReadError("truncated")


def _check_native_length(dataset: pydicom.Dataset, frames: int) -> None:
    rows, columns, samples = int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1)
    if dataset.PhotometricInterpretation == "YBR_FULL_422":
        samples = 2
    pixel = samples * int(dataset.BitsAllocated) // 8
    excess = len(dataset.PixelData) - rows * columns * pixel * frames
    # Some writers pad the value; what a row or a column more would add means that the header is wrong.
    if not 0 <= excess < max(min(rows, columns) * pixel, 2):
        raise ReadError("truncated")
