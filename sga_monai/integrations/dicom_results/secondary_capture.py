"""A result as people see it: a Secondary Capture image (PS3.3 A.8.1) in a new series of the study."""

from __future__ import annotations

import struct
from itertools import accumulate

import highdicom
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

from sga_monai.integrations.dicom_results.case import NOTICE, PICTURES, Case, Model, as_made, identifiers

# Of the header of run-length encoded pixels (PS3.5 G.5).
HEADER_BYTES = 64
LOSSY = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLSNearLossless)


def secondary_capture(case: Case, model: Model, picture: NDArray[np.uint8]) -> Dataset:
    """The object of a picture, compressed without loss where that makes it smaller.

    Args:
        case: the case.
        model: the model.
        picture: of ``draw_result``, ``[H, W, 3]``.
    """
    made = highdicom.sc.SCImage.from_ref_dataset(
        case.source,
        np.ascontiguousarray(picture),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        # Two views of one image side by side have no orientation of their own: emptied below, as type 2C allows.
        patient_orientation=("L", "F"),
        transfer_syntax_uid=uid.ExplicitVRLittleEndian,
        **identifiers(case, model, PICTURES),
    )
    _compress(made, picture)
    made.PatientOrientation = []
    made.BodyPartExamined = "CHEST"
    made.ImageType, made.ConversionType = ["DERIVED", "SECONDARY"], "WSD"
    made.DateOfSecondaryCapture, made.TimeOfSecondaryCapture = made.ContentDate, made.ContentTime
    made.ImageComments = NOTICE
    made.DerivationDescription = "Radiograph, and the same with the heat map of a research model"
    made.copy_patient_and_study_information(case.source)
    _copy_history(made, case.source)
    made.SourceImageSequence = Sequence([_reference(case.source)])
    return as_made(made, case, model)


def _compress(made: Dataset, picture: NDArray[np.uint8]) -> None:
    """Run-length encoding (PS3.5 annex G), where it is smaller: a segment for each color, of rows that are encoded by themselves.

    pydicom's encoder, in Python, takes most of a second for a picture.
    """
    segments = [imagecodecs.packbits_encode(np.ascontiguousarray(color), axis=-1) for color in np.moveaxis(picture, -1, 0)]
    segments = [segment + bytes(len(segment) % 2) for segment in segments]
    places = list(accumulate(map(len, segments), initial=HEADER_BYTES))[:-1]
    frame = struct.pack("<16L", len(segments), *places, *[0] * (15 - len(segments))) + b"".join(segments)
    if len(frame) < len(made.PixelData):
        made.PixelData = encapsulate([frame])
        made["PixelData"].VR = "OB"
        made.file_meta.TransferSyntaxUID = uid.RLELossless


def _copy_history(made: Dataset, source: Dataset) -> None:
    """What the source says of its pixels and what stays true of a picture of them (PS3.3 C.7.6.1).

    BurnedInAnnotation is about letters that identify the patient and the date, which ours do not; where it is absent, nobody knows.
    LossyImageCompression, once 01, is kept by every derived image (C.7.6.1.1.5).
    """
    if source.get("BurnedInAnnotation") in ("YES", "NO"):
        made.BurnedInAnnotation = source.BurnedInAnnotation
    if source.get("LossyImageCompression") == "01" or source.file_meta.get("TransferSyntaxUID") in LOSSY:
        made.LossyImageCompression = "01"
        for name in ("LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if source.get(name):
                made[name] = source[name]


def _reference(source: Dataset) -> Dataset:
    item, purpose = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    # PS3.16 CID 7202.
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    item.PurposeOfReferenceCodeSequence = Sequence([purpose])
    return item
