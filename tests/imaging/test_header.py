"""Enhanced objects' functional groups are applied; faults that do not touch the picture do no harm."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.encaps import encapsulate

from sga_monai.core.errors import ReadError
from sga_monai.imaging.dicom import read_facts
from sga_monai.imaging.head import read_head
from sga_monai.imaging.read import read_cxr


def item(**attributes: object) -> pydicom.Dataset:
    dataset = pydicom.Dataset()
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    return dataset


def group(macro: str, **attributes: object) -> pydicom.Dataset:
    return item(**{macro: [item(**attributes)]})


def code_of(path, **options: object) -> str | None:
    try:
        read_cxr(path, **options)
    except ReadError as error:
        return error.code
    return None


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_the_icon_of_an_object_without_pixels_is_no_picture_cut_short(dicom_file, drawn, syntax):
    icon = item(Rows=8, Columns=8, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2", BitsAllocated=8, BitsStored=8, HighBit=7)
    icon.PixelRepresentation, icon.PixelData = 0, bytes(64)
    icon["PixelData"].VR = "OB"
    for sequence in ("IconImageSequence", "ReferencedImageSequence"):
        assert code_of(dicom_file(drawn, syntax, PixelData=None, **{sequence: [icon]})) == "no_pixels"
    path = dicom_file(drawn, syntax, IconImageSequence=[icon])
    assert code_of(path) is None
    whole = path.read_bytes()
    begin = whole.rindex(b"\x7f\xe0\x00\x10" if syntax == uid.ExplicitVRBigEndian else b"\xe0\x7f\x10\x00")
    for kept in (4, 6, 12, 40):
        path.write_bytes(whole[: begin + kept])
        assert code_of(path) == "truncated"


PLACES = ["SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"]


@pytest.mark.parametrize("place", PLACES)
def test_rescale_and_window_of_functional_groups_are_applied(dicom_file, drawn, place):
    rescale = group("PixelValueTransformationSequence", RescaleSlope=-1, RescaleIntercept=4095)
    np.testing.assert_allclose(read_cxr(dicom_file(4095 - drawn, BitsStored=12, **{place: [rescale]})), drawn / 4095, atol=1e-6)
    window = group("FrameVOILUTSequence", WindowCenter=2400, WindowWidth=1600, VOILUTFunction="LINEAR_EXACT")
    expected = np.clip((drawn - 1600.0) / 1600, 0, 1)
    path = dicom_file(drawn, BitsStored=12, **{place: [window]})
    np.testing.assert_allclose(read_cxr(path), expected, atol=1e-6)
    np.testing.assert_allclose(read_cxr(path, voi="none"), drawn / 4095, atol=1e-6)
    spacing = group("PixelMeasuresSequence", PixelSpacing=[0.2, 0.1])
    assert read_cxr(dicom_file(drawn[::2], BitsStored=12, **{place: [spacing]})).shape == drawn.shape
    hand = group(
        "FrameAnatomySequence", AnatomicRegionSequence=[item(CodeValue="T-D8700", CodingSchemeDesignator="SRT", CodeMeaning="Hand")]
    )
    assert code_of(dicom_file(drawn, **{place: [hand]})) == "examination"


def test_a_frames_own_group_comes_before_the_shared_one_and_before_the_data_set(dicom_file, drawn):
    turned = {"RescaleSlope": -1, "RescaleIntercept": 4095}
    plain = {"RescaleSlope": 1, "RescaleIntercept": 0}
    shared, own = (group("PixelValueTransformationSequence", **values) for values in (plain, turned))
    path = dicom_file(4095 - drawn, BitsStored=12, SharedFunctionalGroupsSequence=[shared], PerFrameFunctionalGroupsSequence=[own], **plain)
    np.testing.assert_allclose(read_cxr(path), drawn / 4095, atol=1e-6)


@pytest.mark.parametrize("place", PLACES)
def test_a_group_takes_the_place_of_all_that_it_speaks_of(dicom_file, drawn, place):
    """No function, VOI LUT or Modality LUT of the data set, or of the shared groups, is left beside a frame's own window."""
    window = group("FrameVOILUTSequence", WindowCenter=2000, WindowWidth=2001)
    expected = np.clip((drawn - 999.5) / 2000, 0, 1)
    fourth = item(LUTDescriptor=[4096, 0, 16], ModalityLUTType="US")
    fourth.LUTData = (np.linspace(0, 1, 4096) ** 4 * 65535).astype(np.uint16).tobytes()
    fourth["LUTData"].VR = "OW"
    for own in ({"VOILUTFunction": "SIGMOID", "WindowCenter": 100, "WindowWidth": 3}, {"VOILUTSequence": [fourth]}):
        np.testing.assert_allclose(read_cxr(dicom_file(drawn, BitsStored=12, **own, **{place: [window]})), expected, atol=1e-6)
    sigmoid = group("FrameVOILUTSequence", WindowCenter=100, WindowWidth=3, VOILUTFunction="SIGMOID")
    path = dicom_file(drawn, BitsStored=12, SharedFunctionalGroupsSequence=[sigmoid], PerFrameFunctionalGroupsSequence=[window])
    np.testing.assert_allclose(read_cxr(path), expected, atol=1e-6)
    lut = group("FrameVOILUTSequence", VOILUTSequence=[fourth])
    path = dicom_file(drawn, BitsStored=12, WindowCenter=100, WindowWidth=3, **{place: [lut]})
    np.testing.assert_allclose(read_cxr(path), (drawn / 4095.0) ** 4, atol=1e-3)
    rescale = group("PixelValueTransformationSequence", RescaleSlope=-1, RescaleIntercept=4095)
    path = dicom_file(4095 - drawn, BitsStored=12, ModalityLUTSequence=[fourth], **{place: [rescale]})
    np.testing.assert_allclose(read_cxr(path), drawn / 4095, atol=1e-6)


@pytest.mark.parametrize("place", PLACES)
def test_orientation_and_spacing_of_functional_groups_are_applied(dicom_file, drawn, place):
    turned = group("PatientOrientationInFrameSequence", PatientOrientation=["F", "R"])
    path = dicom_file(np.ascontiguousarray(drawn[:, ::-1].T), uid.ExplicitVRBigEndian, BitsStored=12, **{place: [turned]})
    np.testing.assert_array_equal(read_cxr(path), (drawn / 4095).astype(np.float32))
    assert read_facts(path.read_bytes())["orientation"] == "F\\R"
    lateral = dicom_file(drawn, **{place: [group("PatientOrientationInFrameSequence", PatientOrientation=["A", "F"])]})
    assert code_of(lateral) == "lateral"
    # The header alone says the same, which a list of files is made of.
    assert read_facts(read_head(lateral))["refusal"] == "lateral"
    spacing = group("FramePixelDataPropertiesSequence", ImagerPixelSpacing=[0.2, 0.1])
    assert read_cxr(dicom_file(drawn[::2], BitsStored=12, **{place: [spacing]})).shape == drawn.shape


def test_each_frame_has_its_own_group(dicom_file, drawn):
    groups = [
        group("FrameVOILUTSequence", WindowCenter=center, WindowWidth=1600, VOILUTFunction="LINEAR_EXACT") for center in (2000, 2400, 2800)
    ]
    path = dicom_file(
        drawn, BitsStored=12, NumberOfFrames=3, PixelData=np.stack([drawn] * 3).tobytes(), PerFrameFunctionalGroupsSequence=groups
    )
    for frame, center in enumerate((2000, 2400, 2800), 1):
        expected = np.clip((drawn - (center - 800.0)) / 1600, 0, 1)
        np.testing.assert_allclose(read_cxr(path, frame=frame), expected, atol=1e-6)
    path = dicom_file(
        drawn, BitsStored=12, NumberOfFrames=3, PixelData=np.stack([drawn] * 3).tobytes(), PerFrameFunctionalGroupsSequence=groups[:2]
    )
    assert code_of(path, frame=3) == "unreadable"


def test_damaged_functional_groups_are_refused(dicom_file, drawn):
    path = dicom_file(drawn)
    dataset = pydicom.dcmread(path)
    broken = pydicom.Dataset()
    broken.add_new("PixelValueTransformationSequence", "LO", "DOE^SECRET")
    dataset.SharedFunctionalGroupsSequence = [broken]
    dataset.save_as(path)
    assert code_of(path) == "unreadable"
    for values in ({"RescaleSlope": "0", "RescaleIntercept": "0"}, {"RescaleSlope": "NaN", "RescaleIntercept": "0"}):
        path = dicom_file(drawn, SharedFunctionalGroupsSequence=[group("PixelValueTransformationSequence", **values)])
        assert code_of(path) == "rescale"


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian])
@pytest.mark.parametrize("extra", [bytes(64), b"\xff" * 64, bytes(range(64)), bytes(2), b"\xfe\xff\x0d\xe0\0\0\0\0" * 8])
def test_bytes_after_the_pixel_data_do_no_harm(dicom_file, drawn, syntax, extra):
    expected = (drawn / 4095).astype(np.float32)
    stored = drawn.astype(">u2") if syntax == uid.ExplicitVRBigEndian else drawn
    inside = dicom_file(drawn, syntax, BitsStored=12, PixelData=stored.tobytes() + extra)
    np.testing.assert_array_equal(read_cxr(inside), expected)
    behind = dicom_file(drawn, syntax, BitsStored=12)
    behind.write_bytes(behind.read_bytes() + extra)
    np.testing.assert_array_equal(read_cxr(behind), expected)


def test_more_than_padding_is_a_wrong_header(dicom_file, drawn):
    for attributes in ({"Rows": 319}, {"Columns": 255}, {"Rows": 256, "Columns": 256}, {"Rows": 321}, {"Columns": 257}):
        assert code_of(dicom_file(drawn, **attributes)) == "truncated"
    assert code_of(dicom_file(drawn, PixelData=drawn.tobytes() * 2)) == "truncated"
    gray = (drawn >> 4).astype(np.uint8)
    color = np.stack([gray] * 3, -1)
    np.testing.assert_array_equal(read_cxr(dicom_file(color, PixelData=color.tobytes() + bytes(64))), read_cxr(dicom_file(color)))
    assert code_of(dicom_file(color, Columns=255)) == "truncated"


def test_no_frames_mean_one(dicom_file, drawn):
    expected = (drawn / 65535).astype(np.float32)
    for frames in (0, "", 1):
        np.testing.assert_array_equal(read_cxr(dicom_file(drawn, NumberOfFrames=frames)), expected)
    stream = bytes(imagecodecs.jpegls_encode(drawn))
    for fragments in (1, 2, 3):
        data = encapsulate([stream], fragments_per_frame=fragments)
        np.testing.assert_array_equal(read_cxr(dicom_file(drawn, uid.JPEGLSLossless, PixelData=data, NumberOfFrames=0)), expected)


def test_two_files_in_one_are_refused(dicom_file, drawn):
    for path in (
        dicom_file(drawn),
        dicom_file(drawn, uid.JPEGLSLossless, PixelData=encapsulate([bytes(imagecodecs.jpegls_encode(drawn))])),
    ):
        path.write_bytes(path.read_bytes() * 2)
        assert code_of(path) == "multi_frame"


def test_samples_per_pixel(dicom_file, drawn):
    assert code_of(dicom_file(drawn, SamplesPerPixel=0)) == "photometric"
    assert code_of(dicom_file(drawn, SamplesPerPixel=2)) == "photometric"
    assert code_of(dicom_file(drawn, SamplesPerPixel=None)) is None


@pytest.mark.parametrize("missing", [2, 40, 0.5])
def test_a_deflated_file_cut_short_is_refused(dicom_file, drawn, missing):
    """Its last bytes end the stream, the very last may be padding; what is inflated without them may be a whole picture, or none."""
    path = dicom_file(drawn, uid.DeflatedExplicitVRLittleEndian)
    data = path.read_bytes()
    path.write_bytes(data[: -missing if missing >= 1 else int(len(data) * missing)])
    assert code_of(path) == "truncated"
