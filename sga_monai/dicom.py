"""From a DICOM file to gray values in [0, 1]: stored values -> modality LUT -> VOI -> presentation (PS3.4 N.2)."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.encaps import get_frame
from pydicom.pixels import apply_color_lut, apply_modality_lut, convert_color_space, get_decoder

from sga_monai.errors import ReadError

MAX_PIXELS = 50_000_000
LATERAL_VIEWS = {"LL", "RL", "LLD", "RLD", "L", "LAT", "LATERAL"}
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "PALETTE COLOR")
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
    uid.HTJ2K: imagecodecs.jpeg2k_decode,
}
# PS3.3 C.7.6.3.1.2: luminance of RGB, ITU-R BT.601.
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def is_dicom(data: bytes) -> bool:
    """Whether ``data`` is a DICOM file: by its preamble, or a first element of group 0002 or 0008 without one."""
    return data[128:132] == b"DICM" or data[:4] in (b"\x02\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")


def read_dicom(data: bytes, voi: str = "dicom", lateral: bool = False) -> NDArray[np.float32]:
    """Gray values of one radiograph, bright is dense.

    Args:
        data: the bytes of the file.
        voi: "dicom" applies the first VOI LUT, or else the first window, of the file and maps its output range to
            [0, 1]; "none" maps the range that the stored bits can represent to [0, 1].
        lateral: accept lateral views too.

    Returns:
        float32, rows x columns at native size, in [0, 1]. MONOCHROME1 is inverted, once; color becomes luminance.

    Raises:
        ReadError: with the reason code, when the file is not one frontal, finite, complete image.
    """
    with _quiet():
        dataset = _parse(data)
        _check_header(dataset, lateral)
        photometric = str(dataset.PhotometricInterpretation)
        if photometric in COLOR:
            image = _luminance(_decode(dataset), dataset)
        else:
            image = _present(_stored_values(_decode(dataset), dataset), dataset, voi)
    if image.shape != (dataset.Rows, dataset.Columns):
        raise ReadError("truncated")
    return image


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence pydicom, whose warnings quote tag values."""
    log = logging.getLogger("pydicom")
    disabled, mode = log.disabled, pydicom.config.settings.reading_validation_mode
    log.disabled, pydicom.config.settings.reading_validation_mode = True, pydicom.config.IGNORE
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled, pydicom.config.settings.reading_validation_mode = disabled, mode


def _parse(data: bytes) -> pydicom.Dataset:
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=True)
        # Elements are parsed on first access; a damaged one must not surface later as another error.
        dataset.decode()
        _ = [element.VR for element in dataset if element.tag.group in (0x0002, 0x0008, 0x0028)]
    except Exception:
        raise ReadError("unreadable") from None
    return dataset


def _check_header(dataset: pydicom.Dataset, lateral: bool) -> None:
    if "DirectoryRecordSequence" in dataset:
        raise ReadError("dicomdir")
    if "PixelData" not in dataset:
        raise ReadError("no_pixels")
    try:
        rows, columns, samples = int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1)
        allocated, stored = int(dataset.BitsAllocated), int(dataset.get("BitsStored") or dataset.BitsAllocated)
        high, signed = int(dataset.get("HighBit", stored - 1)), int(dataset.get("PixelRepresentation") or 0)
        frames = int(dataset.get("NumberOfFrames") or 1)
        photometric = str(dataset.PhotometricInterpretation)
    except (AttributeError, TypeError, ValueError):
        raise ReadError("unreadable") from None
    if frames != 1:
        raise ReadError("multi_frame")
    if rows * columns > MAX_PIXELS:
        raise ReadError("too_large")
    if rows < 2 or columns < 2:
        raise ReadError("not_2d")
    if photometric not in MONOCHROME + COLOR or samples != (3 if photometric in COLOR[:-1] else 1):
        raise ReadError("photometric")
    if allocated not in (8, 16) or not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        raise ReadError("bits")
    if signed not in (0, 1) or (photometric in COLOR and (allocated, stored) != (8, 8) and photometric != COLOR[-1]):
        raise ReadError("bits")
    if dataset.get("PresentationIntentType") == "FOR PROCESSING":
        raise ReadError("for_processing")
    if not lateral and str(dataset.get("ViewPosition") or "").strip().upper() in LATERAL_VIEWS:
        raise ReadError("lateral")


def _decode(dataset: pydicom.Dataset) -> NDArray[np.generic]:
    """The frame as it is stored: rows x columns (x 3)."""
    syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None) or _implied_syntax(dataset)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise ReadError("unknown_syntax")
    try:
        if syntax in DECODERS:
            frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
            # Both are checked before decoding: a lying header must not allocate, a cut stream must not decode.
            # Real files pad the end marker FFD9 with 00 and FF.
            ends = frame.rstrip(b"\x00\xff").endswith(b"\xd9")
            if not ends or codestream_size(frame) != (rows, columns):
                raise ReadError("truncated")
            options: dict[str, Any] = {}
            if DECODERS[syntax] is imagecodecs.jpeg8_decode and dataset.PhotometricInterpretation == "RGB":
                # Without Adobe's APP14 marker libjpeg takes three components for YCbCr.
                options = {} if b"Adobe" in frame[:1024] else {"colorspace": "RGB", "outcolorspace": "RGB"}
            return np.asarray(DECODERS[syntax](frame, **options))
        if syntax == uid.RLELossless or not syntax.is_compressed or syntax.is_deflated:
            _check_native_length(dataset, syntax)
            native: dict[str, Any] = {"raw": True, "decoding_plugin": "pydicom" if syntax.is_encapsulated else ""}
            # pydicom clears the bits above BitsStored, which hold the values where HighBit is higher.
            native["bits_stored"] = int(dataset.BitsAllocated)
            array, _ = get_decoder(syntax).as_array(dataset, **native)
            return np.asarray(array)
    except ReadError:
        raise
    except Exception:
        raise ReadError("truncated") from None
    raise ReadError("unknown_syntax")


def _implied_syntax(dataset: pydicom.Dataset) -> uid.UID:
    implicit, little = dataset.original_encoding
    if implicit:
        return uid.ImplicitVRLittleEndian
    return uid.ExplicitVRLittleEndian if little else uid.ExplicitVRBigEndian


def _check_native_length(dataset: pydicom.Dataset, syntax: uid.UID) -> None:
    if syntax.is_encapsulated or dataset.PhotometricInterpretation == "YBR_FULL_422":
        return
    samples = int(dataset.get("SamplesPerPixel") or 1)
    expected = int(dataset.Rows) * int(dataset.Columns) * samples * int(dataset.BitsAllocated) // 8
    if len(dataset.PixelData) != expected + expected % 2:
        raise ReadError("truncated")


def codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Rows and columns that a JPEG, JPEG-LS or JPEG 2000 stream itself states (its SOF or SIZ segment)."""
    start = frame.find(b"\xff\x4f\xff\x51")
    if 0 <= start < 256:
        columns, rows, left, top = (int.from_bytes(frame[start + i : start + i + 4], "big") for i in (8, 12, 16, 20))
        return rows - top, columns - left
    position = 2
    while position + 9 < len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        # SOF0 to SOF15 without DHT, JPG and DAC, and SOF55 of JPEG-LS.
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            sizes = frame[position + 5 : position + 9]
            return int.from_bytes(sizes[:2], "big"), int.from_bytes(sizes[2:], "big")
        position += 2 + int.from_bytes(frame[position + 2 : position + 4], "big") if marker != 0xFF else 1
    return None


def _stored_values(array: NDArray[np.generic], dataset: pydicom.Dataset) -> NDArray[np.int32]:
    """The BitsStored bits that end at HighBit, sign-extended; overlay bits above and below are dropped."""
    if array.ndim != 2 or array.dtype.kind not in "iu" or array.dtype.itemsize > 2:
        raise ReadError("truncated")
    stored = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    shift = int(dataset.get("HighBit", stored - 1)) - (stored - 1)
    signed = bool(dataset.get("PixelRepresentation") or 0)
    values = array.astype(np.int32)
    if array.dtype.kind == "i" and not signed:
        values &= (1 << 8 * array.dtype.itemsize) - 1
    values = (values >> shift) & ((1 << stored) - 1)
    if signed:
        values = np.where(values >= 1 << (stored - 1), values - (1 << stored), values)
    return values


def _present(values: NDArray[np.int32], dataset: pydicom.Dataset, voi: str) -> NDArray[np.float32]:
    """Modality LUT, VOI, then one inversion where low values are dense."""
    stored = int(dataset.get("BitsStored") or dataset.BitsAllocated)
    signed = bool(dataset.get("PixelRepresentation") or 0)
    lowest = -(1 << (stored - 1)) if signed else 0
    # All later steps act on single values, so they are computed once for each value that can be stored.
    domain = np.arange(lowest, lowest + (1 << stored), dtype=np.int32)
    table, span = _modality(domain, dataset)
    if voi == "dicom" and dataset.get("VOILUTSequence"):
        table = _voi_lut(table, dataset)
    elif voi == "dicom" and dataset.get("WindowCenter") not in (None, "") and dataset.get("WindowWidth") not in (None, ""):
        table = _window(table, dataset)
    else:
        table = (table - span[0]) / (span[1] - span[0])
    shape = str(dataset.get("PresentationLUTShape") or "")
    # MONOCHROME1 means low is dense; DX says INVERSE in addition, never instead (PS3.3 C.8.11.3.1.2).
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1" or shape == "INVERSE"
    shown = np.clip(1.0 - table if inverted else table, 0.0, 1.0).astype(np.float32)
    padding = dataset.get("PixelPaddingValue")
    image: NDArray[np.float32] = shown[values - lowest]
    if isinstance(padding, int):
        # Padding is shown as background (PS3.3 C.7.5.1.1.2), also where an inversion would make it dense.
        limit = dataset.get("PixelPaddingRangeLimit", padding)
        low, high = sorted((padding, limit if isinstance(limit, int) else padding))
        image[(values >= low) & (values <= high)] = 0.0
    return image


def _modality(domain: NDArray[np.int32], dataset: pydicom.Dataset) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Modality values of ``domain``, and the range that they can span."""
    try:
        if dataset.get("ModalityLUTSequence"):
            table = np.asarray(apply_modality_lut(domain, dataset), dtype=np.float64)
        else:
            slope, intercept = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
            slope = 1.0 if slope in (None, "") else float(slope)
            intercept = 0.0 if intercept in (None, "") else float(intercept)
            table = domain.astype(np.float64) * slope + intercept
    except Exception:
        raise ReadError("rescale") from None
    span = (float(table.min()), float(table.max()))
    if not np.isfinite(table).all() or not span[0] < span[1] or span[1] - span[0] > 1e12:
        raise ReadError("rescale")
    return table, span


def _voi_lut(table: NDArray[np.float64], dataset: pydicom.Dataset) -> NDArray[np.float64]:
    """The first VOI LUT (PS3.3 C.11.2.1.1); modality values outside it take its first or last entry."""
    try:
        item = dataset.VOILUTSequence[0]
        entries, first, bits = (int(value) for value in item.LUTDescriptor)
        entries, bits = entries or 65536, int(bits)
        data = item.LUTData
        if isinstance(data, bytes):
            data = np.frombuffer(data, dtype=np.uint8 if len(data) == entries else "<u2")
        lut = np.asarray(data, dtype=np.float64)[:entries]
        # The descriptor is US or SS by the modality values' sign, which a US reading of a negative start loses.
        first -= 65536 if first > 32767 and table.min() < 0 else 0
        index = np.clip(np.rint(table) - first, 0, entries - 1).astype(np.int64)
        result = lut[index] / float((1 << bits) - 1)
    except Exception:
        raise ReadError("voi") from None
    if len(lut) != entries or not 8 <= bits <= 16:
        raise ReadError("voi")
    return result


def _window(table: NDArray[np.float64], dataset: pydicom.Dataset) -> NDArray[np.float64]:
    """The first window, mapped to [0, 1] (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
    try:
        center, width = (np.atleast_1d(dataset[key].value)[0] for key in ("WindowCenter", "WindowWidth"))
        center, width = float(center), float(width)
    except Exception:
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


def _luminance(array: NDArray[np.generic], dataset: pydicom.Dataset) -> NDArray[np.float32]:
    photometric = str(dataset.PhotometricInterpretation)
    try:
        if photometric == "PALETTE COLOR":
            color = np.asarray(apply_color_lut(array, dataset))
            scale = float(np.iinfo(color.dtype).max)
        else:
            # The JPEG and JPEG 2000 decoders return RGB already; native and RLE data are as the header says.
            syntax = getattr(dataset.file_meta, "TransferSyntaxUID", None)
            native = syntax not in DECODERS or DECODERS[syntax] is imagecodecs.jpegls_decode
            color = np.asarray(array)
            if native and photometric.startswith("YBR"):
                color = convert_color_space(color, photometric, "RGB")
            scale = 255.0
    except Exception:
        raise ReadError("photometric") from None
    if color.ndim != 3 or color.shape[2] != 3:
        raise ReadError("truncated")
    return (color.astype(np.float32) @ LUMINANCE) / np.float32(scale)
