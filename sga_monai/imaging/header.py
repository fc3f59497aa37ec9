"""From the bytes of a DICOM file to its data set: bounded, silent, complete."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

import pydicom
from pydicom import uid
from pydicom.filereader import read_dataset, read_partial

from sga_monai.core.errors import ReadError
from sga_monai.imaging.limits import refused_as

MAX_INFLATED = 128 * 1024 * 1024
MAX_HEADER = 16 * 1024 * 1024
MOST_ITEMS = 100_000
PIXEL_DATA, ITEM = b"\xe0\x7f\x10\x00", b"\xfe\xff\x00\xe0"
BIG_PIXEL_DATA, BIG_ITEM = b"\x7f\xe0\x00\x10", b"\xff\xfe\xe0\x00"
# Tag, value representation and length (PS3.5 7.1.2).
ELEMENT_HEADER = 12
OVERLAY_GROUPS = range(0x6000, 0x6020, 2)
# Every element that is looked at in this package.
KEYWORDS = (
    "SOPClassUID", "Modality", "BodyPartExamined", "AnatomicRegionSequence", "PresentationIntentType", "DirectoryRecordSequence",
    "ViewPosition", "ViewCodeSequence", "PatientOrientation", "AnatomicalOrientationType", "BurnedInAnnotation", "SamplesPerPixel",
    "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "PresentationLUTShape", "RedPaletteColorLookupTableDescriptor",
    "PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
)  # fmt: skip


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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


def parse(data: bytes, pixels: bool = True) -> pydicom.Dataset:
    """The data set of a file up to its PixelData, every element of ``KEYWORDS`` parsed; call it under ``quiet``.

    Raises:
        ReadError: "unreadable"; "too_large" for what is made to take minutes; "truncated" where the file ends in the
            middle of its pixel data; "multi_frame" where a second DICOM file follows the first.
    """
    dataset: pydicom.Dataset
    with refused_as("unreadable"):
        inflated = _inflate(data)
        _check_size_of_header(data if inflated is None else inflated)
        stream = io.BytesIO(data if inflated is None else inflated)
        # What follows the pixel data is padding, if anything, and need not be well formed.
        after = _AfterPixels()
        stop = after if pixels else _at_pixels
        if inflated is None:
            dataset = read_partial(stream, stop, force=True)
        else:
            dataset = read_dataset(stream, is_implicit_VR=False, is_little_endian=True, stop_when=stop)
            dataset.file_meta = pydicom.dataset.FileMetaDataset()
            dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
        if pixels and b"DICM" in stream.read():
            raise ReadError("multi_frame")
        # Elements are parsed on first access; a damaged one must not surface later as another error.
        for keyword in KEYWORDS:
            _ = dataset.get(keyword)
        for group in OVERLAY_GROUPS:
            _ = dataset.get((group, 0x0100)), dataset.get((group, 0x0102))
        # Where a file ends in the middle of its pixel data, pydicom leaves the element out; an icon has pixel data of its own.
        end = (inflated or data)[-ELEMENT_HEADER:]
        if pixels and "PixelData" not in dataset and (after.seen or PIXEL_DATA in end or BIG_PIXEL_DATA in end):
            raise ReadError("truncated")
    return dataset


def apply_functional_groups(dataset: pydicom.Dataset, frame: int) -> None:
    """Copy what an enhanced object says of ``frame`` to where a classic object says it (PS3.3 C.7.6.16).

    The rescale, the window or VOI LUT, the orientation, the pixel spacing and the anatomy of a frame stand in the shared
    functional groups, or, and then for this frame alone, in the per-frame ones. A macro takes the place of all that it
    speaks of: a window without a function is linear, whatever function another window has.

    Raises:
        ReadError: "unreadable", when the groups of this frame are missing or are not what they should be.
    """
    # Elements of any kind may stand where sequences should.
    with refused_as("unreadable"):
        groups = list(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]
        frames = dataset.get("PerFrameFunctionalGroupsSequence") or []
        groups += [frames[frame - 1]] if len(frames) else []
        for group in groups:
            for macro, keywords in MACROS.items():
                for item in (group.get(macro) or [])[:1]:
                    if any(item.get(keyword) not in (None, "") for keyword in keywords):
                        for keyword in (*keywords, *INSTEAD.get(macro, ())):
                            dataset.pop(keyword, None)
                            if keyword in item:
                                dataset[keyword] = item[keyword]


# PS3.3 C.7.6.16.2: the functional group macros that decide how a frame is shown.
MACROS = {
    "PixelMeasuresSequence": ("PixelSpacing",),
    "FramePixelDataPropertiesSequence": ("ImagerPixelSpacing",),
    "FrameAnatomySequence": ("AnatomicRegionSequence",),
    "PatientOrientationInFrameSequence": ("PatientOrientation",),
    "PixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope"),
    "IdentityPixelValueTransformationSequence": ("RescaleIntercept", "RescaleSlope"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence"),
}
# What else of the data set a macro takes the place of.
INSTEAD = {
    "PixelValueTransformationSequence": ("ModalityLUTSequence",),
    "IdentityPixelValueTransformationSequence": ("ModalityLUTSequence",),
}


def _at_pixels(tag: Any, _vr: str | None, _length: int) -> bool:
    return int(tag) in (0x7FE00010, 0x7FE00008, 0x7FE00009)


class _AfterPixels:
    """Stops a reader at the element behind the data set's own PixelData; elements inside of sequences are not asked about."""

    def __init__(self) -> None:
        self.seen = False

    def __call__(self, tag: Any, _vr: str | None, _length: int) -> bool:
        before, self.seen = self.seen, self.seen or int(tag) == 0x7FE00010
        return before


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
    big = _walk_meta(data)[0] == uid.ExplicitVRBigEndian.encode() or data.startswith(b"\0\x08")
    start = data.find(BIG_PIXEL_DATA if big else PIXEL_DATA)
    end = start if start >= 0 else len(data)
    if end > MAX_HEADER or data.count(BIG_ITEM if big else ITEM, 0, end) > MOST_ITEMS:
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
