"""One run at a time in an output folder."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from sga_monai.errors import DISK, DiskError, InputError

logger = logging.getLogger(__name__)
_held: dict[Path, int] = {}


def lock_output_dir(output_dir: str | Path) -> None:
    """Hold ``output_dir`` until this process ends, however it ends.

    The lock is an ``flock`` on a hidden file beside the folder, so the system releases it when its owner dies, and it
    stays where it is when the folder is renamed. Its owner may ask again.

    Raises:
        InputError: when another process holds it.
        DiskError: when the file cannot be made.
    """
    folder = Path(output_dir).resolve()
    if folder in _held:
        return
    path = folder.with_name(f".{folder.name}.lock")
    try:
        import fcntl
    except ImportError:
        logger.warning("this system has no file locks: start one run at a time in output_dir")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
    except OSError as error:
        if error.errno in DISK:
            raise DiskError(path.name, error.errno) from None
        raise
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError("another run is writing this output_dir; wait for it, stop it, or give another folder") from None
    except OSError:
        logger.warning("this file system has no locks: start one run at a time in output_dir")
        with contextlib.suppress(OSError):
            os.close(descriptor)
        return
    _held[folder] = descriptor
