"""Values that the header has no room for are refused; sign extension and declared overlays are not."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from sga_monai.core.errors import ReadError
from sga_monai.imaging.dicom import read_facts
from sga_monai.imaging.read import read_cxr


def code_of(path) -> str | None:
    try:
        read_cxr(path)
    except ReadError as error:
        return error.code
    return None


def assert_shows(path, expected: np.ndarray) -> None:
    """The gray values are ``expected`` from 0 to the most that BitsStored has room for."""
    largest = 2 ** pydicom.dcmread(path, stop_before_pixels=True).BitsStored - 1
    np.testing.assert_allclose(read_cxr(path), expected / largest, atol=1e-6)


STREAMS = {
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEGLosslessSV1: lambda a: imagecodecs.jpeg8_encode(a, lossless=True, bitspersample=16),
    uid.JPEG2000Lossless: lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", reversible=True),
}
NATIVE = [
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
]


def written(dicom_file, pixels: np.ndarray, syntax: str, **attributes: object):
    if syntax in STREAMS:
        return dicom_file(pixels, syntax, PixelData=encapsulate([bytes(STREAMS[syntax](pixels))]), **attributes)
    if syntax == uid.RLELossless:
        whole = pydicom.dcmread(dicom_file(pixels))
        whole.compress(uid.RLELossless, encoding_plugin="pydicom")
        return dicom_file(pixels, uid.RLELossless, PixelData=whole.PixelData, **attributes)
    return dicom_file(pixels, syntax, **attributes)


@pytest.mark.parametrize("syntax", [*NATIVE, *STREAMS])
@pytest.mark.parametrize("bits", [8, 10, 11])
def test_values_above_bits_stored_are_refused(dicom_file, drawn, syntax, bits):
    assert code_of(written(dicom_file, drawn, syntax, BitsStored=bits)) == "bits"
    assert_shows(written(dicom_file, drawn >> (12 - bits), syntax, BitsStored=bits), drawn >> (12 - bits))


def test_eight_bits_with_fewer_stored(dicom_file, drawn):
    gray = (drawn >> 4).astype(np.uint8)
    assert code_of(dicom_file(gray, BitsStored=6)) == "bits"
    assert_shows(dicom_file(gray >> 2, BitsStored=6), gray >> 2)
    signed = (gray.astype(int) - 128).astype(np.int8)
    assert_shows(dicom_file(signed), gray)


@pytest.mark.parametrize("syntax", [*NATIVE, uid.JPEG2000Lossless])
def test_signs_may_be_extended_or_not(dicom_file, drawn, syntax):
    signed = drawn.astype(np.int16) - 2048
    assert_shows(written(dicom_file, signed, syntax, BitsStored=12), drawn)
    assert_shows(written(dicom_file, (signed & 0x0FFF).astype(np.int16), syntax, BitsStored=12), drawn)
    # Too large for ten bits, either way.
    assert code_of(written(dicom_file, signed, syntax, BitsStored=10)) == "bits"
    # Set above BitsStored, and no sign.
    assert code_of(written(dicom_file, (signed & 0x0FFF | 0x2000).astype(np.int16), syntax, BitsStored=12)) == "bits"


@pytest.mark.parametrize("position", [12, 13, 15])
def test_declared_overlays_explain_bits(dicom_file, drawn, position):
    pixels = drawn | np.uint16(1 << position) * (np.arange(256) > 100).astype(np.uint16)
    path = dicom_file(pixels, BitsStored=12)
    assert code_of(path) == "bits"
    for group, declared in ((0x6000, position), (0x6004, position), (0x6000, (position - 11) % 4 + 12)):
        dataset = pydicom.dcmread(path)
        dataset.add_new((group, 0x0100), "US", 16)
        dataset.add_new((group, 0x0102), "US", declared)
        dataset.save_as(path.with_name("overlay.dcm"))
        if declared == position:
            assert_shows(path.with_name("overlay.dcm"), drawn)
        else:
            assert code_of(path.with_name("overlay.dcm")) == "bits"
    # An overlay that has its own data lies in no bit.
    dataset = pydicom.dcmread(path)
    dataset.add_new((0x6000, 0x0100), "US", 1)
    dataset.add_new((0x6000, 0x0102), "US", position)
    dataset.add_new((0x6000, 0x3000), "OW", bytes(pixels.size // 8))
    dataset.save_as(path.with_name("own.dcm"))
    assert code_of(path.with_name("own.dcm")) == "bits"


def test_high_bits(dicom_file, drawn):
    for low in (0, 0x000F):
        assert_shows(dicom_file(drawn << 4 | np.uint16(low), BitsStored=12, HighBit=15), drawn)
    assert code_of(dicom_file(drawn << 4, BitsStored=12, HighBit=13)) == "bits"
    assert_shows(dicom_file(drawn << 2, BitsStored=12, HighBit=13), drawn)


@pytest.mark.parametrize("syntax", [*NATIVE, *STREAMS])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_values_at_bit_0_are_not_shifted_by_a_high_bit_above_them(dicom_file, drawn, syntax, dtype):
    """In a compressed stream they always lie there (PS3.5 8.2); in a plain one HighBit must be right."""
    pixels = drawn.astype(dtype) - dtype(2048 if dtype is np.int16 else 0)
    if syntax in STREAMS and not (dtype is np.int16 and syntax != uid.JPEG2000Lossless):
        right = read_cxr(written(dicom_file, pixels, syntax, BitsStored=12))
        for high in (12, 15):
            assert np.array_equal(read_cxr(written(dicom_file, pixels, syntax, BitsStored=12, HighBit=high)), right)
        # A writer that shifted before it compressed has values that BitsStored has no room for.
        assert code_of(written(dicom_file, (drawn << 4), syntax, BitsStored=12, HighBit=15)) == "bits"
    elif syntax in NATIVE:
        for high in (12, 15):
            assert code_of(written(dicom_file, pixels, syntax, BitsStored=12, HighBit=high)) == "bits"
        assert_shows(written(dicom_file, pixels << 4, syntax, BitsStored=12, HighBit=15), drawn)


def test_dark_images_that_are_shifted_are_read(dicom_file, drawn):
    """No value above 255 of 4095, so that no word is above 4095."""
    dark = drawn >> 4
    assert_shows(dicom_file(dark << 4, BitsStored=12, HighBit=15), dark)
    # Padding is any word, and an overlay may lie in the bits below.
    for padding in (0xFFFF, 0x7FFF, 0x9000):
        padded = drawn.copy()
        padded[:40] = padding
        assert code_of(dicom_file(padded, BitsStored=12, HighBit=15, PixelPaddingValue=padding)) == "bits"
    dataset = pydicom.dcmread(dicom_file(dark << 4 | np.uint16(4) * (np.arange(256) > 100).astype(np.uint16), BitsStored=12, HighBit=15))
    dataset.add_new((0x6000, 0x0100), "US", 16)
    dataset.add_new((0x6000, 0x0102), "US", 2)
    dataset.save_as(dicom_file(dark, name="overlay.dcm"))
    assert_shows(Path(dataset.filename).with_name("overlay.dcm"), dark)


def test_contradictory_presentation_is_done_as_it_says_and_counted(dicom_file, drawn):
    """INVERSE turns the output of the VOI (PS3.4 N.2); with MONOCHROME2 PS3.3 C.8.11.3.1.2 forbids it."""
    for photometric, shape, stored, said in (
        ("MONOCHROME2", None, drawn, ""), ("MONOCHROME2", "IDENTITY", drawn, "IDENTITY"),
        ("MONOCHROME1", None, 4095 - drawn, ""), ("MONOCHROME1", "INVERSE", 4095 - drawn, "INVERSE"),
        ("MONOCHROME2", "INVERSE", 4095 - drawn, "INVERSE (contradicts PhotometricInterpretation)"),
        ("MONOCHROME1", "IDENTITY", 4095 - drawn, "IDENTITY (contradicts PhotometricInterpretation)"),
    ):  # fmt: skip
        shapes = {} if shape is None else {"PresentationLUTShape": shape}
        path = dicom_file(stored, BitsStored=12, PhotometricInterpretation=photometric, **shapes)
        assert_shows(path, drawn)
        assert read_facts(path.read_bytes())["presentation"] == said
