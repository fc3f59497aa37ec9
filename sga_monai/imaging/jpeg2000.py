"""Whether a JPEG 2000 stream has every tile-part that it announces (ITU-T T.800 annex A); HTJ2K has the same markers."""

from __future__ import annotations

from sga_monai.core.errors import ReadError

JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
CODESTREAM, PALETTE = b"\xff\x4f\xff\x51", b"pclr"
TILE_PART, END = b"\xff\x90", b"\xff\xd9"
# A tile is no smaller than a code block in any stream of a radiograph.
MOST_TILES = 65535


def check(stream: bytes, expected: tuple[int, int, int]) -> None:
    """Refuse a stream whose size is not the header's, or of which a tile or the end is missing.

    Data missing inside a tile-part are refused by the decoder (OpenJPEG, strict), which checks the length of each.

    Args:
        stream: the bytes, with or without the boxes of a JP2 file.
        expected: rows, columns and components.

    Raises:
        ReadError: "truncated"; "multi_frame", when another stream follows.
    """
    start = stream.find(CODESTREAM, 0, 8192) if stream.startswith((CODESTREAM, JP2_SIGNATURE)) else -1
    # A palette makes up to 255 components of one: of a few bytes more than there is memory for.
    if start < 0 or len(stream) < start + 42 or PALETTE in stream[:start]:
        raise ReadError("truncated")

    def number(offset: int, size: int = 4) -> int:
        return int.from_bytes(stream[start + offset : start + offset + size], "big")

    width, height, left, top, tile_width, tile_height, tile_left, tile_top = (number(8 + 4 * i) for i in range(8))
    if (height - top, width - left, number(40, 2)) != expected or not tile_width or not tile_height:
        raise ReadError("truncated")
    tiles = -(-(width - tile_left) // tile_width) * -(-(height - tile_top) // tile_height)
    if not 1 <= tiles <= MOST_TILES:
        raise ReadError("truncated")
    _check_tile_parts(stream, start + 2, tiles)


def _check_tile_parts(stream: bytes, position: int, tiles: int) -> None:
    parts, announced = [0] * tiles, [0] * tiles
    while stream[position : position + 2] not in (TILE_PART, END):
        length = int.from_bytes(stream[position + 2 : position + 4], "big")
        if stream[position : position + 1] != b"\xff" or length < 2:
            raise ReadError("truncated")
        position += 2 + length
    while stream[position : position + 2] == TILE_PART:
        tile, size = int.from_bytes(stream[position + 4 : position + 6], "big"), int.from_bytes(stream[position + 6 : position + 10], "big")
        if tile >= tiles or (size and size < 14):
            raise ReadError("truncated")
        parts[tile] += 1
        announced[tile] = max(announced[tile], int.from_bytes(stream[position + 11 : position + 12], "big"))
        # A length of 0 means up to the end.
        position = position + size if size else stream.rfind(END)
    ends = stream[position : position + 2] == END
    if not ends or 0 in parts or any(there < said for there, said in zip(parts, announced, strict=True)):
        raise ReadError("truncated")
    if CODESTREAM in stream[position:]:
        raise ReadError("multi_frame")
