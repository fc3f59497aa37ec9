"""The part of a file in front of its pixels: read for its header alone, without the megabytes behind it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import pydicom
from pydicom import uid

from sga_monai.core.errors import ReadError
from sga_monai.imaging.dicom import is_dicom
from sga_monai.imaging.header import ITEM, MAX_HEADER, MOST_ITEMS, quiet
from sga_monai.imaging.limits import refused_as
from sga_monai.imaging.read import read_from

# Most headers are shorter; a NIfTI file is known by its byte 344, and a transfer syntax stands in the file meta.
START = 16 * 1024


def read_head(path: str | Path) -> bytes:
    """The first bytes of a file: of DICOM all in front of the pixel data, of other files enough to tell what they are.

    ``read_header`` and ``read_facts`` make of them what they make of the whole file. At most 16 MiB are read.

    Raises:
        ReadError: see ``read_bytes``; "too_large" when the header is longer than any radiograph's.
    """

    def read(stream: BinaryIO) -> bytes:
        start = stream.read(START)
        if not is_dicom(start) or len(start) < START:
            return start
        # What is compressed as a whole has no header of its own.
        deflated = uid.DeflatedExplicitVRLittleEndian.encode() in start
        length = MAX_HEADER if deflated else _header_length(stream)
        stream.seek(0)
        return stream.read(length)

    return read_from(path, read)


def _header_length(stream: BinaryIO) -> int:
    """Where the pixel data begin, or the end of a file that has none. Elements in front of it are passed over."""
    stream.seek(0)
    bounded = _Bounded(stream)
    with quiet(), refused_as("unreadable"):
        pydicom.dcmread(bounded, force=True, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        length = bounded.tell()
    if length > MAX_HEADER:
        raise ReadError("too_large")
    return length


class _Bounded(io.RawIOBase):
    """A stream that gives no more bytes and sequence items than a header has."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self.stream, self.given, self.items = stream, 0, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of any file."""
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        """As of any file."""
        return self.stream.tell()

    def read(self, size: int = -1) -> bytes:
        """At most 16 MiB in all.

        Raises:
            ReadError: "too_large" when more is asked for.
        """
        data = self.stream.read(MAX_HEADER + 1 if size < 0 else min(size, MAX_HEADER + 1))
        self.given += len(data)
        self.items += data.startswith(ITEM)
        if self.given > MAX_HEADER or self.items > MOST_ITEMS:
            raise ReadError("too_large")
        return data
