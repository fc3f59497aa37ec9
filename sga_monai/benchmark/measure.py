"""Interleaved timing: every case in turn, round after round in one process, so that load on the machine meets all of them."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from sga_monai.core import checks as check
from sga_monai.core.display import track
from sga_monai.core.errors import InputError
from sga_monai.core.live_objects import processor
from sga_monai.core.provenance import versions


@dataclass(frozen=True)
class Machine:
    """Where and at what size a benchmark runs.

    Args:
        image_size: pixels of a side.
        batch_size: images of a mini-batch.
        threads: of torch; 0 leaves them as they are.
        device: "cpu" or "cuda".
        rounds: how often each case is timed.

    Example:
        >>> Machine(device="tpu")
        Traceback (most recent call last):
            ...
        sga_monai.core.errors.InputError: device must be one of cpu, cuda, got 'tpu'
    """

    image_size: int = 128
    batch_size: int = 16
    threads: int = 1
    device: str = "cpu"
    rounds: int = 5

    def __post_init__(self) -> None:
        check.whole("image_size", self.image_size, low=32)
        check.whole("batch_size", self.batch_size, low=2)
        check.whole("threads", self.threads, low=0)
        check.whole("rounds", self.rounds, low=1)
        check.choice("device", self.device, ("cpu", "cuda"))
        if self.device == "cuda" and not torch.cuda.is_available():
            raise InputError("this machine has no CUDA device; leave --device at cpu")

    def clock(self) -> float:
        """Seconds: of this process's CPU where one thread does the work, which is not sensitive to other load; else of the wall."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        elif torch.get_num_threads() == 1:
            return time.process_time()
        return time.perf_counter()

    def describe(self) -> dict[str, Any]:
        """What was measured where, for the record."""
        gpu = processor(self.device) if self.device == "cuda" else None
        return {
            "processor": processor(), "gpu": gpu, "cores": os.cpu_count(), "load": _load(),
            "threads": torch.get_num_threads(), "clock": self.clock_name, "rounds": self.rounds, "image_size": self.image_size,
            "batch_size": self.batch_size, "bf16_instructions": has_bf16(), "python": platform.python_version(), **versions(),
        }  # fmt: skip

    @property
    def clock_name(self) -> str:
        """Which time ``clock`` tells."""
        return "CPU time of the process" if self.device == "cpu" and torch.get_num_threads() == 1 else "wall time"


@dataclass(frozen=True)
class Case:
    """Something to time.

    Attributes:
        name: unique within its benchmark.
        run: does the work once.
        against: name of the case that it is compared with.
        at_most: the goal for its time over the other's; ``None`` for none.
        at_least: likewise, for a peer that is to take longer.
        limit: what arithmetic or hardware allows, same ratio.
        units: pieces of work in one run, as images or iterations, by which the time is divided.
        peak: runs the work once more and returns its peak memory in bytes; ``None`` does not measure it.
    """

    name: str
    run: Callable[[], object]
    against: str
    at_most: float | None = None
    at_least: float | None = None
    limit: float | None = None
    units: int = 1
    peak: Callable[[], float] | None = None


@dataclass(frozen=True)
class Line:
    """A measured case: seconds a unit and the ratio to its reference, median with the lowest and highest round.

    ``peak_memory`` is a ratio too, to that of the same reference.
    """

    benchmark: str
    name: str
    seconds: float
    low: float
    high: float
    against: str
    ratio: float
    ratio_low: float
    ratio_high: float
    limit: float | None = None
    at_most: float | None = None
    at_least: float | None = None
    peak_memory: float | None = None

    @property
    def goal(self) -> str:
        """The goal as text, empty for none."""
        if self.at_most is not None:
            return f"at most {self.at_most:g}"
        return "" if self.at_least is None else f"at least {self.at_least:g}"

    @property
    def met(self) -> bool | None:
        """Whether the median ratio meets the goal; ``None`` without one."""
        if self.at_most is not None:
            return self.ratio <= self.at_most
        return None if self.at_least is None else self.ratio >= self.at_least


@dataclass(frozen=True)
class Fact:
    """A figure that is no ratio of times: a count, or a time with a goal of its own."""

    benchmark: str
    name: str
    value: float
    unit: str
    goal: float | None = None
    limit: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether ``value`` is at most ``goal``; ``None`` without one."""
        return None if self.goal is None else self.value <= self.goal


@dataclass(frozen=True)
class Result:
    """What a benchmark found: ratios of times, other figures, and sentences on what was left out."""

    lines: Sequence[Line] = ()
    facts: Sequence[Fact] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def compare(benchmark: str, cases: Sequence[Case], machine: Machine) -> list[Line]:
    """Time all cases in turn, ``machine.rounds`` times after one round that is not counted.

    Args:
        benchmark: its name.
        cases: a case may be compared with any other, also with itself.
        machine: rounds and clock.
    """
    seconds: dict[str, list[float]] = {case.name: [] for case in cases}
    for round_ in track(range(machine.rounds + 1), f"timing {benchmark}"):
        for case in cases:
            began = machine.clock()
            case.run()
            spent = (machine.clock() - began) / case.units
            if round_:
                seconds[case.name].append(spent)
    peaks = {case.name: case.peak() for case in cases if case.peak is not None}
    return [_line(benchmark, case, seconds, peaks) for case in cases]


def _line(benchmark: str, case: Case, seconds: Mapping[str, Sequence[float]], peaks: Mapping[str, float]) -> Line:
    own, other = seconds[case.name], seconds[case.against]
    ratios = [a / b if b else math.inf for a, b in zip(own, other, strict=True)]
    peak = peaks[case.name] / peaks[case.against] if {case.name, case.against} <= set(peaks) else None
    return Line(
        benchmark, case.name, statistics.median(own), min(own), max(own), case.against, statistics.median(ratios), min(ratios),
        max(ratios), case.limit, case.at_most, case.at_least, peak,
    )  # fmt: skip


def has_bf16() -> bool:
    """Whether the processor multiplies in bfloat16; without such instructions bf16 is emulated and slow."""
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def _load() -> float | None:
    """Processes that wanted a core in the last minute, where the system tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None
