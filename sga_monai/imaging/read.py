"""Read one radiograph from a file of any supported format: decoded correctly, or rejected with a reason code."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from sga_monai.core.errors import ReadError
from sga_monai.imaging.decoded import Decoded, ReadOptions
from sga_monai.imaging.dicom import is_dicom, read_dicom
from sga_monai.imaging.limits import refused_as
from sga_monai.imaging.nifti import is_nifti, read_nifti
from sga_monai.imaging.raster import is_picture, read_picture

MAX_BYTES = 192 * 1024 * 1024
# Beyond this share of equal pixels the window, the VOI LUT or the export went wrong; see docs/data.md.
MOST_EQUAL = 0.95
SAMPLE = 1_000_000
# Values that differ by less are one: a thousandth of a step of 10 bits. The foot of a sigmoid window has values without end.
EQUAL = 2.0**-20
PICTURE = "(PNG, JPEG or NIfTI)"


def read_cxr(
    path: str | Path,
    voi: str = "dicom",
    lateral: bool = False,
    frame: int | None = None,
    orientation: str = "header",
    other_examinations: bool = False,
) -> NDArray[np.float32]:
    """Read one chest radiograph from a DICOM, PNG, JPEG or two-dimensional NIfTI file; its bytes say which.

    Args:
        path: the file.
        voi: see ``ReadOptions``, as for all that follow.
        lateral: accept lateral and oblique views too.
        frame: the frame to take of a DICOM file with several, from 1.
        orientation: "header" or "stored".
        other_examinations: accept what is no chest radiograph by its header.

    Returns:
        float32 in [0, 1], rows x columns, finite, bright is dense. The result does not depend on which optional packages are
        installed. Peak memory is below 500 MB for any bytes.

    Raises:
        ReadError: with a reason code, when the file is not one complete frontal image. The message names no path.
        MemoryError: when memory runs out; that is no fault of the file.
    """
    return decode_cxr(read_bytes(path), voi, lateral, frame, orientation, other_examinations)


def decode_cxr(
    data: bytes,
    voi: str = "dicom",
    lateral: bool = False,
    frame: int | None = None,
    orientation: str = "header",
    other_examinations: bool = False,
) -> NDArray[np.float32]:
    """``read_cxr`` for the bytes of a file."""
    return decode(data, ReadOptions(voi, lateral, frame, orientation, other_examinations)).image


def decode(data: bytes, options: ReadOptions | None = None) -> Decoded:
    """The image of a file, with what its header says and where it is padded; the file is parsed once.

    Args:
        data: the bytes of the file.
        options: default ``ReadOptions()``.

    Raises:
        ReadError: see ``read_cxr``.
    """
    options = options or ReadOptions()
    # Nothing that a file's bytes bring about may end an evaluation.
    with refused_as("unreadable"):
        if is_dicom(data):
            decoded = read_dicom(data, options)
        elif is_picture(data):
            decoded = Decoded(read_picture(data), {"transfer_syntax": PICTURE})
        elif is_nifti(data):
            decoded = Decoded(read_nifti(data, options.lateral), {"transfer_syntax": PICTURE})
        else:
            raise ReadError("unknown_format")
    if decoded.image.ndim != 2 or min(decoded.image.shape) < 2:
        raise ReadError("not_2d")
    _check_content(decoded)
    return replace(decoded, image=np.ascontiguousarray(decoded.image, dtype=np.float32))


def _check_content(decoded: Decoded) -> None:
    image, padding = decoded.image, decoded.padding
    low, high = image.min(), image.max()
    if not np.isfinite([low, high]).all():
        raise ReadError("not_finite")
    if low == high:
        raise ReadError("constant")
    # A grid of at least a million pixels, since counting all of them would take longer than reading them.
    step = max(int((image.size / SAMPLE) ** 0.5), 1)
    sample = image[::step, ::step]
    shown = sample.ravel() if padding is None else sample[~padding[::step, ::step]]
    counts = np.bincount(np.rint(np.clip(shown, 0, 1) / EQUAL).astype(np.intp))
    # A window may leave black and white; a picture of one bit has no more.
    values = 1 if decoded.facts["transfer_syntax"] == PICTURE else 2
    if np.sort(counts[counts > 0])[-values:].sum() > MOST_EQUAL * len(shown):
        raise ReadError("nearly_constant")


def read_bytes(path: str | Path) -> bytes:
    """The whole file; devices, pipes and folders are refused, since reading them may not end.

    Raises:
        ReadError: "missing", "not_a_file", "too_large", or "no_access" where the system will not give it.
    """
    return read_from(path, lambda stream: stream.read(MAX_BYTES))


def read_from(path: str | Path, read: Callable[[BinaryIO], bytes]) -> bytes:
    """What ``read`` takes from an open file; see ``read_bytes`` for what is refused."""
    try:
        # Without O_NONBLOCK the open itself waits for a pipe's writer.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise ReadError("missing") from None
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from None
        raise ReadError("no_access") from None
    except ValueError:
        raise ReadError("unreadable") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ReadError("not_a_file")
        if status.st_size > MAX_BYTES:
            raise ReadError("too_large")
        with open(descriptor, "rb", closefd=False) as stream:
            return read(stream)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from None
        # The system will not give what is there: a share that went away, a worn disk.
        raise ReadError("no_access") from None
    finally:
        os.close(descriptor)


def sha256_of(data: bytes) -> str:
    """SHA-256 as 64 hexadecimal digits, as in the manifest's ``sha256``."""
    return hashlib.sha256(data).hexdigest()
