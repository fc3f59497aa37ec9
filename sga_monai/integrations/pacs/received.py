"""What an archive sent is looked at before it is kept: the object and patient asked for, whole, and a frontal chest radiograph."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from sga_monai.cohorts.from_dicom import TAGS, examine_header
from sga_monai.core.errors import ReadError
from sga_monai.data.identity import same_id
from sga_monai.imaging.dicom import is_dicom, read_header, read_stored
from sga_monai.imaging.head import read_head
from sga_monai.imaging.limits import refused_as
from sga_monai.imaging.read import MAX_BYTES
from sga_monai.integrations.pacs.server import Image

UIDS = ("SOPInstanceUID", "StudyInstanceUID")
# What an object is and stays; any other reason is damage, which the archive may repair.
FINAL = ("examination", "lateral", "for_processing", "multi_frame", "no_pixels", "dicomdir")
DAMAGE = ("no_pixels", "truncated", "unreadable")


@dataclass(frozen=True)
class Verdict:
    """Why an object is not kept.

    Attributes:
        code: the reason.
        final: whether it need not be fetched again.
    """

    code: str
    final: bool


def reason_against(data: bytes, image: Image, patient_id: str = "") -> Verdict | None:
    """Why an object is not kept; ``None`` when it is. Its pixels are decoded once, to see that all are there.

    Args:
        data: what was received.
        image: what was asked for.
        patient_id: the PatientID that the archive gives for the study; empty where it gives none.
    """
    if len(data) > MAX_BYTES:
        return Verdict("too_large", False)
    try:
        if not is_dicom(data):
            raise ReadError("unreadable")
        header, code = examine_header(data, (*TAGS, *UIDS))
        if (header.get("SOPInstanceUID"), header.get("StudyInstanceUID")) != (image.instance, image.study):
            return Verdict("other_object", False)
        if not code and patient_id and same_id(header.get("PatientID", "")) != same_id(patient_id):
            return Verdict("other_patient", False)
        code = code or _damage(data)
    except ReadError as error:
        code = error.code
    return Verdict(code, code in FINAL) if code else None


def is_of(path: Path, patient_id: str) -> bool:
    """Whether a file that an earlier pull kept is of the patient whom the archive now gives for its study.

    Args:
        path: the file.
        patient_id: as of ``reason_against``.
    """
    try:
        return not patient_id or same_id(read_header(read_head(path), ("PatientID",)).get("PatientID", "")) == same_id(patient_id)
    except ReadError:
        return False


def _damage(data: bytes) -> str:
    """The reason code of pixels that are absent, cut or damaged; "" when they decode, or what keeps them from it is no damage."""
    try:
        with refused_as("unreadable"):
            read_stored(data)
    except ReadError as error:
        return error.code if error.code in DAMAGE else ""
    return ""


class Rejected:
    """Objects that were fetched and are not wanted, by pseudonym, so that a later pull need not fetch them.

    Args:
        path: a text file, one line each; a line that was cut counts for nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.is_file() else []
        words = [line.split() for line in lines]
        self.known = {line[0]: line[1] for line in words if len(line) == 2 and line[1] in FINAL}

    def reason(self, name: str) -> str:
        """Why an object is not wanted, or ""."""
        return self.known.get(name, "")

    def add(self, name: str, code: str) -> None:
        """Note an object."""
        with self.lock:
            self.known[name] = code
            with self.path.open("a", encoding="ascii") as stream:
                stream.write(f"{name} {code}\n")
