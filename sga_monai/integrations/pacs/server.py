"""What every archive is asked for, whichever protocol it speaks, and how its failures are told without a tag's value."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from pydicom import uid
from pydicom.dataset import Dataset

from sga_monai.core.errors import InputError, ReadError
from sga_monai.imaging.examination import refusal
from sga_monai.imaging.header import quiet
from sga_monai.integrations.pacs.query import Wanted

EXTRA = "this command needs the extra: pip install 'sga_monai[dicom]'"
# Modality (0008,0060) of projection radiographs in an archive.
MODALITIES = ("CR", "DX")
# Connections of one pull at once.
MOST_WORKERS = 16
# More answers to one row mean that the archive ignores the keys.
MOST_STUDIES = 200
# More than any study has objects: the archive ignores the keys and sends all that it has.
MOST_ANSWERS = 10_000
# What may go wrong in one request; each is tried again but those of FINAL. Texts are fixed: nothing of an answer gets into them.
FAILURES = {
    "unreachable": "the server cannot be reached; check address, port and certificates, or start it",
    "timeout": "the server did not answer in time; ask again later, or with fewer workers",
    "busy": "the server is too busy; ask again later, or with fewer workers",
    "server_error": "the server reports an error of its own; its administrator finds it in the server's log",
    "cut": "the transfer was cut; ask again",
    "protocol": "the answer is not what the standard asks for; check the address",
    "gone": "the server no longer has it, or cannot give it; ask its administrator",
    "refused": "the server refuses this request; ask its administrator for read access",
    "other_object": "the server sent another object than the one asked for; ask its administrator",
    "other_patient": "the object names another patient than the archive does for its study; have its administrator correct one of them",
    "too_large": "larger than a radiograph can be; ask the server's administrator what it is",
    "ignored_keys": f"more than {MOST_STUDIES} studies for one row: the server ignores what it is asked for",
}
FINAL = ("gone", "refused", "other_object", "other_patient", "too_large", "ignored_keys")
# Their messages quote addresses with patients' identifiers, answers or tags.
LOGGERS = ("pynetdicom", "dicomweb_client", "urllib3", "requests", "highdicom", "retrying")


class TransferError(Exception):
    """A request that failed.

    Args:
        code: a key of ``FAILURES``.
        wait_s: how long the server asks to wait before the next try.
    """

    def __init__(self, code: str, wait_s: float = 0.0) -> None:
        self.code = code
        self.wait_s = wait_s
        super().__init__(FAILURES[code])


class ServerRefusal(InputError):
    """The server refuses this program altogether: its user, its certificate or its AE title. Asking again would not help."""


@dataclass(frozen=True)
class Study:
    """A study that was found. Its values name a patient and go nowhere else."""

    uid: str = field(repr=False)
    accession: str = field(default="", repr=False)
    patient_id: str = field(default="", repr=False)
    day: str = field(default="", repr=False)


@dataclass(frozen=True)
class Image:
    """An object of a study that may be a radiograph.

    Attributes:
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        instance: SOPInstanceUID.
        refusal: the reason code for which it is not wanted, where that is known before it is fetched.
    """

    study: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)
    refusal: str = ""


class Server(Protocol):
    """A connection to an archive, used by one thread. Every method may raise ``TransferError`` or ``ServerRefusal``."""

    def find(self, wanted: Wanted) -> list[Study]:
        """The studies that the archive has for one row."""

    def images(self, study: Study) -> list[Image]:
        """The objects of a study's CR and DX series."""

    def fetch(self, image: Image) -> bytes:
        """The DICOM file of an object, in the transfer syntax in which it is stored."""

    def close(self) -> None:
        """End the connection."""


def known_refusal(found: Dataset) -> str:
    """The reason code for which an object is not wanted, as far as an answer tells; "" when nothing speaks against it."""
    if text_of(found, "SOPClassUID") == uid.DigitalXRayImageStorageForProcessing:
        return "for_processing"
    try:
        return refusal(found) or ""
    except ReadError:
        # What cannot be read here may be readable in the file.
        return ""


def text_of(found: Dataset, keyword: str) -> str:
    """A value of an answer as stripped text; empty where it is absent."""
    return str(found.get(keyword) or "").strip()


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Log nothing of the libraries, whose messages quote requests and answers; for the main thread, around all others."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with quiet():
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
