"""An archive that speaks DICOMweb: QIDO-RS and WADO-RS (PS3.18). No message of the libraries, which quote addresses, goes on."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from sga_monai.imaging.read import MAX_BYTES
from sga_monai.integrations.pacs.address import Dicomweb
from sga_monai.integrations.pacs.credentials import Tls
from sga_monai.integrations.pacs.query import Wanted
from sga_monai.integrations.pacs.server import (
    MODALITIES,
    MOST_ANSWERS,
    MOST_STUDIES,
    Image,
    ServerRefusal,
    Study,
    TransferError,
    known_refusal,
    text_of,
)

Answer = TypeVar("Answer")
# Any transfer syntax: as it is stored. Without it a server would decode.
ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
ACCEPT_JSON = "application/dicom+json, application/json"
# Results of a search asked for at once: some servers refuse a larger number.
PAGE = 200
BLOCK = 1 << 20
STATUS = {404: "gone", 410: "gone", 408: "timeout", 429: "busy", 502: "busy", 503: "busy", 504: "busy"}
CONNECT_S = 10.0


def open_session(server: Dicomweb) -> requests.Session:
    """A session with the server's credentials and certificates, and with nothing of the environment: no proxy, no .netrc."""
    session = requests.Session()
    session.trust_env = False
    # Nothing is sent to another address than the one that was given.
    session.max_redirects = 0
    if server.credentials.token:
        session.headers["Authorization"] = f"Bearer {server.credentials.token}"
    elif server.credentials:
        # As bytes, since requests would encode them in Latin-1.
        session.auth = HTTPBasicAuth(server.credentials.user.encode(), server.credentials.password.encode())
    session.mount("https://", _Adapter((server.tls or Tls()).context()))
    return session


def open_client(server: Dicomweb, session: requests.Session) -> DICOMwebClient:
    """A client that asks once; whoever calls it asks again."""
    client = DICOMwebClient(server.url.rstrip("/"), session, timeout=(CONNECT_S, server.timeout_s), permissive_uid=True)
    client.set_http_retry_params(retry=False)
    return client


class DicomwebServer:
    """A ``Server`` over HTTP.

    Args:
        server: its address, credentials and certificates.
    """

    def __init__(self, server: Dicomweb) -> None:
        self.url = server.url.rstrip("/")
        self.timeout = (CONNECT_S, server.timeout_s)
        self.session = open_session(server)

    def find(self, wanted: Wanted) -> list[Study]:
        """See ``Server``."""
        keys = {"AccessionNumber": wanted.accession, "PatientID": wanted.patient_id, "StudyDate": wanted.dates}
        filters = {name: value for name, value in keys.items() if value}
        found = self._search("studies", "StudyInstanceUID", MOST_STUDIES, filters)
        studies = [Study(*(text_of(one, name) for name in ("StudyInstanceUID", *keys))) for one in found]
        return [study for study in studies if study.uid]

    def images(self, study: Study) -> list[Image]:
        """See ``Server``."""
        images = []
        for series in self._search(f"{_path(study.uid)}/series", "SeriesInstanceUID", MOST_ANSWERS):
            if text_of(series, "Modality").upper() in MODALITIES:
                name = text_of(series, "SeriesInstanceUID")
                images += [
                    Image(study.uid, name, text_of(one, "SOPInstanceUID"), known_refusal(one)) for one in self._instances(study.uid, name)
                ]
        return images

    def fetch(self, image: Image) -> bytes:
        """See ``Server``."""
        body, headers = ask(lambda: self._get(_path(image.study, image.series, image.instance), ACCEPT))
        return first_part(body, headers.get("Content-Type", ""))

    def close(self) -> None:
        """See ``Server``."""
        self.session.close()

    def _instances(self, study: str, series: str) -> list[Dataset]:
        """The headers of a series' objects, or, where the server cannot read one of them, their UIDs."""
        try:
            return ask(lambda: _datasets(self._get(f"{_path(study, series)}/metadata", ACCEPT_JSON)[0]))
        except TransferError as error:
            if error.code in ("unreachable", "timeout", "busy"):
                raise
        return self._search(f"{_path(study, series)}/instances", "SOPInstanceUID", MOST_ANSWERS)

    def _search(self, path: str, uid: str, most: int, filters: Mapping[str, str] | None = None) -> list[Dataset]:
        """All results of a search, of which a server gives as many at once as it likes (PS3.18 8.3.4.4).

        Raises:
            TransferError: "ignored_keys" for more than ``most``.
        """
        found: list[Dataset] = []
        known: set[str] = set()
        more = True
        while True:
            try:
                page, more = self._page(path, {**(filters or {}), "limit": PAGE, "offset": len(found) or None})
            except TransferError as error:
                if more or error.code not in ("gone", "refused"):
                    raise
                # Some servers know no offset, or nothing behind their last result, and have not said that there is more.
                return found
            new = {text_of(one, uid) for one in page} - known
            if not new:
                # Others give the first page again.
                return found
            known |= new
            found += page
            if len(found) > most:
                raise TransferError("ignored_keys")

    def _page(self, path: str, parameters: Mapping[str, Any]) -> tuple[list[Dataset], bool]:
        """Some results, and whether the server may have said that there are more."""
        body, headers = ask(lambda: self._get(path, ACCEPT_JSON, parameters))
        return ask(lambda: _datasets(body)), "Warning" in headers

    def _get(self, path: str, accept: str, parameters: Mapping[str, Any] | None = None) -> tuple[bytes, Mapping[str, str]]:
        """The body and the headers of an answer; to be called by ``ask``.

        Raises:
            TransferError: "too_large" for more than is read of any file, also of what is compressed.
        """
        options: Any = {"params": parameters, "headers": {"Accept": accept}, "timeout": self.timeout}
        body = bytearray()
        with self.session.get(f"{self.url}/{path}", stream=True, **options) as response:
            response.raise_for_status()
            for block in response.iter_content(BLOCK):
                body += block
                if len(body) > MAX_BYTES:
                    raise TransferError("too_large")
            return bytes(body), response.headers


def ask(request: Callable[[], Answer]) -> Answer:
    """The answer to a request.

    Raises:
        TransferError: with the code of what went wrong; where it came from is cut off, since it quotes the address.
        ServerRefusal: when the server does not know the user, or its certificate is not trusted.
    """
    try:
        return request()
    except requests.exceptions.HTTPError as error:
        status, headers = (0, {}) if error.response is None else (error.response.status_code, error.response.headers)
        raise _of_status(status, headers) from None
    except requests.exceptions.SSLError:
        raise ServerRefusal("the server's certificate is not trusted, or ours is refused; give the right --ca and --client-cert") from None
    except requests.exceptions.ConnectTimeout:
        raise TransferError("unreachable") from None
    except requests.exceptions.Timeout:
        raise TransferError("timeout") from None
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
        raise TransferError("cut") from None
    except requests.exceptions.ConnectionError:
        raise TransferError("unreachable") from None
    except (TransferError, MemoryError):
        raise
    except Exception:
        # Whatever a parser says of an answer that is none.
        raise TransferError("protocol") from None


def first_part(body: bytes, content_type: str) -> bytes:
    """The one object of a multipart answer (RFC 2046 5.1), or the body itself, which some servers send without parts.

    Raises:
        TransferError: "cut" when the closing boundary is missing, "protocol" when there is none at all, or another part.
    """
    if content_type.strip().lower().startswith("application/dicom"):
        return body
    match = re.search(r'boundary=(?:"([^"]+)"|([^\s;]+))', content_type, re.IGNORECASE)
    if match is None:
        raise TransferError("protocol")
    boundary = b"--" + (match[1] or match[2]).encode()
    start = body.find(b"\r\n\r\n", body.find(boundary)) + 4
    if start < 4:
        raise TransferError("protocol")
    end = body.find(b"\r\n" + boundary, start)
    after = end + 2 + len(boundary)
    if end < 0 or len(body) < after + 2:
        raise TransferError("cut")
    if body[after : after + 2] != b"--":
        # Two objects are no answer to a request for one.
        raise TransferError("protocol")
    return body[start:end]


def _of_status(status: int, headers: Mapping[str, str]) -> Exception:
    if status == requests.codes.unauthorized:
        return ServerRefusal("the server does not accept the user, password or token (HTTP 401); correct the credentials")
    code = STATUS.get(status) or ("server_error" if status >= 500 else "refused")
    wait = headers.get("Retry-After", "")
    return TransferError(code, float(wait) if wait.isdecimal() else 0.0)


def _path(*uids: str) -> str:
    """The path of a study, of a series in it, or of an object in that (PS3.18 10.4.1)."""
    levels = ("studies", "series", "instances")
    return "/".join(part for level, uid in zip(levels, uids, strict=False) for part in (level, quote(uid, safe="")))


def _datasets(body: bytes) -> list[Dataset]:
    """The datasets of a JSON answer (PS3.18 F); an empty one (HTTP 204) has none, and some servers leave the list out around one."""
    answer = json.loads(body) if body else []
    return [Dataset.from_json(item, lambda *_: None) for item in (answer if isinstance(answer, list) else [answer])]


class _Adapter(HTTPAdapter):
    """Connections with the certificates of an archive."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """As in ``HTTPAdapter``, with our settings of TLS."""
        super().init_poolmanager(*arguments, ssl_context=self.context, **options)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Leave the context as it is: it verifies already, and requests would add its own list of authorities."""
