"""``benchmark data``: the first reading of DICOM files, and later epochs from the cache, beside what else one could use."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset, DataLoader, Dataset, PersistentDataset

from sga_monai.benchmark.files import SYNTAXES, write_dicom_files, write_small_files
from sga_monai.benchmark.measure import Case, Fact, Line, Machine, Result, compare
from sga_monai.benchmark.peers import monai_chain, silence, torchxrayvision_chain
from sga_monai.benchmark.read import decode_only
from sga_monai.core.display import track
from sga_monai.core.process import keep_freed_memory
from sga_monai.data.dataset import CXRDataset
from sga_monai.data.transforms import preprocessing
from sga_monai.model.preparation import Preparation

NAME = "data"
CODEC_SHARE, WARM_MS, WARM_BATCH, WARM_EPOCHS = 0.9, 0.75, 64, 10
Rows = Sequence[dict[str, Any]]


def benchmark_data(machine: Machine, n_images: int = 4, n_small: int = 256) -> Result:
    """Cold: the first epoch from drawn DICOM files of 2500 x 2048. Warm: a later epoch of small images in batches of 64.

    Args:
        machine: its ``image_size``, ``rounds`` and ``threads``.
        n_images: DICOM files of each transfer syntax.
        n_small: images of the warm epochs.
    """
    lines: list[Line] = []
    facts: list[Fact] = []
    notes: list[str] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for syntax in track(SYNTAXES, "drawing files"):
            rows = write_dicom_files(folder, syntax, n_images)
            found, why = _cold(machine, syntax, rows, folder / "scratch")
            codec = next(line for line in found if line.name.endswith("codec alone"))
            lines += found
            facts.append(Fact(NAME, f"{syntax}: share of the first epoch beyond the codec", 1 - codec.ratio, "", 1 - CODEC_SHARE))
            notes += why
        keep_freed_memory()
        warm = _warm(machine, write_small_files(folder, n_small, machine.image_size), folder / "scratch")
    lines += warm
    batches = -(-n_small // WARM_BATCH)
    facts.append(Fact(NAME, f"warm, a batch of {WARM_BATCH} at {machine.image_size} px", 1e3 * warm[0].seconds / batches, "ms", WARM_MS))
    return Result(lines, facts, list(dict.fromkeys(notes)))


def _cold(machine: Machine, syntax: str, rows: Rows, scratch: Path) -> tuple[list[Line], list[str]]:
    """First epochs from files: ours with its cache written, the codec alone, and the peers that can read these files."""
    ours, numbers = f"{syntax}: sga_monai", itertools.count()
    chain = preprocessing(Preparation(machine.image_size))

    def read() -> None:
        CXRDataset(rows, chain, cache_dir=str(scratch / f"cold_{next(numbers)}"))

    def decode_all() -> None:
        for row in rows:
            decode_only(row["image"])

    theirs = monai_chain(machine.image_size)
    peers: dict[str, Callable[[], object]] = {
        "MONAI default chain": lambda: _through(Dataset(_paths(rows), theirs)),
        "PersistentDataset": lambda: _through(PersistentDataset(_paths(rows), theirs, cache_dir=scratch / f"cold_{next(numbers)}")),
        "CacheDataset": lambda: CacheDataset(_paths(rows), theirs, progress=False),
    }
    xrv = torchxrayvision_chain(machine.image_size)
    notes = [] if xrv is not None else ["torchxrayvision was left out: pip install 'sga_monai[bench]', with the torchvision of this torch"]
    if xrv is not None:
        peers["torchxrayvision"] = lambda: [xrv(row["image"]) for row in rows]
    cases = [
        Case(ours, read, ours, units=len(rows)),
        Case(f"{syntax}: codec alone", decode_all, ours, units=len(rows)),
    ]
    for name, run in peers.items():
        if _works(run):
            cases.append(Case(f"{syntax}: {name}", partial(_quietly, run), ours, at_least=1.0, units=len(rows)))
        else:
            notes.append(f"{name} does not read {syntax} as installed")
    lines = compare(NAME, cases, machine)
    shutil.rmtree(scratch, ignore_errors=True)
    return lines, notes


def _warm(machine: Machine, rows: Rows, scratch: Path) -> list[Line]:
    """Later epochs, batch by batch: ours from its verified cache, its images in memory, and the peers."""
    chain = preprocessing(Preparation(machine.image_size))
    cached = CXRDataset(rows, chain, cache_dir=str(scratch / "warm"))
    theirs = monai_chain(machine.image_size)
    held = torch.stack([cached[i]["image"] for i in range(len(cached))])
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    ours = "warm: sga_monai, verified cache"
    runs: dict[str, Callable[[], object]] = {
        ours: partial(_epochs, cached),
        "warm: sga_monai, in memory": partial(_epochs, CXRDataset(rows, chain)),
        "warm: one copy of the pixels": partial(_copies, held, order),
        "warm: CacheDataset": partial(_epochs, CacheDataset(_paths(rows), theirs, progress=False)),
        "warm: PersistentDataset": partial(_epochs, PersistentDataset(_paths(rows), theirs, cache_dir=scratch / "persistent")),
    }
    return compare(NAME, [Case(name, run, ours, units=WARM_EPOCHS) for name, run in runs.items()], machine)


def _paths(rows: Rows) -> list[dict[str, Any]]:
    return [{"image": row["image"], "label": row["label"]} for row in rows]


def _through(dataset: Any) -> None:
    for i in range(len(dataset)):
        dataset[i]


def _epochs(dataset: Any) -> None:
    """``WARM_EPOCHS`` times through a loader; one takes a few milliseconds, too few to time."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(WARM_EPOCHS):
        for _batch in DataLoader(dataset, batch_size=WARM_BATCH, shuffle=True, generator=generator):
            pass


def _copies(images: torch.Tensor, order: torch.Tensor) -> None:
    for _ in range(WARM_EPOCHS):
        for part in order.split(WARM_BATCH):
            images[part]


def _works(run: Callable[[], object]) -> bool:
    """Whether a peer gets through; how it fails when it does not is a result and no error."""
    try:
        _quietly(run)
    except Exception:  # noqa: BLE001
        return False
    return True


def _quietly(run: Callable[[], object]) -> None:
    with silence():
        run()
