"""An archive that speaks DIMSE: C-FIND, and C-GET or C-MOVE (PS3.4 C), over an association that is opened again when it breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from pydicom import uid
from pydicom.dataset import Dataset
from pynetdicom import AE, build_context, build_role, evt
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext

from sga_monai.core.errors import InputError
from sga_monai.integrations.pacs.address import Dimse, host_and_port
from sga_monai.integrations.pacs.query import Wanted
from sga_monai.integrations.pacs.server import (
    MODALITIES,
    MOST_ANSWERS,
    Image,
    ServerRefusal,
    Study,
    TransferError,
    known_refusal,
    text_of,
)
from sga_monai.integrations.pacs.storage import STORAGE, SYNTAXES, Storage

Responses = Iterable[tuple[Dataset, Dataset | None]]
# Study Root Query/Retrieve (PS3.4 C.6.2).
FIND, GET, MOVE = (uid.UID(f"1.2.840.10008.5.1.4.1.2.2.{number}") for number in (1, 3, 2))
# PS3.8 Table 9-21: why an association is rejected, by source and diagnostic.
REJECTIONS: dict[tuple[int | None, int | None], str] = {
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
}
# PS3.4 Table C.4-2.
UNKNOWN_DESTINATION = 0xA801
NO_DESTINATION = "the server does not know our AE title as a destination of C-MOVE; have it registered with this address and port"
# How long to wait for an object that the archive does not say it has sent: it may come on another connection than the final word.
PATIENCE_S = 5.0
PENDING, SUCCESS, BUSY, NOT_SUPPORTED = (0xFF00, 0xFF01), 0x0000, range(0xA700, 0xA800), (0x0122, 0x0124, 0x0211)


class DimseServer:
    """A ``Server`` over one association.

    Args:
        archive: its address and AE titles.
        storage: receives what C-MOVE sends; needed where it retrieves so.
    """

    def __init__(self, archive: Dimse, storage: Storage | None = None) -> None:
        self.archive = archive
        self.storage = storage
        self.association: Association | None = None
        self.received: dict[str, bytes | None] = {}

    def find(self, wanted: Wanted) -> list[Study]:
        """See ``Server``."""
        keys = {"PatientID": wanted.patient_id, "AccessionNumber": wanted.accession, "StudyDate": wanted.dates, "StudyInstanceUID": ""}
        return [
            Study(text_of(found, "StudyInstanceUID"), *(text_of(found, name) for name in ("AccessionNumber", "PatientID", "StudyDate")))
            for found in self._find("STUDY", keys)
            if text_of(found, "StudyInstanceUID")
        ]

    def images(self, study: Study) -> list[Image]:
        """See ``Server``."""
        keys = {"StudyInstanceUID": study.uid, "SeriesInstanceUID": "", "Modality": "", "BodyPartExamined": ""}
        images = []
        for series in self._find("SERIES", keys):
            if text_of(series, "Modality").upper() not in MODALITIES:
                continue
            keys = {"StudyInstanceUID": study.uid, "SeriesInstanceUID": text_of(series, "SeriesInstanceUID")}
            more = {"SOPInstanceUID": "", "SOPClassUID": "", "ViewPosition": "", "PatientOrientation": ""}
            for found in self._find("IMAGE", keys | more):
                found.update({element.tag: element for element in series if element.keyword in ("Modality", "BodyPartExamined")})
                images.append(Image(study.uid, keys["SeriesInstanceUID"], text_of(found, "SOPInstanceUID"), known_refusal(found)))
        return images

    def fetch(self, image: Image) -> bytes:
        """See ``Server``."""
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.StudyInstanceUID, keys.SeriesInstanceUID = "IMAGE", image.study, image.series
        keys.SOPInstanceUID = image.instance
        if self.archive.retrieve == "move":
            return self._move(keys, image)
        self.received = {image.instance: None}
        self._finish(lambda association: association.send_c_get(keys, GET))
        data = self.received.pop(image.instance)
        if data is None:
            raise TransferError("gone")
        return data

    def close(self) -> None:
        """See ``Server``."""
        if self.association is not None and self.association.is_established:
            self.association.release()
        self.association = None

    def _move(self, keys: Dataset, image: Image) -> bytes:
        if self.storage is None:
            raise InputError("C-MOVE needs a port to listen on")
        with self.storage.expect(image.instance) as arrival:
            final, _ = self._finish(lambda association: association.send_c_move(keys, self.archive.calling_aet, MOVE))[-1]
            # An archive may say that it has sent what still waits in its queue.
            unsent = final.get("NumberOfCompletedSuboperations") == 0
            data = arrival(PATIENCE_S if unsent else self.archive.timeout_s)
        if data is None:
            raise TransferError("gone" if unsent else "timeout")
        return data

    def _find(self, level: str, keys: dict[str, str]) -> list[Dataset]:
        identifier = Dataset()
        if not all(value.isascii() for value in keys.values()):
            identifier.SpecificCharacterSet = "ISO_IR 192"
        identifier.QueryRetrieveLevel = level
        for name, value in keys.items():
            setattr(identifier, name, value)
        *pending, _ = self._finish(lambda association: association.send_c_find(identifier, FIND))
        found = [answer for _, answer in pending if answer is not None]
        if len(found) < len(pending):
            # Of pynetdicom, for an identifier that cannot be parsed.
            raise TransferError("protocol")
        return found

    def _finish(self, request: Callable[[Association], Responses]) -> list[tuple[Dataset, Dataset | None]]:
        """All responses to a request: the pending ones, and the final one.

        Raises:
            TransferError: when the final response is not success.
            ServerRefusal: when the archive has not accepted this service.
        """
        responses = []
        try:
            for status, identifier in _sent(self._associate(), request):
                code = status.get("Status")
                if code is None:
                    self._abort()
                    raise TransferError("cut")
                responses.append((status, identifier))
                if code in PENDING:
                    if len(responses) > MOST_ANSWERS:
                        self._abort()
                        raise TransferError("ignored_keys")
                elif code == UNKNOWN_DESTINATION:
                    raise ServerRefusal(NO_DESTINATION)
                elif code != SUCCESS:
                    raise TransferError("busy" if code in BUSY else "refused" if code in NOT_SUPPORTED else "server_error")
        except (TransferError, ServerRefusal, MemoryError):
            raise
        except Exception:
            self._abort()
            raise TransferError("protocol") from None
        return responses

    def _associate(self) -> Association:
        """The association, opened when there is none.

        Raises:
            TransferError: "unreachable" or "busy".
            ServerRefusal: when it is rejected for good.
        """
        if self.association is not None and self.association.is_established:
            return self.association
        archive = self.archive
        host, port = host_and_port("dimse", archive.address)
        entity = AE(archive.calling_aet)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = archive.timeout_s
        roles = [build_role(storage, scp_role=True) for storage in STORAGE] if archive.retrieve == "get" else []
        association = entity.associate(
            host,
            port,
            _contexts(archive.retrieve),
            archive.called_aet,
            ext_neg=[*roles],
            tls_args=None if archive.tls is None else (archive.tls.context(), host),
            evt_handlers=[(evt.EVT_C_STORE, self._store)],
        )
        if association.is_established:
            self.association = association
            return association
        if association.is_rejected:
            _refuse(association, archive)
        raise TransferError("unreachable")

    def _store(self, event: Any) -> int:
        """Keep the bytes of the object that was asked for. Some archives send its whole series, and fail when one is refused."""
        instance = str(event.request.AffectedSOPInstanceUID)
        if instance in self.received:
            self.received[instance] = event.encoded_dataset()
        return SUCCESS

    def _abort(self) -> None:
        if self.association is not None:
            self.association.abort()
        self.association = None


def _sent(association: Association, request: Callable[[Association], Responses]) -> Responses:
    """The responses to a request, which pynetdicom sends when it is called and not when they are read.

    Raises:
        ServerRefusal: when the archive has not accepted this service.
    """
    try:
        return request(association)
    except ValueError:
        # Of pynetdicom, when no presentation context was accepted for the service.
        raise ServerRefusal("the server does not offer this service to this AE title; ask for C-FIND and C-GET, or C-MOVE") from None


def _contexts(retrieve: str) -> list[PresentationContext]:
    services = [build_context(FIND, list(SYNTAXES[:2])), build_context(GET if retrieve == "get" else MOVE, list(SYNTAXES[:2]))]
    stores = [build_context(storage, syntax) for storage in STORAGE for syntax in SYNTAXES] if retrieve == "get" else []
    return [*services, *stores]


def _refuse(association: Association, archive: Dimse) -> None:
    """Say why an association was rejected.

    Raises:
        TransferError: when it may be accepted later.
        ServerRefusal: when it will not.
    """
    answer = association.acceptor.primitive
    if answer is None or answer.result == 2:
        raise TransferError("busy")
    reason = REJECTIONS.get((answer.result_source, answer.diagnostic), "no reason given")
    raise ServerRefusal(
        f"the server refuses the association of {archive.calling_aet} with {archive.called_aet} ({reason}); check both AE titles, "
        "and have ours registered with this computer's address"
    )
