"""Times and counts on this machine, as ratios to peers and to what arithmetic allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.benchmark.commands import command_seconds
    from sga_monai.benchmark.counts import count_flops, peak_memory
    from sga_monai.benchmark.measure import Case, Fact, Line, Machine, Result, compare
    from sga_monai.benchmark.read import Timing, lines, time_reading
    from sga_monai.benchmark.suite import BENCHMARKS, run_benchmarks

__all__ = [
    "BENCHMARKS",
    "Case",
    "Fact",
    "Line",
    "Machine",
    "Result",
    "Timing",
    "command_seconds",
    "compare",
    "count_flops",
    "lines",
    "peak_memory",
    "run_benchmarks",
    "time_reading",
]
_MODULES = {
    "BENCHMARKS": "suite",
    "Case": "measure",
    "Fact": "measure",
    "Line": "measure",
    "Machine": "measure",
    "Result": "measure",
    "Timing": "read",
    "command_seconds": "commands",
    "compare": "measure",
    "count_flops": "counts",
    "lines": "read",
    "peak_memory": "counts",
    "run_benchmarks": "suite",
    "time_reading": "read",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
