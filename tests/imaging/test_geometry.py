"""Every frontal view hangs the same way, its pixels square, whatever way it is stored."""

from __future__ import annotations

import itertools

import numpy as np
import pydicom
import pytest
from PIL import Image

from sga_monai.core.errors import InputError, ReadError
from sga_monai.data.cxr_reader import CXRReader
from sga_monai.imaging.decoded import ReadOptions
from sga_monai.imaging.dicom import read_facts
from sga_monai.imaging.geometry import FRONTAL, square_shape, turn
from sga_monai.imaging.read import decode, read_cxr

# How a picture that hangs right is stored when its rows and columns run in these directions.
STORED = {
    ("L", "F"): lambda d: d,
    ("R", "F"): lambda d: d[:, ::-1],
    ("L", "H"): lambda d: d[::-1],
    ("R", "H"): lambda d: d[::-1, ::-1],
    ("F", "L"): lambda d: d.T,
    ("F", "R"): lambda d: d[:, ::-1].T,
    ("H", "L"): lambda d: d[::-1].T,
    ("H", "R"): lambda d: d[::-1, ::-1].T,
}


def direction(index: tuple[int, int], step: tuple[int, int]) -> str:
    """Where one goes on a picture that hangs right: columns to the patient's left, rows to the feet."""
    return {(0, 1): "L", (0, -1): "R", (1, 0): "F", (-1, 0): "H"}[step]


@pytest.mark.parametrize("pair", list(STORED), ids="".join)
def test_every_pair_of_a_frontal_view_is_turned(dicom_file, drawn, pair):
    pixels = np.ascontiguousarray(STORED[pair](drawn))
    # The two directions really are those of the stored rows and columns.
    where = np.ascontiguousarray(STORED[pair](np.arange(drawn.size).reshape(drawn.shape)))
    place = [np.unravel_index(where[i], drawn.shape) for i in ((5, 5), (5, 6), (6, 5))]
    steps = [tuple(int(b) - int(a) for a, b in zip(place[0], other, strict=True)) for other in place[1:]]
    assert tuple(direction((0, 0), step) for step in steps) == pair
    for attributes in ({}, {"ViewPosition": "PA"}, {"ViewPosition": "AP"}):
        path = dicom_file(pixels, BitsStored=12, PatientOrientation=list(pair), **attributes)
        np.testing.assert_array_equal(read_cxr(path), (drawn / 4095).astype(np.float32))
        np.testing.assert_array_equal(read_cxr(path, orientation="stored"), (pixels / 4095).astype(np.float32))
        assert read_facts(path.read_bytes())["orientation"] == "\\".join(pair)


@pytest.mark.parametrize(
    ("value", "fact"),
    [
        (None, ""), ("", ""), (["L", "R"], "contradictory"), (["L", "L"], "contradictory"), (["H", "F"], "contradictory"),
        (["R"], "contradictory"), (["R", "F", "H"], "contradictory"), (["RIGHT", "FOOT"], "contradictory"), (["L", "P"], "contradictory"),
        (["R", "A"], "contradictory"), (["RA", "F"], "oblique"),
        (["R", "FP"], "oblique"), (["RP", "HA"], "oblique"), (["X", "Y"], "contradictory"),
    ],
)  # fmt: skip
def test_other_values_leave_the_picture_as_it_is_stored_and_are_counted(dicom_file, drawn, value, fact):
    path = dicom_file(drawn, BitsStored=12, **({} if value is None else {"PatientOrientation": value}))
    np.testing.assert_array_equal(read_cxr(path), (drawn / 4095).astype(np.float32))
    assert read_facts(path.read_bytes())["orientation"] == fact


def test_orientation_of_animals_and_lateral_views_is_not_used(dicom_file, drawn):
    path = dicom_file(drawn, BitsStored=12, PatientOrientation=["R", "F"], AnatomicalOrientationType="QUADRUPED")
    np.testing.assert_array_equal(read_cxr(path), (drawn / 4095).astype(np.float32))
    for pair in itertools.product("AP", "FH"):
        path = dicom_file(drawn, BitsStored=12, PatientOrientation=list(pair))
        np.testing.assert_array_equal(read_cxr(path, lateral=True), (drawn / 4095).astype(np.float32))


def test_a_view_that_calls_itself_lateral_is_not_turned(dicom_file, drawn):
    """PatientOrientation is then a default; an oblique view has a frontal plane."""
    for view, expected in (("LL", drawn), ("LATERAL", drawn), ("LAO", drawn[:, ::-1]), ("PA", drawn[:, ::-1])):
        path = dicom_file(drawn, BitsStored=12, ViewPosition=view, PatientOrientation=["R", "F"])
        np.testing.assert_array_equal(read_cxr(path, lateral=True), (expected / 4095).astype(np.float32))


def test_small_letters_and_spaces(dicom_file, drawn):
    path = dicom_file(drawn, BitsStored=12, PatientOrientation=["r ", " f"])
    np.testing.assert_array_equal(read_cxr(path)[:, ::-1], (drawn / 4095).astype(np.float32))


def test_every_turn_brings_the_standard_about(drawn):
    assert len(FRONTAL) == 8
    for pair in FRONTAL:
        np.testing.assert_array_equal(turn(STORED[tuple(pair.split("\\"))](drawn), pair), drawn)


def test_orientation_is_an_option_of_the_reader(dicom_file, drawn):
    path = str(dicom_file(drawn, BitsStored=12, PatientOrientation=["L", "H"]))
    turned, stored = (CXRReader(orientation=choice).get_data(path)[0] for choice in ("header", "stored"))
    np.testing.assert_array_equal(turned, stored[::-1])
    with pytest.raises(InputError, match="orientation must be one of header, stored"):
        CXRReader(orientation="left")
    with pytest.raises(InputError, match="orientation"):
        ReadOptions(orientation="")


@pytest.mark.parametrize(
    "attributes",
    [
        {"PixelAspectRatio": ["2", "1"]},
        {"PixelSpacing": [0.28, 0.14]},
        {"ImagerPixelSpacing": [0.28, 0.14]},
        {"NominalScannedPixelSpacing": [0.4, 0.2]},
        {"PixelSpacing": [0.28, 0.14], "PixelAspectRatio": ["2", "1"]},
        {"PixelSpacing": [0.28, 0.14], "ImagerPixelSpacing": [0.3, 0.15]},
    ],
)
def test_pixels_twice_as_high_as_wide_are_made_square(dicom_file, drawn, attributes):
    """Every second row of a picture; what is missing is interpolated."""
    image = read_cxr(dicom_file(drawn[::2], BitsStored=12, **attributes))
    assert image.shape == drawn.shape
    assert np.corrcoef(image[:-1].ravel(), ((drawn[:-1].astype(float) + drawn[1:]) / 2).ravel())[0, 1] > 0.99
    swapped = {key: value[::-1] for key, value in attributes.items()}
    wide = read_cxr(dicom_file(drawn[:, ::2], BitsStored=12, **swapped))
    assert wide.shape == drawn.shape
    assert np.corrcoef(wide.ravel(), drawn.ravel())[0, 1] > 0.98


@pytest.mark.parametrize(
    "attributes",
    [
        {"PixelAspectRatio": ["1", "1"]}, {"PixelSpacing": [0.143, 0.1435]}, {"PixelSpacing": [0.0, 0.0]}, {"PixelAspectRatio": ["0", "0"]},
        {"ImagerPixelSpacing": [0.2, 0.2], "PixelSpacing": [0.19, 0.19]}, {"PixelAspectRatio": ["512", "512"]},
    ],
)  # fmt: skip
def test_square_pixels_are_left_alone(dicom_file, drawn, attributes):
    np.testing.assert_array_equal(read_cxr(dicom_file(drawn, BitsStored=12, **attributes)), (drawn / 4095).astype(np.float32))


@pytest.mark.parametrize(
    "attributes",
    [
        {"PixelAspectRatio": ["9", "1"]}, {"PixelAspectRatio": ["1", "0"]}, {"PixelSpacing": [-0.1, 0.1]}, {"PixelSpacing": [0.1]},
        {"PixelSpacing": [0.1, 0.1, 0.1]}, {"PixelSpacing": [0.1, 0.1], "PixelAspectRatio": ["2", "1"]},
    ],
)  # fmt: skip
def test_impossible_and_contradictory_spacings_are_refused(dicom_file, drawn, attributes):
    with pytest.raises(ReadError) as caught:
        read_cxr(dicom_file(drawn, BitsStored=12, **attributes))
    assert caught.value.code == "aspect"


def test_shapes_of_square_pixels():
    assert square_shape((100, 200), 2.0, 10**6) == (200, 200)
    assert square_shape((200, 100), 0.5, 10**6) == (200, 200)
    assert square_shape((100, 200), 2.0, 30_000) == (100, 100)
    assert square_shape((200, 100), 0.5, 30_000) == (100, 100)


def test_pixels_of_pictures_are_made_square(tmp_path, drawn):
    """Twice as many pixels an inch across as down, by pHYs or JFIF; without a unit JFIF may mean either."""
    gray = (drawn >> 4).astype(np.uint8)
    for suffix, options in ((".png", {}), (".jpg", {"quality": 98})):
        path = tmp_path / f"a{suffix}"
        for half, dpi in ((gray[::2], (200, 100)), (gray[:, ::2], (100, 200))):
            Image.fromarray(np.ascontiguousarray(half)).save(path, dpi=dpi, **options)
            image = read_cxr(path)
            assert image.shape == drawn.shape
            assert np.corrcoef(image.ravel(), drawn.ravel())[0, 1] > 0.98
        Image.fromarray(gray).save(path, dpi=(100, 100), **options)
        assert read_cxr(path).shape == drawn.shape
        Image.fromarray(gray).save(path, dpi=(900, 100), **options)
        with pytest.raises(ReadError) as caught:
            read_cxr(path)
        assert caught.value.code == "aspect"
    data = bytearray(path.read_bytes())
    start = data.index(b"JFIF\0") + 7
    for density, code in ((b"\0\0\2\0\1", "aspect"), (b"\0\0\0\0\0", None), (b"\0\0\1\0\1", None)):
        data[start : start + 5] = density
        path.write_bytes(bytes(data))
        if code is None:
            assert read_cxr(path).shape == drawn.shape
            continue
        with pytest.raises(ReadError) as caught:
            read_cxr(path)
        assert caught.value.code == code


def test_turned_and_resampled_together(dicom_file, drawn):
    stored = np.ascontiguousarray(drawn[::2, ::-1])
    decoded = decode(dicom_file(stored, BitsStored=12, PatientOrientation=["R", "F"], PixelSpacing=[0.2, 0.1]).read_bytes())
    assert np.corrcoef(decoded.image.ravel(), drawn.ravel())[0, 1] > 0.98
    assert pydicom.dcmread(dicom_file(stored)).Rows == 160
