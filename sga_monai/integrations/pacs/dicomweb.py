"""An archive that speaks DICOMweb: QIDO-RS and WADO-RS (PS3.18). No message of the libraries, which quote addresses, goes on."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import requests
from dicomweb_client.web import DICOMwebClient
from pydicom.dataset import Dataset
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from sga_monai.integrations.pacs.address import Dicomweb
from sga_monai.integrations.pacs.credentials import Tls
from sga_monai.integrations.pacs.query import Wanted
from sga_monai.integrations.pacs.server import MODALITIES, MOST_STUDIES, Image, ServerRefusal, Study, TransferError, known_refusal, text_of

Answer = TypeVar("Answer")
# Any transfer syntax: as it is stored. Without it a server would decode.
ACCEPT = 'multipart/related; type="application/dicom"; transfer-syntax=*'
MOST_SERIES = 1000
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
        self.client = open_client(server, self.session)

    def find(self, wanted: Wanted) -> list[Study]:
        """See ``Server``."""
        keys = {"AccessionNumber": wanted.accession, "PatientID": wanted.patient_id, "StudyDate": wanted.dates}
        filters = {name: value for name, value in keys.items() if value}
        found = ask(lambda: _datasets(self.client.search_for_studies(limit=MOST_STUDIES + 1, search_filters=filters)))
        studies = [Study(*(text_of(one, name) for name in ("StudyInstanceUID", *keys))) for one in found]
        return [study for study in studies if study.uid]

    def images(self, study: Study) -> list[Image]:
        """See ``Server``."""
        found = ask(lambda: _datasets(self.client.search_for_series(study.uid, limit=MOST_SERIES)))
        images = []
        for series in found:
            if text_of(series, "Modality").upper() in MODALITIES:
                name = text_of(series, "SeriesInstanceUID")
                images += [
                    Image(study.uid, name, text_of(one, "SOPInstanceUID"), known_refusal(one)) for one in self._instances(study.uid, name)
                ]
        return images

    def fetch(self, image: Image) -> bytes:
        """See ``Server``."""
        url = f"{self.url}/studies/{image.study}/series/{image.series}/instances/{image.instance}"

        def get() -> bytes:
            response = self.session.get(url, headers={"Accept": ACCEPT}, timeout=self.timeout)
            response.raise_for_status()
            return first_part(response.content, response.headers.get("Content-Type", ""))

        return ask(get)

    def close(self) -> None:
        """See ``Server``."""
        self.session.close()

    def _instances(self, study: str, series: str) -> list[Dataset]:
        """The headers of a series' objects, or, where the server cannot read one of them, their UIDs."""
        try:
            return ask(lambda: _datasets(self.client.retrieve_series_metadata(study, series)))
        except TransferError as error:
            if error.code in ("unreachable", "timeout", "busy"):
                raise
        return ask(lambda: _datasets(self.client.search_for_instances(study, series)))


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
    except TransferError:
        raise
    except Exception:
        # Whatever a parser says of an answer that is none.
        raise TransferError("protocol") from None


def first_part(body: bytes, content_type: str) -> bytes:
    """The one object of a multipart answer (RFC 2046 5.1), or the body itself, which some servers send without parts.

    Raises:
        TransferError: "cut" when the closing boundary is missing, "protocol" when there is none at all.
    """
    if content_type.strip().lower().startswith("application/dicom"):
        return body
    match = re.search(r'boundary=(?:"([^"]+)"|([^\s;]+))', content_type, re.IGNORECASE)
    if match is None:
        raise TransferError("protocol")
    boundary = b"--" + (match[1] or match[2]).encode()
    start = body.find(b"\r\n\r\n", body.find(boundary))
    end = body.rfind(b"\r\n" + boundary)
    if start < 0:
        raise TransferError("protocol")
    if end < start:
        raise TransferError("cut")
    return body[start + 4 : end]


def _of_status(status: int, headers: Mapping[str, str]) -> Exception:
    if status == requests.codes.unauthorized:
        return ServerRefusal("the server does not accept the user, password or token (HTTP 401); correct the credentials")
    code = STATUS.get(status) or ("server_error" if status >= 500 else "refused")
    wait = headers.get("Retry-After", "")
    return TransferError(code, float(wait) if wait.isdecimal() else 0.0)


def _datasets(answer: Any) -> list[Dataset]:
    return [Dataset.from_json(item, lambda *_: None) for item in answer]


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
