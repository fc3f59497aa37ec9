"""A shortage of memory is no fault of the image: it passes through the readers, and a header that lies cannot bring it about."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
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
from sga_monai.imaging.dicom import read_facts, read_header, read_stored
from sga_monai.imaging.head import read_head
from sga_monai.imaging.read import decode_cxr, read_cxr

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is limited by RLIMIT_AS")


def noise(shape: tuple[int, ...] = (64, 80), dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 4096 if dtype == np.uint16 else 256, shape).astype(dtype)


def run_out(*_: object, **__: object) -> None:
    raise MemoryError


def lut() -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.LUTDescriptor, item.LUTData = [4096, 0, 16], np.arange(4096, dtype=np.uint16).tobytes()
    return item


def png(pixels: np.ndarray) -> bytes:
    return bytes(imagecodecs.png_encode(pixels))


def jpeg(pixels: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    "target",
    [
        "sga_monai.imaging.codec._check_native_length",
        "sga_monai.imaging.header._check_size_of_header",
        "sga_monai.imaging.grayscale._look_up",
        "sga_monai.imaging.examination.view_of",
        "sga_monai.imaging.dicom.tables",
        "pydicom.Dataset.__contains__",
    ],
)
def test_dicom(dicom_file, monkeypatch, target):
    path = dicom_file(noise(), VOILUTSequence=[lut()], BitsStored=12)
    read_cxr(path)
    monkeypatch.setattr(target, run_out)
    with pytest.raises(MemoryError):
        read_cxr(path)


@pytest.mark.parametrize("keyword", ["ModalityLUTSequence", "VOILUTSequence"])
def test_tables(dicom_file, monkeypatch, keyword):
    path = dicom_file(noise(), BitsStored=12, **{keyword: [lut()]})
    monkeypatch.setattr("sga_monai.imaging.grayscale._look_up", run_out)
    with pytest.raises(MemoryError):
        read_cxr(path)


def test_headers(dicom_file, monkeypatch):
    path = dicom_file(noise())
    path.write_bytes(path.read_bytes() + bytes(20_000))
    head = read_head(path)
    with monkeypatch.context() as patch:
        patch.setattr("pydicom.dcmread", run_out)
        with pytest.raises(MemoryError):
            read_head(path)
    monkeypatch.setattr("sga_monai.imaging.dicom.parse", lambda *_, **__: pydicom.dcmread(path))
    monkeypatch.setattr(pydicom.Dataset, "get", run_out)
    for read in (read_facts, lambda data: read_header(data, ("Rows",))):
        with pytest.raises(MemoryError):
            read(head)


@pytest.mark.parametrize(
    ("target", "data"),
    [
        ("PIL.Image.Image.getexif", lambda: png(noise(dtype=np.uint8))),
        ("PIL.Image.Exif.load", lambda: jpeg(noise(dtype=np.uint8), exif=Image.Exif())),
        ("imagecodecs.png_decode", lambda: png(noise((64, 80, 3)))),
        ("imagecodecs.jpeg8_decode", lambda: bytes(imagecodecs.jpeg8_encode(noise(), lossless=True))),
        ("sga_monai.imaging.raster.make_square", lambda: png(noise())),
        ("sga_monai.imaging.nifti._chunks", lambda: nib.Nifti1Image(noise(), np.eye(4)).to_bytes()),
    ],
)
def test_pictures(monkeypatch, target, data):
    monkeypatch.setattr(target, run_out)
    with pytest.raises(MemoryError):
        decode_cxr(data())


def test_a_system_without_memory_gives_no_file(tmp_path, monkeypatch):
    def no_memory(*_: object) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    (tmp_path / "a.png").write_bytes(png(noise()))
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", no_memory)
        with pytest.raises(MemoryError):
            read_cxr(tmp_path / "a.png")


# In a process of its own, which has freed nothing that a limit would leave to it.
WITHIN = """
import os, resource, sys
from pathlib import Path
from sga_monai.core.errors import ReadError
from sga_monai.imaging.read import decode_cxr
data = Path(sys.argv[1]).read_bytes()
for megabytes in map(int, sys.argv[2:]):
    if os.fork() == 0:
        taken = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
        resource.setrlimit(resource.RLIMIT_AS, ((int(taken.split()[1]) << 10) + (megabytes << 20), resource.RLIM_INFINITY))
        try:
            decode_cxr(data)
            print("read", flush=True)
        except ReadError as error:
            print(error.code, flush=True)
        except MemoryError:
            print("memory", flush=True)
        os._exit(0)
    os.wait()
"""


def outcomes_within(path: Path, *megabytes: int) -> list[str]:
    """What is made of a file when it may take so much more memory."""
    command = [sys.executable, "-c", WITHIN, str(path), *map(str, megabytes)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.split()


@linux
@pytest.mark.parametrize("codec", ["JPEG 2000", "progressive JPEG"])
def test_decoders_that_say_of_a_shortage_what_they_say_of_damage(dicom_file, tmp_path, codec):
    pixels = np.tile(noise(dtype=np.uint8), (32, 25))
    if codec == "JPEG 2000":
        stream = bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True))
        path = dicom_file(pixels, uid.JPEG2000Lossless, PixelData=encapsulate([stream]))
    else:
        path = tmp_path / "a.jpg"
        path.write_bytes(jpeg(pixels, progressive=True))
    # What the process has loaded decides which limits are too low; none may make damage of it.
    assert sorted(set(outcomes_within(path, 2, 6, 10, 14, 18, 22, 400))) == ["memory", "read"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert outcomes_within(path, 400) == ["truncated"]


@pytest.mark.parametrize("syntax", [uid.RLELossless, uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.ExplicitVRLittleEndian])
def test_a_header_that_lies_is_refused_before_anything_is_allocated(dicom_file, monkeypatch, syntax):
    pixels = noise(dtype=np.uint8)
    stream = bytes(imagecodecs.jpeg8_encode(pixels))
    data = pixels.tobytes() if syntax == uid.ExplicitVRLittleEndian else encapsulate([stream])
    path = dicom_file(pixels, syntax, PixelData=data, Rows=65535, Columns=65535, NumberOfFrames=65535)
    monkeypatch.setattr(np, "zeros", run_out)
    with pytest.raises(ReadError) as caught:
        read_stored(path.read_bytes())
    assert caught.value.code == "too_large"


COLORS = ("Red", "Green", "Blue")


def palette(words: list[int], kind: str) -> dict[str, object]:
    """The attributes of a palette of 16 bits, the same for each color."""
    data = np.array(words, dtype=np.uint16).tobytes()
    tables = {f"{kind}{color}PaletteColorLookupTableData": data for color in COLORS}
    descriptors = {f"{color}PaletteColorLookupTableDescriptor": [256, 0, 16] for color in COLORS}
    return {"PhotometricInterpretation": "PALETTE COLOR"} | descriptors | tables


def test_a_palette_is_read_and_may_find_no_memory(dicom_file, monkeypatch):
    ramp = [257 * value for value in range(256)]
    pixels = noise(dtype=np.uint8)
    path = dicom_file(pixels, **palette(ramp, ""))
    # One value, then 255 on a line to the last.
    segmented = dicom_file(pixels, name="b.dcm", **palette([0, 1, 0, 1, 255, 65535], "Segmented"))
    np.testing.assert_array_equal(read_cxr(path), read_cxr(segmented))
    monkeypatch.setattr("sga_monai.imaging.grayscale.apply_color_lut", run_out)
    with pytest.raises(MemoryError):
        read_cxr(path)


@pytest.mark.parametrize("words", [[0, 1, 0, *[1, 65535, 0] * 3000], [0, 1, 0, *[2, 2, 0, 0] * 9], [0, 1, 0, *[1, 0, 0] * 9]])
def test_a_segmented_palette_of_endless_entries_is_refused_before_it_is_expanded(dicom_file, monkeypatch, words):
    monkeypatch.setattr("sga_monai.imaging.grayscale.apply_color_lut", run_out)
    with pytest.raises(ReadError) as caught:
        read_cxr(dicom_file(noise(dtype=np.uint8), **palette(words, "Segmented")))
    assert caught.value.code == "photometric"
