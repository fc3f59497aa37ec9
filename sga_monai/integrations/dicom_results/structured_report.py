"""A result as programs read it: an Enhanced SR with TID 1500 (PS3.16), preliminary and not verified, in a new series of the study."""

from __future__ import annotations

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from sga_monai import __version__
from sga_monai.integrations.dicom_results.case import MANUFACTURER, NOTICE, REPORTS, Case, Model, as_made, identifiers

# There is no standard code for a model's probability; docs/pacs.md lists these.
SCHEME = "99SGA"
PROBABILITY = Code("probability", SCHEME, "Probability of the positive class")
THRESHOLD = Code("threshold", SCHEME, "Threshold of the probability")
ABOVE = Code("above-threshold", SCHEME, "Probability is at or above the threshold")
INTENDED_USE = Code("intended-use", SCHEME, "Intended use")
RESEARCH = Code("research-only", SCHEME, NOTICE)
YES, NO = Code("373066001", "SCT", "Yes"), Code("373067005", "SCT", "No")
CHEST_RADIOGRAPHY = Code("399208008", "SCT", "Plain chest X-ray")


def structured_report(case: Case, model: Model) -> Dataset:
    """The report of a case: probability, threshold, whether it is reached, which algorithm, which image, and the notice."""
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=uid.generate_uid(entropy_srcs=["device", MANUFACTURER, __version__]),
        name=f"{MANUFACTURER} {__version__}",
        manufacturer_name=MANUFACTURER,
        model_name=f"{model.name} {model.version}",
    )
    observer = sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    algorithm = sr.AlgorithmIdentification(
        name=model.name,
        version=model.version,
        parameters=[f"temperature {model.temperature:g}", f"sha256 of SHA256SUMS {model.digest}", f"evaluation {model.evaluation}"],
    )
    source = case.source
    numbers = identifiers(case, model, REPORTS)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=uid.generate_uid(entropy_srcs=["finding", numbers["sop_instance_uid"]]), identifier=f"{model.name} row {case.row}"
        ),
        algorithm_id=algorithm,
        measurements=[
            sr.Measurement(name=PROBABILITY, value=round(case.probability, 6), unit=codes.UCUM.NoUnits),
            sr.Measurement(name=THRESHOLD, value=round(model.threshold, 6), unit=codes.UCUM.NoUnits),
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(name=ABOVE, value=YES if case.positive else NO),
            sr.QualitativeEvaluation(name=INTENDED_USE, value=RESEARCH),
        ],
        source_images=[sr.SourceImageForMeasurementGroup(source.SOPClassUID, source.SOPInstanceUID)],
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=CHEST_RADIOGRAPHY,
        imaging_measurements=[group],
        title=codes.DCM.ImagingMeasurementReport,
    )
    scheme = CodingSchemeIdentificationItem(designator=SCHEME, name="Private codes of sga_monai", responsible_organization=MANUFACTURER)
    made = sr.EnhancedSR(
        evidence=[source], content=report[0], is_complete=True, is_final=False, is_verified=False, coding_schemes=[scheme], **numbers
    )
    return as_made(made, case, model)
