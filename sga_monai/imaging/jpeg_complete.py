"""Whether a JPEG or JPEG-LS stream is complete, also when it was cut and an end marker was put behind the cut.

libjpeg fills what is missing with middle gray, in a lossless stream the rest of a row with equal residuals, and goes on. So
where the end of a picture looks like that, what was decoded is compared with what the stream has room for (ITU-T T.81).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sga_monai.core.errors import ReadError
from sga_monai.imaging.jpeg import HUFFMAN_SEQUENTIAL, LOSSLESS, LS, PROGRESSIVE, Scan, Structure

RESTART = re.compile(rb"\xff+[\xd0-\xd7]")
# Pixels at the end of a restart interval that, filled by the looks of it, make it worth counting; rows counted at a time.
TAIL, ROWS_AT_ONCE = 8, 64
# So many gray blocks at the end are compared; more would say nothing more.
MOST_GRAY = 1000

Pixels = Callable[[slice, slice], NDArray[Any]]


def check_complete(stream: bytes, structure: Structure, decoded: Pixels) -> None:
    """Refuse a stream of which something is missing.

    Restart markers that are lost or out of order are found in every process but JPEG-LS, whose decoder refuses both. Data
    missing at the end of a scan or of a restart interval are found in lossless streams and in sequential ones of one scan; of
    a progressive one, missing scans are found, but not a scan that was cut.

    Args:
        stream: the bytes.
        structure: ``parse(stream)``.
        decoded: what was decoded, by its rows and columns.

    Raises:
        ReadError: "truncated".
    """
    if structure.process == LS:
        return
    for scan in structure.scans:
        expected = _expected_segments(structure, scan)
        segments = list(_segments(stream, scan))
        # One marker behind the last interval does no harm.
        if not expected <= len(segments) <= expected + 1:
            raise ReadError("truncated")
        if structure.process in LOSSLESS:
            _check_lossless(stream, structure, scan, segments, decoded)
        elif structure.process in HUFFMAN_SEQUENTIAL and len(scan.components) == structure.shape[2]:
            _check_sequential(stream, structure, scan, segments, decoded)
    _check_scans(structure)


def _check_scans(structure: Structure) -> None:
    """Every component must be there, and of a progressive stream each of its coefficients have come to its last bit."""
    final = np.full((structure.shape[2], 64), 99)
    for scan in structure.scans:
        for component, _, _ in scan.components:
            coefficients = slice(scan.first, scan.last + 1) if structure.process in PROGRESSIVE else slice(None)
            final[component, coefficients] = scan.low if structure.process in PROGRESSIVE else 0
    if final.any():
        raise ReadError("truncated")


def _grid(structure: Structure, scan: Scan) -> tuple[int, int, int, int]:
    """Rows and columns of MCUs of a scan, and rows and columns of pixels of an MCU."""
    rows, columns, _ = structure.shape
    across, down = (max(factors) for factors in zip(*structure.sampling, strict=True))
    side = 1 if structure.process in LOSSLESS else 8
    if len(scan.components) > 1:
        height, width = side * down, side * across
    else:
        # A scan of one component has MCUs of one block, of which subsampling leaves fewer.
        own_across, own_down = structure.sampling[scan.components[0][0]]
        height, width = side * down // max(own_down, 1), side * across // max(own_across, 1)
    if min(height, width) < 1:
        raise ReadError("truncated")
    return -(-rows // height), -(-columns // width), height, width


def _expected_segments(structure: Structure, scan: Scan) -> int:
    down, across, _, _ = _grid(structure, scan)
    return -(-down * across // scan.interval) if scan.interval else 1


def _segments(stream: bytes, scan: Scan) -> Iterator[tuple[int, int]]:
    """Where the data of each restart interval lie.

    Raises:
        ReadError: "truncated", when the restart markers do not count 0 to 7 in turn.
    """
    start = scan.start
    for number, marker in enumerate(RESTART.finditer(stream, scan.start, scan.stop)):
        if stream[marker.end() - 1] & 7 != number % 8:
            raise ReadError("truncated")
        yield start, marker.start()
        start = marker.end()
    yield start, scan.stop


def _check_lossless(stream: bytes, structure: Structure, scan: Scan, segments: list[tuple[int, int]], decoded: Pixels) -> None:
    """The residuals of each restart interval must fit into its data."""
    rows, columns, count = structure.shape
    # libjpeg itself takes no other lossless streams.
    if scan.interval % columns or len(set(structure.sampling)) > 1:
        raise ReadError("truncated")
    everything = slice(None)
    planes = decoded(everything, everything).reshape(rows, columns, count)
    height = scan.interval // columns or rows
    for number, top in enumerate(range(0, rows, height)):
        bottom = min(top + height, rows)
        end = planes[max(bottom - 2, top) : bottom, :, scan.components[0][0]]
        last = _residuals(end, scan, structure.precision)[-1, -TAIL:]
        if (last != last[0]).any() and (end[-1, -TAIL:] != 1 << (structure.precision - 1)).any():
            continue
        start, stop = segments[number]
        needed = 0
        for plane, table, _ in scan.components:
            cost = _cost(scan.tables.get(table, {}))
            for upper in range(top, bottom, ROWS_AT_ONCE):
                above = 1 if upper > top else 0
                block = planes[upper - above : min(upper + ROWS_AT_ONCE, bottom), :, plane]
                needed += int(cost[_residuals(block, scan, structure.precision)[above:]].sum())
        if needed > 8 * (stop - start - stream.count(b"\xff\x00", start, stop)):
            raise ReadError("truncated")


def _residuals(block: NDArray[np.generic], scan: Scan, precision: int) -> NDArray[np.int32]:
    """Prediction residuals modulo 65536 of rows of a plane, the first row as the first of an interval (T.81 H.1.2)."""
    values = block.astype(np.int32) >> scan.low
    predicted = np.empty_like(values)
    predicted[0, 0] = 1 << (precision - scan.low - 1)
    predicted[0, 1:] = values[0, :-1]
    predicted[1:, 0] = values[:-1, 0]
    left, above, corner = values[1:, :-1], values[:-1, 1:], values[:-1, :-1]
    if scan.first == 1:
        predicted[1:, 1:] = left
    elif scan.first == 2:
        predicted[1:, 1:] = above
    elif scan.first == 3:
        predicted[1:, 1:] = corner
    elif scan.first == 4:
        predicted[1:, 1:] = left + above - corner
    elif scan.first == 5:
        predicted[1:, 1:] = left + ((above - corner) >> 1)
    elif scan.first == 6:
        predicted[1:, 1:] = above + ((left - corner) >> 1)
    else:
        predicted[1:, 1:] = (left + above) >> 1
    return (values - predicted) & 0xFFFF


def _cost(table: dict[int, tuple[int, int]]) -> NDArray[np.int32]:
    """Bits that each residual modulo 65536 takes: its category's code and as many bits more (T.81 H.1.2.2)."""
    size = np.zeros(65536, dtype=np.int64)
    magnitude = np.minimum(np.arange(65536), 65536 - np.arange(65536))
    size[1:] = np.floor(np.log2(magnitude[1:])).astype(np.int64) + 1
    # A residual without a code cannot have been in the stream.
    by_category = np.array([table[i][0] + (i if i < 16 else 0) if i in table else 1 << 20 for i in range(17)], dtype=np.int64)
    cost: NDArray[np.int32] = by_category[size].astype(np.int32)
    return cost


def _check_sequential(stream: bytes, structure: Structure, scan: Scan, segments: list[Any], decoded: Pixels) -> None:
    """Blocks of middle gray at the end of a restart interval must be in its data: DC difference 0 and end of block each."""
    down, across, height, width = _grid(structure, scan)
    interval = scan.interval or down * across
    middle = 1 << (structure.precision - 1)
    # Where chroma is smoothed, the neighbors' color reaches one pixel into a block.
    edge = 1 if len(scan.components) > 1 else 0
    block = "".join(_code(scan.tables, dc) + _code(scan.tables, 16 + ac) for dc, ac in _blocks(structure, scan))
    for number, first in enumerate(range(0, down * across, interval)):
        gray = 0
        for index in range(min(first + interval, down * across) - 1, first - 1, -1):
            rows = _inside(index // across * height, height, edge, structure.shape[0])
            columns = _inside(index % across * width, width, edge, structure.shape[1])
            # Pillow inverts CMYK, which makes 127 of 128.
            block_of = decoded(rows, columns).astype(np.float64)
            if (np.abs(block_of - middle + 0.5) > 0.5).any():
                break
            gray += 1
            if gray == MOST_GRAY:
                break
        # The first of them codes the step to middle gray.
        if gray < 2:
            continue
        start, stop = segments[number]
        bits = (gray - 1) * len(block)
        tail = _unstuffed(stream[max(start, stop - bits // 4 - 16) : stop])
        text = bin(int.from_bytes(b"\1" + tail, "big"))[3:].encode()
        if not any(text.endswith((block * (gray - 1)).encode(), 0, len(text) - pad) for pad in range(8) if text.endswith(b"1" * pad)):
            raise ReadError("truncated")


def _inside(first: int, length: int, edge: int, size: int) -> slice:
    """The pixels of an MCU along one axis without its edges; with them where the picture ends before there are others."""
    return slice(first + edge, first + length - edge) if first + edge < size else slice(first, first + length)


def _blocks(structure: Structure, scan: Scan) -> list[tuple[int, int]]:
    """DC and AC table of each block of an MCU."""
    if len(scan.components) == 1:
        return [scan.components[0][1:]]
    return [(dc, ac) for i, dc, ac in scan.components for _ in range(structure.sampling[i][0] * structure.sampling[i][1])]


def _code(tables: dict[int, dict[int, tuple[int, int]]], key: int) -> str:
    """The Huffman code of symbol 0 in one table; a text that no bits equal where there is none."""
    length, code = tables.get(key, {}).get(0, (0, 0))
    return f"{code:0{length}b}" if length else "x"


def _unstuffed(data: bytes) -> bytes:
    return data.replace(b"\xff\x00", b"\xff")
