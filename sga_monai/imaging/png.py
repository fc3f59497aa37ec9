"""The chunks of a PNG file: complete, and without those that do not decide the picture (W3C PNG, third edition)."""

from __future__ import annotations

import bisect
import io
import itertools
import zlib
from dataclasses import dataclass
from typing import Any

from PIL import Image

from sga_monai.core.errors import ReadError
from sga_monai.imaging.geometry import ratio_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# First column, first row, column step and row step of the passes of Adam7 (8.1).
PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
ORIENTATION = 0x0112
PIECE, MOST_INFLATED = 1 << 16, 1 << 20


@dataclass(frozen=True)
class Png:
    """A PNG file.

    Attributes:
        pieces: the file, its critical chunks and its transparency alone: no text, no ICC profile, however large.
        width, height: in pixels.
        depth: bits of a sample.
        color: color type.
        orientation: of its Exif, 1 where it has none.
        aspect: height of a pixel over its width, by pHYs.
    """

    pieces: list[memoryview]
    width: int
    height: int
    depth: int
    color: int
    orientation: int
    aspect: float

    def stream(self) -> io.BufferedReader:
        """The pieces as one file, without a copy of them."""
        return io.BufferedReader(_Joined(self.pieces))


class _Joined(io.RawIOBase):
    """Pieces of memory, one after the other, as a file."""

    def __init__(self, pieces: list[memoryview]) -> None:
        self.pieces = pieces
        self.ends = list(itertools.accumulate(map(len, pieces)))
        self.position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As every file does."""
        bases = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.ends[-1]}
        self.position = max(bases[whence] + offset, 0)
        return self.position

    def readinto(self, buffer: Any) -> int:
        """The rest of the piece at the current position, or what ``buffer`` has room for."""
        number = bisect.bisect_right(self.ends, self.position)
        if number == len(self.pieces):
            return 0
        piece = self.pieces[number]
        found = piece[self.position - (self.ends[number] - len(piece)) :][: len(buffer)]
        buffer[: len(found)] = found
        self.position += len(found)
        return len(found)


def read_png(data: bytes, most_pixels: int) -> Png:
    """The chunks of a file.

    Args:
        data: the bytes of the file.
        most_pixels: the largest picture that is inflated to see whether it is complete.

    Raises:
        ReadError: "truncated", when a chunk is damaged, or the image data hold fewer or more rows than the header says;
            "too_large"; "multi_frame", for an animation, or when another file follows; "aspect".
    """
    view = memoryview(data)
    kept, stream, exif, end = [view[: len(SIGNATURE)]], zlib.decompressobj(), b"", 0
    density = (0, 0)
    position = len(SIGNATURE)
    header: tuple[int, int, int, int, int] | None = None
    inflated = 0
    while not end:
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        content = view[position + 8 : position + 8 + length]
        stop = position + 12 + length
        if stop > len(data) or zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(data[stop - 4 : stop], "big"):
            raise ReadError("truncated")
        if (header is None) != (kind == b"IHDR"):
            raise ReadError("truncated")
        if kind == b"IHDR":
            header = _header(bytes(content))
            if header[0] * header[1] > most_pixels:
                raise ReadError("too_large")
        elif kind == b"IDAT" and header is not None:
            inflated += _inflate(stream, content, _length(*header) + header[0] * 8 + 8 - inflated)
        elif kind == b"acTL" and int.from_bytes(content[:4], "big") != 1:
            raise ReadError("multi_frame")
        elif kind == b"pHYs" and len(content) == 9:
            density = int.from_bytes(content[:4], "big"), int.from_bytes(content[4:8], "big")
        exif = bytes(content) if kind == b"eXIf" else exif
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"):
            kept.append(view[position:stop])
        end = stop if kind == b"IEND" else 0
        position = stop
    if header is None or not stream.eof or not 0 <= inflated - _length(*header) < max(_row(header[0], *header[2:4]), 2):
        raise ReadError("truncated")
    if data.find(SIGNATURE, end) >= 0:
        raise ReadError("multi_frame")
    return Png(kept, *header[:4], orientation_of(exif), 1.0 if density == (0, 0) else ratio_of(*density))


def _header(content: bytes) -> tuple[int, int, int, int, int]:
    """Width, height, depth, color type and interlace method."""
    width, height = int.from_bytes(content[:4], "big"), int.from_bytes(content[4:8], "big")
    if len(content) != 13 or not width or not height or content[8] not in (1, 2, 4, 8, 16) or content[9] not in CHANNELS or content[12] > 1:
        raise ReadError("truncated")
    return width, height, content[8], content[9], content[12]


def _row(width: int, depth: int, color: int) -> int:
    """Bytes of a row with its filter."""
    return 1 + -(-width * depth * CHANNELS[color] // 8)


def _length(width: int, height: int, depth: int, color: int, interlace: int) -> int:
    """Bytes of the inflated image data."""
    if not interlace:
        return height * _row(width, depth, color)
    sizes = ((-(-(width - left) // across), -(-(height - top) // down)) for left, top, across, down in PASSES)
    return sum(rows * _row(columns, depth, color) for columns, rows in sizes if columns > 0 and rows > 0)


def _inflate(stream: zlib._Decompress, content: memoryview, most: int) -> int:
    """The number of bytes in a piece of the image data, which is not kept; no more than ``most`` and one piece."""
    count = 0
    # zlib copies what it has not come to, so it gets little at a time.
    for start in range(0, len(content), PIECE):
        piece: bytes | memoryview = content[start : start + PIECE]
        while piece and not stream.eof:
            count += len(stream.decompress(piece, MOST_INFLATED))
            piece = stream.unconsumed_tail
            if count > most:
                raise ReadError("truncated")
    return count


def orientation_of(exif: bytes) -> int:
    """The orientation in Exif, 1 where it has none."""
    try:
        tags = Image.Exif()
        tags.load(exif)
        return int(tags.get(ORIENTATION, 1))
    except MemoryError:
        raise
    except Exception:
        # Exif that cannot be read says nothing, and decides nothing else.
        return 1
