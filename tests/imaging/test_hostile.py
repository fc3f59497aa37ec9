"""Bytes that were made, or damaged, to hurt: refused with a reason, in bounded memory and time."""

from __future__ import annotations

import gzip
import io
import os
import random
import resource
import struct
import sys
import time
import zlib
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from sga_monai.core.errors import ReadError
from sga_monai.imaging.read import read_cxr

MOST_MB, MOST_SECONDS = 500, 20
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")


def memory_mb(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def read_bounded(path: Path) -> str:
    """The reason code, or "read"; fails where memory or time goes beyond what is promised."""
    if Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")
    before, began = memory_mb("VmRSS"), time.monotonic()
    try:
        read_cxr(path)
        outcome = "read"
    except ReadError as error:
        outcome = error.code
    assert time.monotonic() - began < MOST_SECONDS
    assert memory_mb("VmHWM") - before < MOST_MB
    return outcome


def noise(shape: tuple[int, ...] = (64, 80), dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4096 if dtype == np.uint16 else 256, shape).astype(dtype)


@linux
def test_deflate_bomb(dicom_file):
    path = dicom_file(noise())
    dataset = pydicom.dcmread(path)
    body = io.BytesIO()
    dataset.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    dataset.save_as(body, enforce_file_format=True)
    data = body.getvalue()
    end = 144 + int.from_bytes(data[140:144], "little")
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    inflated = zlib.decompress(data[end:], -15)
    start = inflated[: inflated.rindex(b"\xe0\x7f\x10\x00")] + b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", 800 << 20)
    parts = [bomb.compress(start), *(bomb.compress(bytes(1 << 20)) for _ in range(800)), bomb.flush()]
    path.write_bytes(data[:end] + b"".join(parts))
    assert path.stat().st_size < 2 << 20
    assert read_bounded(path) == "too_large"
    # A meta group length that lies, or an odd element before the syntax, does not get past the limit.
    hidden = bytearray(path.read_bytes())
    hidden[140:144] = struct.pack("<I", 4)
    path.write_bytes(bytes(hidden))
    assert read_bounded(path) == "too_large"
    path.write_bytes(bytes(hidden).replace(b"\x02\x00\x02\x00UI", b"\x02\x00\x02\x00ZZ", 1))
    assert read_bounded(path) in ("unreadable", "too_large")
    path.write_bytes(bytes(hidden).replace(b"\x02\x00\x02\x00UI\x1a\x00", b"\x02\x00\x02\x00UI\xff\xff", 1))
    assert read_bounded(path) in ("unreadable", "too_large", "no_pixels")


@linux
def test_run_length_bomb(dicom_file):
    stream = struct.pack("<16I", 2, 64, 64 + (20 << 20), *[0] * 13) + b"\x81\x00" * (20 << 20)
    path = dicom_file(noise(), uid.RLELossless, PixelData=encapsulate([stream]))
    assert read_bounded(path) == "truncated"


@linux
def test_pictures_that_claim_to_be_huge(tmp_path):
    buffer = io.BytesIO()
    Image.new("1", (30000, 30000)).save(buffer, "PNG", compress_level=9)
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    assert read_bounded(tmp_path / "a.png") == "too_large"
    (tmp_path / "b.nii.gz").write_bytes(900 * gzip.compress(bytes(1 << 20)))
    assert read_bounded(tmp_path / "b.nii.gz") == "unknown_format"
    header = nib.Nifti1Header()
    header.set_data_shape((30000, 30000))
    header.set_data_dtype(np.float64)
    header["magic"], header["vox_offset"] = b"n+1", 352
    (tmp_path / "c.nii.gz").write_bytes(gzip.compress(header.binaryblock) + 500 * gzip.compress(bytes(1 << 20)))
    assert read_bounded(tmp_path / "c.nii.gz") == "too_large"


@linux
@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEGLSLossless, uid.JPEG2000Lossless])
def test_streams_that_claim_to_be_huge(dicom_file, syntax):
    encode = {
        uid.JPEGBaseline8Bit: lambda a: imagecodecs.jpeg8_encode(a),
        uid.JPEGLSLossless: imagecodecs.jpegls_encode,
        uid.JPEG2000Lossless: lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", reversible=True),
    }[syntax]
    pixels = noise(dtype=np.uint8)
    stream = bytes(encode(pixels))
    if syntax == uid.JPEG2000Lossless:
        lie = stream.replace(struct.pack(">II", 80, 64), struct.pack(">II", 65535, 65535))
        components = bytearray(stream)
        components[40:42] = struct.pack(">H", 16000)
        path = dicom_file(pixels, syntax, PixelData=encapsulate([bytes(components)]))
        assert read_bounded(path) == "truncated"
    else:
        lie = stream.replace(struct.pack(">HH", 64, 80), struct.pack(">HH", 65535, 65535))
    assert lie != stream
    assert read_bounded(dicom_file(pixels, syntax, PixelData=encapsulate([lie]))) == "truncated"
    path = dicom_file(pixels, syntax, PixelData=encapsulate([lie]), Rows=65535, Columns=65535)
    assert read_bounded(path) == "too_large"


@linux
def test_a_palette_of_jpeg_2000_that_makes_many_components_of_one(dicom_file):
    pixels, columns = np.zeros((3000, 3000), dtype=np.uint8), 30
    stream = bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="jp2", reversible=True))
    palette = struct.pack(">HB", 16, columns) + b"\x07" * columns + bytes(16 * columns)
    mapping = b"".join(struct.pack(">HBB", 0, 1, column) for column in range(columns))
    boxes = b"".join(struct.pack(">I", 8 + len(box)) + kind + box for kind, box in ((b"pclr", palette), (b"cmap", mapping)))
    start = stream.index(b"jp2h") - 4
    length = int.from_bytes(stream[start : start + 4], "big")
    made = stream[:start] + struct.pack(">I", length + len(boxes)) + stream[start + 4 : start + length] + boxes + stream[start + length :]
    assert read_bounded(dicom_file(pixels, uid.JPEG2000Lossless, PixelData=encapsulate([made]))) == "truncated"


@linux
def test_largest_images_fit(dicom_file, tmp_path):
    pixels = np.broadcast_to(np.arange(5600, dtype=np.uint16), (5600, 5600)).copy()
    assert read_bounded(dicom_file(pixels, PhotometricInterpretation="MONOCHROME1", BitsStored=13)) == "read"
    color = np.repeat((pixels[..., None] % 256).astype(np.uint8), 3, axis=2)
    assert read_bounded(dicom_file(color)) == "read"
    Image.fromarray(color).save(tmp_path / "a.png", compress_level=1)
    assert read_bounded(tmp_path / "a.png") == "read"
    nib.save(nib.Nifti1Image(pixels.astype(np.float32), np.eye(4)), tmp_path / "a.nii")
    assert read_bounded(tmp_path / "a.nii") == "read"


@linux
def test_floods_of_elements_items_and_scans(dicom_file, tmp_path):
    path = dicom_file(noise())
    data = path.read_bytes()
    end = 144 + int.from_bytes(data[140:144], "little")
    body = data[end:]
    items = b"\x09\x00\x10\x10SQ\0\0" + struct.pack("<I", 8 * 2_000_000) + b"\xfe\xff\x00\xe0\0\0\0\0" * 2_000_000
    at = body.index(b"\x10\x00\x10\x00")
    flooded = body[:at].split(b"\x09\x00")[0] + items + body[at:]
    meta = data[:end].replace(uid.ExplicitVRLittleEndian.encode() + b"\0", uid.DeflatedExplicitVRLittleEndian.encode())
    extra = len(meta) - end
    meta = meta[:140] + struct.pack("<I", int.from_bytes(meta[140:144], "little") + extra) + meta[144:]
    meta = meta.replace(b"\x02\x00\x10\x00UI\x14\x00", b"\x02\x00\x10\x00UI\x16\x00")
    stream = zlib.compressobj(9, zlib.DEFLATED, -15)
    path.write_bytes(meta + stream.compress(flooded) + stream.flush())
    assert path.stat().st_size < 1 << 20
    assert read_bounded(path) == "too_large"
    path.write_bytes(data[:end] + flooded)
    assert read_bounded(path) == "too_large"
    buffer = io.BytesIO()
    Image.fromarray(noise((512, 512), np.uint8)).save(buffer, "JPEG", progressive=True)
    jpeg = buffer.getvalue()
    scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    (tmp_path / "scans.jpg").write_bytes(jpeg[:-2] + scan * 300 + b"\xff\xd9")
    assert read_bounded(tmp_path / "scans.jpg") == "truncated"


@linux
def test_unknown_value_representation_does_not_leak(dicom_file):
    path = dicom_file(noise())
    data = path.read_bytes()
    # The meta element ImplementationClassUID with VR 'ZZ', the shape of CVE-2026-3650.
    changed = data.replace(b"\x02\x00\x12\x00UI", b"\x02\x00\x12\x00ZZ", 1)
    assert changed != data
    path.write_bytes(changed)
    for _ in range(5):
        read_bounded(path)
    before = memory_mb("VmRSS")
    for _ in range(50):
        read_bounded(path)
    assert memory_mb("VmRSS") - before < 20


def seeds(folder: Path, dicom_file) -> list[bytes]:
    """One good file of each kind."""
    pixels, gray = noise(), noise(dtype=np.uint8)
    made = [
        dicom_file(pixels, name="native"),
        dicom_file(pixels, uid.ExplicitVRBigEndian, name="big"),
        dicom_file(pixels, uid.DeflatedExplicitVRLittleEndian, name="deflated"),
        dicom_file(pixels, uid.JPEGLosslessSV1, PixelData=encapsulate([bytes(imagecodecs.jpeg8_encode(pixels, lossless=True))]), name="ll"),
        dicom_file(pixels, uid.JPEGLSLossless, PixelData=encapsulate([bytes(imagecodecs.jpegls_encode(pixels))]), name="ls"),
        dicom_file(gray, uid.JPEGBaseline8Bit, PixelData=encapsulate([bytes(imagecodecs.jpeg8_encode(gray))]), name="jpeg"),
        dicom_file(pixels, uid.JPEG2000Lossless,
                   PixelData=encapsulate([bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True))]), name="j2k"),
        dicom_file(np.repeat(gray[..., None], 3, axis=2), name="color"),
        dicom_file(np.pad(pixels + 1, 9), PixelPaddingValue=0, PatientOrientation=["H", "R"], PixelSpacing=[0.2, 0.1], Modality="DX",
                   BodyPartExamined="CHEST", ViewPosition="PA", name="padded"),
        dicom_file(pixels, SharedFunctionalGroupsSequence=[_shared()], ViewCodeSequence=[_code()], name="enhanced"),
        dicom_file(pixels, uid.HTJ2KLossless, PixelData=encapsulate([bytes(imagecodecs.htj2k_encode(pixels))]), name="htj2k"),
    ]  # fmt: skip
    rle = pydicom.dcmread(made[0])
    rle.compress(uid.RLELossless, encoding_plugin="pydicom")
    rle.save_as(folder / "rle")
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(gray).save(folder / "a.jpg", restart_marker_rows=1)
    Image.fromarray(gray).save(folder / "b.jpg", progressive=True)
    Image.fromarray(np.repeat(gray[..., None], 3, axis=2)).save(folder / "b.png", pnginfo=None, exif=b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0")
    nib.save(nib.Nifti1Image(pixels, np.eye(4)), folder / "a.nii.gz")
    nib.save(nib.Nifti1Image(pixels, np.eye(4)), folder / "b.nii")
    made += [folder / name for name in ("rle", "a.png", "a.jpg", "b.jpg", "b.png", "a.nii.gz", "b.nii")]
    return [path.read_bytes() for path in made]


def _shared() -> pydicom.Dataset:
    """Functional groups with a rescale and a window."""
    groups, rescale, window = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 2, -5, "US"
    window.WindowCenter, window.WindowWidth = 4000, 8000
    groups.PixelValueTransformationSequence, groups.FrameVOILUTSequence = [rescale], [window]
    return groups


def _code() -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "399348003", "SCT", "antero-posterior"
    return item


def mutate(data: bytes, rng: random.Random) -> bytes:
    """A few changed, inserted, removed or repeated bytes, more often in the headers."""
    result = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if len(result) < 8:
            break
        limit = len(result) if rng.random() < 0.4 else min(len(result), 1500)
        position = rng.randrange(limit)
        kind = rng.randrange(6)
        if kind == 0:
            result[position] ^= 1 << rng.randrange(8)
        elif kind == 1:
            result[position] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif kind == 2:
            result[position : position + 4] = struct.pack("<I", rng.choice((0, 1, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFE)))
        elif kind == 3:
            del result[position : position + rng.choice((1, 2, 16, 256))]
        elif kind == 4:
            result[position:position] = result[position : position + rng.choice((1, 8, 64))]
        else:
            result = result[: max(position, 4)]
    return bytes(result)


def fuzz(first: int, count: int, files: list[bytes], path: Path) -> dict[str, int]:
    """Outcomes of ``count`` mutants; a mutant's seed is its number, so that any can be made again."""
    outcomes: dict[str, int] = {}
    for number in range(first, first + count):
        rng = random.Random(number)
        path.write_bytes(mutate(rng.choice(files), rng))
        Path("/proc/self/clear_refs").write_text("5")
        before, began = memory_mb("VmRSS"), time.monotonic()
        try:
            image = read_cxr(path)
            assert image.ndim == 2
            assert np.isfinite(image).all()
            outcome = "read"
        except ReadError:
            outcome = "refused"
        except BaseException as error:  # noqa: BLE001
            outcome = f"unclear ({type(error).__name__}, seed {number})"
        if memory_mb("VmHWM") - before > MOST_MB or time.monotonic() - began > MOST_SECONDS:
            outcome = f"unbounded (seed {number})"
        outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def fuzz_in_a_child(first: int, count: int, files: list[bytes], path: Path) -> str:
    """``fuzz`` in a forked process, since a crash of a decoder would end this one."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.write(writing, repr(fuzz(first, count, files, path)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        outcome = stream.read().decode()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"a mutant of seeds {first} to {first + count - 1} killed the process"
    return outcome


@linux
@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.fuzz)])
def test_mutants(dicom_file, tmp_path, count):
    files = seeds(tmp_path, dicom_file)
    first = 0 if count == 400 else int(os.environ.get("SGA_FUZZ_SEED", "1000"))
    for start in range(first, first + count, 100):
        outcome = fuzz_in_a_child(start, 100, files, tmp_path / "mutant")
        sys.stdout.write(f"seeds {start} to {start + 99}: {outcome}\n")
        assert "unclear" not in outcome, outcome
        assert "unbounded" not in outcome, outcome
        assert "'refused'" in outcome
