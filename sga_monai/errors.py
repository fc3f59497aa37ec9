"""Errors with a sentence for the person at the keyboard, and the exit codes that scripts depend on."""

from __future__ import annotations

EXIT_SOME_ROWS_FAILED = 2
EXIT_INPUT_REFUSED = 3
EXIT_NUMERIC = 5

# Every reason for which an image is refused. Texts are fixed: no tag value, path or identifier can get into them.
REASONS = {
    "missing": "the file does not exist; check image and dataset_dir",
    "not_a_file": "not a regular file; give the path of an image file",
    "too_large": "larger than a radiograph can be; export the single image again",
    "unknown_format": "not a DICOM, PNG, JPEG or NIfTI file; check the export",
    "unreadable": "the file is damaged; export it again",
    "dicomdir": "a DICOMDIR, not an image; list the images it refers to",
    "no_pixels": "a DICOM object without an image; remove the row",
    "unknown_syntax": "a transfer syntax that imagecodecs and pydicom cannot decode; export it uncompressed",
    "truncated": "the pixel data are cut short or do not fit the header; export the file again",
    "multi_frame": "several frames; choose one by exporting it alone",
    "lateral": "a lateral view; remove the row, or allow it with lateral",
    "for_processing": "a raw FOR PROCESSING image; export the FOR PRESENTATION one",
    "photometric": "an unknown PhotometricInterpretation; export it as MONOCHROME2",
    "bits": "an unsupported BitsAllocated, BitsStored or HighBit; export it with 8 or 16 bits",
    "rescale": "RescaleSlope, RescaleIntercept or the Modality LUT is invalid; correct the header",
    "voi": "the window or VOI LUT is invalid; correct the header, or read with voi none",
    "not_2d": "not a two-dimensional image; export one plane",
    "not_finite": "the image holds NaN or infinite values; export it again",
    "constant": "every pixel has the same value; export the file again",
}


class InputError(ValueError):
    """Input that is refused: one sentence that says what is wrong where, and the remedy. Shown without a traceback."""

    exit_code = EXIT_INPUT_REFUSED


class NumericError(InputError):
    """A computation that left the finite numbers."""

    exit_code = EXIT_NUMERIC


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
    """The ``InputError`` in a chain of exceptions (MONAI wraps what its components raise), or ``None``."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None
