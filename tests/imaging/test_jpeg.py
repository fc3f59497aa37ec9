"""Streams that were cut and closed again: found wherever the decoder, or what it decoded, can tell."""

from __future__ import annotations

import io

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate, generate_frames

from sga_monai.core.errors import ReadError
from sga_monai.imaging.read import decode_cxr, read_cxr

END = b"\xff\xd9"


def code_of(path) -> str:
    with pytest.raises(ReadError) as caught:
        read_cxr(path)
    return caught.value.code


def lossless(pixels: np.ndarray, predictor: int = 1, restart_rows: int = 0, precision: int = 12) -> bytes:
    """A lossless JPEG (T.81 annex H) written from the standard, since encoders at hand write no restart markers.

    Huffman codes of five bits for all seventeen categories.
    """
    rows, columns = pixels.shape
    bits: list[str] = []
    segments = []
    values = pixels.astype(int).tolist()
    for y in range(rows):
        first = y % restart_rows == 0 if restart_rows else y == 0
        if first and y:
            segments.append("".join(bits))
            bits = []
        for x in range(columns):
            left, above = values[y][x - 1], values[y - 1][x] if not first else 0
            corner = values[y - 1][x - 1] if not first else 0
            if x == 0:
                predicted = 1 << (precision - 1) if first else above
            elif first:
                predicted = left
            else:
                predicted = [
                    left, above, corner, left + above - corner, left + ((above - corner) >> 1), above + ((left - corner) >> 1),
                    (left + above) >> 1,
                ][predictor - 1]  # fmt: skip
            difference = (values[y][x] - predicted + 32768) % 65536 - 32768
            size = 16 if difference == -32768 else abs(difference).bit_length()
            bits.append(f"{size:05b}")
            if 0 < size < 16:
                bits.append(f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}")
    segments.append("".join(bits))
    data = b""
    for number, segment in enumerate(segments):
        padded = segment + "1" * (-len(segment) % 8)
        data += b"" if number == 0 else bytes([0xFF, 0xD0 + (number - 1) % 8])
        data += int(padded, 2).to_bytes(len(padded) // 8, "big").replace(b"\xff", b"\xff\x00")

    def segment_of(marker: int, content: bytes) -> bytes:
        return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2, "big") + content

    frame = bytes([precision]) + rows.to_bytes(2, "big") + columns.to_bytes(2, "big") + bytes([1, 1, 0x11, 0])
    huffman = bytes([0] + [0] * 4 + [17] + [0] * 11) + bytes(range(17))
    restart = segment_of(0xDD, (restart_rows * columns).to_bytes(2, "big")) if restart_rows else b""
    scan = bytes([1, 1, 0, predictor, 0, 0])
    return b"\xff\xd8" + segment_of(0xC3, frame) + segment_of(0xC4, huffman) + restart + segment_of(0xDA, scan) + data + END


def cut(stream: bytes, share: float) -> bytes:
    """The first part of a stream with the end marker put behind it."""
    return stream[: int(len(stream) * share)].rstrip(b"\xff") + END


STREAMS = {
    "lossless": (uid.JPEGLosslessSV1, lambda a: imagecodecs.jpeg8_encode(a, lossless=True, predictor=1)),
    "lossless, 8 bits": (uid.JPEGLossless, lambda a: imagecodecs.jpeg8_encode((a >> 4).astype(np.uint8), lossless=True, predictor=4)),
    "lossless, 16 bits": (uid.JPEGLossless, lambda a: imagecodecs.jpeg8_encode(a << 4, lossless=True, predictor=6, bitspersample=16)),
    "baseline": (uid.JPEGBaseline8Bit, lambda a: imagecodecs.jpeg8_encode((a >> 4).astype(np.uint8), level=90)),
    "extended": (uid.JPEGExtended12Bit, lambda a: imagecodecs.jpeg8_encode(a, level=90, bitspersample=12)),
    "JPEG-LS": (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
    "JPEG-LS near": (uid.JPEGLSNearLossless, lambda a: imagecodecs.jpegls_encode(a, level=2)),
    "JPEG 2000": (uid.JPEG2000Lossless, lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", reversible=True)),
    "JPEG 2000 lossy": (uid.JPEG2000, lambda a: imagecodecs.jpeg2k_encode(a, level=80, codecformat="j2k")),
    "HTJ2K": (uid.HTJ2KLossless, imagecodecs.htj2k_encode),
}


def file_of(name: str, pixels: np.ndarray, stream: bytes, dicom_file):
    shallow = name in ("baseline", "lossless, 8 bits")
    return dicom_file((pixels >> 4).astype(np.uint8) if shallow else pixels, STREAMS[name][0], PixelData=encapsulate([stream]))


@pytest.mark.parametrize("name", list(STREAMS))
def test_streams_cut_and_closed_are_refused(dicom_file, drawn, name):
    stream = bytes(STREAMS[name][1](drawn))
    assert np.corrcoef(read_cxr(file_of(name, drawn, stream, dicom_file)).ravel(), drawn.ravel())[0, 1] > 0.999
    for share in (0.3, 0.5, 0.9, 0.97, 0.99):
        assert code_of(file_of(name, drawn, cut(stream, share), dicom_file)) == "truncated"
    # Bytes lost in the middle.
    half = len(stream) // 2
    assert code_of(file_of(name, drawn, stream[:half] + stream[half + len(stream) // 10 :], dicom_file)) == "truncated"


@pytest.mark.parametrize("dark", [0, 4095, 2048])
@pytest.mark.parametrize("name", list(STREAMS))
def test_pictures_with_flat_ends_are_read(dicom_file, drawn, name, dark):
    """A border of one value looks like what a decoder fills in, but its bits are there."""
    pixels = drawn.copy()
    pixels[-60:], pixels[:, -40:] = dark, dark
    path = file_of(name, pixels, bytes(STREAMS[name][1](pixels)), dicom_file)
    assert np.corrcoef(read_cxr(path).ravel(), pixels.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("precision", [8, 12, 16])
@pytest.mark.parametrize("predictor", range(1, 8))
@pytest.mark.parametrize("restart_rows", [0, 3])
def test_lossless_of_every_predictor(dicom_file, drawn, predictor, restart_rows, precision):
    small = drawn[100:150, 60:140]
    pixels = (small >> 4).astype(np.uint8) if precision == 8 else small << (precision - 12)
    flat = pixels.copy()
    flat[-5:] = pixels.max()
    for image in (pixels, flat):
        stream = lossless(image, predictor, restart_rows, precision)
        path = dicom_file(image, uid.JPEGLossless, PixelData=encapsulate([stream]))
        stored = read_cxr(path) * (255 if precision == 8 else 65535)
        assert (np.rint(stored) == image).all()
        for share in (0.5, 0.9, 0.98):
            assert code_of(dicom_file(image, uid.JPEGLossless, PixelData=encapsulate([cut(stream, share)]))) == "truncated"


def test_lost_restart_intervals_are_refused(dicom_file, drawn):
    small = drawn[100:150, 60:140]
    stream = lossless(small, 1, 3)
    marks = [stream.index(bytes([0xFF, 0xD0 + i])) for i in range(6)]
    buffer = io.BytesIO()
    Image.fromarray((drawn >> 4).astype(np.uint8)).save(buffer, "JPEG", quality=90, restart_marker_rows=1)
    baseline = buffer.getvalue()
    read = decode_cxr(baseline)
    assert np.corrcoef(read.ravel(), drawn.ravel())[0, 1] > 0.999
    last = [baseline.rindex(bytes([0xFF, 0xD0 + i])) for i in range(8)]
    damaged = [
        (small, stream[: marks[2]] + stream[marks[4] :]),
        (small, stream[: marks[3]] + END),
        (small, stream[: marks[1]] + stream[marks[2] : marks[3]] + stream[marks[1] : marks[2]] + stream[marks[3] :]),
        (small, stream[: marks[2] - 20] + stream[marks[2] :]),
        (drawn, baseline[: min(last)] + END),
        (drawn, baseline[: sorted(last)[2]] + baseline[sorted(last)[4] :]),
        (drawn, baseline[: sorted(last)[3] - 150] + baseline[sorted(last)[3] :]),
    ]
    for pixels, data in damaged:
        syntax = uid.JPEGLosslessSV1 if pixels is small else uid.JPEGBaseline8Bit
        content = pixels if pixels is small else (pixels >> 4).astype(np.uint8)
        assert code_of(dicom_file(content, syntax, PixelData=encapsulate([data]))) == "truncated"
    for data in (data for pixels, data in damaged if pixels is drawn):
        with pytest.raises(ReadError, match="cut short"):
            decode_cxr(data)


def test_color_streams_cut_and_closed_are_refused(dicom_file, drawn):
    gray = (drawn >> 4).astype(np.uint8)
    color = np.stack([gray, 255 - gray // 2, gray // 3], axis=-1)
    for sampling in ("444", "420"):
        stream = bytes(imagecodecs.jpeg8_encode(color, level=90, subsampling=sampling))
        path = dicom_file(color, uid.JPEGBaseline8Bit, PixelData=encapsulate([stream]), PhotometricInterpretation="YBR_FULL_422")
        read_cxr(path)
        for share in (0.5, 0.9, 0.98):
            data = encapsulate([cut(stream, share)])
            path = dicom_file(color, uid.JPEGBaseline8Bit, PixelData=data, PhotometricInterpretation="YBR_FULL_422")
            assert code_of(path) == "truncated"


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_files_cut_and_closed_are_refused(tmp_path, drawn, progressive, mode):
    buffer = io.BytesIO()
    Image.fromarray((drawn >> 4).astype(np.uint8)).convert(mode).save(buffer, "JPEG", quality=95, progressive=progressive)
    data = buffer.getvalue()
    decode_cxr(data)
    # Of a progressive stream, lost scans are found; the last one holds about a quarter of it.
    for share in (0.3, 0.6) if progressive else (0.3, 0.9, 0.98):
        with pytest.raises(ReadError, match="cut short"):
            decode_cxr(cut(data, share))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(("rows", "columns"), [(257, 256), (256, 257), (258, 241), (249, 255)])
def test_a_last_block_of_one_row_or_column_is_read_and_missed(tmp_path, drawn, mode, rows, columns):
    picture = Image.fromarray((drawn >> 4).astype(np.uint8)).resize((columns, rows)).convert(mode)
    path = tmp_path / "a.jpg"
    picture.save(path, quality=85)
    assert read_cxr(path).shape == (rows, columns)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 8 // 10] + END)
    assert code_of(path) == "truncated"


def test_tiles_that_are_missing_are_refused(dicom_file, drawn):
    buffer = io.BytesIO()
    gray = (drawn >> 4).astype(np.uint8)
    Image.fromarray(gray).save(buffer, "JPEG2000", tile_size=(64, 64), no_jp2=True, irreversible=False)
    stream = buffer.getvalue()
    tiles = [i for i in range(len(stream) - 4) if stream[i : i + 4] == b"\xff\x90\x00\x0a"]
    assert len(tiles) == 20
    path = dicom_file(gray, uid.JPEG2000Lossless, PixelData=encapsulate([stream]))
    assert np.corrcoef(read_cxr(path).ravel(), drawn.ravel())[0, 1] > 0.999
    for damaged in (stream[: tiles[-2]] + END, stream[: tiles[5]] + stream[tiles[7] :], stream[: tiles[-1]] + stream[tiles[-2] :]):
        assert code_of(dicom_file(gray, uid.JPEG2000Lossless, PixelData=encapsulate([damaged]))) == "truncated"


def test_run_length_segments_cut_are_refused(dicom_file, drawn):
    path = dicom_file(drawn)
    dataset = pydicom.dcmread(path)
    dataset.compress(uid.RLELossless, encoding_plugin="pydicom")
    stream = next(generate_frames(dataset.PixelData, number_of_frames=1))
    second = int.from_bytes(stream[8:12], "little")
    for damaged in (
        stream[: int(len(stream) * 0.9)],
        stream[: second + 10],
        stream[:8] + (second - 400).to_bytes(4, "little") + stream[12 : second - 400] + stream[second:],
    ):
        assert code_of(dicom_file(drawn, uid.RLELossless, PixelData=encapsulate([damaged]))) == "truncated"


def test_what_follows_the_end_marker(dicom_file, drawn):
    gray = (drawn >> 4).astype(np.uint8)
    stream = bytes(imagecodecs.jpeg8_encode(gray, level=90))
    for extra in (bytes(64), b"\xff" * 64, b"appended by an archive"):
        path = dicom_file(gray, uid.JPEGBaseline8Bit, PixelData=encapsulate([stream + extra]))
        assert np.corrcoef(read_cxr(path).ravel(), drawn.ravel())[0, 1] > 0.999
        decode_cxr(stream + extra)
    assert code_of(dicom_file(gray, uid.JPEGBaseline8Bit, PixelData=encapsulate([stream + stream]))) == "multi_frame"
    with pytest.raises(ReadError, match="several"):
        decode_cxr(stream + stream)
    deep = bytes(imagecodecs.jpeg2k_encode(drawn, codecformat="j2k", reversible=True))
    assert code_of(dicom_file(drawn, uid.JPEG2000Lossless, PixelData=encapsulate([deep + deep]))) == "multi_frame"


DEEP = {
    "12 bits": lambda a: imagecodecs.jpeg8_encode(a, level=98, bitspersample=12),
    "lossless, 12 bits": lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=12),
    "lossless, 16 bits": lambda a: imagecodecs.jpeg8_encode(a << 4, lossless=True, bitspersample=16),
    "JPEG-LS": lambda a: imagecodecs.jpegls_encode(a << 4),
    "JPEG-LS, 8 bits": lambda a: imagecodecs.jpegls_encode((a >> 4).astype(np.uint8)),
    "lossless, color": lambda a: imagecodecs.jpeg8_encode(np.stack([(a >> 4).astype(np.uint8)] * 3, -1), lossless=True),
}


@pytest.mark.parametrize("kind", list(DEEP))
def test_jpeg_files_that_browsers_do_not_show_are_read(drawn, kind):
    data = bytes(DEEP[kind](drawn))
    image = decode_cxr(data)
    assert np.corrcoef(image.ravel(), drawn.ravel())[0, 1] > 0.999
    assert image.max() == pytest.approx(drawn.max() / 4095, abs=0.01)
    for share in (0.3, 0.9):
        with pytest.raises(ReadError, match="cut short"):
            decode_cxr(cut(data, share))
    # Exif's orientation 6, behind the start of the image.
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"
    turned = decode_cxr(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])
    np.testing.assert_array_equal(turned, np.rot90(image, -1))


def test_a_component_whose_scan_is_missing_is_missed(drawn):
    """A sequential stream with a scan for each component, made of three gray ones."""
    gray = (drawn >> 4).astype(np.uint8)
    streams = []
    for plane in (gray, 255 - gray // 2, gray // 2 + 60):
        buffer = io.BytesIO()
        Image.fromarray(plane).save(buffer, "JPEG", quality=90)
        streams.append(buffer.getvalue())
    tables = [data[: data.index(b"\xff\xc0")] for data in streams]
    huffman = streams[0][streams[0].index(b"\xff\xc4") : streams[0].index(b"\xff\xda")]
    rows, columns = gray.shape
    frame = b"\xff\xc0\x00\x11\x08" + rows.to_bytes(2, "big") + columns.to_bytes(2, "big") + b"\3\1\x11\0\2\x11\0\3\x11\0"
    scans = []
    for number, data in enumerate(streams, 1):
        start = data.index(b"\xff\xda")
        scans.append(b"\xff\xda\0\x08\1" + bytes([number]) + b"\0\0\x3f\0" + data[start + 10 : -2])
    whole = tables[0] + frame + huffman + b"".join(scans) + END
    assert decode_cxr(whole).shape == gray.shape
    for kept in (scans[:2], scans[:1], scans[1:]):
        with pytest.raises(ReadError, match="cut short"):
            decode_cxr(tables[0] + frame + huffman + b"".join(kept) + END)
