"""From a DICOM file to gray values in [0, 1]: stored values -> modality LUT -> VOI -> presentation (PS3.4 N.2)."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.filereader import read_dataset
from pydicom.pixels import apply_color_lut, convert_color_space

from sga_monai.codec import decode_frame, returns_rgb, transfer_syntax
from sga_monai.errors import ReadError

# Twice the largest flat-panel detector (43 x 43 cm at 0.1 mm); bounds memory.
MAX_PIXELS = 32_000_000
MAX_INFLATED = 128 * 1024 * 1024
MAX_HEADER = 16 * 1024 * 1024
MOST_ITEMS = 100_000
# A block of rows fits the processor's cache.
ROWS_AT_ONCE = 32
PIXEL_DATA, ITEM = b"\xe0\x7f\x10\x00", b"\xfe\xff\x00\xe0"
FRONTAL_VIEWS = ("PA", "AP")
LATERAL_VIEWS = ("LL", "RL", "LLD", "RLD", "LLO", "RLO", "L", "LAT", "LATERAL")
# PS3.16 CID 4010: left and right lateral and their obliques, in SNOMED RT and CT.
LATERAL_CODES = ("R-10232", "R-10236", "R-10228", "399198007", "399173006", "399067008")
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "PALETTE COLOR")
# Every element that is looked at here or in codec.py.
KEYWORDS = (
    "SOPClassUID", "PresentationIntentType", "DirectoryRecordSequence", "ViewPosition", "ViewCodeSequence", "PatientOrientation",
    "BurnedInAnnotation", "SamplesPerPixel",
    "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PresentationLUTShape", "RedPaletteColorLookupTableDescriptor",
)  # fmt: skip
# PS3.3 C.7.6.3.1.2: luminance of RGB, ITU-R BT.601.
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)


def is_dicom(data: bytes) -> bool:
    """Whether ``data`` is a DICOM file: by its preamble, or a first element of group 0002 or 0008 without one."""
    if data[128:132] == b"DICM":
        return True
    little, big = data[:2] in (b"\x02\x00", b"\x08\x00"), data[:2] == b"\x00\x08"
    element = int.from_bytes(data[2:4], "little" if little else "big")
    # Either a value representation in letters, or, implicit, the length of a short first value.
    vr = data[4:6].isalpha() and data[4:6].isupper()
    return (little or big) and element <= 0x0070 and (vr or (little and int.from_bytes(data[4:8], "little") < 256))


def read_dicom(data: bytes, voi: str = "dicom", lateral: bool = False, frame: int | None = None) -> NDArray[np.float32]:
    """Gray values of one radiograph, bright is dense.

    Args:
        data: the bytes of the file.
        voi: "dicom" applies the first VOI LUT, or else the first window, of the file and maps its output range to
            [0, 1]; "none" maps the range that the stored bits can represent to [0, 1].
        lateral: accept lateral views too.
        frame: the frame to take of a file with several, from 1; ``None`` refuses such a file.

    Returns:
        float32, rows x columns at native size, in [0, 1]. MONOCHROME1 is inverted, once; color becomes luminance.

    Raises:
        ReadError: with the reason code, when the file is not one frontal, finite, complete image.
    """
    with _quiet():
        dataset = _parse(data)
        _check_header(dataset, lateral, frame)
        array = decode_frame(dataset, frame or 1)
        del dataset.PixelData
        show = _luminance(dataset) if dataset.PhotometricInterpretation in COLOR else _grayscale(dataset, voi)
        if array.shape[:2] != (dataset.Rows, dataset.Columns):
            raise ReadError("truncated")
        image = np.empty(array.shape[:2], dtype=np.float32)
        for top in range(0, len(image), ROWS_AT_ONCE):
            show(array[top : top + ROWS_AT_ONCE], image[top : top + ROWS_AT_ONCE])
    return image


def read_stored(data: bytes) -> NDArray[np.generic]:
    """The first frame's stored values and nothing else, for measuring the decoder's share."""
    with _quiet():
        return decode_frame(_parse(data))


def read_header(data: bytes, keywords: Sequence[str]) -> dict[str, str]:
    """The given elements of a header as stripped text; absent ones are left out. What they hold may name the patient.

    Raises:
        ReadError: "unreadable", when the header cannot be parsed.
    """
    with _quiet():
        dataset = _parse(data, pixels=False)
        try:
            return {keyword: str(dataset.get(keyword)).strip() for keyword in keywords if dataset.get(keyword) not in (None, "")}
        except Exception:
            raise ReadError("unreadable") from None


def read_facts(data: bytes) -> dict[str, str]:
    """What a site's team wants counted: ``transfer_syntax, photometric, view, burned_in``, in DICOM's own words.

    Values outside the standard's vocabulary become "other", since free text may name a patient; absent ones "".

    Raises:
        ReadError: "unreadable", when the header cannot be parsed.
    """
    with _quiet():
        dataset = _parse(data, pixels=False)
        try:
            syntax = transfer_syntax(dataset)
        except ReadError:
            syntax = uid.UID("")
        known = {
            "photometric": ("PhotometricInterpretation", MONOCHROME + COLOR),
            "view": ("ViewPosition", FRONTAL_VIEWS + LATERAL_VIEWS),
            "burned_in": ("BurnedInAnnotation", ("YES", "NO")),
        }
        facts = {"transfer_syntax": syntax.name if syntax and not syntax.is_private and syntax.is_transfer_syntax else "other"}
        for key, (tag, vocabulary) in known.items():
            value = str(dataset.get(tag) or "").strip().upper()
            facts[key] = value if value in vocabulary or not value else "other"
    return facts


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


def _parse(data: bytes, pixels: bool = True) -> pydicom.Dataset:
    dataset: pydicom.Dataset
    try:
        inflated = _inflate(data)
        _check_size_of_header(data if inflated is None else inflated)
        if inflated is None:
            dataset = pydicom.dcmread(io.BytesIO(data), force=True, stop_before_pixels=not pixels)
        else:
            dataset = read_dataset(io.BytesIO(inflated), is_implicit_VR=False, is_little_endian=True)
            dataset.file_meta = pydicom.dataset.FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
        # Elements are parsed on first access; a damaged one must not surface later as another error.
        for keyword in KEYWORDS:
            _ = dataset.get(keyword)
        # Where a file ends in the middle of its pixel data, pydicom leaves the element out.
        if pixels and "PixelData" not in dataset and (PIXEL_DATA in data or PIXEL_DATA in (inflated or b"")):
            raise ReadError("truncated")
    except ReadError:
        raise
    except Exception:
        raise ReadError("unreadable") from None
    return dataset


def _inflate(data: bytes) -> bytes | None:
    """The data set of a deflated file, or ``None`` for any other; pydicom would inflate a bomb without a limit."""
    deflated = uid.DeflatedExplicitVRLittleEndian.encode()
    syntax, end = _walk_meta(data)
    if syntax is None and data.find(b"\x02\x00\x10\x00UI\x16\x00" + deflated) >= 0:
        raise ReadError("unreadable")
    if syntax != deflated:
        return None
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = stream.decompress(data[end:], MAX_INFLATED)
    if stream.unconsumed_tail:
        raise ReadError("too_large")
    if not stream.eof:
        raise ReadError("truncated")
    return inflated


def _check_size_of_header(data: bytes) -> None:
    """Pydicom takes microseconds for each element and item: what no radiograph has in front of its pixels is refused."""
    start = data.find(PIXEL_DATA)
    end = start if start >= 0 else len(data)
    if end > MAX_HEADER or data.count(ITEM, 0, end) > MOST_ITEMS:
        raise ReadError("too_large")


def _walk_meta(data: bytes) -> tuple[bytes | None, int]:
    """TransferSyntaxUID of the file meta (PS3.10 7.1) and where it ends; ``None`` when the meta is not well formed."""
    position, syntax = 132, None
    while data[position : position + 2] == b"\x02\x00":
        long = data[position + 4 : position + 6] in (b"OB", b"OW", b"UN", b"UT", b"SQ")
        start = position + (12 if long else 8)
        length = int.from_bytes(data[start - (4 if long else 2) : start], "little")
        if data[position + 2 : position + 4] == b"\x10\x00":
            syntax = data[start : start + length].rstrip(b"\0 ")
        position = start + length
    return (syntax, position) if position < len(data) else (None, position)


def _check_header(dataset: pydicom.Dataset, lateral: bool, frame: int | None) -> None:
    if "DirectoryRecordSequence" in dataset:
        raise ReadError("dicomdir")
    if "PixelData" not in dataset:
        raise ReadError("no_pixels")
    try:
        rows, columns, samples = int(dataset.Rows), int(dataset.Columns), int(dataset.get("SamplesPerPixel") or 1)
        allocated, stored = int(dataset.BitsAllocated), int(dataset.get("BitsStored") or dataset.BitsAllocated)
        high, signed = int(dataset.get("HighBit", stored - 1)), int(dataset.get("PixelRepresentation") or 0)
        frames = int(1 if dataset.get("NumberOfFrames") in (None, "") else dataset.NumberOfFrames)
        photometric = str(dataset.PhotometricInterpretation).strip().upper()
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise ReadError("unreadable") from None
    # Spaces and case are not part of a code string; what is absent has its default.
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PixelRepresentation = photometric, samples, signed
    if samples == 3 and dataset.get("PlanarConfiguration") in (None, ""):
        dataset.PlanarConfiguration = 0
    if frames < 1:
        raise ReadError("truncated")
    if frames > 1 and (frame is None or frame > frames):
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
    storage = uid.DigitalXRayImageStorageForProcessing
    if "FOR PROCESSING" in str(dataset.get("PresentationIntentType") or "").upper() or dataset.get("SOPClassUID") == storage:
        raise ReadError("for_processing")
    if not lateral and _is_lateral(dataset):
        raise ReadError("lateral")


def _is_lateral(dataset: pydicom.Dataset) -> bool:
    """By ViewPosition, ViewCodeSequence (the main attribute of DX), or PatientOrientation, whose rows run front to back."""
    try:
        views = {str(view).strip().upper() for view in np.atleast_1d(dataset.get("ViewPosition") or "")}
        codes = {str(item.get("CodeValue")).strip() for item in dataset.get("ViewCodeSequence") or []}
        along_rows = str(np.atleast_1d(dataset.get("PatientOrientation") or "")[0]).strip().upper()
    except Exception:
        raise ReadError("unreadable") from None
    return bool(views & set(LATERAL_VIEWS) or codes & set(LATERAL_CODES) or along_rows[:1] in ("A", "P"))


def _grayscale(dataset: pydicom.Dataset, voi: str) -> Callable[[NDArray[np.generic], NDArray[np.float32]], None]:
    """Stored values to gray values: modality LUT, VOI, then one inversion where low values are dense."""
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


def _luminance(dataset: pydicom.Dataset) -> Callable[[NDArray[np.generic], NDArray[np.float32]], None]:
    """Stored color to luminance."""
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
            raise ReadError("photometric") from None
        if color.ndim != 3 or color.shape[2] != 3:
            raise ReadError("truncated")
        out[:] = (color.astype(np.float32) @ LUMINANCE) / scale

    return show
