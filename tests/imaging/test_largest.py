"""What the largest accepted image of each codec costs, in a process of its own: `pytest -m fuzz -s` prints it."""

from __future__ import annotations

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

MOST_MB = 500
SIDE = 5650
CHILD = """
import resource, sys
from sga_monai.imaging.read import read_cxr
before = resource.getrusage(resource.RUSAGE_SELF)
assert read_cxr(sys.argv[1]).size > 15_000_000
after = resource.getrusage(resource.RUSAGE_SELF)
# ru_maxrss would be that of the process which started this one, if larger.
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, int(peak.split()[1]) / 1024)
"""
STREAMS = {
    "JPEG lossless": (uid.JPEGLosslessSV1, lambda a: imagecodecs.jpeg8_encode(a, lossless=True)),
    "JPEG extended": (uid.JPEGExtended12Bit, lambda a: imagecodecs.jpeg8_encode(a, level=95, bitspersample=12)),
    "JPEG-LS": (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
    "JPEG 2000": (uid.JPEG2000Lossless, lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", reversible=True)),
    "HTJ2K": (uid.HTJ2KLossless, imagecodecs.htj2k_encode),
}


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """12 bits of noise on a ramp, with a black edge, which the check for cut streams looks at twice."""
    ramp = np.linspace(0, 3500, SIDE, dtype=np.float32)[:, None]
    noisy = ramp + np.random.default_rng(0).normal(300, 12, (SIDE, SIDE)).astype(np.float32)
    noisy[-600:] = 0
    return noisy.clip(0, 4095).astype(np.uint16)


def write(kind: str, pixels: np.ndarray, folder: Path, dicom_file) -> Path:
    gray = (pixels >> 4).astype(np.uint8)
    if kind in STREAMS:
        syntax, encode = STREAMS[kind]
        return dicom_file(pixels, syntax, PixelData=encapsulate([bytes(encode(pixels))]))
    if kind == "padded, turned":
        padded = pixels.copy()
        padded[:, :300] = 65535
        return dicom_file(padded, PixelPaddingValue=65535, PatientOrientation=["H", "R"])
    if kind == "resampled":
        return dicom_file(pixels, BitsStored=12, PixelSpacing=[0.2, 0.15])
    if kind == "RLE":
        dataset = pydicom.dcmread(dicom_file(pixels))
        dataset.compress(uid.RLELossless, encoding_plugin="pydicom")
        dataset.save_as(folder / "rle.dcm")
        return folder / "rle.dcm"
    color = np.stack([gray, 255 - gray, gray // 2], axis=-1)
    if kind == "RGB":
        return dicom_file(color)
    if kind == "JPEG 2000, RGB":
        color = color[:4000, :3990]
        stream = bytes(imagecodecs.jpeg2k_encode(color, codecformat="j2k", reversible=True))
        return dicom_file(color, uid.JPEG2000Lossless, PixelData=encapsulate([stream]), PhotometricInterpretation="YBR_RCT")
    path = folder / kind
    if kind.startswith("NIfTI"):
        affine = np.diag([1.0, 1.5 if kind == "NIfTI, resampled" else 1, 1, 1])
        nib.save(nib.Nifti1Image(pixels.T.astype(np.float64), affine), folder / "a.nii.gz")
        path = folder / "a.nii.gz"
    elif kind == "JPEG, 12 bits":
        path.write_bytes(bytes(imagecodecs.jpeg8_encode(pixels, level=95, bitspersample=12)))
    elif kind == "PNG, resampled":
        Image.fromarray(color).save(path, "PNG", compress_level=0, dpi=(150, 100))
    elif kind == "PNG, 16 bits":
        Image.fromarray(pixels).save(path, "PNG", compress_level=1)
    else:
        Image.fromarray(color).save(path, kind, **({"compress_level": 0} if kind == "PNG" else {"quality": 95, "subsampling": 0}))
    return path


KINDS = [
    "native", "padded, turned", "resampled", "RLE", "RGB", "JPEG 2000, RGB", *STREAMS, "PNG", "PNG, 16 bits", "PNG, resampled", "JPEG",
    "JPEG, 12 bits", "NIfTI", "NIfTI, resampled",
]  # fmt: skip


@pytest.mark.fuzz
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_image_of_each_codec(pixels, tmp_path, dicom_file, kind):
    path = dicom_file(pixels, BitsStored=12) if kind == "native" else write(kind, pixels, tmp_path, dicom_file)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    result = subprocess.run([sys.executable, "-c", CHILD, path], capture_output=True, text=True, check=True, env=environment)
    seconds, megabytes = (float(figure) for figure in result.stdout.split())
    sys.stdout.write(f"\n{kind}: {seconds:.1f} s of CPU, {megabytes:.0f} MB at most, imports included")
    assert megabytes < MOST_MB
