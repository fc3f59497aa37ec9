"""The lead letters that mark a side, as cells of a grid."""

from __future__ import annotations

MARKER_LETTERS = {
    "R": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
}
