"""PNG files: complete, turned by their Exif, and read whatever their chunks beside the picture hold."""

from __future__ import annotations

import io
import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from sga_monai.core.errors import ReadError
from sga_monai.imaging.png import SIGNATURE
from sga_monai.imaging.read import decode_cxr

COLOR_TYPES = {"L": 0, "I;16": 0, "RGB": 2, "RGB16": 2, "P": 3, "LA": 4, "RGBA": 6, "1": 0}


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def chunks_of(data: bytes) -> list[tuple[bytes, bytes]]:
    position, found = 8, []
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        found.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    return found


def rebuilt(data: bytes, change) -> bytes:
    """The file with its inflated image data changed, and every checksum right."""
    found = chunks_of(data)
    raw = change(zlib.decompress(b"".join(content for kind, content in found if kind == b"IDAT")))
    kept = [(kind, content) for kind, content in found if kind not in (b"IDAT", b"IEND")]
    return SIGNATURE + b"".join(chunk(*one) for one in [*kept, (b"IDAT", zlib.compress(raw)), (b"IEND", b"")])


def png_of(pixels: np.ndarray, mode: str) -> bytes:
    gray = (pixels >> 4).astype(np.uint8)
    if mode == "RGB16":
        return bytes(imagecodecs.png_encode(np.stack([pixels << 4] * 3, -1)))
    buffer = io.BytesIO()
    image = Image.fromarray(pixels << 4) if mode == "I;16" else Image.fromarray(gray).convert(mode)
    image.save(buffer, "PNG")
    return buffer.getvalue()


def with_chunk(data: bytes, kind: bytes, content: bytes) -> bytes:
    """The chunk put behind the header."""
    return data[:33] + chunk(kind, content) + data[33:]


def code_of(data: bytes) -> str:
    with pytest.raises(ReadError) as caught:
        decode_cxr(data)
    return caught.value.code


@pytest.mark.parametrize("mode", list(COLOR_TYPES))
def test_missing_rows_are_refused(drawn, mode):
    data = png_of(drawn, mode)
    read = decode_cxr(data)
    if mode != "1":
        assert np.corrcoef(read.ravel(), drawn.ravel())[0, 1] > 0.99
    assert np.array_equal(decode_cxr(rebuilt(data, lambda raw: raw)), read)
    for share in (0.5, 0.9):
        assert code_of(rebuilt(data, lambda raw, share=share: raw[: int(len(raw) * share)])) == "truncated"
    row = len(zlib.decompress(b"".join(content for kind, content in chunks_of(data) if kind == b"IDAT"))) // drawn.shape[0]
    assert code_of(rebuilt(data, lambda raw: raw[:-row])) == "truncated"
    assert code_of(rebuilt(data, lambda raw: raw[:-1])) == "truncated"
    assert code_of(rebuilt(data, lambda raw: raw + bytes(row))) == "truncated"


def interlaced(gray: np.ndarray) -> bytes:
    """Adam7 of 8 bits, written from the standard."""
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    raw = b"".join(b"\0" + row.tobytes() for left, top, across, down in passes for row in gray[top::down, left::across])
    header = struct.pack(">IIBBBBB", gray.shape[1], gray.shape[0], 8, 0, 0, 0, 1)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("shape", [(320, 256), (101, 67), (3, 5)])
def test_interlaced_files(drawn, shape):
    gray = (drawn[: shape[0], : shape[1]] >> 4).astype(np.uint8)
    gray[0, 0] = 255
    data = interlaced(gray)
    np.testing.assert_array_equal(np.rint(decode_cxr(data) * 255), gray)
    assert code_of(rebuilt(data, lambda raw: raw[: len(raw) * 3 // 4])) == "truncated"


def test_chunks_beside_the_picture_do_no_harm(drawn):
    data = png_of(drawn, "I;16")
    plain = decode_cxr(data)
    noise = np.random.default_rng(0).integers(0, 256, 3 << 20).astype(np.uint8).tobytes()
    for kind, content in (
        (b"iCCP", b"scanner\0\0" + zlib.compress(noise)), (b"iCCP", b"scanner\0\0" + noise), (b"tEXt", b"Comment\0" + noise),
        (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(200 << 20))), (b"iTXt", b"x"), (b"gAMA", struct.pack(">I", 45455)), (b"prVt", noise),
        (b"eXIf", b"no Exif"),
    ):  # fmt: skip
        np.testing.assert_array_equal(decode_cxr(with_chunk(data, kind, content)), plain)
    np.testing.assert_array_equal(decode_cxr(data + bytes(64)), plain)


@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "RGB16", "LA"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_every_kind(drawn, mode, orientation):
    """Against Pillow's own turns; JPEG as well."""
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = png_of(drawn, mode)
    plain = decode_cxr(data)
    expected = np.asarray(Image.fromarray(plain).transpose(turns[orientation])) if orientation > 1 else plain
    np.testing.assert_array_equal(decode_cxr(with_chunk(data, b"eXIf", exif.tobytes()[6:])), expected)
    if mode == "L":
        buffer = io.BytesIO()
        Image.fromarray((drawn >> 4).astype(np.uint8)).save(buffer, "JPEG", quality=98, exif=exif)
        image = decode_cxr(buffer.getvalue())
        assert image.shape == expected.shape
        assert np.corrcoef(image.ravel(), expected.ravel())[0, 1] > 0.999


def test_damaged_chunks_and_second_pictures_are_refused(drawn):
    data = png_of(drawn, "L")
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 4
    assert code_of(bytes(flipped)) == "truncated"
    for cut in (len(data) // 2, len(data) - 12, len(data) - 1, 40, 20):
        assert code_of(data[:cut]) == "truncated"
    assert code_of(data + data) == "multi_frame"
    buffer = io.BytesIO()
    frames = [Image.fromarray((drawn >> shift).astype(np.uint8)) for shift in (4, 5)]
    frames[0].save(buffer, "PNG", save_all=True, append_images=frames[1:])
    assert code_of(buffer.getvalue()) == "multi_frame"
    for header in (struct.pack(">IIBBBBB", 0, 5, 8, 0, 0, 0, 0), struct.pack(">IIBBBBB", 5, 5, 3, 0, 0, 0, 0), b""):
        assert code_of(SIGNATURE + chunk(b"IHDR", header) + chunk(b"IEND", b"")) == "truncated"
