"""What the markers of a JPEG or JPEG-LS stream say: frame, scans, Huffman tables, restart intervals (ITU-T T.81 annex B)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from sga_monai.core.errors import ReadError
from sga_monai.imaging.limits import MOST_SCANS

START, END = b"\xff\xd8", b"\xff\xd9"
# Second bytes of start-of-frame markers (T.81 table B.1), and that of JPEG-LS.
LOSSLESS, PROGRESSIVE, LS = (0xC3,), (0xC2, 0xCA), 0xF7
HUFFMAN_SEQUENTIAL = (0xC0, 0xC1)
# In entropy-coded data FF is followed by 00, a restart marker or a fill byte; in JPEG-LS by a byte below 80.
MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
LS_MARKER = re.compile(rb"\xff+[\x80-\xcf\xd8-\xfe]")


@dataclass
class Scan:
    """One scan.

    Attributes:
        components: index of the component, DC (or lossless) table and AC table, of each component in it.
        first, last, low: Ss, Se and Al; for a lossless scan the predictor, 0 and the point transform.
        interval: MCUs between restart markers, 0 for none.
        tables: Huffman code as (length, bits) by symbol, by class and destination.
        start, stop: where its entropy-coded data lie.
    """

    components: list[tuple[int, int, int]]
    first: int
    last: int
    low: int
    interval: int
    tables: dict[int, dict[int, tuple[int, int]]]
    start: int
    stop: int


@dataclass
class Structure:
    """What the markers of a stream say.

    Attributes:
        process: second byte of its start-of-frame marker.
        precision: bits of a sample.
        shape: rows, columns and components.
        sampling: horizontal and vertical factor of each component.
        scans: in their order.
        states_color: whether a JFIF or a complete Adobe segment tells libjpeg what the three components are.
        density: unit (0 for none), pixels a unit across and down, by JFIF.
        exif: content of its Exif segment.
    """

    process: int = 0
    precision: int = 0
    shape: tuple[int, int, int] = (0, 0, 0)
    sampling: list[tuple[int, int]] = field(default_factory=list)
    scans: list[Scan] = field(default_factory=list)
    states_color: bool = False
    density: tuple[int, int, int] = (0, 1, 1)
    exif: bytes = b""


def parse(stream: bytes) -> Structure:
    """The structure of a JPEG or JPEG-LS stream.

    Raises:
        ReadError: "truncated", when it does not run from its start to its end marker; "multi_frame", when another stream
            follows.
    """
    structure, ids, interval, position = Structure(), b"", 0, 2
    tables: dict[int, dict[int, tuple[int, int]]] = {}
    if not stream.startswith(START):
        raise ReadError("truncated")
    while True:
        position, marker, content = _segment(stream, position)
        if marker == 0xD9:
            break
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == LS:
            count = content[5]
            structure.process, structure.precision = marker, content[0]
            structure.shape = int.from_bytes(content[1:3], "big"), int.from_bytes(content[3:5], "big"), count
            ids = content[6 : 6 + 3 * count : 3]
            structure.sampling = [(byte >> 4, byte & 15) for byte in content[7 : 7 + 3 * count : 3]]
        elif marker == 0xC4:
            tables = tables | _huffman(content)
        elif marker == 0xDD:
            interval = int.from_bytes(content, "big")
        elif (marker == 0xE0 and content.startswith(b"JFIF\0")) or (marker == 0xEE and content.startswith(b"Adobe") and len(content) >= 12):
            structure.states_color = True
            if marker == 0xE0 and len(content) >= 12:
                structure.density = content[7], int.from_bytes(content[8:10], "big"), int.from_bytes(content[10:12], "big")
        elif marker == 0xE1 and content.startswith(b"Exif\0\0") and not structure.exif:
            structure.exif = content
        elif marker == 0xDA:
            found = (LS_MARKER if structure.process == LS else MARKER).search(stream, position)
            if found is None or not ids or len(structure.scans) >= MOST_SCANS:
                raise ReadError("truncated")
            structure.scans.append(_scan(content, ids, interval, tables, position, found.start()))
            position = found.start()
    if not structure.scans:
        raise ReadError("truncated")
    if START + b"\xff" in stream[position:]:
        raise ReadError("multi_frame")
    return structure


def _segment(stream: bytes, position: int) -> tuple[int, int, bytes]:
    """The position after the segment that begins at or, behind fill bytes, after ``position``; its marker; its content."""
    while stream[position : position + 2] == b"\xff\xff":
        position += 1
    head = stream[position : position + 4]
    if head[:2] == END:
        return position + 2, 0xD9, b""
    length = int.from_bytes(head[2:], "big")
    if len(head) < 4 or head[0] != 0xFF or length < 2 or position + 2 + length > len(stream):
        raise ReadError("truncated")
    return position + 2 + length, head[1], stream[position + 4 : position + 2 + length]


def _huffman(content: bytes) -> dict[int, dict[int, tuple[int, int]]]:
    """The tables of a DHT segment (T.81 B.2.4.2, C.2)."""
    result: dict[int, dict[int, tuple[int, int]]] = {}
    while len(content) >= 17:
        counts, table, code, start = content[1:17], {}, 0, 17
        for length, count in enumerate(counts, 1):
            for symbol in content[start : start + count]:
                table[symbol] = (length, code)
                code += 1
            start, code = start + count, code << 1
        result[content[0]] = table
        content = content[start:]
    return result


def _scan(content: bytes, ids: bytes, interval: int, tables: dict[Any, Any], start: int, stop: int) -> Scan:
    count = content[0]
    if len(content) < 4 + 2 * count or not count or not set(content[1 : 1 + 2 * count : 2]) <= set(ids):
        raise ReadError("truncated")
    components = [(ids.index(content[1 + 2 * i]), content[2 + 2 * i] >> 4, content[2 + 2 * i] & 15) for i in range(count)]
    first, last, approximation = content[1 + 2 * count : 4 + 2 * count]
    return Scan(components, first, last, approximation & 15, interval, tables, start, stop)
