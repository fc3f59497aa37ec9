"""Credentials and certificates for a server: from the environment or a file of its owner, never on a command line or in a message."""

from __future__ import annotations

import os
import ssl
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from sga_monai.core.errors import InputError

# Keys of the file; in the environment each is written in capitals behind the prefix, as SGA_PACS_USER.
KEYS = ("user", "password", "token")
PREFIX = "SGA_PACS_"


@dataclass(frozen=True)
class Credentials:
    """How this program names itself to a server; all empty where the server asks for nothing.

    Attributes:
        user: for HTTP Basic authentication.
        password: of the user.
        token: for a bearer token instead of both.

    Raises:
        InputError: when there is half of a pair, or both kinds.
    """

    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        if bool(self.user) != bool(self.password):
            raise InputError("credentials need both user and password, or a token")
        if self.user and self.token:
            raise InputError("credentials have a user and a token; keep one of the two")

    def __bool__(self) -> bool:
        return bool(self.user or self.token)


@dataclass(frozen=True)
class Tls:
    """Certificates of an encrypted connection, in PEM files.

    Attributes:
        ca: of the authority that signed the server's; ``None`` trusts those of the system.
        certificate: of this client, where the server asks for one.
        key: of that certificate; ``None`` when it is in the same file.

    Raises:
        InputError: when a file is missing or no certificate, or the key is encrypted or can be read by others.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def __post_init__(self) -> None:
        for name, path in (("ca", self.ca), ("client_cert", self.certificate), ("client_key", self.key)):
            if path is not None and not path.is_file():
                raise InputError(f"{name}: no such file; give a certificate in PEM")
        if self.key is not None and self.certificate is None:
            raise InputError("client_key needs client_cert, the certificate that it belongs to")
        private = self.key or self.certificate
        if private is not None:
            _refuse_wide(private, "client_key")
        self.context()

    def context(self) -> ssl.SSLContext:
        """The settings of a client that checks the server's certificate and name."""
        try:
            context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key, _no_passphrase)
        except InputError:
            raise
        except (OSError, ValueError):
            raise InputError("ca, client_cert or client_key is no certificate or key in PEM; give the right file") from None
        return context

    def server_context(self) -> ssl.SSLContext:
        """The settings of a server, which C-MOVE sends to, with the same certificate.

        Raises:
            InputError: when there is none.
        """
        if self.certificate is None:
            raise InputError("C-MOVE over TLS needs client_cert and client_key for the port that is listened on")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=None if self.ca is None else str(self.ca))
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(self.certificate, self.key, _no_passphrase)
        return context


def read_credentials(path: Path | None, environment: Mapping[str, str] | None = None) -> Credentials:
    """The credentials of a file, or else of the environment.

    Args:
        path: TOML with ``user`` and ``password``, or ``token``, readable by its owner alone; ``None`` takes ``SGA_PACS_USER``,
            ``SGA_PACS_PASSWORD`` and ``SGA_PACS_TOKEN``.
        environment: default the process's.

    Raises:
        InputError: when the file is missing, can be read by others, or has other keys. Nothing of it is quoted.
    """
    if path is None:
        given = os.environ if environment is None else environment
        return Credentials(**{key: given.get(PREFIX + key.upper(), "") for key in KEYS})
    _refuse_wide(path, "credentials")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        raise InputError('credentials: not TOML; write lines as user = "..." and password = "..."') from None
    if not set(content) <= set(KEYS) or not all(isinstance(value, str) for value in content.values()):
        raise InputError("credentials: the file may hold user, password and token, each a text in quotes")
    return Credentials(**content)


def _no_passphrase() -> str:
    """Called for an encrypted key, for which OpenSSL would otherwise wait at the terminal."""
    raise InputError("client_key is encrypted; write it without its passphrase by openssl pkey, and restrict that file with chmod 600")


def _refuse_wide(path: Path, name: str) -> None:
    """Refuse a secret that others can read."""
    try:
        mode = path.stat().st_mode
    except OSError:
        raise InputError(f"{name}: no such file; check its path") from None
    if os.name == "posix" and mode & 0o077:
        raise InputError(f"{name} can be read by others; restrict it to its owner with chmod 600")
