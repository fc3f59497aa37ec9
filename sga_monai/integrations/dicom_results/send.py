"""Results are sent to an archive by STOW-RS (PS3.18 10.5)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset

from sga_monai.core.display import track
from sga_monai.core.errors import InputError
from sga_monai.integrations.dicom_results.results import result_files
from sga_monai.integrations.pacs.address import Dicomweb
from sga_monai.integrations.pacs.retry import Retry
from sga_monai.integrations.pacs.server import EXTRA, TransferError, silenced


@dataclass(frozen=True)
class Sent:
    """How many objects the server has stored, and how many it has not."""

    stored: int
    failed: int


def send_files(server: Dicomweb, out: Path, retry: Retry | None = None) -> Sent:
    """Send the objects of a folder of ``write_results``; an object that was sent before takes its own place.

    Args:
        server: the archive.
        out: the folder.
        retry: of each object.

    Raises:
        InputError: when the extra is not installed, the folder is not finished, or the server refuses this program.
    """
    try:
        from sga_monai.integrations.pacs.dicomweb import ask, open_client, open_session
    except ImportError:
        raise InputError(EXTRA) from None
    retry = retry or Retry()
    stored = failed = 0
    with silenced(), open_session(server) as session:
        session.hooks["response"].append(_without_parameters)
        client = open_client(server, session)
        for path in track(result_files(out), "sending results"):
            made = pydicom.dcmread(path)

            def send(made: Dataset = made) -> bool:
                return ask(lambda: _confirms(client.store_instances([made]), made.SOPInstanceUID))

            try:
                done = retry.call(send, threading.Event())
            except TransferError as error:
                if error.code == "unreachable":
                    raise InputError(f"{error}; {stored} objects are stored; then give the same command again") from None
                done = False
            stored, failed = stored + done, failed + (not done)
    return Sent(stored, failed)


def _confirms(answer: Dataset, instance: str) -> bool:
    """Whether the object is among those that the server has stored (PS3.18 10.5.3); what it does not name, it may have dropped."""
    stored = [item.get("ReferencedSOPInstanceUID") for item in answer.get("ReferencedSOPSequence") or []]
    return instance in stored and not answer.get("FailedSOPSequence")


def _without_parameters(response: Any, **_: Any) -> None:
    """Name the type of an answer alone, since dicomweb_client takes "application/dicom+json; charset=utf-8" for no answer."""
    response.headers["Content-Type"] = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
