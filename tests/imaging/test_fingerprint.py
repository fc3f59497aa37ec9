"""The same picture is found again after another export, another one is not, and the search is exact and quick."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from sga_monai.cohorts.anatomy import ScannerStyle, draw_chest
from sga_monai.imaging.fingerprint import BITS, CODE_BYTES, NEAR, NearPair, candidates, fingerprint, near_pairs

STYLE = ScannerStyle(gamma=1.0, noise=0.01, sharpen=0.5, collimation=0.02)


def chest(seed: int) -> np.ndarray:
    return draw_chest(np.random.default_rng(seed), (320, 256), STYLE, bool(seed % 2)).image


def codes(*images: np.ndarray) -> np.ndarray:
    return np.stack([np.frombuffer(fingerprint(image), dtype=np.uint8) for image in images])


def resized(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def compressed(image: np.ndarray) -> np.ndarray:
    stream = io.BytesIO()
    Image.fromarray(np.uint8(255 * image)).save(stream, "JPEG", quality=50)
    return np.asarray(Image.open(stream)).astype(np.float32) / 255


EXPORTS = {
    "size": lambda image: resized(image, (112, 112)),
    "larger": lambda image: resized(image, (700, 900)),
    "window": lambda image: np.clip(image, *np.percentile(image, (2, 97))),
    "gamma": lambda image: image**1.5,
    "12 bits": lambda image: np.round(4095 * image),
    "JPEG": compressed,
    "noise": lambda image: image + np.random.default_rng(0).normal(0, 0.02, image.shape),
    "all": lambda image: compressed(np.clip((resized(image, (224, 224)) - 0.05) / 0.8, 0, 1)),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_another_export_is_the_same_picture(name):
    for seed in range(6):
        image = chest(seed)
        for mirrored in (False, True):
            other = EXPORTS[name](image)
            ((pair,), _) = near_pairs(codes(image, other[:, ::-1] if mirrored else other))
            assert (pair.first, pair.second, pair.mirrored) == (0, 1, mirrored)


def test_other_pictures_are_others():
    assert near_pairs(codes(*(chest(seed) for seed in range(40)))) == ([], False)


def test_pictures_without_content_have_a_fingerprint():
    assert fingerprint(np.zeros((20, 20))) == fingerprint(np.full((7, 300), 0.5)) == bytes(2 * CODE_BYTES)


def random_codes(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(0, 256, (count, 2 * CODE_BYTES), dtype=np.uint8)


def flipped(rng: np.random.Generator, code: np.ndarray, bits: int) -> np.ndarray:
    changed = np.unpackbits(code)
    changed[rng.choice(BITS, bits, replace=False)] ^= 1
    return np.packbits(changed)


def by_force(fingerprints: np.ndarray, limit: int = NEAR) -> set[tuple[int, int]]:
    """Every pair compared, bit by bit."""
    straight, mirror = (np.unpackbits(part, axis=1) for part in (fingerprints[:, :CODE_BYTES], fingerprints[:, CODE_BYTES:]))
    near = set()
    for i in range(len(straight)):
        for j in range(i):
            distances = [(a != b).sum() for a, b in ((straight[i], straight[j]), (mirror[i], straight[j]), (mirror[j], straight[i]))]
            if min(distances) <= limit:
                near.add((j, i))
    return near


@pytest.mark.parametrize("seed", range(3))
def test_the_search_finds_what_comparing_all_finds(seed):
    rng = np.random.default_rng(seed)
    fingerprints = random_codes(rng, 120)
    for i in range(60):
        # Distances on both sides of the limit, straight and mirrored.
        source = fingerprints[i, :CODE_BYTES] if i % 2 else fingerprints[i, CODE_BYTES:]
        fingerprints[60 + i, :CODE_BYTES] = flipped(rng, source, i % 18)
    found, _ = near_pairs(fingerprints)
    assert {(pair.first, pair.second) for pair in found} == by_force(fingerprints)
    # Pairs of one set are left out, and none of two.
    sets = rng.integers(0, 3, 120)
    apart, _ = near_pairs(fingerprints, apart=sets)
    assert apart == [pair for pair in found if sets[pair.first] != sets[pair.second]]
    assert all(pair.distance <= NEAR for pair in found)
    assert [pair.distance for pair in found] == sorted(pair.distance for pair in found)


def test_copies_are_paired_with_the_first_of_their_kind_alone():
    code = random_codes(np.random.default_rng(0), 1)
    copies = np.repeat(code, 5, axis=0)
    assert near_pairs(copies) == ([NearPair(0, i, 0, False) for i in range(1, 5)], False)
    # Of two kinds each has a first, and the two are a pair: what is refused between sets cannot hide behind a copy.
    pairs = {(pair.first, pair.second) for pair in near_pairs(copies, np.array([0, 0, 1, 1, 1]))[0]}
    assert pairs == {(0, 1), (0, 2), (2, 3), (2, 4)}
    (pair,), cut = near_pairs(copies, apart=np.array([0, 0, 1, 1, 1]))
    assert (pair, cut) == (NearPair(0, 2, 0, False), False)
    assert near_pairs(copies[:0]) == ([], False)


def test_most_pairs_are_never_compared():
    """Bits as skewed as those of chests: a quarter of them differs between two pictures."""
    rng = np.random.default_rng(0)
    share = rng.beta(0.5, 0.5, 2 * BITS)
    fingerprints = np.packbits(rng.random((4_000, 2 * BITS), dtype=np.float32) < share, axis=1)
    fingerprints[-1] = fingerprints[0]
    assert [(pair.first, pair.second, pair.distance) for pair in near_pairs(fingerprints)[0]] == [(0, 3_999, 0)]
    straight = np.ascontiguousarray(fingerprints[:, :CODE_BYTES]).view(np.uint64)
    compared = sum(len(a) for a, _ in candidates(straight, straight))
    assert compared < 0.1 * len(straight) ** 2
