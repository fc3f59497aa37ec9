from __future__ import annotations

import numpy as np
import pytest

from sga_monai.statistics.shortcuts import frame_only_auroc, frame_pixels, pixel_auroc, thumbnail_auroc, thumbnail_pixels

SIDE = 75


@pytest.fixture
def noise():
    """Images of noise, labels and patients, two images a patient."""
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(150), 2)
    label = rng.integers(0, 2, 150)[patient]
    return rng.random((300, SIDE, SIDE)), label, patient


def test_noise_tells_nothing():
    """Over many sets the mean is 0.5 and the interval holds it at least as often as it says, prevalence apart from a half."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(30):
        label = (rng.random(100) < 0.3).astype(int)
        found.append(pixel_auroc(rng.random((100, 12)) + rng.random((100, 1)), label, np.arange(100)))
    assert np.mean([line["value"] for line in found]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([line["low"] < 0.5 < line["high"] for line in found]) > 0.93


def test_a_planted_frame_is_found(noise):
    images, label, patient = noise
    # Each image has a brighter frame by chance, and those with label 1 by a little more.
    images[:, :6, :] += np.random.default_rng(6).normal(0.12 * label, 0.06)[:, None, None]
    for probe in (frame_only_auroc, thumbnail_auroc):
        found = probe(images, label, patient)
        assert 0.8 < found["low"] < found["value"] < found["high"] < 1
        assert (found["n"], found["n_patients"]) == (300, 150)


def test_what_lies_inside_is_found_by_the_thumbnail_alone(noise):
    images, label, patient = noise
    images[label == 1, 30:45, 30:45] += 0.2
    assert thumbnail_auroc(images, label, patient)["value"] > 0.95
    assert frame_only_auroc(images, label, patient)["value"] == pytest.approx(0.5, abs=0.1)


def test_a_patient_is_not_recognized():
    """Copies of a patient's image would give the label away if they were in two folds."""
    rng = np.random.default_rng(2)
    patient = np.repeat(np.arange(60), 5)
    label = (np.arange(60) % 2)[patient]
    images = rng.random((60, 30, 30))[patient] + 0.01 * rng.random((300, 30, 30))
    assert thumbnail_auroc(images, label, patient)["value"] < 0.7
    # The same with every image its own patient.
    assert thumbnail_auroc(images, label, np.arange(300))["value"] > 0.95


def test_size_aspect_and_gray_scale_of_an_image_tell_nothing():
    rng = np.random.default_rng(3)
    label = np.arange(200) % 2
    images = [(40 * rng.random((50, 50)) + 7).repeat(1 + y, axis=0) * (1 + y) for y in label]
    for probe in (frame_only_auroc, thumbnail_auroc):
        assert probe(images, label, np.arange(200))["value"] == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize(("grid", "pixels"), [(20, thumbnail_pixels), (25, frame_pixels)])
def test_cells_are_the_mean_of_the_area_they_cover(grid, pixels):
    image = np.random.default_rng(4).random((43, 31))
    # Every pixel as grid x grid equal ones, of which each cell has a whole number.
    cells = image.repeat(grid, axis=0).repeat(grid, axis=1).reshape(grid, 43, grid, 31).mean(axis=(1, 3))
    if grid == 25:
        cells = cells[np.pad(np.zeros((21, 21), bool), 2, constant_values=True)]
    low, high = np.percentile(cells, (0.5, 99.5))
    assert pixels(image) == pytest.approx(np.clip((cells - low) / (high - low), 0, 1).ravel(), abs=1e-5)


def test_a_change_inside_the_frame_changes_no_pixel_of_it():
    """Nor does it by way of the gray scale, for which the frame alone is looked at."""
    image = np.linspace(0, 1, 2500).reshape(50, 50)
    changed = image.copy()
    changed[4:-4, 4:-4] = 7
    assert (frame_pixels(changed) == frame_pixels(image)).all()
    assert not (thumbnail_pixels(changed) == thumbnail_pixels(image)).all()


def test_too_few_patients_of_a_label_give_none():
    pixels = np.random.default_rng(5).random((40, 400))
    label = np.arange(40) < 9
    assert pixel_auroc(pixels, label.astype(int), np.arange(40)) is None
    assert pixel_auroc(pixels, np.arange(40) % 2, np.arange(40) // 5) is None
