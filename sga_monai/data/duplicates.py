"""The leak check by picture: rows that show the same radiograph, and the pairs that a person has looked at and accepted."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from sga_monai.core.errors import InputError
from sga_monai.data.sets import is_internal
from sga_monai.data.tables import read_cells
from sga_monai.imaging.fingerprint import MOST_PAIRS, NearPair, near_pairs

# A pair in a table: what is compared, and what helps a person to judge it.
KEYS = ("set", "row", "other_set", "other_row")
SHA256 = ("sha256", "other_sha256")
COLUMNS = (*KEYS, *SHA256, "bits", "mirrored", "patients", "labels", "splits")
MOST_NAMED = 5
TOO_MANY = f"more than {MOST_PAIRS:,} pairs of two sets or splits show the same picture, too many to look at; remove copies"
CUT = f"more than {MOST_PAIRS:,} pairs within a split show the same picture, of which the first are listed; all pairs of two splits are"

Place = tuple[str, str]


@dataclass(frozen=True)
class Accepted:
    """Pairs that a person has looked at.

    Attributes:
        files: SHA-256 of both files. Rows are not compared: they are numbered anew when one is removed.
        places: where a line lacks a SHA-256: set and row of both, each with the SHA-256 that its file must have, or an empty text.
    """

    files: Collection[frozenset[str]] = ()
    places: Mapping[frozenset[Place], Mapping[Place, str]] = field(default_factory=dict)


class Prepared(Protocol):
    """What of a ``CXRDataset`` is looked at."""

    data: Any
    sha256: list[str]
    fingerprints: list[bytes]


def refuse_near_duplicates(datasets: Sequence[Prepared], accepted_pairs: str | Path | None = None) -> None:
    """Refuse a picture that is in two sets of which one is trained or chosen on: the same radiograph under two names.

    Pictures are the same when 12 or fewer of 256 bits of their difference hashes differ, as they are or mirrored. Within a
    set they may repeat (``manifest check`` lists them), and two external sets may share them.

    Args:
        datasets: the training data first.
        accepted_pairs: CSV of pairs that a person has looked at and that may stay; see ``read_accepted``.

    Raises:
        InputError: naming the rows of the first pairs.
    """
    accepted = Accepted() if accepted_pairs is None else read_accepted(accepted_pairs)
    items = [
        (number, item, sha256) for number, dataset in enumerate(datasets) for item, sha256 in zip(dataset.data, dataset.sha256, strict=True)
    ]
    codes = [code for dataset in datasets for code in dataset.fingerprints]
    if not codes:
        return
    manifest = str(items[0][1]["set"])
    keys = [(number, str(item["set"])) for number, item, _ in items]
    kind = _numbered(keys)
    # External sets may share pictures, as rows of one set may.
    apart = _numbered([(number, name if is_internal(name) else "") for number, name in keys])
    refused = []
    pairs, cut = near_pairs(_stack(codes), kind, apart=apart)
    for pair in pairs:
        (_, first, sha256), (_, second, other) = items[pair.first], items[pair.second]
        names = str(first["set"]), str(second["set"])
        # The rows of internal sets are those of the training manifest.
        places = [(manifest if is_internal(name) else name, str(item["row"])) for name, item in zip(names, (first, second), strict=True)]
        if not is_accepted(accepted, places, (sha256, other)):
            refused.append(f"{names[0]} row {first['row']} and {names[1]} row {second['row']} ({in_words(pair)})")
    if refused:
        more = f" (and {'at least ' if cut else ''}{len(refused) - MOST_NAMED} more)" if len(refused) > MOST_NAMED else ""
        raise InputError(
            f"the same picture is in two sets: {'; '.join(refused[:MOST_NAMED])}{more}; remove one of each, or look at them and list "
            f"the pair in accepted_pairs, a CSV with {', '.join(KEYS)}"
        )
    if cut:
        raise InputError(TOO_MANY)


def in_words(pair: NearPair) -> str:
    """How near two pictures are."""
    return f"{pair.distance} of 256 bits differ" + (", mirrored" if pair.mirrored else "")


def find_pairs(fingerprints: Sequence[bytes], splits: Sequence[str]) -> tuple[list[NearPair], list[str]]:
    """The pairs of one set by distance: those of two splits and those within a split, 10,000 of each at most.

    Args:
        fingerprints: of each row.
        splits: of each row.

    Returns:
        The pairs, and a sentence where there are more.
    """
    if not fingerprints:
        return [], []
    codes, split = _stack(fingerprints), _numbered(splits)
    pairs, cut = near_pairs(codes, split)
    if not cut:
        return pairs, []
    # What is cut must not be what may not be there.
    between, more = near_pairs(codes, apart=split)
    within = [pair for pair in pairs if split[pair.first] == split[pair.second]]
    return sorted(between + within, key=lambda pair: (pair.distance, pair)), [TOO_MANY if more else CUT]


def _numbered(keys: Sequence[Hashable]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Each key as the number of its first appearance."""
    numbers = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    return np.array([numbers[key] for key in keys], dtype=np.int64)


def read_accepted(path: str | Path) -> Accepted:
    """Pairs that may stay: a CSV with ``set, row, other_set, other_row``, as ``sga-monai manifest check --pairs`` writes it.

    A set is the name of its manifest without ending. Where the columns ``sha256`` and ``other_sha256`` are filled, these two files
    are accepted, whatever their rows are now; otherwise whatever files the rows have.

    Raises:
        InputError: when the file is missing or is no such table.
    """
    files: set[frozenset[str]] = set()
    known: dict[frozenset[Place], dict[Place, str]] = {}
    for _, cells in read_cells(Path(path), COLUMNS, KEYS):
        first, second = (cells["set"], cells["row"]), (cells["other_set"], cells["other_row"])
        hashes = [cells.get(name, "").lower() for name in SHA256]
        if all(hashes):
            files.add(frozenset(hashes))
        else:
            known[frozenset((first, second))] = dict(zip((first, second), hashes, strict=True))
    return Accepted(files, known)


def is_accepted(accepted: Accepted, places: Collection[Place], hashes: Collection[str]) -> bool:
    """Whether a pair of rows, with the SHA-256 of their files, is in the table."""
    if frozenset(hashes) in accepted.files:
        return True
    known = accepted.places.get(frozenset(places))
    return known is not None and all(known[place] in ("", sha256) for place, sha256 in zip(places, hashes, strict=True))


def _stack(fingerprints: Sequence[bytes]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.frombuffer(b"".join(fingerprints), dtype=np.uint8).reshape(len(fingerprints), -1)
