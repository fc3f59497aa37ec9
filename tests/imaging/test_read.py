from __future__ import annotations

import errno
import gzip
import io
import logging
import os
import pickle
import re
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import imagecodecs
import nibabel as nib
import numpy as np
import pydicom
import pytest
from monai.transforms import LoadImaged
from PIL import Image, PngImagePlugin
from pydicom import uid
from pydicom.encaps import encapsulate

from sga_monai.core.errors import REASONS, ReadError
from sga_monai.data.cxr_reader import CXRReader
from sga_monai.data.listed_files import is_back
from sga_monai.imaging.dicom import read_facts
from sga_monai.imaging.read import read_cxr


def picture(dtype=np.uint16, top: int = 4095) -> np.ndarray:
    """50 x 70, a ramp with a dense block in the upper left corner, so that turns and flips show."""
    y, x = np.mgrid[0:50, 0:70]
    image = (0.1 + 0.3 * x / 70 + 0.2 * y / 50) * top
    image[0:10, 0:20] = top
    return image.astype(dtype)


def assert_is(image: np.ndarray, expected: np.ndarray) -> None:
    assert image.shape == expected.shape
    assert image.dtype == np.float32
    assert image.min() >= 0
    assert image.max() <= 1
    assert np.corrcoef(image.ravel(), expected.astype(float).ravel())[0, 1] > 0.999


STREAMS = {
    uid.JPEGBaseline8Bit: lambda a: imagecodecs.jpeg8_encode(a, level=98),
    uid.JPEGExtended12Bit: lambda a: imagecodecs.jpeg8_encode(a, level=98, bitspersample=12 if a.itemsize > 1 else 8),
    uid.JPEGLossless: lambda a: imagecodecs.jpeg8_encode(a, lossless=True),
    uid.JPEGLosslessSV1: lambda a: imagecodecs.jpeg8_encode(a, lossless=True, predictor=1),
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEGLSNearLossless: lambda a: imagecodecs.jpegls_encode(a, level=2),
    uid.JPEG2000Lossless: lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", reversible=True),
    uid.JPEG2000: lambda a: imagecodecs.jpeg2k_encode(a, level=80, codecformat="j2k"),
}


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian],
)
def test_native_syntaxes(dicom_file, syntax):
    assert_is(read_cxr(dicom_file(picture(), syntax, BitsStored=12)), picture())


@pytest.mark.parametrize("syntax", list(STREAMS))
def test_encapsulated_syntaxes(dicom_file, syntax):
    pixels = picture(np.uint8, 255) if syntax == uid.JPEGBaseline8Bit else picture()
    data = encapsulate([bytes(STREAMS[syntax](pixels))])
    assert_is(read_cxr(dicom_file(pixels, syntax, PixelData=data)), pixels)


def compressed(path: Path) -> Path:
    dataset = pydicom.dcmread(path)
    dataset.compress(uid.RLELossless, encoding_plugin="pydicom")
    dataset.save_as(path)
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rle(dicom_file, dtype):
    pixels = picture(dtype, 255 if dtype == np.uint8 else 4095)
    assert_is(read_cxr(compressed(dicom_file(pixels))), pixels)
    color = np.stack([pixels.astype(np.uint8)] * 3, axis=-1)
    assert_is(read_cxr(compressed(dicom_file(color))), color[..., 0])


def test_rle_of_another_size_is_refused(dicom_file):
    for attributes in ({"Rows": 49}, {"Rows": 51}, {"Columns": 71}, {"BitsAllocated": 8, "BitsStored": 8}):
        path = compressed(dicom_file(picture()))
        dataset = pydicom.dcmread(path)
        for key, value in (attributes | ({"HighBit": 7} if "BitsStored" in attributes else {})).items():
            setattr(dataset, key, value)
        dataset.save_as(path)
        assert code_of(path) == "truncated"


def code_of(path: Path, **options: object) -> str:
    with pytest.raises(ReadError) as caught:
        read_cxr(path, **options)
    assert "SECRET" not in str(caught.value)
    assert "MRN" not in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.JPEGLSLossless, uid.RLELossless])
def test_one_frame_of_several_can_be_chosen(dicom_file, syntax):
    frames = [picture(), picture()[::-1].copy(), picture()[:, ::-1].copy()]
    path = dicom_file(frames[0])
    dataset = pydicom.dcmread(path)
    dataset.NumberOfFrames = 3
    dataset.PixelData = np.stack(frames).tobytes()
    if syntax == uid.RLELossless:
        dataset.compress(syntax, np.stack(frames), encoding_plugin="pydicom")
    elif syntax == uid.JPEGLSLossless:
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = encapsulate([bytes(imagecodecs.jpegls_encode(frame)) for frame in frames])
        dataset["PixelData"].VR = "OB"
    dataset.save_as(path)
    assert code_of(path) == "multi_frame"
    assert code_of(path, frame=4) == "multi_frame"
    for number, frame in enumerate(frames, 1):
        assert_is(read_cxr(path, frame=number), frame)


def test_lateral_can_be_chosen(dicom_file):
    assert_is(read_cxr(dicom_file(picture(), ViewPosition="LL"), lateral=True), picture())


def test_monochrome1_is_inverted_once(dicom_file):
    for extra in ({}, {"PresentationLUTShape": "INVERSE"}):
        path = dicom_file(4095 - picture(), BitsStored=12, PhotometricInterpretation="MONOCHROME1", **extra)
        assert_is(read_cxr(path), picture())


def test_inverse_shape_with_monochrome2(dicom_file):
    assert_is(read_cxr(dicom_file(4095 - picture(), BitsStored=12, PresentationLUTShape="INVERSE")), picture())


def test_golden_window_values(dicom_file):
    pixels = np.array([[0, 1000], [2000, 4000]], dtype=np.uint16)
    image = read_cxr(dicom_file(pixels, BitsStored=12, WindowCenter=[2000, 1], WindowWidth=[2001, 2]))
    np.testing.assert_allclose(image, [[0, 0.00025], [0.50025, 1]], atol=1e-6)
    image = read_cxr(dicom_file(pixels, BitsStored=12, WindowCenter=2000, WindowWidth=2000, VOILUTFunction="LINEAR_EXACT"))
    np.testing.assert_allclose(image, [[0, 0], [0.5, 1]], atol=1e-6)
    image = read_cxr(dicom_file(pixels, BitsStored=12, WindowCenter=2000, WindowWidth=1000, VOILUTFunction="SIGMOID"))
    np.testing.assert_allclose(image[1], [0.5, 1 / (1 + np.exp(-8))], atol=1e-6)
    path = dicom_file(pixels, BitsStored=12, WindowCenter=2000, WindowWidth=1000)
    np.testing.assert_allclose(read_cxr(path, voi="none"), pixels / 4095, atol=1e-6)


def test_rescale_with_negative_slope(dicom_file):
    path = dicom_file(4095 - picture(), BitsStored=12, RescaleSlope=-1, RescaleIntercept=4095)
    assert_is(read_cxr(path), picture())
    path = dicom_file(picture(), BitsStored=12, RescaleSlope="", RescaleIntercept="")
    assert_is(read_cxr(path), picture())


def test_voi_and_modality_lut(dicom_file):
    item = pydicom.Dataset()
    item.LUTDescriptor = [4096, 0, 16]
    item.LUTData = (np.linspace(0, 1, 4096) ** 2 * 65535).astype(np.uint16).tobytes()
    item["LUTData"].VR = "OW"
    item.ModalityLUTType = "US"
    expected = (picture() / 4095.0) ** 2
    assert_is(read_cxr(dicom_file(picture(), BitsStored=12, VOILUTSequence=[item])), expected)
    assert_is(read_cxr(dicom_file(picture(), BitsStored=12, ModalityLUTSequence=[item])), expected)


def lut_item(values: np.ndarray, bits: int, first: int = 0, vr: str = "OW", count: int | None = None) -> pydicom.Dataset:
    item = pydicom.Dataset()
    item.LUTDescriptor = [count if count is not None else len(values), first, bits]
    item.LUTData = values.tobytes() if vr == "OW" else [int(value) for value in values]
    item["LUTData"].VR = vr
    item.ModalityLUTType = "US"
    return item


@pytest.mark.parametrize("sequence", ["VOILUTSequence", "ModalityLUTSequence"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_look_up_tables_of_any_depth(dicom_file, sequence, bits):
    values = (np.linspace(0, 1, 4096) ** 2 * ((1 << bits) - 1)).astype(np.uint16)
    expected = (picture() / 4095.0) ** 2
    for vr in ("OW", "US"):
        assert_is(read_cxr(dicom_file(picture(), BitsStored=12, **{sequence: [lut_item(values, bits, vr=vr)]})), expected)
    big = lut_item(values.astype(">u2"), bits)
    assert_is(read_cxr(dicom_file(picture(), uid.ExplicitVRBigEndian, BitsStored=12, **{sequence: [big]})), expected)
    if bits == 8:
        packed = lut_item(values.astype(np.uint8), 8)
        assert_is(read_cxr(dicom_file(picture(), BitsStored=12, **{sequence: [packed]})), expected)
        odd = lut_item(np.append(values[:4095].astype(np.uint8), np.uint8(0)), 8, count=4095)
        assert_is(read_cxr(dicom_file(np.minimum(picture(), 4094), BitsStored=12, **{sequence: [odd]})), expected)


def test_look_up_tables_with_a_negative_start_and_lying_ones(dicom_file):
    values = np.linspace(0, 65535, 4096).astype(np.uint16)
    pixels = picture(np.int16) - 2048
    for first in (-2048, 65536 - 2048):
        item = lut_item(values, 16, first)
        item["LUTDescriptor"].VR = "SS" if first < 0 else "US"
        for sequence in ("VOILUTSequence", "ModalityLUTSequence"):
            assert_is(read_cxr(dicom_file(pixels, BitsStored=12, **{sequence: [item]})), picture())
    for item, code in ((lut_item(values[:2048], 16, count=4096), "voi"), (lut_item(values, 12), "voi"), (lut_item(values, 4), "voi")):
        assert code_of(dicom_file(picture(), BitsStored=12, VOILUTSequence=[item])) == code


def test_streams_that_contradict_the_header(dicom_file):
    deep = picture(top=60000)
    for syntax in (uid.JPEGLSLossless, uid.JPEGLossless, uid.JPEG2000Lossless):
        data = encapsulate([bytes(STREAMS[syntax](deep))])
        assert code_of(dicom_file(deep, syntax, PixelData=data, BitsStored=12)) == "bits"
        assert code_of(dicom_file(picture(np.uint8, 255), syntax, PixelData=data)) == "bits"
        assert_is(read_cxr(dicom_file(deep, syntax, PixelData=data)), deep)
    signed = picture(np.int16) - 2048
    data = encapsulate([bytes(imagecodecs.jpeg2k_encode(signed, codecformat="j2k", reversible=True))])
    assert code_of(dicom_file(picture(), uid.JPEG2000Lossless, PixelData=data)) == "bits"
    assert_is(read_cxr(dicom_file(signed, uid.JPEG2000Lossless, PixelData=data)), picture())


def test_color_of_jpeg_streams(dicom_file):
    gray = picture(np.uint8, 255)
    color = np.stack([gray, gray // 2, 255 - gray], axis=-1)
    expected = color @ np.array([0.299, 0.587, 0.114])
    plain = bytes(imagecodecs.jpeg8_encode(color, level=98, colorspace="RGB", outcolorspace="RGB"))
    # A stream of RGB that says nothing, and one with an Adobe segment that is too short to count.
    marker = plain.index(b"\xff\xee") if b"\xff\xee" in plain else -1
    silent = plain if marker < 0 else plain[:marker] + plain[marker + 2 + int.from_bytes(plain[marker + 2 : marker + 4], "big") :]
    short = silent[:2] + b"\xff\xee\x00\x0cAdobe\0\x64\0\0\0" + silent[2:]
    for stream in (silent, short, plain):
        assert_is(read_cxr(dicom_file(color, uid.JPEGBaseline8Bit, PixelData=encapsulate([stream]))), expected)
    buffer = io.BytesIO()
    Image.fromarray(color).save(buffer, "JPEG", quality=98, subsampling=0)
    # JFIF means YCbCr, whatever the header says.
    assert_is(read_cxr(dicom_file(color, uid.JPEGBaseline8Bit, PixelData=encapsulate([buffer.getvalue()]))), expected)
    ycbcr = np.asarray(Image.fromarray(color).convert("YCbCr"))
    for syntax in (uid.JPEGLosslessSV1, uid.JPEGLSLossless):
        stream = bytes(STREAMS[syntax](ycbcr))
        assert_is(read_cxr(dicom_file(ycbcr, syntax, PixelData=encapsulate([stream]), PhotometricInterpretation="YBR_FULL")), expected)


def test_code_strings_with_spaces_and_small_letters(dicom_file):
    for shape in (" INVERSE", "inverse", "INVERSE "):
        assert_is(read_cxr(dicom_file(4095 - picture(), BitsStored=12, PresentationLUTShape=shape)), picture())
    for photometric in (" MONOCHROME1", "monochrome1"):
        assert_is(read_cxr(dicom_file(4095 - picture(), BitsStored=12, PhotometricInterpretation=photometric)), picture())


def test_lateral_by_other_attributes(dicom_file):
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "R-10236", "SRT", "left lateral"
    for attributes in (
        {"ViewCodeSequence": [code]}, {"PatientOrientation": ["A", "F"]}, {"PatientOrientation": ["P", "F"]}, {"ViewPosition": "LLO"},
        {"ViewPosition": ["PA", "LL"]},
    ):  # fmt: skip
        path = dicom_file(picture(), **attributes)
        assert code_of(path) == "lateral"
        assert_is(read_cxr(path, lateral=True), picture())
    assert_is(read_cxr(dicom_file(picture(), PatientOrientation=["L", "F"], ViewPosition="PA")), picture())


def test_padding_that_lies_and_padding_of_signed_pixels(dicom_file):
    assert code_of(dicom_file(picture(), BitsStored=12, PixelPaddingValue=0, PixelPaddingRangeLimit=4000)) == "padding"
    pixels = picture(np.int16) - 2000
    pixels[:, -5:] = -2000
    path = dicom_file(pixels, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=-2000)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x28\x00\x20\x01SS", b"\x28\x00\x20\x01US"))
    image = read_cxr(path)
    assert (image[:, -5:] == image[:, :-5].min()).all()


@pytest.mark.parametrize("value", [b"UI\x00\x00", b"UI\x1a\x001.2.840.10008.1.2.1\\1.2.3\0"])
def test_odd_transfer_syntaxes(dicom_file, value):
    data = dicom_file(picture()).read_bytes()
    path = dicom_file(picture())
    start = data.index(b"\x02\x00\x10\x00UI")
    length = int.from_bytes(data[start + 6 : start + 8], "little")
    path.write_bytes(data[: start + 4] + value + data[start + 8 + length :])
    if value.endswith(b"UI\x00\x00"):
        assert_is(read_cxr(path), picture())
    else:
        assert code_of(path) == "unknown_syntax"
    read_facts(path.read_bytes())


def test_numbers_that_are_none(dicom_file):
    for keyword in ("Rows", "BitsStored", "NumberOfFrames", "SamplesPerPixel", "PixelRepresentation", "HighBit"):
        path = dicom_file(picture())
        dataset = pydicom.dcmread(path)
        dataset[keyword] = pydicom.DataElement(pydicom.datadict.tag_for_keyword(keyword), "FD", float("inf"))
        dataset.save_as(path)
        assert code_of(path) == "unreadable"


def test_what_writers_forget(dicom_file):
    """Optional and forgotten attributes, odd lengths, no preamble with other first elements."""
    path = dicom_file(picture())
    dataset = pydicom.dcmread(path)
    del dataset.SamplesPerPixel, dataset.PixelRepresentation
    dataset.save_as(path)
    assert_is(read_cxr(path), picture())
    gray = picture(np.uint8, 255)[:49, :69]
    assert_is(read_cxr(dicom_file(gray)), gray)
    path.write_bytes(dicom_file(picture()).read_bytes())
    data = path.read_bytes()
    end = 144 + int.from_bytes(data[140:144], "little")
    path.write_bytes(data[end:])
    assert_is(read_cxr(path), picture())
    path.write_bytes(b"\x08\x00\x00\x00UL\x04\x00\x00\x00\x00\x00" + data[end:])
    assert_is(read_cxr(path), picture())


def test_signed_high_bit_and_overlay_bits(dicom_file):
    assert_is(read_cxr(dicom_file(picture(np.int16) - 2000)), picture())
    shifted = (picture() << 4) | np.uint16(0x000F)
    assert_is(read_cxr(dicom_file(shifted, BitsStored=12, HighBit=15)), picture())
    overlay = {"OverlayBitsAllocated": 16, "OverlayBitPosition": 12}
    path = dicom_file(picture() | np.uint16(0x1000), BitsStored=12, HighBit=11)
    assert code_of(path) == "bits"
    dataset = pydicom.dcmread(path)
    for keyword, value in overlay.items():
        dataset.add_new((0x6000, {"OverlayBitsAllocated": 0x0100, "OverlayBitPosition": 0x0102}[keyword]), "US", value)
    dataset.save_as(path)
    assert_is(read_cxr(path), picture())


def test_padding_is_background_also_after_inversion(dicom_file):
    pixels = 4095 - picture()
    pixels[:, -5:] = 0
    image = read_cxr(dicom_file(pixels, BitsStored=12, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0))
    assert (image[:, -5:] == image[:, :-5].min()).all()


def test_color_becomes_luminance(dicom_file):
    gray = picture(np.uint8, 255)
    color = np.stack([gray, gray // 2, gray // 4], axis=-1)
    expected = color @ np.array([0.299, 0.587, 0.114])
    assert_is(read_cxr(dicom_file(color)), expected)
    planes = np.ascontiguousarray(color.transpose(2, 0, 1))
    assert_is(read_cxr(dicom_file(color, PixelData=planes.tobytes(), PlanarConfiguration=1)), expected)
    neutral = np.full_like(gray, 128)
    ybr = np.stack([gray, neutral, neutral], axis=-1)
    assert_is(read_cxr(dicom_file(ybr, PhotometricInterpretation="YBR_FULL")), gray)
    # 4:2:2 native: Y1 Y2 Cb Cr for each two pixels (PS3.3 C.7.6.3.1.2).
    pairs = np.stack([gray[:, 0::2], gray[:, 1::2], neutral[:, 0::2], neutral[:, 0::2]], axis=-1)
    assert_is(read_cxr(dicom_file(ybr, PhotometricInterpretation="YBR_FULL_422", PixelData=pairs.tobytes())), gray)
    stream = bytes(imagecodecs.jpeg8_encode(color, level=98))
    path = dicom_file(color, uid.JPEGBaseline8Bit, PixelData=encapsulate([stream]), PhotometricInterpretation="YBR_FULL_422")
    assert_is(read_cxr(path), expected)
    path = dicom_file(color, uid.JPEG2000Lossless, PhotometricInterpretation="YBR_RCT",
                      PixelData=encapsulate([bytes(imagecodecs.jpeg2k_encode(color, codecformat="j2k", reversible=True))]))  # fmt: skip
    assert_is(read_cxr(path), expected)


def test_palette_color(dicom_file):
    gray = picture(np.uint8, 255)
    ramp = (np.arange(256, dtype=np.uint16) * 257).tobytes()
    tables = {f"{name}PaletteColorLookupTable{part}": value for name in ("Red", "Green", "Blue") for part, value in
              (("Descriptor", [256, 0, 16]), ("Data", ramp))}  # fmt: skip
    assert_is(read_cxr(dicom_file(gray, PhotometricInterpretation="PALETTE COLOR", **tables)), gray)


def test_without_preamble(dicom_file):
    path = dicom_file(picture(), BitsStored=12)
    path.write_bytes(path.read_bytes()[132:])
    assert_is(read_cxr(path), picture())


@pytest.mark.parametrize(
    ("attributes", "code"),
    [
        ({"PixelData": None}, "no_pixels"),
        ({"NumberOfFrames": 3}, "multi_frame"),
        ({"Rows": 49}, "truncated"),
        ({"Columns": 71}, "truncated"),
        ({"Rows": 65535, "Columns": 65535}, "too_large"),
        ({"ViewPosition": "LL"}, "lateral"),
        ({"PresentationIntentType": "FOR PROCESSING"}, "for_processing"),
        ({"SOPClassUID": uid.DigitalXRayImageStorageForProcessing}, "for_processing"),
        ({"RescaleSlope": "NaN", "RescaleIntercept": 0}, "rescale"),
        ({"RescaleSlope": "1e400", "RescaleIntercept": 0}, "rescale"),
        ({"BitsAllocated": 32, "BitsStored": 32, "HighBit": 31}, "bits"),
        ({"PhotometricInterpretation": "HSV"}, "photometric"),
        ({"PhotometricInterpretation": None}, "unreadable"),
        ({"BitsStored": 17}, "bits"),
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "rescale"),
        ({"WindowCenter": 100, "WindowWidth": 0}, "voi"),
        ({"WindowCenter": 100, "WindowWidth": 10, "VOILUTFunction": "CUBIC"}, "voi"),
        ({"WindowCenter": -9000, "WindowWidth": 10}, "constant"),
        ({"SamplesPerPixel": 0}, "photometric"),
        ({"NumberOfFrames": -1}, "truncated"),
    ],
)
def test_refusals(dicom_file, attributes, code):
    assert code_of(dicom_file(picture(), **attributes)) == code


@pytest.mark.parametrize("syntax", ["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.102", "1.2.3.4.5"])
def test_unknown_syntaxes_are_refused_by_name_of_the_decoders(dicom_file, syntax):
    path = dicom_file(picture(np.uint8, 255), uid.JPEGLSLossless, PixelData=encapsulate([b"x" * 100]))
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = uid.UID(syntax)
    dataset.save_as(path, little_endian=True, implicit_vr=False)
    assert code_of(path) == "unknown_syntax"
    assert "imagecodecs" in REASONS["unknown_syntax"]


def test_reports_and_directories_are_refused(dicom_file):
    assert code_of(dicom_file(picture(), PixelData=None, SOPClassUID=uid.BasicTextSRStorage)) == "no_pixels"
    item = pydicom.Dataset()
    item.DirectoryRecordType = "PATIENT"
    assert code_of(dicom_file(picture(), DirectoryRecordSequence=[item])) == "dicomdir"


def test_facts_keep_to_the_standards_words(dicom_file):
    path = dicom_file(picture(), ViewPosition="DOE^SECRET", BurnedInAnnotation="YES")
    assert read_facts(path.read_bytes()) == {
        "transfer_syntax": "Explicit VR Little Endian", "photometric": "MONOCHROME2", "presentation": "", "view": "other",
        "orientation": "", "modality": "", "body_part": "", "burned_in": "YES", "refusal": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "fact"), [("YES", "YES"), ("yes", "YES"), ("Y", "YES"), ("True", "YES"), ("1", "YES"), ("NO", "NO"), ("N", "other"), ("", "")]
)
def test_whoever_says_in_other_words_that_names_are_burned_in_is_heard(dicom_file, given, fact):
    data = dicom_file(picture(), BurnedInAnnotation=given).read_bytes()
    assert read_facts(data)["burned_in"] == fact


def test_results_do_not_depend_on_other_packages(dicom_file, tmp_path):
    pixels = picture(np.uint8, 255)
    files = {}
    for syntax, encode in STREAMS.items():
        data = encapsulate([bytes(encode(pixels))])
        files[syntax] = dicom_file(pixels, syntax, name=f"{syntax}.dcm", PhotometricInterpretation="MONOCHROME1", PixelData=data)
    files["rle"] = compressed(dicom_file(picture(), name="rle.dcm"))
    files["png"] = save(tmp_path / "a.png", Image.fromarray(picture()))
    program = """
import sys
for name in sys.argv[1].split(","):
    sys.modules[name] = None
import hashlib
from sga_monai.imaging.read import read_cxr
for path in sys.argv[2:]:
    print(hashlib.sha256(read_cxr(path).tobytes()).hexdigest())
"""
    outputs = set()
    for blocked in ("none_such", "itk", "gdcm", "pylibjpeg,openjpeg,libjpeg,rle", "itk,gdcm,pylibjpeg,jpeg_ls,cv2,nvidia"):
        command = [sys.executable, "-c", program, blocked, *map(str, files.values())]
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert result.returncode == 0, result.stderr
        outputs.add(result.stdout)
    assert len(outputs) == 1
    assert len(outputs.pop().split()) == len(files)


@pytest.mark.parametrize("syntax", list(STREAMS))
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_streams_are_refused(dicom_file, syntax, share):
    pixels = picture(np.uint8, 255)
    stream = bytes(STREAMS[syntax](pixels))
    path = dicom_file(pixels, syntax, PixelData=encapsulate([stream[: int(len(stream) * share)]]))
    with pytest.raises(ReadError, match=REASONS["truncated"][:20]):
        read_cxr(path)


@pytest.mark.parametrize("syntax", list(STREAMS))
def test_files_that_end_early_are_refused(dicom_file, syntax):
    pixels = picture(np.uint8, 255)
    path = dicom_file(pixels, syntax, PixelData=encapsulate([bytes(STREAMS[syntax](pixels))]))
    data = path.read_bytes()
    for cut in (9, 40, len(data) - data.rindex(b"\xe0\x7f\x10\x00") - 30):
        path.write_bytes(data[:-cut])
        assert code_of(path) == "truncated"
    path.write_bytes(data[: data.rindex(b"\xe0\x7f\x10\x00")])
    assert code_of(path) == "no_pixels"


def test_stream_of_another_size_is_refused(dicom_file):
    stream = bytes(imagecodecs.jpegls_encode(np.zeros((400, 400), np.uint8)))
    path = dicom_file(picture(np.uint8, 255), uid.JPEGLSLossless, PixelData=encapsulate([stream]))
    with pytest.raises(ReadError) as caught:
        read_cxr(path)
    assert caught.value.code == "truncated"


def save(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def test_pictures(tmp_path):
    gray = picture(np.uint8, 255)
    base = Image.fromarray(gray)
    assert_is(read_cxr(save(tmp_path / "a.png", base)), gray)
    assert_is(read_cxr(save(tmp_path / "b.png", Image.fromarray(picture()))), picture())
    assert_is(read_cxr(save(tmp_path / "c.png", base.convert("RGB"))), gray)
    assert_is(read_cxr(save(tmp_path / "d.png", base.convert("P"))), gray)
    assert_is(read_cxr(save(tmp_path / "e.png", base.convert("LA"))), gray)
    assert_is(read_cxr(save(tmp_path / "f.jpg", base, quality=98)), gray)
    assert_is(read_cxr(save(tmp_path / "g.jpg", base.convert("RGB").convert("CMYK"), quality=98)), gray)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = base.transpose(Image.Transpose.ROTATE_90)
    assert_is(read_cxr(save(tmp_path / "h.jpg", turned, quality=98, exif=exif)), gray)
    # The bytes decide, not the suffix.
    assert_is(read_cxr(save(tmp_path / "png.dcm", base, format="PNG")), gray)


def test_deep_pictures_with_color_alpha_and_a_clear_value(tmp_path):
    gray = picture(top=60000)
    faint = (30000 + picture() // 10).astype(np.uint16)
    for name, array in (("rgb", np.stack([faint] * 3, -1)), ("la", np.stack([faint, np.full_like(faint, 65535)], -1))):
        (tmp_path / name).write_bytes(bytes(imagecodecs.png_encode(array)))
        image = read_cxr(tmp_path / name)
        assert len(np.unique(image)) > 150
        assert_is((image - image.min()) / (image.max() - image.min()), faint)
    alpha = np.full_like(gray, 65535)
    alpha[:, 40:] = 0
    (tmp_path / "alpha").write_bytes(bytes(imagecodecs.png_encode(np.stack([gray, alpha], -1))))
    assert (read_cxr(tmp_path / "alpha")[:, 40:] == 0).all()
    block = picture(np.uint8, 200)
    block[20:30, 30:40] = 255
    save(tmp_path / "clear.png", Image.fromarray(block), transparency=255)
    assert (read_cxr(tmp_path / "clear.png")[20:30, 30:40] == 0).all()


def test_nifti_is_complete_and_exact(tmp_path):
    gray = picture(np.uint8, 255)
    nib.save(nib.Nifti1Image(gray.T.copy(), np.eye(4)), tmp_path / "a.nii")
    nib.save(nib.Nifti1Image(gray.T.copy(), np.eye(4)), tmp_path / "a.nii.gz")
    data = bytearray((tmp_path / "a.nii").read_bytes())
    for length in (69, 71, -70):
        changed = bytearray(data)
        changed[42:44] = int(length).to_bytes(2, "little", signed=True)
        (tmp_path / "b.nii").write_bytes(bytes(changed))
        assert code_of(tmp_path / "b.nii") in ("truncated", "not_2d")
    packed = (tmp_path / "a.nii.gz").read_bytes()
    refused = 0
    for i in range(40):
        changed = bytearray(packed)
        changed[20 + i * (len(packed) - 40) // 40] ^= 4
        (tmp_path / "c.nii.gz").write_bytes(bytes(changed))
        refused += code_of(tmp_path / "c.nii.gz") in ("truncated", "unknown_format")
    assert refused == 40
    extended = nib.Nifti1Image(gray.T.copy(), np.eye(4))
    extended.header.extensions.append(nib.nifti1.Nifti1Extension("afni", b"x" * 100))
    nib.save(extended, tmp_path / "d.nii.gz")
    assert_is(read_cxr(tmp_path / "d.nii.gz"), gray)
    high = picture().astype(np.int32) + (1 << 30)
    nib.save(nib.Nifti1Image(high.T.copy(), np.eye(4)), tmp_path / "e.nii")
    assert_is(read_cxr(tmp_path / "e.nii"), picture())
    # One plane between two longer axes: x and z of a coronal image.
    coronal = gray.T[::-1, ::-1][:, None, :].copy()
    nib.save(nib.Nifti1Image(coronal, np.eye(4)), tmp_path / "f.nii")
    assert_is(read_cxr(tmp_path / "f.nii"), gray)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_orientation(tmp_path, suffix):
    gray = picture(np.uint8, 255)
    path = tmp_path / f"a{suffix}"
    nib.save(nib.Nifti1Image(gray.T.copy(), np.eye(4)), path)
    assert_is(read_cxr(path), gray)
    nib.save(nib.Nifti1Image(gray.T[:, :, None].copy(), np.eye(4)), path)
    assert_is(read_cxr(path), gray)
    # First axis to the patient's right, second to the head: the head must come out up.
    affine = np.array([[-1, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(gray.T[:, ::-1].copy(), affine), path)
    assert read_cxr(path).shape == gray.shape


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE, errno.EHOSTDOWN])
def test_a_file_that_the_system_does_not_give_is_not_called_damaged(tmp_path, monkeypatch, number):
    """Of a share that does not answer every file is whole; it is read when the share is back."""
    path = save(tmp_path / "a.png", Image.fromarray(picture(np.uint8, 255)))

    def refuse(*_arguments, **_options):
        raise OSError(number, "no answer", "DOE_JOHN.dcm")

    for name in ("open", "fstat"):
        with monkeypatch.context() as away:
            away.setattr(os, name, refuse)
            with pytest.raises(ReadError) as caught:
                read_cxr(path)
        assert caught.value.code == "no_access"
        assert not is_back(str(tmp_path / "b.png"), "missing")
    assert is_back(str(path), "no_access")
    assert not is_back(str(tmp_path), "missing")


def test_other_refusals(tmp_path):
    def code(path: Path) -> str:
        with pytest.raises(ReadError) as caught:
            read_cxr(path)
        assert str(tmp_path) not in str(caught.value)
        return caught.value.code

    assert code(tmp_path / "none.dcm") == "missing"
    assert code(tmp_path) == "not_a_file"
    (tmp_path / "a.txt").write_text("hello")
    assert code(tmp_path / "a.txt") == "unknown_format"
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"hello"))
    assert code(tmp_path / "b.gz") == "unknown_format"
    assert code(save(tmp_path / "c.png", Image.new("L", (20, 20), 7))) == "constant"
    buffer = io.BytesIO()
    Image.fromarray(picture(np.uint8, 255)).save(buffer, "PNG")
    (tmp_path / "d.png").write_bytes(buffer.getvalue()[:200])
    assert code(tmp_path / "d.png") == "truncated"
    nib.save(nib.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.eye(4)), tmp_path / "e.nii")
    assert code(tmp_path / "e.nii") == "not_2d"


def test_pydicoms_own_files_are_read_or_refused():
    read = 0
    for path in sorted((Path(pydicom.__file__).parent / "data/test_files").glob("*.dcm")):
        try:
            image = read_cxr(path, other_examinations=True)
        except ReadError:
            continue
        read += 1
        assert image.ndim == 2
        assert np.isfinite(image).all()
    assert read >= 38


def test_nothing_is_logged_or_warned(dicom_file, caplog):
    path = dicom_file(picture(), StudyInstanceUID="MRN-0012345.DOE", RescaleSlope=1, RescaleIntercept=0)
    caplog.clear()
    with warnings.catch_warnings(), caplog.at_level(logging.DEBUG):
        warnings.simplefilter("error")
        read_cxr(path)
    assert not caplog.records


@pytest.mark.parametrize("level", [logging.NOTSET, logging.DEBUG])
def test_pillows_words_about_a_file_are_logged_by_no_thread_and_its_level_stays(tmp_path, caplog, level):
    info = PngImagePlugin.PngInfo()
    info.add_text("Patient", "DOE^SECRET")
    for i in range(8):
        Image.fromarray(picture(np.uint8, 255)).save(tmp_path / f"{i}.png", pnginfo=info)
    log = logging.getLogger("PIL")
    before = log.level
    log.setLevel(level)
    caplog.clear()
    try:
        with caplog.at_level(logging.DEBUG), ThreadPoolExecutor(8) as pool:
            list(pool.map(read_cxr, [tmp_path / f"{i % 8}.png" for i in range(64)]))
        assert log.level == level
    finally:
        log.setLevel(before)
    assert not caplog.records


def test_the_table_of_codes_is_the_list_of_reasons():
    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE) == list(REASONS.items())
    # Each rule names a code of the table.
    rules = page[page.index("## Rules") : page.index("## What a manifest")]
    assert {"padding", "lateral", "aspect", "examination", "bits", "nearly_constant", "truncated"} <= set(
        re.findall(r"`(\w+)`", rules)
    ) & REASONS.keys()


def test_read_error_survives_pickling():
    assert pickle.loads(pickle.dumps(ReadError("lateral"))).code == "lateral"


def test_loadimaged_takes_the_reader_and_keeps_no_header(dicom_file):
    path = str(dicom_file(picture(), BitsStored=12))
    load = LoadImaged(keys="image", reader="sga_monai.data.CXRReader", image_only=True, ensure_channel_first=True)
    loaded = load({"image": path})
    assert loaded["image"].shape == (1, 50, 70)
    assert not any("SECRET" in str(value) or "MRN" in str(value) for value in loaded["image"].meta.values())
    with pytest.raises(ValueError, match="voi"):
        CXRReader(voi="window")
    with pytest.raises(ValueError, match="frame"):
        CXRReader(frame=0)


@pytest.mark.parametrize(
    "attributes",
    [
        {"WindowCenter": 65530, "WindowWidth": 10},
        {"WindowCenter": 65530, "WindowWidth": 10, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 65530, "WindowWidth": 3000, "VOILUTFunction": "SIGMOID"},
        {"WindowCenter": 65530, "WindowWidth": 10, "PhotometricInterpretation": "MONOCHROME1"},
        {"WindowCenter": 4094, "WindowWidth": 2},
        {"WindowCenter": 2100, "WindowWidth": 1, "VOILUTFunction": "LINEAR_EXACT"},
        {"VOILUTSequence": [lut_item(np.arange(256, dtype=np.uint16) * 257, 16)]},
        {"ModalityLUTSequence": [lut_item(np.arange(64, dtype=np.uint16) * 1040, 16)]},
    ],
)
def test_nearly_constant_pictures_are_refused(dicom_file, drawn, attributes):
    """A window far off, or of two values, and a LUT that is too short, leave one or two values and a few hot pixels."""
    pixels = drawn.copy()
    pixels[100, 100] = 65534
    stored = 16 if "WindowCenter" in attributes and attributes["WindowCenter"] > 4095 else 12
    if stored == 12:
        pixels[100, 100] = 4095
    path = dicom_file(pixels, BitsStored=stored, **attributes)
    assert code_of(path) == "nearly_constant"
    if "ModalityLUTSequence" not in attributes and stored == 12:
        assert_is(read_cxr(path, voi="none"), pixels)


def test_high_contrast_and_wide_collimation_are_read(dicom_file, drawn):
    """Seven tenths of the picture black by collimation, or white and black by a narrow window, are pictures all the same."""
    collimated = np.zeros_like(drawn)
    collimated[60:260, 60:170] = drawn[60:260, 60:170]
    assert (collimated == 0).mean() > 0.7
    assert_is(read_cxr(dicom_file(collimated, BitsStored=12)), collimated)
    expected = np.clip((drawn - 2000.0) / 800, 0, 1)
    assert_is(read_cxr(dicom_file(drawn, BitsStored=12, WindowCenter=2400, WindowWidth=800, VOILUTFunction="LINEAR_EXACT")), expected)


@pytest.mark.real
def test_no_real_image_is_nearly_constant(real_data):
    """Every fortieth image of each collection: none is refused, as none of all of them is."""
    for folder in ("cohen/images", "hannover/dicom", "montgomery_tb/images", "shenzhen_tb/images", "nih/images"):
        for path in sorted(path for path in (real_data / folder).rglob("*") if path.is_file())[::40]:
            read_cxr(path)
