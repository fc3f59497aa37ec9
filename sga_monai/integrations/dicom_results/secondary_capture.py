"""A result as people see it: a Secondary Capture image (PS3.3 A.8.1) in a new series of the study."""

from __future__ import annotations

import highdicom
import numpy as np
from numpy.typing import NDArray
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from sga_monai.integrations.dicom_results.case import NOTICE, PICTURES, Case, Model, as_made, identifiers


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
        transfer_syntax_uid=uid.RLELossless,
        **identifiers(case, model, PICTURES),
    )
    made.PatientOrientation = []
    made.BodyPartExamined = "CHEST"
    made.ImageType, made.ConversionType = ["DERIVED", "SECONDARY"], "WSD"
    made.DateOfSecondaryCapture, made.TimeOfSecondaryCapture = made.ContentDate, made.ContentTime
    made.ImageComments = NOTICE
    made.DerivationDescription = "Radiograph, and the same with the heat map of a research model"
    # Of the source: our own letters name nobody.
    made.BurnedInAnnotation = "YES" if case.source.get("BurnedInAnnotation") == "YES" else "NO"
    made.SourceImageSequence = Sequence([_reference(case.source)])
    return as_made(made, model)


def _reference(source: Dataset) -> Dataset:
    item, purpose = Dataset(), Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    # PS3.16 CID 7202.
    purpose.CodeValue, purpose.CodingSchemeDesignator = "121322", "DCM"
    purpose.CodeMeaning = "Source image for image processing operation"
    item.PurposeOfReferenceCodeSequence = Sequence([purpose])
    return item
