"""The benchmarks by name, run one after the other and written as one record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from sga_monai.benchmark.data import benchmark_data
from sga_monai.benchmark.engine import benchmark_engine
from sga_monai.benchmark.evaluate import benchmark_evaluate
from sga_monai.benchmark.explain import benchmark_explain
from sga_monai.benchmark.measure import Fact, Line, Machine, Result
from sga_monai.benchmark.step import benchmark_step
from sga_monai.core.display import figure_text
from sga_monai.core.files import read_earlier, write_json

# In this order: from the warm epochs of "data" on, the process keeps freed memory as a training does, which others' chains do not.
BENCHMARKS: dict[str, Callable[[Machine], Result]] = {
    "evaluate": benchmark_evaluate,
    "explain": benchmark_explain,
    "data": benchmark_data,
    "step": benchmark_step,
    "engine": benchmark_engine,
}


def run_benchmarks(names: Sequence[str], machine: Machine, path: str | Path | None = None) -> dict[str, Any]:
    """Run benchmarks and return their record: ``machine``, ``lines``, ``facts`` and ``notes``.

    Args:
        names: of ``BENCHMARKS``; none for all of them.
        machine: where and at what size; its ``threads`` are set for torch meanwhile.
        path: the record is also written here as JSON.
    """
    before = torch.get_num_threads()
    if machine.threads:
        torch.set_num_threads(machine.threads)
    try:
        described = machine.describe()
        results = [BENCHMARKS[name](machine) for name in names or BENCHMARKS]
    finally:
        torch.set_num_threads(before)
    record = {
        "machine": described,
        "lines": [asdict(line) | {"met": line.met} for result in results for line in result.lines],
        "facts": [asdict(fact) | {"met": fact.met} for result in results for fact in result.facts],
        "notes": [note for result in results for note in result.notes],
    }
    if path is not None:
        write_json(Path(path), record)
    return record


def is_record(path: Path) -> bool:
    """Whether a file is a record of ``run_benchmarks``."""
    return {"machine", "lines", "facts", "notes"} <= read_earlier(path).keys()


def table_of_lines(record: dict[str, Any]) -> Sequence[tuple[str, ...]]:
    """Rows of the printed table: what, ms, compared with, ratio, limit, goal, whether it is met, memory."""
    rows = []
    for values in record["lines"]:
        line = Line(**{key: value for key, value in values.items() if key != "met"})
        ratio = f"{line.ratio:.2f} [{line.ratio_low:.2f}, {line.ratio_high:.2f}]"
        other = "" if line.against == line.name else line.against
        memory = figure_text(line.peak_memory, 2)
        rows.append((line.name, f"{1e3 * line.seconds:.4g}", other, ratio, figure_text(line.limit, 2), line.goal, _met(line.met), memory))
    return rows


def table_of_facts(record: dict[str, Any]) -> Sequence[tuple[str, ...]]:
    """Rows of the printed table: what, value with its unit, goal, whether it is met."""
    rows = []
    for values in record["facts"]:
        fact = Fact(**{key: value for key, value in values.items() if key != "met"})
        goal = "" if fact.goal is None else f"at most {fact.goal:.3g}"
        rows.append((fact.name, f"{fact.value:.4g} {fact.unit}".strip(), goal, _met(fact.met)))
    return rows


def _met(met: bool | None) -> str:
    return "" if met is None else "yes" if met else "no"
