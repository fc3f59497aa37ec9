"""What a DICOMweb server may answer, from a server that answers what it is told to."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from fixtures.orthanc import radiograph
from fixtures.web import QuietHandler, serving

from sga_monai.cohorts.labels import Label
from sga_monai.integrations.pacs.address import Dicomweb
from sga_monai.integrations.pacs.credentials import Credentials
from sga_monai.integrations.pacs.dicomweb import DicomwebServer
from sga_monai.integrations.pacs.query import Wanted, read_query
from sga_monai.integrations.pacs.server import Image, ServerRefusal, Study, TransferError, silenced

WANTED = Wanted(2, "SECRET-1", "", None, None, Label(1, "", None, ""))
IMAGE = Image("1.2.3", "1.2.3.4", "1.2.3.4.5")


@dataclass
class Answers:
    """A server on loopback: status, headers and body of every answer, and what it was asked.

    With ``page`` it gives so many results of the body at once, and ``behind`` them, where there are no more, this status.
    """

    status: int = 200
    page: int = 0
    behind: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"[]"
    length: int | None = None
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    port: int = 0

    def server(self, **credentials: str) -> DicomwebServer:
        return DicomwebServer(Dicomweb(f"http://127.0.0.1:{self.port}/dicom-web/", Credentials(**credentials), timeout_s=20))


@pytest.fixture
def answers() -> Iterator[Answers]:
    given = Answers()

    class Handler(QuietHandler):
        def do_GET(self) -> None:
            given.asked.append((self.path, dict(self.headers)))
            status, body, start = given.status, given.body, int(parse_qs(urlsplit(self.path).query).get("offset", ["0"])[0])
            if given.page and "metadata" not in self.path:
                results = json.loads(body)
                body = json.dumps(results[start : start + given.page]).encode()
                status = given.behind if start >= len(results) else status
            self.send_response(status)
            for name, value in given.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body) if given.length is None else given.length))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as given.port:
        yield given


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "refused"),
        (403, "refused"),
        (404, "gone"),
        (406, "refused"),
        (429, "busy"),
        (500, "server_error"),
        (503, "busy"),
        (302, "protocol"),
    ],
)
def test_every_status_is_a_code_and_asked_once(answers, status, code):
    answers.status = status
    answers.headers = {"Retry-After": "7", "Location": f"http://127.0.0.1:{answers.port}/elsewhere"}
    for request in (lambda server: server.find(WANTED), lambda server: server.fetch(IMAGE)):
        answers.asked.clear()
        with silenced(), pytest.raises(TransferError) as caught:
            request(answers.server(user="u", password="SECRET-2"))
        assert (caught.value.code, caught.value.wait_s) == (code, 0.0 if code == "protocol" else 7.0)
        assert len(answers.asked) == 1
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
        assert "SECRET" not in str(caught.value)


def test_who_is_not_known_is_refused(answers):
    answers.status = 401
    with silenced(), pytest.raises(ServerRefusal, match="HTTP 401") as caught:
        answers.server(user="SECRET-1", password="SECRET-2").find(WANTED)
    assert "SECRET" not in str(caught.value)


def test_credentials_are_sent_as_they_are_and_nothing_of_the_environment_is(answers, monkeypatch, tmp_path: Path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    sent = []
    for credentials in ({"user": "jürgen", "password": "ß"}, {"token": "abc"}, {}):
        answers.server(**credentials).find(WANTED)
        sent.append(answers.asked[-1][1].get("Authorization"))
    assert base64.b64decode(sent[0].removeprefix("Basic ")).decode() == "jürgen:ß"
    assert sent[1:] == ["Bearer abc", None]
    assert "AccessionNumber=SECRET-1" in answers.asked[0][0]


@pytest.mark.parametrize(
    ("body", "length", "code"),
    [(b"<html>SECRET</html>", None, "protocol"), (b'[{"00080050": SECRET', None, "protocol"), (b"[]", 999, "unreachable cut timeout")],
)
def test_answers_that_are_none(answers, body, length, code):
    answers.body, answers.length = body, length
    with silenced(), pytest.raises(TransferError) as caught:
        answers.server().find(WANTED)
    assert caught.value.code in code.split()
    assert "SECRET" not in str(caught.value)


def test_a_server_that_says_nothing_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as silent, silenced(), pytest.raises(TransferError) as caught:
        DicomwebServer(Dicomweb(f"http://127.0.0.1:{silent.getsockname()[1]}/", Credentials(), timeout_s=0.2)).find(WANTED)
    assert caught.value.code == "timeout"


def test_an_object_is_taken_as_it_is_stored(answers):
    data = radiograph(1)
    answers.body = b"--b\r\nContent-Type: application/dicom\r\n\r\n" + data + b"\r\n--b--\r\n"
    answers.headers = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b'}
    assert answers.server().fetch(IMAGE) == data
    path, headers = answers.asked[-1]
    assert path == "/dicom-web/studies/1.2.3/series/1.2.3.4/instances/1.2.3.4.5"
    assert "transfer-syntax=*" in headers["Accept"]


def test_studies_are_found_by_all_keys_of_a_row(answers, tmp_path):
    (tmp_path / "q.csv").write_text("accession,patient_id,date_from,date_to,label\nA1,P1,2021-01-01,2021-01-31,1\n")
    (row,) = read_query(tmp_path / "q.csv").rows
    answers.body = json.dumps([{"0020000D": {"vr": "UI", "Value": ["1.2"]}, "00080050": {"vr": "SH", "Value": ["A1"]}}, {}]).encode()
    answers.headers = {"Content-Type": "application/dicom+json"}
    (study,) = answers.server().find(row)
    assert (study.uid, study.accession, study.patient_id) == ("1.2", "A1", "")
    assert "A1" not in repr(study)
    # Some servers refuse a higher limit.
    for part in ("AccessionNumber=A1", "PatientID=P1", "StudyDate=20210101-20210131", "limit=200"):
        assert part in answers.asked[0][0]


def series(number: int) -> dict[str, dict[str, object]]:
    return {tag: {"vr": vr, "Value": [text]} for tag, vr, text in (("0020000E", "UI", f"1.2.8.{number}"), ("00080060", "CS", "CR"))}


@pytest.mark.parametrize(("page", "behind"), [(2, 200), (2, 404), (5, 400), (0, 200)], ids=["empty", "gone", "refused", "no paging"])
def test_a_server_that_answers_in_pages_hides_nothing(answers, page, behind):
    """The first page again, an empty one or none at all is the end of a list."""
    answers.body = json.dumps([series(n) for n in range(5)]).encode()
    answers.page, answers.behind = page, behind
    found = answers.server()._search("studies/1.2.3/series", "SeriesInstanceUID", 10)
    assert [one.SeriesInstanceUID for one in found] == [f"1.2.8.{n}" for n in range(5)]
    assert "offset" not in answers.asked[0][0]


@pytest.mark.parametrize(("status", "code"), [(400, "refused"), (503, "busy")])
def test_a_page_that_is_said_to_be_there_and_not_given_is_missed(answers, status, code):
    answers.body = json.dumps([series(1)]).encode()
    answers.page, answers.behind = 1, status
    answers.headers = {"Warning": '299 PACS: "There are additional results that can be requested"'}
    with silenced(), pytest.raises(TransferError) as caught:
        answers.server().images(Study("1.2.3"))
    assert caught.value.code == code


def test_a_server_that_ignores_what_it_is_asked_for_is_not_read_to_its_end(answers):
    answers.body = json.dumps([{"0020000D": {"vr": "UI", "Value": [f"1.2.{n}"]}} for n in range(500)]).encode()
    answers.page = 100
    with silenced(), pytest.raises(TransferError) as caught:
        answers.server().find(WANTED)
    assert caught.value.code == "ignored_keys"
    assert len(answers.asked) == 3


@pytest.mark.parametrize("compressed", [False, True])
def test_an_answer_without_an_end_is_not_taken_into_memory(answers, monkeypatch, compressed):
    monkeypatch.setattr("sga_monai.integrations.pacs.dicomweb.MAX_BYTES", 10_000)
    answers.body = gzip.compress(b" " * 20_000) if compressed else b" " * 20_000
    answers.headers = {"Content-Type": "application/dicom"} | ({"Content-Encoding": "gzip"} if compressed else {})
    for request in (lambda server: server.fetch(IMAGE), lambda server: server.find(WANTED)):
        with silenced(), pytest.raises(TransferError) as caught:
            request(answers.server())
        assert caught.value.code == "too_large"


def test_what_is_asked_and_answered_is_logged_nowhere(answers, caplog):
    caplog.set_level(logging.DEBUG)
    answers.body = json.dumps(
        [{"0020000D": {"vr": "UI", "Value": ["1.2"]}, "00100010": {"vr": "PN", "Value": [{"Alphabetic": "SECRET"}]}}]
    ).encode()
    with silenced():
        answers.server().find(WANTED)
    assert caplog.text == ""
    # Without it the libraries would log the address, which holds the accession number.
    answers.server().find(WANTED)
    assert "SECRET-1" in caplog.text
