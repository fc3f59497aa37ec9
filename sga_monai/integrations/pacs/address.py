"""Where an archive is, and how it is spoken to: what a user gives becomes a function that connects."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.integrations.pacs.credentials import Credentials, Tls, read_credentials
from sga_monai.integrations.pacs.server import EXTRA, Server, silenced


@dataclass(frozen=True)
class Dicomweb:
    """An archive with DICOMweb.

    Attributes:
        url: of the service's root, above ``/studies``.
        credentials: of HTTP.
        tls: certificates; ``None`` trusts those of the system.
        plain_http: allow credentials and images to cross a network unencrypted.
        timeout_s: of every answer.

    Raises:
        InputError: when the address is none, holds credentials, or is not encrypted and not of this computer.
    """

    url: str
    credentials: Credentials = field(default_factory=Credentials)
    tls: Tls | None = None
    plain_http: bool = False
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            port_is_one = parts.port is None or parts.port > 0
        except ValueError:
            port_is_one = False
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_one or parts.query or parts.fragment:
            raise InputError("the DICOMweb address must be as https://pacs.example.org/dicom-web")
        if "@" in parts.netloc:
            raise InputError("the DICOMweb address holds a user or a password; put them into the file of --credentials")
        if parts.scheme == "http" and not _is_local(parts.hostname) and not self.plain_http:
            raise InputError("images and credentials would cross the network unencrypted; use https, or allow it with --plain-http")
        check.number("timeout", self.timeout_s, above=0)

    @classmethod
    def of(cls, url: str, credentials: Path | None, tls: Tls | None, plain_http: bool, timeout_s: float = 60.0) -> Dicomweb:
        """With the credentials of a file or of the environment."""
        return cls(url, read_credentials(credentials), tls, plain_http, timeout_s)

    @contextlib.contextmanager
    def connector(self) -> Iterator[Callable[[], Server]]:
        """A function that connects.

        Raises:
            InputError: when the extra is not installed.
        """
        try:
            from sga_monai.integrations.pacs.dicomweb import DicomwebServer
        except ImportError:
            raise InputError(EXTRA) from None
        yield lambda: DicomwebServer(self)


@dataclass(frozen=True)
class Dimse:
    """An archive with DIMSE, and how it knows this program.

    Attributes:
        address: host and port, as ``pacs.example.org:104``.
        called_aet: its AE title.
        calling_aet: ours, which it must know; with "move" also where it sends to.
        retrieve: "get" or "move".
        listen: port, or host and port, to which C-MOVE sends.
        tls: certificates for an encrypted connection; ``None`` is not encrypted.
        timeout_s: of every answer.

    Raises:
        InputError: naming the option that is none.
    """

    address: str
    called_aet: str
    calling_aet: str = "SGA"
    retrieve: str = "get"
    listen: str | None = None
    tls: Tls | None = None
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        check.choice("retrieve", self.retrieve, ("get", "move"))
        check.number("timeout", self.timeout_s, above=0)
        for name, title in (("called_aet", self.called_aet), ("calling_aet", self.calling_aet)):
            check_aet(name, title)
        if not host_and_port("dimse", self.address)[0]:
            raise InputError("dimse must be host and port, as pacs.example.org:104")
        if self.listen is not None:
            host_and_port("listen", self.listen)
        if (self.retrieve == "move") != (self.listen is not None):
            raise InputError("retrieve move needs listen, the port that the archive sends to; retrieve get needs none")

    @contextlib.contextmanager
    def connector(self) -> Iterator[Callable[[], Server]]:
        """A function that connects; with "move" a port is listened on meanwhile.

        Raises:
            InputError: when the extra is not installed, or the port is taken.
        """
        try:
            from sga_monai.integrations.pacs.dimse import DimseServer
            from sga_monai.integrations.pacs.storage import Storage
        except ImportError:
            raise InputError(EXTRA) from None
        if self.listen is None:
            yield lambda: DimseServer(self)
            return
        server_tls = None if self.tls is None else self.tls.server_context()
        with silenced(), Storage(self.calling_aet, host_and_port("listen", self.listen), server_tls) as storage:
            yield lambda: DimseServer(self, storage)


def host_and_port(name: str, text: str) -> tuple[str, int]:
    """Host, which may be empty, and port.

    Raises:
        InputError: naming the option.
    """
    match = re.fullmatch(r"(?:\[?([\w.:-]+?)\]?:)?(\d{1,5})", text)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise InputError(f"{name} must be host and port, as pacs.example.org:104")
    return match[1] or "", int(match[2])


def check_aet(name: str, title: str) -> None:
    r"""Refuse what is no AE title (PS3.5 6.2): 1 to 16 printable ASCII characters without a backslash.

    Raises:
        InputError: naming the option.
    """
    if not 1 <= len(title) <= 16 or title != title.strip() or not title.isascii() or not title.isprintable() or "\\" in title:
        raise InputError(f"{name} must be an AE title: 1 to 16 letters, digits and signs")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
