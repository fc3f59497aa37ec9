"""Sending results: an object counts as stored where the server says so, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fixtures.orthanc import radiograph
from fixtures.web import QuietHandler, serving

from sga_monai.integrations.dicom_results.send import Sent, send_files
from sga_monai.integrations.pacs.address import Dicomweb
from sga_monai.integrations.pacs.retry import Retry

UIDS = [f"1.2.826.0.1.3680043.9.7777.3.{number}" for number in (1, 2)]


@dataclass
class Archive:
    """A server on loopback: what it answers to an object, @ in place of its UID, and of which it was asked."""

    body: str = ""
    kind: str = "application/dicom+json"
    asked: list[str] = field(default_factory=list)
    port: int = 0


@pytest.fixture
def archive() -> Iterator[Archive]:
    given = Archive()

    class Handler(QuietHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["Content-Length"]))
            given.asked += [uid for uid in UIDS if uid.encode() in data]
            body = given.body.replace("@", given.asked[-1]).encode()
            self.send_response(200)
            self.send_header("Content-Type", given.kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with serving(Handler) as given.port:
        yield given


def references(sequence: str, uid: str = "@") -> dict[str, object]:
    return {sequence: {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": [uid]}}]}}


STORED, FAILED = "00081199", "00081198"
XML = (
    '<NativeDicomModel><DicomAttribute tag="00081199" vr="SQ" keyword="ReferencedSOPSequence"><Item number="1">'
    '<DicomAttribute tag="00081155" vr="UI" keyword="ReferencedSOPInstanceUID"><Value number="1">@</Value></DicomAttribute>'
    "</Item></DicomAttribute></NativeDicomModel>"
)


@pytest.mark.parametrize(
    ("body", "kind", "stored"),
    [
        (json.dumps(references(STORED)), "application/dicom+json", True),
        (json.dumps(references(STORED)), "application/dicom+json; charset=utf-8", True),
        (XML, "application/dicom+xml", True),
        ("{}", "application/dicom+json", False),
        ("", "", False),
        ("<html>Welcome</html>", "text/html", False),
        (json.dumps(references(STORED, "1.2.3")), "application/dicom+json", False),
        (json.dumps(references(FAILED)), "application/dicom+json", False),
        (json.dumps(references(STORED) | references(FAILED)), "application/dicom+json", False),
        (json.dumps({STORED: {"vr": "LO", "Value": ["@"]}}), "application/dicom+json", False),
        ("[1]", "application/dicom+json", False),
    ],
)
def test_only_what_the_server_names_as_stored_counts(archive, tmp_path: Path, body, kind, stored):
    """PS3.18 10.5.3: ReferencedSOPSequence holds what was stored; a proxy's page or an empty answer confirms nothing."""
    archive.body, archive.kind = body, kind
    for number, name in enumerate(("picture", "report"), 1):
        (tmp_path / f"row_000002_{name}.dcm").write_bytes(radiograph(number))
    (tmp_path / "results.json").write_text(json.dumps({"finished": True, "rows": [2]}))
    server = Dicomweb(f"http://127.0.0.1:{archive.port}/dicom-web", timeout_s=5)
    assert send_files(server, tmp_path, Retry(attempts=1)) == (Sent(2, 0) if stored else Sent(0, 2))
    assert archive.asked == UIDS
