from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sga_monai.core.errors import InputError
from sga_monai.interpret import localization
from sga_monai.interpret.localization import boxes_to_mask, deletion_auc, energy_inside, insertion_auc, iou_at_area, pointing_game
from sga_monai.statistics.estimates import patient_mean


def one(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows)[None]


MAP = one([[0.0, 1.0, 2.0], [3.0, 4.0, 0.0]])
MASK = one([[0, 1, 0], [0, 1, 1]]).bool()
EMPTY = torch.zeros(1, 2, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("box", "rows", "columns"),
    [
        # 8 rows and 16 columns become 4 x 4: two rows and four columns a pixel.
        ([4, 2, 8, 4], (1, 3), (1, 3)),
        ([0, 0, 16, 8], (0, 4), (0, 4)),
        # Centers of columns are at 2, 6, 10 and 14.
        ([2, 0, 8, 8], (0, 4), (0, 2)),
        ([2.1, 0, 8, 8], (0, 4), (1, 3)),
        # Cut at the image.
        ([-5, -3, 8, 5], (0, 1), (0, 1)),
        ([13, 7, 100, 100], (3, 4), (3, 4)),
        ([20, 0, 5, 5], (0, 0), (0, 0)),
        ([-9, 0, 5, 5], (0, 0), (0, 0)),
        # No center inside: the pixel that holds the box.
        ([8.5, 4.2, 0.5, 0.5], (2, 3), (2, 3)),
    ],
)
def test_boxes_to_mask_by_hand(box, rows, columns):
    expected = torch.zeros(4, 4, dtype=torch.bool)
    expected[slice(*rows), slice(*columns)] = True
    assert torch.equal(boxes_to_mask([box], (8, 16), 4), expected)


def test_boxes_unite_and_keep_their_area():
    assert torch.equal(
        boxes_to_mask([[0, 0, 4, 4], [2, 2, 8, 4]], (8, 16), 4),
        boxes_to_mask([[0, 0, 4, 4]], (8, 16), 4) | boxes_to_mask([[2, 2, 8, 4]], (8, 16), 4),
    )
    assert not boxes_to_mask([], (8, 16), 4).any()
    share = boxes_to_mask([[301.3, 512.9, 640.2, 733.4]], (2500, 2048), 128).double().mean()
    assert float(share) == pytest.approx(640.2 * 733.4 / (2500 * 2048), rel=0.03)


@pytest.mark.parametrize("box", [[0, 0, 1], [0, 0, 0, 1], [0, 0, 1, -1], [math.nan, 0, 1, 1], [0, 0, math.inf, 1]])
def test_bad_boxes(box):
    with pytest.raises(InputError, match="a box must be"):
        boxes_to_mask([box], (8, 16), 4)
    with pytest.raises(ValueError, match="positive"):
        boxes_to_mask([], (8, 0), 4)


def test_energy_inside_by_hand():
    assert energy_inside(MAP, MASK).tolist() == [0.5]
    assert energy_inside(MAP, ~EMPTY).tolist() == [1]
    assert energy_inside(MAP, EMPTY).isnan().all()
    assert energy_inside(MAP * 0, MASK).isnan().all()
    batch = energy_inside(torch.cat([MAP, MAP * 0, MAP * 7]), torch.cat([MASK, MASK, ~MASK]))
    assert batch[[0, 2]].tolist() == [0.5, 0.5]
    assert batch[1].isnan()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_a_flat_map_has_the_share_of_the_area(height, width, level, seed):
    mask = torch.rand(2, height, width, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[:, 0, 0] = True
    flat = torch.full(mask.shape, level)
    share = mask.double().mean((1, 2))
    torch.testing.assert_close(energy_inside(flat, mask), share)
    torch.testing.assert_close(pointing_game(flat, mask), share)


def test_pointing_game_by_hand():
    assert pointing_game(MAP, MASK).tolist() == [1]
    assert pointing_game(MAP, ~MASK).tolist() == [0]
    tied = one([[0.0, 5.0, 5.0], [5.0, 5.0, 0.0]])
    assert pointing_game(tied, MASK).tolist() == [0.5]
    assert pointing_game(MAP, EMPTY).isnan().all()
    assert pointing_game(MAP, EMPTY, tolerance=9).isnan().all()


@pytest.mark.parametrize(("tolerance", "hit"), [(0, 0), (4.9, 0), (5, 1), (15, 1)])
def test_pointing_game_tolerates_a_distance(tolerance, hit):
    map, mask = torch.zeros(1, 12, 12), torch.zeros(1, 12, 12, dtype=torch.bool)
    map[0, 2, 3] = 1
    mask[0, 5, 7] = True
    assert pointing_game(map, mask, tolerance).tolist() == [hit]


def test_iou_at_area_by_hand():
    # The three highest are 4, 3 and 2, of which one is inside.
    assert iou_at_area(MAP, MASK).tolist() == [1 / 5]
    assert iou_at_area(MASK.float(), MASK).tolist() == [1]
    assert iou_at_area(MAP**3, MASK).tolist() == [1 / 5]
    assert iou_at_area(MAP, EMPTY).isnan().all()
    # A flat map has what chance has, wherever the mask lies: half of the pixels, half of these in the mask.
    assert iou_at_area(MAP * 0, MASK).tolist() == [0.5 / 1.5]
    top = torch.zeros(2, 128, 128, dtype=torch.bool)
    top[0, :32], top[1, 96:] = True, True
    assert iou_at_area(torch.ones(2, 128, 128), top).tolist() == pytest.approx([0.25 / 1.75] * 2)
    # Four is above, and one of the two zeros, of which one is in the mask, takes part in the second place.
    assert iou_at_area(one([[0.0, 0.0], [0.0, 4.0]]), one([[0, 0], [1, 1]]).bool()).tolist() == pytest.approx([(4 / 3) / (4 - 4 / 3)])
    # One more mask of another area in the batch.
    assert iou_at_area(torch.cat([MAP, MAP]), torch.cat([MASK, MAP == 4])).tolist() == [1 / 5, 1]


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 9), st.integers(0, 999))
def test_iou_at_area_takes_the_highest_pixels_and_of_tied_ones_an_equal_part(height, width, levels, seed):
    rng = np.random.default_rng(seed)
    map, mask = rng.integers(0, levels, (2, height, width)), rng.random((2, height, width)) < 0.4
    mask[:, 0, 0] = True
    expected = []
    for values, inside in zip(map, mask, strict=True):
        left = area = int(inside.sum())
        overlap = 0.0
        for value in sorted(set(values.ravel().tolist()), reverse=True):
            tied = values == value
            taken = min(left, int(tied.sum()))
            overlap += taken * float((tied & inside).sum() / tied.sum())
            left -= taken
        expected.append(overlap / (2 * area - overlap))
    assert iou_at_area(torch.tensor(map).double(), torch.tensor(mask)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("measure", [energy_inside, pointing_game, iou_at_area])
def test_bad_maps_and_masks(measure):
    for map in (MAP[0], -MAP, MAP / 0):
        with pytest.raises(ValueError, match="map must be"):
            measure(map, MASK)
    for mask in (MASK[0], MASK.float()):
        with pytest.raises(ValueError, match="mask must be"):
            measure(MAP, mask)


def test_insertion_and_deletion_of_a_linear_score_by_hand():
    image = torch.tensor([[[[0.1, 0.4], [0.2, 0.3]]], [[[0.4, 0.1], [0.2, 0.3]]]])
    baseline = torch.zeros_like(image)

    def total(x: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        return x.sum((1, 2, 3))

    order = image[:, 0].requires_grad_(True)
    # Inserted 0.4, 0.3, 0.2, 0.1: the score is 0, 0.4, 0.7, 0.9, 1; deleted in that order 1, 0.6, 0.3, 0.1, 0.
    torch.testing.assert_close(insertion_auc(total, image, order, 4, baseline), torch.tensor([0.625, 0.625]).double())
    torch.testing.assert_close(deletion_auc(total, image, order, 4, baseline), torch.tensor([0.375, 0.375]).double())
    # The worst order, lowest first, exchanges them.
    torch.testing.assert_close(insertion_auc(total, image, 1 - order, 4, baseline), torch.tensor([0.375, 0.375]).double())
    # Two steps: 0, 0.7, 1.
    torch.testing.assert_close(insertion_auc(total, image, order, 2, baseline), torch.tensor([0.6, 0.6]).double())
    # Three steps of 4 pixels are after 1 and 3: areas 0.2 / 4, (0.4 + 0.9) / 4 and 0.95 / 4.
    torch.testing.assert_close(insertion_auc(total, image, order, 3, baseline), torch.tensor([0.6125, 0.6125]).double())
    # More steps than pixels add nothing.
    torch.testing.assert_close(insertion_auc(total, image, order, 64, baseline), torch.tensor([0.625, 0.625]).double())


def test_all_channels_of_a_pixel_go_together_to_the_blurred_image():
    image = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = []
    insertion_auc(lambda x: seen.append(x) or x.mean((1, 2, 3)), image, torch.arange(256.0).view(1, 16, 16).repeat(2, 1, 1), 2)
    blurred = localization.blur(image, 1)
    assert torch.equal(seen[0], blurred)
    assert torch.equal(seen[1][:, :, 8:], image[:, :, 8:])
    assert torch.equal(seen[1][:, :, :8], blurred[:, :, :8])
    assert torch.equal(seen[2], image)


def test_blur_is_a_gaussian():
    point = torch.zeros(1, 2, 31, 31).double()
    point[0, 1, 15, 12] = 1
    blurred = localization.blur(point, 2)
    rows, columns = torch.meshgrid(torch.arange(31) - 15, torch.arange(31) - 12, indexing="ij")
    expected = torch.exp(-(rows**2 + columns**2) / 8.0).double() * ((rows.abs() <= 6) & (columns.abs() <= 6))
    torch.testing.assert_close(blurred[0, 1], expected / expected.sum())
    assert not blurred[0, 0].any()
    flat = torch.full((1, 1, 5, 7), 0.3)
    torch.testing.assert_close(localization.blur(flat, 4), flat)
    with pytest.raises(ValueError, match="sigma"):
        localization.blur(flat, 0)


def test_bad_curves():
    image, map = torch.rand(2, 1, 4, 4), torch.rand(2, 4, 4)
    with pytest.raises(ValueError, match="steps"):
        insertion_auc(lambda x: x.mean((1, 2, 3)), image, map, 0)
    with pytest.raises(ValueError, match="map"):
        deletion_auc(lambda x: x.mean((1, 2, 3)), image, map[:1])
    with pytest.raises(ValueError, match="baseline"):
        deletion_auc(lambda x: x.mean((1, 2, 3)), image, map, 4, image[:1])
    with pytest.raises(ValueError, match="score_fn"):
        insertion_auc(lambda x: x.mean((2, 3)), image, map)


def test_patient_mean_is_the_plain_t_interval_with_one_image_a_patient():
    values = np.random.default_rng(0).normal(size=30)
    result = patient_mean(values, [f"P{i}" for i in range(30)], confidence=0.9)
    low, high = scipy.stats.t.interval(0.9, 29, values.mean(), scipy.stats.sem(values))
    assert (result.value, result.low, result.high) == pytest.approx((values.mean(), low, high))
    assert (result.n_images, result.n_patients, result.n_missing) == (30, 30, 0)


def test_patient_mean_equals_cluster_robust_least_squares():
    # The small-sample factor of statsmodels, G / (G - 1) * (N - 1) / (N - K), is the same with the one regressor K = 1.
    api = pytest.importorskip("statsmodels.api")
    rng = np.random.default_rng(1)
    patient = rng.integers(0, 12, 60)
    values = rng.normal(size=12)[patient] + rng.normal(size=60)
    values[[3, 17]] = np.nan
    used = ~np.isnan(values)
    fit = api.OLS(values[used], np.ones(used.sum())).fit(cov_type="cluster", cov_kwds={"groups": patient[used]}, use_t=True)
    result = patient_mean(values, patient)
    assert result.value == pytest.approx(fit.params[0])
    assert (result.low, result.high) == pytest.approx(tuple(fit.conf_int()[0]))
    assert (result.n_images, result.n_patients, result.n_missing) == (58, len(np.unique(patient[used])), 2)


def test_copies_of_a_patients_image_do_not_narrow_the_interval():
    values, patient = np.random.default_rng(2).normal(size=10), np.arange(10)
    once, thrice = patient_mean(values, patient), patient_mean(np.tile(values, 3), np.tile(patient, 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))


def test_patient_mean_where_not_estimable():
    none = patient_mean([math.nan, math.nan], ["a", "b"])
    assert math.isnan(none.value)
    assert (none.n_images, none.n_patients, none.n_missing) == (0, 0, 2)
    for values, patient in (([0.1, 0.7], ["a", "a"]), ([0.1] * 30, list(range(10)) * 3)):
        result = patient_mean(values, patient)
        assert result.value == pytest.approx(np.mean(values))
        assert math.isnan(result.low)
        assert math.isnan(result.high)
    assert patient_mean([], []).n_images == 0
    with pytest.raises(ValueError, match="length"):
        patient_mean([1.0], ["a", "b"])
    with pytest.raises(ValueError, match="finite"):
        patient_mean([math.inf], ["a"])
