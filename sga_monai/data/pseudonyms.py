"""The key with which a site names its patients in every output, and which never leaves it."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from pathlib import Path

from sga_monai.core.errors import InputError
from sga_monai.data.identity import same_id


def patient_key(patient_id: str, key: bytes) -> str:
    """A patient's name in every output: the first 16 hexadecimal digits of HMAC-SHA256 (RFC 2104) under the site's key.

    A plain hash would not do: all record numbers of a hospital can be tried in minutes.

    Args:
        patient_id: by ``same_id``, so that one patient has one key however the id was typed.
        key: of ``read_site_key``; another key gives another name, so two sites' names cannot be matched.
    """
    return hmac.new(key, same_id(patient_id).encode(), hashlib.sha256).hexdigest()[:16]


def site_key_id(key: bytes) -> str:
    """Eight hexadecimal digits by which two outputs of a site show that patients have the same names in both; they tell no key.

    Args:
        key: of ``read_site_key``.
    """
    return hmac.new(key, b"site key", hashlib.sha256).hexdigest()[:8]


def new_site_key(path: str | Path) -> None:
    """Write a new random key of 256 bits, readable by its owner alone. It stays at the site.

    Raises:
        InputError: when the file exists; patients' names would change.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputError("this site key exists already; another would rename every patient") from None
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(secrets.token_hex(32) + "\n")
    except OSError:
        # Half a key would stand in the way of a whole one.
        Path(path).unlink(missing_ok=True)
        raise


def read_site_key(path: str | Path) -> bytes:
    """The key in a file of ``new_site_key``.

    Raises:
        InputError: when the file is missing, cannot be opened, is no key, or can be read by others.
    """
    try:
        if os.name == "posix" and Path(path).stat().st_mode & 0o077:
            raise InputError("site_key can be read by others; restrict it to its owner with chmod 600")
        key = bytes.fromhex(Path(path).read_text(encoding="ascii").strip())
    except FileNotFoundError:
        raise InputError("site_key: no such file; make one with sga-monai manifest key") from None
    except OSError:
        raise InputError("site_key cannot be opened; give its file, and ask for access where it is not yours") from None
    except UnicodeDecodeError:
        key = b""
    except InputError:
        raise
    except ValueError:
        key = b""
    if len(key) != 32:
        raise InputError("site_key is no key of sga-monai manifest key; give the right file")
    return key
