"""Errors with a sentence for the person at the keyboard, and the exit codes that scripts depend on."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

EXIT_SOME_ROWS_FAILED = 2
EXIT_ALARM = 2
EXIT_INPUT_REFUSED = 3
EXIT_DISK = 4
EXIT_NUMERIC = 5
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

# What a disk or a file system says when it will not take or give a file.
DISK = {
    errno.ENOSPC: "no space is left on the disk; free some",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "the file would be larger than allowed; raise the limit",
    errno.EROFS: "the file system is read-only; give another output_dir",
    errno.EACCES: "permission is denied; give another folder, or ask for access",
    errno.EPERM: "permission is denied; give another folder, or ask for access",
    errno.ENOENT: "a file or folder is missing; check the paths",
    errno.ENOTDIR: "a part of the path is a file; check the paths",
    errno.EISDIR: "the path is a folder; give the path of a file",
    errno.EEXIST: "the path is taken by a file; give another",
    errno.EIO: "the disk reports an error; check it",
    errno.EBUSY: "the path is in use, or a mount point, which cannot be moved aside; give a folder inside it",
}
NO_MEMORY = "memory ran out; free some, or use fewer num_workers"

# Every reason for which an image is refused. Texts are fixed: no tag value, path or identifier can get into them.
REASONS = {
    "missing": "the file does not exist; check image and dataset_dir",
    "not_a_file": "not a regular file; give the path of an image file",
    "no_access": "the system does not give the file: no permission, or its disk or share does not answer; ask for access, or try again",
    "too_large": "larger than a radiograph can be; export the single image again",
    "unknown_format": "not a DICOM, PNG, JPEG or NIfTI-1 file; check the export",
    "unreadable": "the file is damaged; export it again",
    "dicomdir": "a DICOMDIR, not an image; list the images it refers to",
    "no_pixels": "a DICOM object without an image; remove the row",
    "unknown_syntax": "a transfer syntax that imagecodecs and pydicom cannot decode; export it uncompressed",
    "truncated": "the pixel data are cut short or do not fit the header; export the file again",
    "multi_frame": "several frames or images in one file; choose one by exporting it alone",
    "examination": "another modality or body part than a chest radiograph; remove the row, or correct the header where it is wrong",
    "lateral": "a lateral or oblique view; remove the row, or correct the header where it is wrong",
    "for_processing": "a raw FOR PROCESSING image; export the FOR PRESENTATION one",
    "photometric": "PhotometricInterpretation is unknown or does not fit SamplesPerPixel; export it as MONOCHROME2",
    "bits": "BitsAllocated, BitsStored or HighBit is unsupported or too small for the values; export it with 8 or 16 bits",
    "rescale": "RescaleSlope, RescaleIntercept or the Modality LUT is invalid; correct the header",
    "voi": "the window or VOI LUT is invalid; correct the header, or read with voi none",
    "padding": "PixelPaddingValue and PixelPaddingRangeLimit cover the anatomy; correct the header",
    "aspect": "PixelSpacing or PixelAspectRatio is invalid or contradictory; correct the header",
    "not_2d": "not a two-dimensional image; export one plane",
    "not_finite": "the image holds NaN or infinite values; export it again",
    "hash": "not the file whose sha256 the manifest gives; restore it, or correct the manifest",
    "constant": "every pixel has the same value; export the file again",
    "nearly_constant": "almost every pixel has the same value, or one of two; correct the window or VOI LUT, or read with voi none",
}


class InputError(ValueError):
    """Input that is refused: one sentence that says what is wrong where, and the remedy. Shown without a traceback."""

    exit_code = EXIT_INPUT_REFUSED


class NumericError(InputError):
    """A computation that left the finite numbers."""

    exit_code = EXIT_NUMERIC


class DiskError(InputError):
    """A file that could not be written or read because of the disk or its permissions; what was there before is intact.

    Args:
        name: the name of the file, without its folder.
        number: an ``errno``.
        size: bytes that were to be written, where known.
        action: what failed: "write", "read", or "read or write" where it is not known.
    """

    exit_code = EXIT_DISK

    def __init__(self, name: str, number: int, size: int | None = None, action: str = "write") -> None:
        self.arguments = (name, number, size, action)
        about = f"{name} ({size / 1e6:.1f} MB)" if size is not None else name
        super().__init__(f"cannot {action} {about}: {DISK.get(number) or _of_the_system(number)}")

    def __reduce__(self) -> tuple[type[DiskError], tuple[str, int, int | None, str]]:
        """Pickle by its arguments."""
        return DiskError, self.arguments


def _of_the_system(number: int) -> str:
    """The system's own words for an ``errno``, which quote no path."""
    return f"the system says: {os.strerror(number)}" if number else "the system refuses it; check the path"


class WorkerError(InputError):
    """A process that reads images died or hung, or memory ran out: an error of the machine, not of the input."""

    exit_code = 1


class ReadError(InputError):
    """An image that is refused.

    Args:
        code: a key of ``REASONS``; the message is the sentence there.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(REASONS[code])

    def __reduce__(self) -> tuple[type[ReadError], tuple[str]]:
        """Pickle by code, so that the error survives the way back from a worker process."""
        return ReadError, (self.code,)


def input_error(error: BaseException | None) -> InputError | None:
    """The ``InputError`` in a chain of exceptions (MONAI wraps what its components raise), or ``None``.

    An ``OSError`` counts as a ``DiskError``, a shortage of memory as a ``WorkerError``.
    """
    while error is not None:
        if isinstance(error, InputError):
            return error
        if _is_shortage(error):
            return WorkerError(NO_MEMORY)
        # The name in an OSError may be that of a patient's file, so it goes no further.
        if isinstance(error, OSError) and error.errno is not None:
            return DiskError("a file", error.errno, action="read or write")
        error = error.__cause__ or error.__context__
    return None


def _is_shortage(error: BaseException) -> bool:
    """Whether memory ran out; torch has no class of its own for it on a CPU."""
    if isinstance(error, RuntimeError):
        return "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def first_of(rows: Sequence[object], most: int = 5) -> str:
    """The rows that a sentence names: the first ``most`` of them, and dots where there are more.

    Example:
        >>> first_of([2, 5, 9], 2)
        '2, 5, ...'
    """
    return ", ".join(map(str, rows[:most])) + (", ..." if len(rows) > most else "")
