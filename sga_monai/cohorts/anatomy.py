"""A drawn frontal chest radiograph with ground truth: pure functions of a random generator, numpy alone.

Coordinates: x runs from -1 at the picture's left (the patient's right) to 1, y from -1 at the top to 1. Brightness
follows attenuation, so bright is dense. Nothing here is measured from patients.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from sga_monai.imaging.marker import MARKER_LETTERS

Field = NDArray[np.float32]


@dataclass(frozen=True)
class ScannerStyle:
    """How a site's machine renders the chest.

    Attributes:
        gamma: exponent of the gray scale.
        noise: standard deviation of the quantum noise where the image is darkest.
        sharpen: weight of unsharp masking.
        collimation: width of the dark border, as a fraction of the image.
    """

    gamma: float
    noise: float
    sharpen: float
    collimation: float


@dataclass(frozen=True)
class Chest:
    """One drawn radiograph, all arrays ``[rows, columns]``.

    Attributes:
        image: brightness in [0, 1], float32.
        lung: bool, both lungs.
        lesion: bool, opacities inside the lungs.
        marker: bool, the marker's box.
    """

    image: Field
    lung: NDArray[np.bool_]
    lesion: NDArray[np.bool_]
    marker: NDArray[np.bool_]


def draw_chest(
    rng: np.random.Generator,
    shape: tuple[int, int],
    style: ScannerStyle,
    diseased: bool,
    marker: str | None = None,
    view: str = "PA",
    sex: str = "M",
) -> Chest:
    """Draw a chest: body, lungs, heart, ribs, vessels, opacities when ``diseased``, a marker when given.

    Args:
        rng: every random choice comes from it.
        shape: rows and columns.
        style: the machine.
        diseased: add diffuse bilateral opacities, mostly peripheral and basal.
        marker: "R" or "L" puts a lead letter in the upper corner on that side of the patient; ``None`` puts none.
        view: "PA", or "AP", in which the heart is larger and the shoulder blades lie over the lungs.
        sex: "F" adds breast shadows.
    """
    rows, columns = shape
    axes = (np.linspace(-1, 1, size, dtype=np.float32) for size in (rows, columns))
    y, x = np.meshgrid(*axes, indexing="ij")
    # Positioning: a small turn, shift and scale of the whole patient.
    angle, scale = rng.normal(0, 0.02), rng.normal(1.0, 0.04)
    # Python floats keep the fields in float32.
    angle, scale = float(angle), float(scale)
    u = (x * np.cos(angle) - y * np.sin(angle) + rng.normal(0, 0.03)) / scale
    v = (x * np.sin(angle) + y * np.cos(angle) + rng.normal(0, 0.03)) / scale

    lung = _lungs(rng, u, v)
    # The lungs' attenuation is drawn before what lies over them.
    body = _body(u, v)
    thickness = body * (0.42 + 0.14 * _smooth(v, 0.35, 0.25)) * (1 - 0.72 * lung)
    thickness += body * 0.30 * _mediastinum(rng, u, v, view)
    thickness += body * _bones(rng, u, v, view)
    thickness += 0.085 * lung * _vessels(rng, u, v, shape)
    if sex == "F":
        for side in (-1, 1):
            thickness += 0.10 * body * _ellipse(u - side * 0.47, v - 0.30, 0.34, 0.30, 0.10)
    thickness += 0.05 * body * _fractal_noise(rng, shape, 48)
    opacity = _opacities(rng, u, v, lung, shape) if diseased else np.zeros_like(u)
    thickness += 0.40 * opacity

    image = 1 - np.exp(-1.75 * np.clip(thickness, 0, None))
    image = image + style.sharpen * (image - gaussian_filter(image, 0.02 * rows))
    image = image + style.noise * (0.4 + image) * gaussian_filter(rng.standard_normal(shape, dtype=np.float32), 0.6)
    image = np.clip(image / 0.80, 0, 1) ** style.gamma
    border = _border(rng, shape, style.collimation)
    image = image * border

    box = np.zeros(shape, dtype=bool)
    if marker:
        image, box = _stamp(rng, image, marker)
    return Chest(np.clip(image, 0, 1).astype(np.float32), lung > 0.5, (opacity > 0.22) & (lung > 0.5), box)


def _smooth(value: Field, edge: float | NDArray[Any], width: float) -> Field:
    """0 below ``edge``, 1 above it, with a soft step of about ``width``."""
    return np.asarray(1 / (1 + np.exp(-np.clip((value - edge) / (width / 4), -60, 60))), dtype=np.float32)


def _ellipse(dx: Field, dy: Field, rx: float, ry: float, soft: float) -> Field:
    return 1 - _smooth(np.sqrt((dx / rx) ** 2 + (dy / ry) ** 2), 1, soft * 4)


def _body(u: Field, v: Field) -> Field:
    shoulders = 0.27 + 0.78 * _smooth(v, -0.72, 0.30)
    half_width = shoulders - 0.10 * _smooth(v, -0.2, 0.8)
    outline = 1 - _smooth(np.abs(u), half_width, 0.05)
    return outline.astype(np.float32) * (0.55 + 0.45 * np.sqrt(np.clip(1 - (u / 1.15) ** 2, 0, 1))) * (0.72 + 0.28 * _smooth(v, -0.55, 0.5))


def _lungs(rng: np.random.Generator, u: Field, v: Field) -> Field:
    lungs = np.zeros_like(u)
    width, base = rng.normal(0.36, 0.02), rng.normal(0.44, 0.05)
    for side in (-1, 1):
        center = side * rng.normal(0.44, 0.015)
        floor = base + (0.05 if side > 0 else 0.0) - rng.uniform(0, 0.04)
        t = np.clip((v + 0.74) / (floor + 0.74), 0, 1.2)
        half = width * np.clip(0.35 + 1.05 * t - 0.42 * t**2, 0.05, None)
        # Toward the apex the lung leans to the midline.
        middle = center - side * 0.10 * (1 - np.clip(t, 0, 1)) ** 2
        lateral = 1 - _smooth(np.abs(u - middle), half, 0.05)
        dome = floor + 1.1 * np.clip(np.abs(u - 0.75 * middle), 0, 0.55) ** 2
        apex = _smooth(v + 0.74 - 0.9 * (u - middle) ** 2 * 2, 0, 0.10)
        lungs = np.maximum(lungs, lateral * (1 - _smooth(v, dome, 0.05)) * apex)
    heart = _heart(u, v, 1.0)
    return np.clip(lungs * (1 - 0.95 * heart) * _smooth(np.abs(u), 0.11, 0.05), 0, 1).astype(np.float32)


def _heart(u: Field, v: Field, size: float) -> Field:
    turned = (u - 0.12) * 0.86 + (v - 0.27) * 0.5, -(u - 0.12) * 0.5 + (v - 0.27) * 0.86
    return _ellipse(turned[0], turned[1], 0.36 * size, 0.26 * size, 0.05)


def _mediastinum(rng: np.random.Generator, u: Field, v: Field, view: str) -> Field:
    size = rng.normal(1.16 if view == "AP" else 1.0, 0.05)
    column = (1 - _smooth(np.abs(u), 0.12, 0.08)) * (0.42 + 0.36 * _smooth(v, -0.3, 0.8))
    aorta = _ellipse(u - 0.13, v + 0.34, 0.09, 0.11, 0.10) * 0.8
    hila = sum(_ellipse(u - side * 0.19, v + 0.03, 0.09, 0.13, 0.25) * 0.45 for side in (-1, 1))
    # Air in the windpipe is darker than the spine around it.
    windpipe = _ellipse(u, v + 0.72, 0.045, 0.33, 0.15) * 0.55
    gas = _ellipse(u - 0.33, v - 0.76, 0.15, 0.08, 0.15) * rng.uniform(0, 0.8)
    return np.maximum.reduce([column, _heart(u, v, size), aorta, hila * np.ones_like(u)]) - windpipe - gas


def _bones(rng: np.random.Generator, u: Field, v: Field, view: str) -> Field:
    bones = np.zeros_like(u)
    distance = np.abs(u)
    offset, spacing = rng.normal(0, 0.02), rng.normal(0.142, 0.004)
    cage = _smooth(distance, 0.08, 0.04) * (1 - _smooth(distance, 0.86, 0.06))
    for i in range(10):
        # Posterior ribs leave the spine upward and fall to the side; anterior ones rise from the sternum.
        top = -0.78 + offset + spacing * i
        back = top - 0.16 * distance + (0.34 + 0.028 * i) * distance**2
        front = top + 0.62 - 0.42 * distance + 0.10 * distance**2
        for line, weight, width in ((back, 0.115, 0.030), (front, 0.055, 0.034)):
            gap = (v - line) / width
            # Farther away the exponential is zero in float32.
            near = np.abs(gap) < 3.4
            square = gap[near] ** 2
            bones[near] += weight * cage[near] * np.exp(-(square**2)) * (0.75 + 0.5 * square * np.exp(-square))
    for side in (-1, 1):
        line = -0.60 - 0.13 * (u * side) - 0.10 * np.sin(3.4 * u * side) * 0.5 + rng.normal(0, 0.01)
        reach = _smooth(u * side, 0.07, 0.05) * (1 - _smooth(u * side, 0.78, 0.08))
        bones += 0.16 * reach * np.exp(-((((v - line) / 0.036) ** 2) ** 2))
        edge = 0.74 if view == "PA" else 0.62
        blade = _smooth(u * side, edge + 0.25 * (v + 0.2), 0.04) * (1 - _smooth(v, 0.12, 0.12)) * _smooth(v, -0.62, 0.1)
        bones += 0.075 * blade
    vertebra = 0.5 + 0.5 * np.cos(2 * np.pi * v / spacing + rng.uniform(0, 6))
    bones += (1 - _smooth(distance, 0.075, 0.04)) * (0.06 + 0.07 * vertebra**0.5)
    return bones


def _vessels(rng: np.random.Generator, u: Field, v: Field, shape: tuple[int, int]) -> Field:
    """Branches that run from each hilum to the edge and thin out, drawn as blurred points."""
    points: list[tuple[float, float, float]] = []
    for side in (-1, 1):
        for _ in range(18):
            px, py, heading, width = side * 0.17, rng.normal(-0.03, 0.05), rng.uniform(-1.35, 1.35), 1.0
            while width > 0.12:
                heading += rng.normal(0, 0.16)
                px, py, width = px + side * 0.012 * np.cos(heading), py + 0.012 * np.sin(heading), width * 0.966
                points.append((px, py, width))
                if rng.random() < 0.03:
                    heading += rng.choice((-0.6, 0.6))
    x, y, weight = np.array(points).T
    bins = [np.linspace(-1, 1, size + 1) for size in shape]
    lines = np.histogram2d(y, x, bins=bins, weights=weight)[0]
    blurred = gaussian_filter(lines, 0.0035 * shape[0]) * 5 + gaussian_filter(lines, 0.011 * shape[0]) * 14
    # Drawn in the patient's frame, then moved with the patient.
    rows, columns = (v + 1) / 2 * (shape[0] - 1), (u + 1) / 2 * (shape[1] - 1)
    return np.clip(map_coordinates(blurred, [rows, columns], order=1, mode="constant"), 0, 2)


def _fractal_noise(rng: np.random.Generator, shape: tuple[int, int], coarsest: float) -> Field:
    """Noise of several scales, standard deviation 1."""
    total = np.zeros(shape, dtype=np.float32)
    for octave in range(4):
        # Coarse noise is drawn on a coarse grid and interpolated.
        cell = max(coarsest / 2**octave / 4, 1.0)
        grid = rng.standard_normal([int(size / cell) + 3 for size in shape], dtype=np.float32)
        rows, columns = (np.arange(size, dtype=np.float32) / cell for size in shape)
        layer = map_coordinates(grid, np.meshgrid(rows, columns, indexing="ij"), order=1)
        total += layer / layer.std() / 2 ** (octave / 2)
    return total / total.std()


def _opacities(rng: np.random.Generator, u: Field, v: Field, lung: Field, shape: tuple[int, int]) -> Field:
    """Hazy bilateral patches, stronger at the base and the edge, in [0, 1]."""
    patches = np.zeros_like(u)
    for side in (-1, 1):
        for _ in range(rng.integers(2, 5)):
            cx, cy = side * rng.uniform(0.28, 0.68), rng.uniform(-0.35, 0.45)
            rx, ry = rng.uniform(0.09, 0.20), rng.uniform(0.09, 0.20)
            patches += rng.uniform(0.5, 1.0) * np.exp(-(((u - cx) / rx) ** 2) - ((v - cy) / ry) ** 2)
    texture = 1 / (1 + np.exp(-1.5 * _fractal_noise(rng, shape, 0.10 * shape[0])))
    return rng.uniform(0.6, 1.0) * np.clip(patches, 0, 1) * (0.35 + 0.65 * texture) * lung


def _border(rng: np.random.Generator, shape: tuple[int, int], collimation: float) -> Field:
    inside = np.ones(shape, dtype=np.float32)
    for axis, size in enumerate(shape):
        for end in (0, 1):
            width = int(size * collimation * rng.uniform(0, 2))
            index = [slice(None), slice(None)]
            index[axis] = slice(0, width) if end == 0 else slice(size - width, size)
            inside[tuple(index)] = 0.02
    return inside


def _stamp(rng: np.random.Generator, image: Field, letter: str) -> tuple[Field, NDArray[np.bool_]]:
    """A lead letter with a bar under it, near the upper corner on the patient's right (R) or left (L)."""
    rows, columns = image.shape
    glyph = np.array([[cell == "#" for cell in line] for line in MARKER_LETTERS[letter]])
    glyph = np.vstack([glyph, np.zeros((1, 5), bool), np.ones((1, 5), bool)])
    glyph = np.kron(glyph, np.ones((max(rows // 100, 1),) * 2, dtype=bool))
    top = int(rows * rng.uniform(0.035, 0.065))
    left = int(columns * rng.uniform(0.05, 0.09))
    left = left if letter == "R" else columns - left - glyph.shape[1]
    stamped, box = image.copy(), np.zeros(image.shape, dtype=bool)
    window = (slice(top, top + glyph.shape[0]), slice(left, left + glyph.shape[1]))
    stamped[window] = np.where(glyph, 0.97, stamped[window])
    box[window] = True
    return stamped, box
