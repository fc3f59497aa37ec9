"""Is it the same picture? Difference hashes of radiographs, and the search for near ones among a hundred thousand.

Two files of one radiograph differ in bytes after a new export: another size, window, compression, a new UID. The hash
(Krawetz, "Kind of like that", 2013: is the right neighbor brighter?) is of what stays: the course of brightness on a
coarse grid. Distances and false alarms on real collections: docs/data.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS, BITS = 16, 256
CODE_BYTES = BITS // 8
# The largest distance of one picture to itself after another export; the first pair of two patients is at 15.
NEAR = 12
# A step in brightness smaller than this share of the picture's range is none, so that noise in black borders is not hashed.
STEP = 0.01
FLAT = 1e-4
BANDS = NEAR + 1
PAIRS_AT_ONCE = 1 << 20
MOST_PAIRS = 10_000

Codes = NDArray[np.uint8]


@dataclass(frozen=True, order=True)
class NearPair:
    """Two pictures that are equal or nearly so.

    Attributes:
        first: index of one.
        second: index of the other, greater than ``first``.
        distance: number of bits of 256 in which they differ.
        mirrored: whether one of them is the other's mirror image.
    """

    first: int
    second: int
    distance: int
    mirrored: bool


def fingerprint(image: NDArray[np.floating[Any]]) -> bytes:
    """The difference hash of a picture and that of its mirror image, 32 bytes each.

    Args:
        image: rows x columns, any size, finite.
    """
    grid: NDArray[Any] = _shrink(np.asarray(image, dtype=np.float32), ROWS, ROWS + 1)
    low, high = np.percentile(grid, (2, 98))
    # Rounding errors are no picture.
    span = max(float(high - low), FLAT * float(abs(grid).max()), 1e-30)
    scaled = np.clip((grid - low) / span, 0, 1)
    return b"".join(np.packbits(np.diff(side, axis=1) > STEP).tobytes() for side in (scaled, scaled[:, ::-1]))


def near_pairs(
    fingerprints: Codes, kind: NDArray[np.integer[Any]] | None = None, limit: int = NEAR, apart: NDArray[np.integer[Any]] | None = None
) -> tuple[list[NearPair], bool]:
    """All pairs of pictures whose hashes differ in at most ``limit`` bits, as they are or mirrored.

    Of pictures with equal hashes (and equal ``kind``) the first stands for all: it is paired with each of them, and alone
    with others, so that a thousand copies are no million pairs. The search is exact otherwise (multi-index hashing, Norouzi
    et al., TPAMI 36, 2014): hashes that differ in 12 bits are equal in one of 13 parts, and only those are compared.

    Args:
        fingerprints: ``[N, 64]`` bytes of ``fingerprint``.
        kind: ``[N]``; pictures of different kinds do not stand for each other. At least as fine as ``apart``, which it is
            when it is not given.
        limit: from 0 to 12.
        apart: ``[N]``; pairs of pictures with the same number are left out, so that they do not count.

    Returns:
        The pairs by distance, 10,000 at most, and whether there are more, of which some may be nearer.
    """
    count = len(fingerprints)
    if not count:
        return [], False
    kind = apart if kind is None else kind
    kind = np.zeros(count, dtype=np.int64) if kind is None else np.asarray(kind, dtype=np.int64)
    # Without sets each picture is one of its own.
    apart = np.arange(count) if apart is None else np.asarray(apart)
    whole = np.concatenate([fingerprints, kind[:, None].view(np.uint8).reshape(count, -1)], axis=1)
    _, first, group = np.unique(whole, axis=0, return_index=True, return_inverse=True)
    leader = first[group.ravel()]
    found = [NearPair(int(leader[i]), i, 0, False) for i in np.flatnonzero(apart[leader] != apart).tolist()]
    leaders = np.sort(first)
    of_leader = apart[leaders]
    codes = fingerprints[leaders]
    straight, mirror = (np.ascontiguousarray(part).view(np.uint64) for part in (codes[:, :CODE_BYTES], codes[:, CODE_BYTES:]))
    seen: set[tuple[int, int]] = set()
    for mirrored, query in ((False, straight), (True, mirror)):
        for a, b in candidates(query, straight):
            # A quarter of the bits first, by which most candidates are none.
            few = (np.bitwise_count(query[a, 0] ^ straight[b, 0]) <= limit) & (of_leader[a] != of_leader[b])
            a, b = a[few], b[few]
            distance = np.bitwise_count(query[a] ^ straight[b]).sum(axis=1)
            near = (distance <= limit) & ((a != b) if mirrored else (a < b))
            for x, y, bits in zip(a[near].tolist(), b[near].tolist(), distance[near].tolist(), strict=True):
                i, j = sorted((x, y))
                if (i, j) not in seen:
                    seen.add((i, j))
                    found.append(NearPair(int(leaders[i]), int(leaders[j]), int(bits), mirrored))
            if len(found) > MOST_PAIRS:
                break
    return sorted(found, key=lambda pair: (pair.distance, pair))[:MOST_PAIRS], len(found) > MOST_PAIRS


def candidates(query: NDArray[np.uint64], stored: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Indices of a query and of a stored hash that are equal in one part, some at a time."""
    # Neighboring bits are alike in most chests; drawn at random they tell more. The same each time.
    order = np.random.default_rng(0).permutation(BITS)
    bits = [np.unpackbits(np.ascontiguousarray(codes).view(np.uint8), axis=1)[:, order] for codes in (query, stored)]
    for part in np.array_split(np.arange(BITS), BANDS):
        weights = np.left_shift(np.uint32(1), np.arange(len(part), dtype=np.uint32))
        key, keys = (side[:, part].astype(np.uint32) @ weights for side in bits)
        place = np.argsort(keys, kind="stable")
        left, right = (np.searchsorted(keys[place], key, side) for side in ("left", "right"))
        ends = np.cumsum(right - left)
        start = 0
        while start < len(query):
            done = ends[start - 1] if start else 0
            stop = max(int(np.searchsorted(ends, done + PAIRS_AT_ONCE, "right")), start + 1)
            sizes = (right - left)[start:stop]
            a = np.repeat(np.arange(start, stop), sizes)
            inside = np.arange(len(a)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
            yield a, place[np.repeat(left[start:stop], sizes) + inside]
            start = stop


def _shrink(image: NDArray[Any], rows: int, columns: int) -> NDArray[Any]:
    """Means over the cells of a grid, whose borders may cut pixels."""
    down, across = (_overlap(size, cells) for size, cells in zip(image.shape, (rows, columns), strict=True))
    shrunk: NDArray[Any] = down @ image @ across.T
    return shrunk


def _overlap(size: int, cells: int) -> NDArray[np.float32]:
    """``[cells, size]``: the share of each pixel in each cell's mean."""
    edges = np.arange(cells + 1) * size / cells
    pixel = np.arange(size)
    inside = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    return (np.clip(inside, 0, None) * cells / size).astype(np.float32)
