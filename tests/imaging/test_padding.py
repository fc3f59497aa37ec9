"""Padding never sets the scale: the anatomy is the same with and without it, also after the preprocessing."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from sga_monai.core.errors import ReadError
from sga_monai.data.cxr_reader import CXRReader
from sga_monai.data.transforms import ScalePercentilesd, preprocessing
from sga_monai.imaging.decoded import ReadOptions
from sga_monai.imaging.padding import find_padding
from sga_monai.imaging.read import decode, read_cxr
from sga_monai.model.preparation import Preparation

# Border columns on each side, and rows above and below.
WIDE, HIGH = 30, 20


def padded(pixels: np.ndarray, value: int) -> np.ndarray:
    return np.pad(pixels, ((HIGH, HIGH), (WIDE, WIDE)), constant_values=value)


def dark(pixels: np.ndarray) -> np.ndarray:
    """12 bits without the ends, so that padding of 0 and 4095 is no anatomy, some of it air at the border."""
    return (pixels // 2 + 1000).astype(np.uint16)


# MONOCHROME1 or 2, from the drawn pixels to stored ones, padding, BitsStored.
CASES = {
    "low is dense, 16 bits, padding 0": ("MONOCHROME1", lambda d: 4092 - d, 0, 16),
    "low is dense, 16 bits, padding 65535": ("MONOCHROME1", lambda d: 4092 - d, 65535, 16),
    "low is dense, 12 bits, padding 0": ("MONOCHROME1", lambda d: 4092 - dark(d), 0, 12),
    "low is dense, 12 bits, padding 4095": ("MONOCHROME1", lambda d: 4092 - dark(d), 4095, 12),
    "padding beyond BitsStored": ("MONOCHROME1", lambda d: 4092 - dark(d), 65535, 12),
    "high is dense, padding 65535": ("MONOCHROME2", lambda d: d + 1, 65535, 16),
    "high is dense, padding 0": ("MONOCHROME2", lambda d: d + 1, 0, 16),
    "signed, padding -2000": ("MONOCHROME2", lambda d: d.astype(np.int16), -2000, 16),
    "signed, padding 32767": ("MONOCHROME1", lambda d: d.astype(np.int16) - 2048, 32767, 16),
    "signed, 12 bits, padding -32768": ("MONOCHROME2", lambda d: dark(d).astype(np.int16) - 2048, -32768, 12),
    "8 bits, padding 255": ("MONOCHROME1", lambda d: (d >> 5).astype(np.uint8), 255, 8),
}


@pytest.mark.parametrize("case", list(CASES))
def test_anatomy_is_the_same_with_and_without_padding(dicom_file, drawn, case):
    photometric, stored, value, bits = CASES[case]
    pixels = stored(drawn)
    common = {"BitsStored": bits, "PhotometricInterpretation": photometric}
    alone = read_cxr(dicom_file(pixels, **common))
    image = read_cxr(dicom_file(padded(pixels, value), PixelPaddingValue=value, **common))
    np.testing.assert_array_equal(image[HIGH:-HIGH, WIDE:-WIDE], alone)
    assert (image[:HIGH] == alone.min()).all()
    assert (image[:, -WIDE:] == alone.min()).all()
    expected = drawn if case.startswith(("low", "high", "padding beyond", "signed, padding -2000", "signed, 12")) else 4095 - drawn
    assert np.corrcoef(alone.ravel(), expected.ravel())[0, 1] > 0.999


@pytest.mark.parametrize("case", list(CASES))
def test_preprocessing_scales_the_anatomy_alone(dicom_file, drawn, case):
    photometric, stored, value, bits = CASES[case]
    # Twice the size of the network's image, so that its pixels are whole ones of the picture.
    pixels = stored(drawn)[:280, : 320 - 2 * WIDE]
    pixels = pixels[: 320 - 2 * HIGH]
    whole = dicom_file(
        np.pad(pixels, ((HIGH, HIGH), (WIDE, 320 - WIDE - pixels.shape[1])), constant_values=value),
        BitsStored=bits, PhotometricInterpretation=photometric, PixelPaddingValue=value,
    )  # fmt: skip
    alone = read_cxr(dicom_file(pixels, name="alone.dcm", BitsStored=bits, PhotometricInterpretation=photometric))
    small = alone.reshape(alone.shape[0] // 2, 2, alone.shape[1] // 2, 2).mean((1, 3))
    expected = np.asarray(ScalePercentilesd("image", 0.5, 99.5)({"image": small[None]})["image"])
    image = np.asarray(preprocessing(Preparation(160))({"image": str(whole)})["image"])
    inside = image[:, HIGH // 2 : HIGH // 2 + small.shape[0], WIDE // 2 : WIDE // 2 + small.shape[1]]
    np.testing.assert_allclose(inside, expected, atol=1e-3)
    assert inside.std() > 0.15
    assert (image[:, : HIGH // 2] == 0).all()


def test_padding_of_a_stream(dicom_file, drawn):
    pixels = padded(4092 - drawn, 0)
    for syntax, stream in (
        (uid.JPEGLSLossless, imagecodecs.jpegls_encode(pixels)),
        (uid.JPEGLosslessSV1, imagecodecs.jpeg8_encode(pixels, lossless=True, bitspersample=16)),
        (uid.JPEG2000Lossless, imagecodecs.jpeg2k_encode(pixels, codecformat="j2k", reversible=True)),
    ):
        common = {"PixelData": encapsulate([bytes(stream)]), "PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 0}
        image = read_cxr(dicom_file(pixels, syntax, **common))
        np.testing.assert_array_equal(image, read_cxr(dicom_file(pixels, **common | {"PixelData": pixels.tobytes()})))
        assert image.max() - image.min() < 0.07


def test_padding_values_inside_are_anatomy(dicom_file, drawn):
    pixels = padded(drawn + 1, 0)
    pixels[150:170, 120:160] = 0
    decoded = decode(dicom_file(pixels, BitsStored=12, PixelPaddingValue=0).read_bytes())
    assert (decoded.image[150:170, 120:160] == 0).all()
    assert not decoded.padding[150:170, 120:160].any()
    assert decoded.padding[:HIGH].all()
    assert decoded.padding.sum() == (pixels == 0).sum() - 20 * 40


def test_a_range_over_anatomy_is_refused_and_a_narrow_one_is_not(dicom_file, drawn):
    for first, last in ((0, 1500), (1500, 0), (500, 1900), (3000, 4095)):
        with pytest.raises(ReadError) as caught:
            read_cxr(dicom_file(drawn, BitsStored=12, PixelPaddingValue=first, PixelPaddingRangeLimit=last))
        assert caught.value.code == "padding"
    pixels = padded(drawn // 2 + 1000, 0)
    pixels[:, :WIDE] = np.arange(len(pixels))[:, None] % 40
    for last in (40, 300):
        decoded = decode(dicom_file(pixels, BitsStored=12, PixelPaddingValue=0, PixelPaddingRangeLimit=last).read_bytes())
        assert decoded.padding.sum() == pixels.size - drawn.size
        assert decoded.image.min() == pytest.approx(1000 / 4095)
    with pytest.raises(ReadError) as caught:
        read_cxr(dicom_file(np.full((50, 60), 7, np.uint16), PixelPaddingValue=7))
    assert caught.value.code == "padding"


def test_a_padding_value_that_does_not_occur_changes_nothing(dicom_file, drawn):
    plain = decode(dicom_file(drawn + 1, BitsStored=12).read_bytes())
    for value in (0, 65535):
        decoded = decode(dicom_file(drawn + 1, BitsStored=12, PixelPaddingValue=value).read_bytes())
        assert decoded.padding is None
        np.testing.assert_array_equal(decoded.image, plain.image)


def test_padding_turns_with_the_image(dicom_file, drawn):
    pixels = np.pad(drawn + 1, ((HIGH, 0), (WIDE, 0)), constant_values=0)
    path = dicom_file(pixels, BitsStored=12, PixelPaddingValue=0, PatientOrientation=["F", "R"], PixelAspectRatio=["2", "1"])
    decoded = decode(path.read_bytes())
    assert decoded.padding.shape == decoded.image.shape == (pixels.shape[1], 2 * pixels.shape[0])
    assert decoded.padding[:WIDE].all()
    assert decoded.padding[:, -2 * HIGH + 2 :].all()
    assert not decoded.padding[WIDE + 2 :, : -2 * HIGH - 4].any()
    _, meta = CXRReader().get_data(str(path))
    np.testing.assert_array_equal(meta["padding"], decoded.padding)
    stored = decode(path.read_bytes(), ReadOptions(orientation="stored"))
    assert stored.padding[: 2 * HIGH - 2].all()


def test_connected_along_edges():
    """A spiral that begins at the border is found to its end; what touches it at a corner only is not."""
    words = np.ones((9, 9), dtype=np.uint8)
    words[1, :8], words[1:8, 7], words[7, 2:8], words[3:8, 2], words[3, 2:6] = 0, 0, 0, 0, 0
    words[4, 6], words[5, 5] = 0, 0
    table = np.zeros(256, dtype=bool)
    table[0] = True
    mask = find_padding(words, table, np.arange(256, dtype=np.int32))
    expected = words == 0
    expected[5, 5] = False
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("sign", ["US", "SS"])
@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_the_padding_value_may_have_the_other_sign(dicom_file, drawn, syntax, sign):
    """65535 written as SS -1 for unsigned pixels, -3000 as US 62536 for signed ones."""
    for pixels, value in ((drawn + 1, 65535), (drawn.astype(np.int16) - 2048, -3000)):
        path = dicom_file(padded(pixels, value), syntax)
        dataset = pydicom.dcmread(path)
        given = value & 0xFFFF if sign == "US" else value - 65536 if value > 32767 else value
        dataset.add_new("PixelPaddingValue", sign, given)
        dataset.save_as(path)
        image = read_cxr(path)
        assert (image[:HIGH] == image[HIGH:-HIGH, WIDE:-WIDE].min()).all()
        np.testing.assert_array_equal(image[HIGH:-HIGH, WIDE:-WIDE], read_cxr(dicom_file(pixels, name="alone.dcm")))
