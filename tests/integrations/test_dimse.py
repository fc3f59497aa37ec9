"""What an archive may answer over DIMSE, from one that answers what it is told to."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pydicom
import pytest
from fixtures.orthanc import free_port, radiograph
from pydicom.dataset import Dataset
from pynetdicom import AE, evt

from sga_monai.cohorts.labels import Label
from sga_monai.integrations.pacs.address import Dimse
from sga_monai.integrations.pacs.dimse import FIND, GET, MOVE, DimseServer
from sga_monai.integrations.pacs.query import Wanted
from sga_monai.integrations.pacs.server import FINAL, MOST_WORKERS, Image, ServerRefusal, Study, TransferError, silenced
from sga_monai.integrations.pacs.storage import STORAGE, Storage

WANTED = Wanted(2, "SECRET-1", "", None, None, Label(1, "", None, ""))
IMAGE = Image("1.2.3", "1.2.3.4", "1.2.826.0.1.3680043.9.7777.3.1")


@dataclass
class Answers:
    """An archive on loopback: the final status of every service, and the answers before it."""

    status: int = 0x0000
    found: list[Dataset] = field(default_factory=list)
    stored: list[bytes] = field(default_factory=list)
    abort: bool = False
    asked: list[Dataset] = field(default_factory=list)
    port: int = 0

    def server(self, **options: Any) -> DimseServer:
        return DimseServer(Dimse(f"127.0.0.1:{self.port}", "ARCHIVE", timeout_s=5, **options))

    def find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        self.asked.append(event.identifier)
        for one in self.found:
            yield 0xFF00, one
        if self.abort:
            event.assoc.abort()
            return
        yield self.status, None

    def get(self, event: Any) -> Iterator[Any]:
        self.asked.append(event.identifier)
        yield len(self.stored)
        for data in self.stored:
            yield 0xFF00, pydicom.dcmread(io.BytesIO(data))
        if self.status:
            yield self.status, None

    def move(self, event: Any) -> Iterator[Any]:
        # PS3.4 C.4.2.3.1: a destination that nobody knows is answered with 0xA801.
        yield None, None


@pytest.fixture
def answers(request: pytest.FixtureRequest) -> Iterator[Answers]:
    """An archive with the services of the parameter, or with all."""
    given = Answers(port=free_port())
    entity = AE("ARCHIVE")
    for service in getattr(request, "param", (FIND, GET, MOVE)):
        entity.add_supported_context(service)
    entity.add_supported_context(pydicom.uid.ComputedRadiographyImageStorage, scu_role=True, scp_role=True)
    handlers = [(evt.EVT_C_FIND, given.find), (evt.EVT_C_GET, given.get), (evt.EVT_C_MOVE, given.move)]
    entity.start_server(("127.0.0.1", given.port), block=False, evt_handlers=handlers)
    yield given
    entity.shutdown()


def dataset(**elements: Any) -> Dataset:
    made = Dataset()
    for name, value in elements.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("status", "code"), [(0xA700, "busy"), (0xA701, "busy"), (0x0122, "refused"), (0xC000, "server_error"), (0xA900, "server_error")]
)
def test_every_status_is_a_code(answers, status, code):
    answers.status = status
    with silenced(), pytest.raises(TransferError) as caught:
        answers.server().find(WANTED)
    assert caught.value.code == code
    assert "SECRET" not in str(caught.value)


def test_the_next_request_opens_a_new_association_after_one_broke(answers):
    answers.abort = True
    server = answers.server()
    with silenced():
        with pytest.raises(TransferError) as caught:
            server.find(WANTED)
        assert caught.value.code in ("cut", "protocol")
        answers.abort = False
        answers.found = [dataset(StudyInstanceUID="1.2", AccessionNumber="SECRET-1", PatientID="P")]
        (study,) = server.find(WANTED)
        server.close()
    assert (study.uid, study.accession) == ("1.2", "SECRET-1")
    assert "SECRET" not in repr(study)


def test_an_archive_that_sends_all_that_it_has_is_stopped(answers, monkeypatch):
    monkeypatch.setattr("sga_monai.integrations.pacs.dimse.MOST_ANSWERS", 20)
    answers.found = [dataset(StudyInstanceUID=f"1.2.{n}") for n in range(60)]
    with silenced(), pytest.raises(TransferError) as caught:
        answers.server().find(WANTED)
    assert caught.value.code == "ignored_keys"


def test_names_in_other_alphabets_are_asked_for(answers):
    wanted = Wanted(2, "", "Jürgen-1", WANTED.first, WANTED.last, WANTED.label)
    with silenced():
        answers.server().find(wanted)
    assert answers.asked[0].PatientID == "Jürgen-1"
    assert answers.asked[0].QueryRetrieveLevel == "STUDY"


def test_other_modalities_are_not_looked_into(answers):
    answers.found = [dataset(SeriesInstanceUID="1.2.9", Modality="CT")]
    with silenced():
        assert answers.server().images(Study("1.2")) == []
    assert [one.QueryRetrieveLevel for one in answers.asked] == ["SERIES"]


def test_an_object_comes_as_it_was_sent_and_nothing_is_gone(answers):
    answers.stored = [radiograph(1)]
    server = answers.server()
    with silenced():
        received = pydicom.dcmread(io.BytesIO(server.fetch(IMAGE)))
        answers.stored = []
        with pytest.raises(TransferError) as caught:
            server.fetch(IMAGE)
        server.close()
    original = pydicom.dcmread(io.BytesIO(radiograph(1)))
    assert received.PixelData == original.PixelData
    assert received.PatientID == original.PatientID
    assert caught.value.code == "gone"


@pytest.mark.parametrize(("numbers", "code"), [((2, 1, 3), ""), ((2, 3), "gone")])
def test_of_a_whole_series_the_one_object_that_was_asked_for_is_kept(answers, numbers, code):
    answers.stored = [radiograph(n) for n in numbers]
    server = answers.server()
    with silenced():
        if code:
            with pytest.raises(TransferError) as caught:
                server.fetch(IMAGE)
            assert caught.value.code == code
        else:
            assert pydicom.dcmread(io.BytesIO(server.fetch(IMAGE))).SOPInstanceUID == IMAGE.instance
        server.close()
    assert not server.received


def told(*responses: tuple[dict[str, int], Dataset | None]) -> SimpleNamespace:
    """An association on which every request is answered so."""
    read = [(dataset(**status), identifier) for status, identifier in responses]
    return SimpleNamespace(is_established=True, send_c_find=lambda *_: iter(read), send_c_move=lambda *_: iter(read))


def test_an_answer_that_cannot_be_read_is_not_passed_over():
    server = DimseServer(Dimse("127.0.0.1:104", "ARCHIVE"))
    # As pynetdicom gives it.
    server.association = told(({"Status": 0xFF00}, dataset(StudyInstanceUID="1.2")), ({"Status": 0xFF00}, None), ({"Status": 0}, None))
    with pytest.raises(TransferError) as caught:
        server.find(WANTED)
    assert caught.value.code == "protocol"


def test_an_object_may_come_after_the_archive_has_said_that_it_was_sent(monkeypatch):
    monkeypatch.setattr("sga_monai.integrations.pacs.dimse.PATIENCE_S", 0.05)
    storage = Storage("SGA", ("127.0.0.1", 0))
    server = DimseServer(Dimse("127.0.0.1:104", "ARCHIVE", retrieve="move", listen="11112"), storage)
    server.association = told(({"Status": 0, "NumberOfCompletedSuboperations": 1}, None))
    sent = SimpleNamespace(request=SimpleNamespace(AffectedSOPInstanceUID=IMAGE.instance), encoded_dataset=lambda: b"late")
    threading.Timer(0.2, storage._store, [sent]).start()
    assert server.fetch(IMAGE) == b"late"


@pytest.mark.parametrize(("counted", "code"), [({"NumberOfCompletedSuboperations": 0}, "gone"), ({}, "timeout")])
def test_an_object_that_does_not_come_is_asked_for_again_unless_the_archive_sent_none(monkeypatch, counted, code):
    monkeypatch.setattr("sga_monai.integrations.pacs.dimse.PATIENCE_S", 0.05)
    archive = Dimse("127.0.0.1:104", "ARCHIVE", retrieve="move", listen="11112", timeout_s=0.05)
    server = DimseServer(archive, Storage("SGA", ("127.0.0.1", 0)))
    server.association = told(({"Status": 0} | counted, None))
    with pytest.raises(TransferError) as caught:
        server.fetch(IMAGE)
    assert caught.value.code == code
    assert (code in FINAL) == bool(counted)


@pytest.mark.parametrize("retrieve", ["get", "move"])
@pytest.mark.parametrize("answers", [(FIND,)], indirect=True, ids=["find"])
def test_an_archive_that_does_not_offer_to_retrieve_is_one_sentence(answers, retrieve):
    listen = f"127.0.0.1:{free_port()}" if retrieve == "move" else None
    with silenced(), Dimse(f"127.0.0.1:{answers.port}", "ARCHIVE", retrieve=retrieve, listen=listen).connector() as connect:
        server = connect()
        assert server.find(WANTED) == []
        with pytest.raises(ServerRefusal, match="does not offer this service to this AE title; ask for C-FIND and C-GET, or C-MOVE"):
            server.fetch(IMAGE)
        server.close()


@pytest.mark.parametrize("answers", [(GET, MOVE)], indirect=True, ids=["retrieve"])
def test_an_archive_that_does_not_offer_to_find_is_one_sentence(answers):
    with silenced(), pytest.raises(ServerRefusal, match="does not offer this service"):
        answers.server().find(WANTED)


def test_every_worker_may_have_associations_open_at_the_port_of_c_move():
    """An archive may open one for each C-MOVE, and the next before it has closed the last."""
    address = "127.0.0.1", free_port()
    with silenced(), Storage("SGA", address):
        archive = AE("ARCHIVE")
        archive.add_requested_context(STORAGE[0])
        opened = [archive.associate(*address, ae_title="SGA") for _ in range(MOST_WORKERS + 1)]
        established = [association.is_established for association in opened]
        for association in opened:
            association.abort()
    assert all(established), f"{sum(established)} of {len(established)}"


def test_a_destination_that_the_archive_does_not_know_is_one_sentence(answers, caplog):
    caplog.set_level(logging.DEBUG)
    with (
        silenced(),
        pytest.raises(ServerRefusal, match="destination of C-MOVE"),
        Dimse(f"127.0.0.1:{answers.port}", "ARCHIVE", retrieve="move", listen=f"127.0.0.1:{free_port()}").connector() as connect,
    ):
        connect().fetch(IMAGE)
    assert caplog.text == ""
