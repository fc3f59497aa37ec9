"""From a DICOM file to gray values in [0, 1]: stored values -> modality LUT -> VOI -> presentation (PS3.4 N.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid

from sga_monai.core.errors import ReadError
from sga_monai.imaging import examination, geometry
from sga_monai.imaging.codec import decode_frame, transfer_syntax
from sga_monai.imaging.decoded import Decoded, ReadOptions
from sga_monai.imaging.grayscale import as_words, check_alignment, check_words, luminance, tables
from sga_monai.imaging.header import apply_functional_groups, parse, quiet
from sga_monai.imaging.limits import MAX_PIXELS, refused_as
from sga_monai.imaging.padding import find_padding

# A block of rows fits the processor's cache.
ROWS_AT_ONCE = 32
# Not the standard's words, but who wrote one of them meant that names may be seen.
BURNED_IN = ("Y", "T", "TRUE", "1")
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
COLOR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT", "PALETTE COLOR")


def is_dicom(data: bytes) -> bool:
    """Whether ``data`` is a DICOM file: by its preamble, or a first element of group 0002 or 0008 without one."""
    if data[128:132] == b"DICM":
        return True
    little, big = data[:2] in (b"\x02\x00", b"\x08\x00"), data[:2] == b"\x00\x08"
    element = int.from_bytes(data[2:4], "little" if little else "big")
    # Either a value representation in letters, or, implicit, the length of a short first value.
    vr = data[4:6].isalpha() and data[4:6].isupper()
    return (little or big) and element <= 0x0070 and (vr or (little and int.from_bytes(data[4:8], "little") < 256))


def read_dicom(data: bytes, options: ReadOptions) -> Decoded:
    """One radiograph, bright is dense, turned as it hangs, its pixels square.

    Args:
        data: the bytes of the file.
        options: what is accepted and applied.

    Returns:
        The image at native size (MONOCHROME1 is inverted, once; color becomes luminance), facts and padding.

    Raises:
        ReadError: with the reason code, when the file is not one finite, complete image that the options accept.
    """
    with quiet():
        dataset = parse(data)
        _check_header(dataset, options.frame)
        apply_functional_groups(dataset, options.frame or 1)
        aspect = geometry.aspect_of(dataset)
        refusal = examination.refusal(dataset)
        if (refusal == "examination" and not options.other_examinations) or (refusal == "lateral" and not options.lateral):
            raise ReadError(refusal)
        image, padding = _gray(dataset, options)
        facts = _facts(dataset)
    if aspect != 1:
        shape = geometry.square_shape(image.shape, aspect, MAX_PIXELS)
        padding = None if padding is None else geometry.resample(padding.astype(np.float32), shape) > 0
        image = geometry.resample(image, shape)
    if options.orientation == "header":
        image = geometry.turn(image, turned_from(facts))
        padding = None if padding is None else geometry.turn(padding, turned_from(facts))
    return Decoded(image, facts, padding, refusal)


def turned_from(facts: Mapping[str, str]) -> str:
    """The PatientOrientation, one of ``geometry.FRONTAL``, from which ``orientation`` "header" turns an image with these facts."""
    # What calls itself lateral has no frontal plane.
    frontal = facts["orientation"] in geometry.FRONTAL and facts["view"] not in examination.LATERAL_VIEWS
    return facts["orientation"] if frontal else geometry.STANDARD


def _gray(dataset: pydicom.Dataset, options: ReadOptions) -> tuple[NDArray[np.float32], NDArray[np.bool_] | None]:
    """The image, and where it is padded."""
    array = decode_frame(dataset, options.frame or 1)
    if array.shape[:2] != (dataset.Rows, dataset.Columns):
        raise ReadError("truncated")
    image = np.empty(array.shape[:2], dtype=np.float32)
    if dataset.PhotometricInterpretation in COLOR:
        show = luminance(dataset)
        for top in range(0, len(image), ROWS_AT_ONCE):
            show(array[top : top + ROWS_AT_ONCE], image[top : top + ROWS_AT_ONCE])
        return image, None
    lut = tables(dataset, options.voi)
    words = as_words(array, int(dataset.BitsAllocated))
    check_alignment(words, dataset)
    check_words(words, lut.valid)
    padding = find_padding(words, lut.padded, lut.values) if lut.padded.any() else None
    for top in range(0, len(image), ROWS_AT_ONCE):
        # Every word is in the table; "clip" only spares NumPy a buffer.
        np.take(lut.shown, words[top : top + ROWS_AT_ONCE], out=image[top : top + ROWS_AT_ONCE], mode="clip")
    if padding is not None:
        # Padding is background, and must not be darker than it: that would be the scale of everything after.
        np.copyto(image, np.min(image, where=~padding, initial=1.0), where=padding)
    return image, padding


def read_stored(data: bytes) -> NDArray[np.generic]:
    """The first frame's stored values and nothing else, for measuring the decoder's share."""
    with quiet():
        return decode_frame(parse(data))


def read_header(data: bytes, keywords: Sequence[str]) -> dict[str, str]:
    """The given elements of a header as stripped text; absent ones are left out. What they hold may name the patient.

    Raises:
        ReadError: "unreadable", when the header cannot be parsed.
    """
    # A value is parsed when it is asked for.
    with quiet(), refused_as("unreadable"):
        dataset = parse(data, pixels=False)
        return {keyword: str(dataset.get(keyword)).strip() for keyword in keywords if dataset.get(keyword) not in (None, "")}


def read_facts(data: bytes) -> dict[str, str]:
    """What a site's team wants counted, in DICOM's own words, from the header alone.

    ``transfer_syntax, photometric, presentation, view, orientation, modality, body_part, burned_in`` and ``refusal``: the
    reason code for which ``examination.refusal`` leaves the file out. Values outside the standard's vocabulary become
    "other", since free text may name a patient; absent ones "".

    Raises:
        ReadError: "unreadable", when the header cannot be parsed.
    """
    with quiet():
        dataset = parse(data, pixels=False)
        apply_functional_groups(dataset, 1)
        return _facts(dataset) | {"refusal": examination.refusal(dataset) or ""}


def _facts(dataset: pydicom.Dataset) -> dict[str, str]:
    try:
        syntax = transfer_syntax(dataset)
    except ReadError:
        syntax = uid.UID("")
    facts = {"transfer_syntax": syntax.name if syntax and not syntax.is_private and syntax.is_transfer_syntax else "other"}
    vocabularies = {
        "photometric": ("PhotometricInterpretation", MONOCHROME + COLOR),
        "burned_in": ("BurnedInAnnotation", ("YES", "NO")),
        "presentation": ("PresentationLUTShape", ("IDENTITY", "INVERSE")),
    }
    with refused_as("unreadable"):
        for name, (keyword, vocabulary) in vocabularies.items():
            value = str(dataset.get(keyword) or "").strip().upper()
            value = "YES" if name == "burned_in" and value in BURNED_IN else value
            facts[name] = value if value in vocabulary or not value else "other"
        facts["view"] = examination.view_of(dataset)
        facts["orientation"] = geometry.orientation_of(dataset)
        facts["modality"] = examination.modality_of(dataset)
        facts["body_part"] = examination.body_part_of(dataset)
    if (facts["photometric"], facts["presentation"]) in (("MONOCHROME2", "INVERSE"), ("MONOCHROME1", "IDENTITY")):
        facts["presentation"] += " (contradicts PhotometricInterpretation)"
    return facts


def _check_header(dataset: pydicom.Dataset, frame: int | None) -> None:
    if "DirectoryRecordSequence" in dataset:
        raise ReadError("dicomdir")
    if "PixelData" not in dataset:
        raise ReadError("no_pixels")
    try:
        samples = int(1 if dataset.get("SamplesPerPixel") in (None, "") else dataset.SamplesPerPixel)
        rows, columns = int(dataset.Rows), int(dataset.Columns)
        allocated, stored = int(dataset.BitsAllocated), int(dataset.get("BitsStored") or dataset.BitsAllocated)
        high, signed = int(dataset.get("HighBit", stored - 1)), int(dataset.get("PixelRepresentation") or 0)
        # Some writers give 0 for a single frame.
        frames = int(1 if dataset.get("NumberOfFrames") in (None, "") else dataset.NumberOfFrames) or 1
        photometric = str(dataset.PhotometricInterpretation).strip().upper()
    except (AttributeError, TypeError, ValueError, OverflowError):
        raise ReadError("unreadable") from None
    # Spaces and case are not part of a code string; what is absent has its default.
    dataset.PhotometricInterpretation, dataset.SamplesPerPixel, dataset.PixelRepresentation = photometric, samples, signed
    dataset.NumberOfFrames = frames
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
