"""What one result is: the image that it is of, the model's statement, and the identifiers of the objects that tell it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydicom import uid
from pydicom.dataset import Dataset

from sga_monai import __version__

NOTICE = "RESEARCH ONLY - NOT FOR DIAGNOSIS"
MANUFACTURER = "sga_monai"
PICTURES, REPORTS = 901, 902
DESCRIPTIONS = {PICTURES: f"{NOTICE}: heat map", REPORTS: f"{NOTICE}: report"}
# Type 2 (PS3.3 C.7.1.1, C.7.2.1): must be there, and may be empty.
TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID", "AccessionNumber",
    "ReferringPhysicianName",
)  # fmt: skip
OFFSET = re.compile(r"[+-](0\d|1[0-4])[0-5]\d")
# PS3.3 C.12.1.1.2, table C.12-3: sets of one byte, which as the only value have the name without code extensions.
EXTENDED = re.compile(r"ISO 2022 IR (6|13|100|101|109|110|126|127|138|144|148|166|203)")


@dataclass(frozen=True)
class Model:
    """What made the statement.

    Attributes:
        name: of the bundle.
        version: of the bundle.
        digest: SHA-256 of its SHA256SUMS.
        threshold: probability from which a case is called positive; chosen by the developers.
        temperature: by which scores were divided.
        evaluation: SHA-256 of the evaluation's record, so that equal evaluations give equal identifiers.
        when: the evaluation ended.
    """

    name: str
    version: str
    digest: str
    threshold: float
    temperature: float
    evaluation: str
    when: datetime


@dataclass(frozen=True)
class Case:
    """One image and what the model says of it.

    Attributes:
        row: of the manifest.
        source: the image's header; see ``as_source``.
        probability: of the positive class.
        positive: whether it is called positive.
        number: of the image within its study, from 1.
    """

    row: int
    source: Dataset = field(repr=False)
    probability: float
    positive: bool
    number: int


def as_source(header: Dataset) -> Dataset | None:
    """A header with every element of type 2, empty where it had none; ``None`` when it names no study, series or object.

    A sex or an offset from UTC that the standard does not know is left out, and a single character set gets its proper name.
    """
    if not all(header.get(name) for name in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")):
        return None
    for name in TYPE_2:
        if name not in header:
            setattr(header, name, "")
    if header.PatientSex not in ("M", "F", "O", ""):
        header.PatientSex = ""
    if not OFFSET.fullmatch(str(header.get("TimezoneOffsetFromUTC"))):
        header.pop("TimezoneOffsetFromUTC", None)
    if extended := EXTENDED.fullmatch(str(header.get("SpecificCharacterSet"))):
        header.SpecificCharacterSet = f"ISO_IR {extended[1]}"
    return header


def ended(case: Case, model: Model) -> datetime:
    """When the evaluation ended, on the clock of the source's dates and times.

    A TimezoneOffsetFromUTC is that of every date and time of an object (PS3.3 C.12.1), the study's among them. A source without
    one has local times; those of this computer are taken for them.
    """
    offset = case.source.get("TimezoneOffsetFromUTC")
    return model.when.astimezone(datetime.strptime(offset, "%z").tzinfo if offset else None)


def identifiers(case: Case, model: Model, series: int) -> dict[str, Any]:
    """The arguments of highdicom's objects that say which object of which series it is, when and by what it was made.

    Identifiers are hashes of the source's, the evaluation's and this program's version, so that the same results, written again, are
    the same objects, and those that another version draws or words otherwise are others.

    Args:
        case: the case.
        model: the model.
        series: ``PICTURES`` or ``REPORTS``; each study gets one series of each.
    """
    made, when = (model.evaluation, __version__, str(series)), ended(case, model)
    return {
        "series_instance_uid": uid.generate_uid(entropy_srcs=["series", str(case.source.StudyInstanceUID), *made]),
        "series_number": series,
        "sop_instance_uid": uid.generate_uid(entropy_srcs=["object", str(case.source.SOPInstanceUID), *made]),
        "instance_number": case.number,
        "series_description": DESCRIPTIONS[series],
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": model.name,
        "software_versions": model.version,
        "device_serial_number": model.digest[:16],
        "content_date": when.date(),
        "content_time": when.time(),
        "series_date": when.date(),
        "series_time": when.time(),
        # Of the source, in ``as_made``: highdicom refuses sets that archives have, the standard's own examples among them.
        "specific_character_set": None,
    }


def statement(case: Case, model: Model) -> str:
    """The result in words and figures."""
    place = "at or above" if case.positive else "below"
    return f"{model.name} {model.version}: probability {case.probability:.3f}, {place} the threshold {model.threshold:.3f}"


def as_made(made: Dataset, case: Case, model: Model) -> Dataset:
    """An object with its versions, in the source's alphabet and time zone, and with the evaluation's time as its own.

    So equal results are equal bytes, and the patient's name has those that the archive has stored before.
    """
    for name in ("SpecificCharacterSet", "TimezoneOffsetFromUTC"):
        if case.source.get(name):
            made[name] = case.source[name]
    made.SoftwareVersions = [model.version, f"sga_monai {__version__}"]
    made.InstanceCreationDate, made.InstanceCreationTime = made.ContentDate, made.ContentTime
    # The last is highdicom, at the time of the call; what is before it has taken the radiograph, at a time of its own.
    made.ContributingEquipmentSequence[-1].ContributionDateTime = f"{ended(case, model):%Y%m%d%H%M%S}"
    return made
