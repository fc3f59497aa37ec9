"""Cells as processes of this machine, some at once, each with its share of the cores and one GPU where there are some."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.process import usable_cores
from sga_monai.experiments.cell import CellRun, Ended, Watch, environment_of, start, stop, wait_until_free

POLL_S = 0.5
UUID = re.compile(r"UUID: ([^)\s]+)\)")


@dataclass(frozen=True)
class LocalLauncher:
    """Runs cells on this machine.

    Attributes:
        jobs: cells at once.
        cpus: cores of each; ``None`` shares those of this process among ``jobs``.
        gpu: whether each cell has a GPU; ``None`` where there are some. GPUs are dealt out when ``jobs`` is more than one.

    Raises:
        InputError: on a number below one.
    """

    jobs: int = 1
    cpus: int | None = None
    gpu: bool | None = None

    def __post_init__(self) -> None:
        check.whole("jobs", self.jobs, low=1)
        if self.cpus is not None:
            check.whole("cpus", self.cpus, low=1)

    def launch(self, runs: Sequence[CellRun], out: Path, watch: Watch) -> Iterator[Ended]:  # noqa: ARG002
        """Start cells, ``jobs`` at once, and yield each when it ends; whatever happens, none outlives this function.

        Raises:
            InputError: when each is to have a GPU and there is none.
        """
        gpus = self._gpus()
        queue, running = list(runs), dict[CellRun, tuple[subprocess.Popen[bytes], float, str | None]]()
        try:
            while queue or running:
                while queue and len(running) < self.jobs:
                    gpu = least_used(gpus, [gpu for _, _, gpu in running.values()])
                    run = queue.pop(0)
                    # Of an experiment that was killed just now, whose cells end when their step does.
                    wait_until_free(run.folder)
                    environment = environment_of(os.environ, self._threads(), "" if self.gpu is False else gpu)
                    running[run] = start(run, environment), time.monotonic(), gpu
                time.sleep(POLL_S)
                watch.running(running)
                for run, (process, began, _) in list(running.items()):
                    code = process.poll()
                    if code is not None:
                        del running[run]
                        yield Ended(run, code, time.monotonic() - began)
        finally:
            stop([process for process, _, _ in running.values()])

    def _gpus(self) -> list[str]:
        if self.gpu is False or (self.jobs == 1 and self.gpu is None):
            return []
        gpus = visible_gpus(os.environ)
        if self.gpu and not gpus:
            raise InputError("--gpu: there is no GPU here; leave the option out")
        # One cell at a time has the GPU that it would take anyway.
        return gpus if self.jobs > 1 else []

    def _threads(self) -> int | None:
        if self.cpus is not None:
            return self.cpus
        return max(usable_cores() // self.jobs, 1) if self.jobs > 1 else None


def least_used(gpus: Sequence[str], taken: Collection[str | None]) -> str | None:
    """The first of the GPUs that the fewest cells have; ``None`` where there are no GPUs."""
    counts = Counter(taken)
    return min(gpus, key=lambda gpu: counts[gpu]) if gpus else None


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """GPUs of this machine as entries of ``CUDA_VISIBLE_DEVICES``: those that it names, otherwise all that ``nvidia-smi`` lists."""
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        entries = [entry.strip() for entry in named.split(",")]
        # CUDA ignores what comes after the first entry that is none.
        bad = next((i for i, entry in enumerate(entries) if entry in ("", "-1", "NoDevFiles")), len(entries))
        return entries[:bad]
    try:
        result = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return listed_gpus(result.stdout)


def listed_gpus(listing: str) -> list[str]:
    """UUIDs of ``nvidia-smi -L``; of a GPU that is divided (MIG) those of its parts, each of which CUDA takes for a GPU."""
    groups: list[list[str]] = []
    for line in listing.splitlines():
        found = UUID.search(line)
        if found and line.startswith("GPU "):
            groups.append([found[1]])
        elif found and groups and line.lstrip().startswith("MIG "):
            groups[-1].append(found[1])
    return [uuid for group in groups for uuid in (group[1:] or group)]
