"""``benchmark read``: how fast the images of a folder get in, beside MONAI's default chain on the same files in one run."""

from __future__ import annotations

import contextlib
import io
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.transforms import Compose

from sga_monai.benchmark.peers import monai_chain
from sga_monai.core.display import track
from sga_monai.core.errors import InputError, ReadError
from sga_monai.data.transforms import preprocessing
from sga_monai.imaging.dicom import is_dicom, read_stored
from sga_monai.imaging.read import decode_cxr, read_bytes, read_cxr
from sga_monai.model.preparation import Preparation


@dataclass(frozen=True)
class Timing:
    """Seconds of the chains on the files that each can read.

    Attributes:
        n_files: files that this package reads.
        n_monai: files of those that MONAI's default chain gets through.
        ours: seconds for all files, one entry a round.
        ours_same: seconds for the files MONAI gets through, one entry a round.
        codec: seconds for reading and decoding alone, one entry a round.
        monai: seconds of MONAI's chain, one entry a round.
    """

    n_files: int
    n_monai: int
    ours: list[float]
    ours_same: list[float]
    codec: list[float]
    monai: list[float]

    @property
    def codec_share(self) -> float:
        """Share of our time that goes into reading and decoding, median over rounds."""
        return statistics.median(codec / ours for codec, ours in zip(self.codec, self.ours, strict=True))

    @property
    def ratios(self) -> list[float]:
        """MONAI's time over ours on the same files, one entry a round."""
        return [monai / ours for monai, ours in zip(self.monai, self.ours_same, strict=True)]


def time_reading(folder: str | Path, image_size: int = 224, rounds: int = 3, limit: int = 100) -> Timing:
    """Time both chains on the images of a folder, file by file and interleaved, so that load on the machine hits both.

    Args:
        folder: searched with its subfolders.
        image_size: size after resizing.
        rounds: repetitions; the first reading, which warms the disk's cache, is not counted.
        limit: number of files, drawn with a fixed seed.

    Raises:
        InputError: when the folder does not exist or has no readable image.
    """
    if not Path(folder).is_dir():
        raise InputError("the folder does not exist; check its path")
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    random.Random(0).shuffle(files)
    ours, theirs = preprocessing(Preparation(image_size)), monai_chain(image_size)
    readable: list[Path] = []
    for path in files:
        with contextlib.suppress(ReadError):
            read_cxr(path)
            readable.append(path)
        if len(readable) == limit:
            break
    if not readable:
        raise InputError("no readable image in this folder")
    both = {path for path in readable if _seconds(theirs, path) is not None}
    timing = Timing(len(readable), len(both), [], [], [], [])
    for _ in range(rounds):
        sums = dict.fromkeys(("ours", "ours_same", "codec", "monai"), 0.0)
        for path in track(readable, "timing"):
            seconds = _seconds(ours, path) or 0.0
            sums["ours"] += seconds
            sums["codec"] += _timed(decode_only, path)
            if path in both:
                sums["ours_same"] += seconds
                sums["monai"] += _seconds(theirs, path) or 0.0
        for name, value in sums.items():
            getattr(timing, name).append(value)
    return timing


def decode_only(path: str | Path) -> None:
    """Read a file and decode its pixels, without anything that makes a radiograph of them."""
    data = read_bytes(path)
    if is_dicom(data):
        read_stored(data)
    else:
        decode_cxr(data)


def _timed(function: Callable[[Any], Any], argument: Any) -> float:
    began = time.perf_counter()
    function(argument)
    return time.perf_counter() - began


def _seconds(chain: Compose, path: Path) -> float | None:
    """Seconds of a chain on one file, or ``None`` where it fails; what foreign readers print is dropped."""
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            return _timed(chain, {"image": str(path)})
    except Exception:  # noqa: BLE001
        # A peer that cannot read a file is a result, however it fails.
        return None


def lines(timing: Timing) -> Sequence[tuple[str, str, str]]:
    """Rows of the printed table: chain, images, images per second."""
    ours, codec = statistics.median(timing.ours), statistics.median(timing.codec)
    rows = [
        ("sga_monai", str(timing.n_files), f"{timing.n_files / ours:.1f}"),
        ("  reading and decoding alone", str(timing.n_files), f"{timing.n_files / codec:.1f}"),
    ]
    if timing.n_monai:
        same, monai = statistics.median(timing.ours_same), statistics.median(timing.monai)
        rows.append(("sga_monai, files that MONAI reads", str(timing.n_monai), f"{timing.n_monai / same:.1f}"))
        rows.append(("MONAI default chain", str(timing.n_monai), f"{timing.n_monai / monai:.1f}"))
    return rows
