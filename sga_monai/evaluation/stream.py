"""A cohort read, scored and kept part by part: memory holds a part's images and no more, and what was scored stays scored.

A site may have a million radiographs. While one mini-batch is scored, other processes read the next ones.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from sga_monai.core.errors import InputError, input_error
from sga_monai.core.files import plain, write_json
from sga_monai.data.dataset import RowReader, refuse_unreadable
from sga_monai.data.listed_files import is_back
from sga_monai.data.parallel import read_rows
from sga_monai.data.transforms import preprocessing
from sga_monai.evaluation.cohort import Cohort
from sga_monai.evaluation.predictions import ROW
from sga_monai.statistics.feature_shift import Moments
from sga_monai.statistics.separability import coordinates

logger = logging.getLogger(__name__)
# Rows that are kept together; what is lost by a stop is at most one part.
PART = 256

ScoreBatch = Callable[[Mapping[str, Any]], tuple[dict[str, Any], NDArray[np.float32]]]


@dataclass(frozen=True)
class Streamed:
    """A scored cohort, whose images are read again when one asks for one.

    Attributes:
        cohort: what was scored.
        predictions: one line for each image that could be read.
        failures: ``row, label, patient, set`` and the reason ``code`` of each other row.
        moments: of the network's features over all images.
        along: the features' coordinates in each half of the source profile, ``[N, K + 1]`` each; empty without a profile.
        burned_in: of each line of ``predictions``, whether text may be burned into its pixels, bool ``[N]``.
    """

    cohort: Cohort
    predictions: pd.DataFrame
    failures: Sequence[dict[str, Any]]
    moments: Moments
    along: Sequence[NDArray[np.float64]]
    burned_in: NDArray[np.bool_]

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        return {key: self.predictions[key].to_numpy() for key in ROW} | {"burned_in": self.burned_in}

    @cached_property
    def _items(self) -> dict[int, dict[str, Any]]:
        return {item["row"]: item for item in self.cohort.items}

    @property
    def data(self) -> Iterator[dict[str, Any]]:
        """``row, label, patient, set, burned_in`` of each line of ``predictions``."""
        return map(self._facts, range(len(self)))

    def __len__(self) -> int:
        return len(self.burned_in)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The prepared image of one line, ``image`` ``[1, H, W]``, with what ``data`` says of it.

        Raises:
            ReadError: when the file cannot be read any more.
        """
        facts = self._facts(index)
        try:
            found = RowReader(preprocessing(self.cohort.preparation))(self._items[facts["row"]])
        except RuntimeError as error:
            # MONAI wraps what a transform raises.
            raise input_error(error) or error from None
        return facts | {"image": torch.from_numpy(found["image"])}

    def _facts(self, index: int) -> dict[str, Any]:
        return {key: column[index] for key, column in self._columns.items()}


def stream_cohort(
    cohort: Cohort,
    folder: Path,
    score: ScoreBatch,
    profile: Sequence[Mapping[str, Any]] | None = None,
    num_workers: int = 0,
    batch_size: int = 32,
) -> Streamed:
    """Score every row of a cohort; rows whose part lies in ``folder`` already are not read again, but for files that are there now.

    Args:
        cohort: of ``list_cohort``.
        folder: of the parts, for this cohort, preprocessing and ``score`` alone; delete it when the result is written.
        score: from a mini-batch with ``image`` ``[B, 1, H, W]`` and ``row, patient, label, set`` to columns and features ``[B, D]``.
        profile: of ``source_profile``; the features' coordinates in it are kept, the features are not.
        num_workers: processes that read.
        batch_size: images at once; changes no score by more than rounding.

    Raises:
        InputError: when one file is in two rows, byte for byte, or no image can be read.
    """
    gathered = _Gathered(cohort.name)
    for part in _kept(folder, cohort):
        gathered.add(part)
    rest = cohort.items[gathered.n_parts * PART :]
    results = read_rows(rest, RowReader(preprocessing(cohort.preparation)), num_workers, "reading and scoring")
    for start in range(0, len(rest), PART):
        part = _score_part(rest[start : start + PART], results, score, profile or (), batch_size)
        gathered.add(part)
        write_json(folder / _name(gathered.n_parts - 1), part, indent=None)
    failures = gathered.failures
    if failures:
        logger.warning("%s: %d images cannot be read and have no score", cohort.name, len(failures))
    refuse_unreadable(failures, len(cohort.items), some_are_kept=len(failures) < len(cohort.items))
    halves = [np.concatenate([along[half] for along in gathered.along]) for half in range(len(profile or ()))]
    return Streamed(cohort, gathered.table(), failures, gathered.moments, halves, np.concatenate(gathered.burned_in))


class _Gathered:
    """What memory keeps of the parts: arrays, a tenth of the lists and dictionaries of JSON."""

    def __init__(self, name: str) -> None:
        self.name, self.n_parts, self.moments = name, 0, Moments()
        self.seen: dict[bytes, int] = {}
        self.failures: list[dict[str, Any]] = []
        self.frames: list[pd.DataFrame] = []
        self.along: list[list[NDArray[np.float64]]] = []
        self.burned_in: list[NDArray[np.bool_]] = []

    def add(self, part: Mapping[str, Any]) -> None:
        """Take one more part.

        Raises:
            InputError: when one file is in two rows: a case counted twice.
        """
        for line, sha256 in zip(part["data"], part["sha256"], strict=True):
            first = self.seen.setdefault(bytes.fromhex(sha256)[:16], line["row"])
            if first != line["row"]:
                raise InputError(f"{self.name} row {first} and {self.name} row {line['row']} are the same file, byte for byte; remove one")
        self.n_parts += 1
        self.failures += part["failures"]
        if part["data"]:
            frame = pd.DataFrame(part["columns"])
            # A column without a single value came as None.
            frame = frame.astype({name: np.float64 for name in frame if name not in ROW})
            self.frames.append(frame.assign(set=frame["set"].map(sys.intern)))
            self.along.append([np.asarray(half) for half in part["along"]])
            self.burned_in.append(np.array([line["burned_in"] for line in part["data"]], dtype=bool))
            self.moments = self.moments.joined(Moments(**part["moments"]))

    def table(self) -> pd.DataFrame:
        """One line for each image that could be read."""
        return pd.concat(self.frames, ignore_index=True)


def _score_part(
    items: Sequence[dict[str, Any]],
    results: Iterator[dict[str, Any]],
    score: ScoreBatch,
    profile: Sequence[Mapping[str, Any]],
    batch_size: int,
) -> dict[str, Any]:
    """The next rows read and scored, as what JSON can hold."""
    part: dict[str, Any] = {"data": [], "failures": [], "sha256": [], "columns": {}, "along": [[] for _ in profile]}
    moments = Moments()
    for batch in _batches(items, results, part, batch_size):
        columns, features = score(batch)
        for name, values in columns.items():
            part["columns"].setdefault(name, []).extend(np.asarray(values).tolist())
        moments = moments.joined(Moments.of(features))
        for half, axes in enumerate(profile):
            part["along"][half] += coordinates(features, axes).tolist()
    part["moments"] = moments.plain()
    # What is kept and what a later call reads are the same to the bit.
    content: dict[str, Any] = json.loads(json.dumps(plain(part)))
    return content


def _batches(
    items: Sequence[dict[str, Any]], results: Iterator[dict[str, Any]], part: dict[str, Any], batch_size: int
) -> Iterator[dict[str, Any]]:
    """Mini-batches of what can be read; ``part`` takes down failures and the facts of each image."""
    pairs = zip(items, results, strict=False)
    while some := list(islice(pairs, batch_size)):
        images = []
        lines = []
        for item, result in some:
            facts = {key: item[key] for key in ROW}
            if "code" in result:
                part["failures"].append(facts | {"code": result["code"]})
                continue
            part["data"].append(facts | {"burned_in": result["burned_in"]})
            part["sha256"].append(result["sha256"])
            images.append(torch.from_numpy(result["image"]))
            lines.append(facts)
        if images:
            yield {"image": torch.stack(images)} | {key: [line[key] for line in lines] for key in ROW}


def _kept(folder: Path, cohort: Cohort) -> Iterator[dict[str, Any]]:
    """Parts that an earlier call has written, in order, up to the first that is missing, damaged or has a failure that ``is_back``."""
    for number in range(-(-len(cohort.items) // PART)):
        try:
            part = json.loads((folder / _name(number)).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        images = {item["row"]: item["image"] for item in cohort.items[number * PART : (number + 1) * PART]}
        if sorted(line["row"] for line in (*part["data"], *part["failures"])) != sorted(images):
            return
        if any(is_back(images[line["row"]], line["code"]) for line in part["failures"]):
            return
        yield part


def _name(number: int) -> str:
    return f"part_{number:06d}.json"
