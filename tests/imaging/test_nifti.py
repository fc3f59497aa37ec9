"""NIfTI as its converters write it: upright by the affine's axis codes."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest

from sga_monai.core.errors import ReadError
from sga_monai.imaging.read import decode_cxr, read_cxr

WORLD = {"L": (0, -1), "R": (0, 1), "P": (1, -1), "A": (1, 1), "I": (2, -1), "S": (2, 1)}


def affine_of(first: str, second: str, spacing: float = 0.14) -> np.ndarray:
    """An affine whose first two axes point to the given sides."""
    affine = np.zeros((4, 4))
    for column, code in enumerate((first, second)):
        axis, sign = WORLD[code]
        affine[axis, column] = sign * spacing
    affine[3 - WORLD[first][0] - WORLD[second][0], 2] = 1
    affine[3, 3] = 1
    return affine


def read(path, array: np.ndarray, affine: np.ndarray, **options: object) -> np.ndarray:
    nib.save(nib.Nifti1Image(np.ascontiguousarray(array), affine), path)
    return read_cxr(path, **options)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("planes", [False, True])
def test_dcm2niix_and_simpleitk_come_out_upright(tmp_path, drawn, suffix, planes):
    """dcm2niix turns the rows over and writes (L, A); ITK leaves them and writes (L, P)."""
    expected = ((drawn - drawn.min()) / np.ptp(drawn)).astype(np.float32)
    for codes, array in ((("L", "A"), drawn[::-1].T), (("L", "P"), drawn.T)):
        array = array[:, :, None] if planes else array
        np.testing.assert_allclose(read(tmp_path / f"a{suffix}", array, affine_of(*codes)), expected, atol=1e-6)


# How the columns and the rows of a picture that hangs right are stored for a code.
COLUMNS = {"L": 1, "R": -1}
ROWS = {"I": 1, "S": -1, "P": 1, "A": -1}


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("row", ROWS)
def test_every_plane_by_its_axis_codes(tmp_path, drawn, column, row):
    """Frontal planes, and axial ones as converters write them, with either axis first."""
    expected = ((drawn - drawn.min()) / np.ptp(drawn)).astype(np.float32)
    array = drawn[:: ROWS[row], :: COLUMNS[column]].T
    if (column, row) != ("R", "A"):
        np.testing.assert_allclose(read(tmp_path / "a.nii", array, affine_of(column, row)), expected, atol=1e-6)
    np.testing.assert_allclose(read(tmp_path / "a.nii", array.T, affine_of(row, column)), expected, atol=1e-6)


def test_what_says_nothing_of_space_is_left_as_it_is_stored(tmp_path, drawn):
    expected = ((drawn - drawn.min()) / np.ptp(drawn)).astype(np.float32)
    for affine in (np.eye(4), np.diag([0.14, 0.14, 1, 1]), None):
        np.testing.assert_allclose(read(tmp_path / "a.nii", drawn.T, affine), expected, atol=1e-6)
    image = nib.Nifti1Image(np.ascontiguousarray(drawn.T), affine_of("L", "A"))
    image.header["sform_code"] = image.header["qform_code"] = 0
    image.set_sform(None, 0)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(read_cxr(tmp_path / "a.nii"), expected, atol=1e-6)


def test_sagittal_planes_are_lateral_views(tmp_path, drawn):
    for column, row in itertools.product("AP", "SI"):
        for array, codes in ((drawn.T, (column, row)), (drawn, (row, column))):
            with pytest.raises(ReadError) as caught:
                read(tmp_path / "a.nii", array, affine_of(*codes))
            assert caught.value.code == "lateral"
            image = read(tmp_path / "a.nii", array, affine_of(*codes), lateral=True)
            turned = drawn[:: 1 if row == "I" else -1, :: 1 if column == "P" else -1]
            assert np.corrcoef(image.ravel(), turned.ravel())[0, 1] > 0.999


def test_depth_and_sign_do_not_matter(tmp_path, drawn):
    for array in (
        drawn.astype(np.int16) - 2048,
        drawn.astype(np.float64) / 7,
        (drawn >> 4).astype(np.uint8),
        drawn.astype(np.int32) + (1 << 29),
    ):
        image = read(tmp_path / "a.nii.gz", array[::-1].T, affine_of("L", "A"))
        assert np.corrcoef(image.ravel(), drawn.ravel())[0, 1] > 0.999


def test_steps_that_differ_are_made_square(tmp_path, drawn):
    """By the affine, in either order of the axes; a plane four times as thick as long is no radiograph."""
    for codes, array, steps in (
        (("L", "P"), drawn[::2].T, (0.1, 0.2)), (("L", "A"), drawn[::-2].T, (0.1, 0.2)), (("P", "L"), drawn[::2], (0.2, 0.1)),
        (("L", "I"), drawn[:, ::2].T, (0.2, 0.1)),
    ):  # fmt: skip
        image = read(tmp_path / "a.nii", array, affine_of(*codes) @ np.diag([steps[0] / 0.14, steps[1] / 0.14, 1, 1]))
        assert image.shape == drawn.shape
        assert np.corrcoef(image[1:-1].ravel(), drawn[1:-1].ravel())[0, 1] > 0.98
    plain = nib.Nifti1Image(np.ascontiguousarray(drawn[::2].T), None)
    plain.header["pixdim"][1:3] = 0.1, 0.2
    nib.save(plain, tmp_path / "b.nii")
    assert read_cxr(tmp_path / "b.nii").shape == drawn.shape
    with pytest.raises(ReadError) as caught:
        read(tmp_path / "a.nii", drawn.T, affine_of("L", "P") @ np.diag([1, 9, 1, 1]))
    assert caught.value.code == "aspect"


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("form", ["sform", "qform"])
def test_either_form_byte_order_and_a_slight_tilt(drawn, endian, form):
    expected = ((drawn - drawn.min()) / np.ptp(drawn)).astype(np.float32)
    tilt = np.eye(4)
    tilt[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    for codes, array in ((("L", "A"), drawn[::-1].T), (("L", "P"), drawn.T)):
        values = np.ascontiguousarray(array).astype(f"{endian}i2")
        image = nib.Nifti1Image(values, tilt @ affine_of(*codes), header=nib.Nifti1Header(endianness=endian))
        image.set_qform(image.affine, int(form == "qform"))
        image.set_sform(image.affine, int(form == "sform"))
        np.testing.assert_allclose(decode_cxr(image.to_bytes()), expected, atol=1e-6)
