"""Runs the cells of a plan as ordinary bundle runs, some at once; goes on where it was stopped."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sga_monai.bundle import end_on_sigterm
from sga_monai.errors import InputError
from sga_monai.files import write_whole
from sga_monai.lock import lock_output_dir
from sga_monai.phantom import SOURCE, write_phantom
from sga_monai.plan import Cell, Plan
from sga_monai.settings import code_digest, differences, versions

POLL_S = 0.5
STOP_S = 30
# Of a cell's record: where its files lie does not make it another run.
PLACES = ("dataset_dir", "cache_dir", "num_workers")


def run_experiment(
    plan: Plan, output_dir: str | Path, jobs: int = 1, reuse: Sequence[str | Path] = (), console: Console | None = None
) -> list[str]:
    """Run every cell that is not finished; a cell that was stopped is resumed.

    Each cell is ``python -m monai.bundle run training`` with its overrides, in ``output_dir/<method>/<condition>/seed_N``.
    Beside it lie ``seed_N.json`` (the overrides) and ``seed_N.log``. A cell that fails does not stop the others; the
    checkpoints of one that is finished are deleted.

    Args:
        plan: of ``read_plan``.
        output_dir: one experiment at a time; an experiment of the same plan there is gone on with.
        jobs: cells at once; each gets its share of the cores.
        reuse: folders of other experiments; a finished cell there with the same overrides and the same code is copied
            instead of run, since it would be equal to the bit.
        console: where the progress is shown.

    Returns:
        One line for each cell that failed: its name and its last words.

    Raises:
        InputError: when a cell in ``output_dir`` was run with other overrides.
    """
    out, console = Path(output_dir), console or Console()
    if jobs < 1:
        raise InputError(f"jobs must be 1 or more, got {jobs!r}")
    end_on_sigterm("the same command goes on")
    lock_output_dir(out)
    for cell in plan.cells:
        _check_same(out, cell)
    for cell in plan.cells:
        _copy_finished(plan, out, cell, map(Path, reuse))
    waiting = [cell for cell in plan.cells if not is_finished(out / cell.folder)]
    done = len(plan.cells) - len(waiting)
    if done:
        console.print(f"{done} of {len(plan.cells)} cells are finished and are left as they are")
    for folder, options in plan.phantoms.items():
        if waiting and not (Path(folder) / f"{SOURCE}.csv").is_file():
            write_phantom(folder, **options)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[at]}"), TimeElapsedColumn(), TimeRemainingColumn())
    failed = []
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        total = progress.add_task(plan.name, total=float(len(plan.cells)), completed=done, at=f"{done}/{len(plan.cells)}")
        for cell, code, seconds in _run_all(plan, waiting, out, jobs, progress, total):
            done += 1
            progress.update(total, at=f"{done}/{len(plan.cells)}")
            if code == 0:
                # Checkpoints are for going on, which a finished cell never does, and larger than all the rest.
                shutil.rmtree(out / cell.folder / "checkpoints", ignore_errors=True)
                text = f"{done}/{len(plan.cells)} {cell.name}: finished in {seconds:.0f} s"
            else:
                words = _last_words(out / f"{cell.folder}.log")
                failed.append(f"{cell.name}: {words}")
                text = f"{done}/{len(plan.cells)} {cell.name}: failed with code {code} ({words})"
            (progress.console if console.is_terminal else console).print(text, markup=False, highlight=False)
    return failed


def is_finished(folder: Path) -> bool:
    """Whether a run's training and its final table are complete."""
    try:
        finished = json.loads((folder / "run.json").read_text())["finished"]
    except (OSError, ValueError, KeyError):
        return False
    return finished is not None and (folder / "predictions.csv").is_file() and (folder / "results.csv").is_file()


def command(plan: Plan, cell: Cell, folder: Path) -> list[str]:
    """The command of a cell, without ``--resume``: one that a person can give too."""
    overrides = {**cell.settings, "output_dir": str(folder)}
    arguments = [f"--{key}={value if isinstance(value, str) else repr(value)}" for key, value in overrides.items()]
    return [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", plan.config_file, *arguments]


def _check_same(out: Path, cell: Cell) -> None:
    """Record a cell's overrides, or refuse when it was begun with others."""
    record = out / f"{cell.folder}.json"
    settings = {key: value for key, value in cell.settings.items() if key not in PLACES}
    if record.is_file():
        changed = differences(json.loads(record.read_text())["settings"], json.loads(json.dumps(settings)))
        if changed:
            raise InputError(f"{cell.name} is here with other settings ({'; '.join(changed[:5])}); give another output_dir")
        return
    content = {"method": cell.method, "condition": cell.condition, "seed": cell.seed, "settings": settings}
    write_whole(record, lambda path: path.write_text(json.dumps(content, indent=1) + "\n"))


def _copy_finished(plan: Plan, out: Path, cell: Cell, others: Iterable[Path]) -> None:
    """Copy the first finished run of ``others`` that has the settings of ``cell``, unless that was begun here."""
    if (out / cell.folder).exists():
        return
    # An override with the default's value is no difference.
    defaults = json.loads(Path(plan.config_file).read_text())
    settings = defaults | json.loads((out / f"{cell.folder}.json").read_text())["settings"]
    for record in sorted(path for other in others for path in other.glob("*/*/seed_*.json")):
        folder = record.with_suffix("")
        if is_finished(folder) and defaults | json.loads(record.read_text())["settings"] == settings:
            if json.loads((folder / "run.json").read_text())["identity"]["code"] == {"digest": code_digest(), "versions": versions()}:
                shutil.copytree(folder, out / cell.folder)
                return


def _run_all(
    plan: Plan, waiting: Sequence[Cell], out: Path, jobs: int, progress: Progress, total: TaskID
) -> Iterator[tuple[Cell, int, float]]:
    """Start cells, ``jobs`` at once, and yield each when it ends; whatever happens, none outlives this function."""
    queue, running = list(waiting), dict[Cell, tuple[subprocess.Popen[bytes], float, TaskID]]()
    finished = sum(is_finished(out / cell.folder) for cell in plan.cells)
    try:
        while queue or running:
            while queue and len(running) < jobs:
                cell = queue.pop(0)
                running[cell] = (_start(plan, cell, out, jobs), time.monotonic(), progress.add_task(cell.name, total=1.0, at=""))
            time.sleep(POLL_S)
            shares = 0.0
            for cell, (process, began, task) in list(running.items()):
                share, at = _share_done(out / cell.folder)
                progress.update(task, completed=share, at=at)
                shares += share
                code = process.poll()
                if code is None:
                    continue
                del running[cell]
                progress.remove_task(task)
                finished += 1
                shares -= share
                progress.update(total, completed=finished + shares)
                yield cell, code, time.monotonic() - began
            progress.update(total, completed=finished + shares)
    finally:
        for process, _, _ in running.values():
            process.terminate()
        for process, _, _ in running.values():
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start(plan: Plan, cell: Cell, out: Path, jobs: int) -> subprocess.Popen[bytes]:
    folder = out / cell.folder
    arguments = command(plan, cell, folder)
    if any((folder / "checkpoints").glob("epoch_*.pt")):
        arguments.append("--resume=True")
    environment = dict(os.environ)
    if jobs > 1:
        # Without it each run would take all cores, and all would wait for each other.
        environment["OMP_NUM_THREADS"] = str(max((os.cpu_count() or 1) // jobs, 1))
    with (out / f"{cell.folder}.log").open("ab") as log:
        return subprocess.Popen(
            arguments, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, preexec_fn=_end_with_parent
        )


def _end_with_parent() -> None:
    """In the child: let it be told to stop when this process was killed and cannot tell it."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _share_done(folder: Path) -> tuple[float, str]:
    """Completed epochs of a run as a share, and as text."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        card: dict[str, Any] = json.loads((folder / "run.json").read_text())
        return card["epoch"] / card["max_epochs"], f"epoch {card['epoch']}/{card['max_epochs']}"
    return 0.0, "reading"


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"
