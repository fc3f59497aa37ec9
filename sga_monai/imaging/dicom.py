"""From a DICOM file to gray values in [0, 1]: stored values -> modality LUT -> VOI -> presentation (PS3.4 N.2)."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
import zlib
from collections.abc import Iterator, Sequence

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid
from pydicom.filereader import read_dataset

from sga_monai.core.errors import ReadError
from sga_monai.imaging.codec import decode_frame, transfer_syntax
from sga_monai.imaging.grayscale import grayscale, luminance
from sga_monai.imaging.limits import MAX_PIXELS

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
MODALITIES = ("CR", "DX")
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
        show = luminance(dataset) if dataset.PhotometricInterpretation in COLOR else grayscale(dataset, voi)
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
            # A value is parsed when it is asked for, and pydicom's errors quote it.
            raise ReadError("unreadable") from None


def read_facts(data: bytes) -> dict[str, str]:
    """What a site's team wants counted: ``transfer_syntax, photometric, view, burned_in``, in DICOM's own words.

    ``refusal`` is "examination" or "lateral" where the header says that it is no frontal chest radiograph, else "".

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
        modality = str(dataset.get("Modality") or "").strip().upper()
        facts["refusal"] = "examination" if modality not in ("", *MODALITIES) else "lateral" if _is_lateral(dataset) else ""
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
        # Any bytes may come here, and pydicom's errors quote values.
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
        # A value is parsed when it is asked for, and pydicom's errors quote it.
        raise ReadError("unreadable") from None
    return bool(views & set(LATERAL_VIEWS) or codes & set(LATERAL_CODES) or along_rows[:1] in ("A", "P"))
