"""Runs the cells of a plan as ordinary bundle runs, some at once; goes on where it was stopped."""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sga_monai.cohorts.phantom import OPTIONS as PHANTOM_OPTIONS
from sga_monai.cohorts.phantom import SOURCE, ensure_phantom, write_phantom
from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, write_json
from sga_monai.core.folders import is_finished, lock_output_dir
from sga_monai.core.provenance import code_digest, differences, versions
from sga_monai.experiments.plan import Cell, Plan

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
        reuse: folders of other experiments; a finished cell there with the same overrides, manifests and code is copied
            instead of run: on the same machine with as many threads it would be equal to the bit.
        console: where the progress is shown.

    Returns:
        One line for each cell that failed: its name and the last line of its log.

    Raises:
        InputError: when a cell in ``output_dir`` was begun with other overrides, configuration, manifests or phantom, a
            phantom's folder was drawn with other options, ``output_dir`` holds a run, or a folder of ``reuse`` is missing.
    """
    out, console = Path(output_dir), console or Console()
    check.whole("jobs", jobs, low=1)
    for other in map(Path, reuse):
        if not other.is_dir():
            raise InputError(f"reuse: there is no folder {other.name}; give that of another experiment")
    if any((out / name).exists() for name in ("run.json", "model.pt", "predictions.csv")):
        raise InputError("output_dir holds a run, not an experiment; give another folder")
    lock_output_dir(out)
    for folder, options in plan.phantoms.items():
        _ensure_phantom(Path(folder), options)
    for given in (_given(plan, cell) for cell in plan.cells):
        # Before the cells, which would draw it each at the same time.
        ensure_phantom(given["manifest"], given["dataset_dir"])
    for cell in plan.cells:
        _check_same(plan, out, cell)
    for cell in plan.cells:
        _copy_finished(plan, out, cell, map(Path, reuse))
        if is_finished(out / cell.folder):
            _drop_checkpoints(out / cell.folder)
    waiting = [cell for cell in plan.cells if not is_finished(out / cell.folder)]
    done = len(plan.cells) - len(waiting)
    if done:
        console.print(f"{done} of {len(plan.cells)} cells are finished and are left as they are")
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[at]}"), TimeElapsedColumn(), TimeRemainingColumn())
    failed = []
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        total = progress.add_task(plan.name, total=float(len(plan.cells)), completed=done, at=f"{done}/{len(plan.cells)}")
        for cell, code, seconds in _run_all(plan, waiting, out, jobs, progress, total):
            done += 1
            progress.update(total, at=f"{done}/{len(plan.cells)}")
            if code == 0 and not is_finished(out / cell.folder):
                # Never finished in silence, whatever the run has made of its folder's name.
                failed.append(f"{cell.name}: the run ended without results in its folder")
                text = f"{done}/{len(plan.cells)} {cell.name}: failed (no results in its folder)"
            elif code == 0:
                _drop_checkpoints(out / cell.folder)
                text = f"{done}/{len(plan.cells)} {cell.name}: finished in {seconds:.0f} s"
            else:
                words = _last_words(out / f"{cell.folder}.log")
                failed.append(f"{cell.name}: {words}")
                text = f"{done}/{len(plan.cells)} {cell.name}: failed with code {code} ({words})"
            (progress.console if console.is_terminal else console).print(text, markup=False, highlight=False)
    return failed


def command(plan: Plan, cell: Cell, folder: Path) -> list[str]:
    """The command of a cell, without ``--resume``: one that a person can give too."""
    overrides = {**cell.settings, "output_dir": str(folder)}
    arguments = [f"--{key}={value if isinstance(value, str) else repr(value)}" for key, value in overrides.items()]
    return [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", plan.config_file, *arguments]


def _ensure_phantom(folder: Path, options: Mapping[str, Any]) -> None:
    """Draw a phantom where there is none; one that was drawn with other options is another experiment's."""
    if not (folder / f"{SOURCE}.csv").is_file():
        write_phantom(folder, **options)
    drawn = json.loads((folder / PHANTOM_OPTIONS).read_text(encoding="utf-8-sig")) if (folder / PHANTOM_OPTIONS).is_file() else {}
    defaults = {name: parameter.default for name, parameter in inspect.signature(write_phantom).parameters.items() if name != "out"}
    changed = differences(drawn, defaults | dict(options))
    if changed:
        text = f"the phantom in {folder.name} was drawn with other options ({'; '.join(changed)})"
        raise InputError(f"{text}; give the plan's another folder, or remove this one")


def _drop_checkpoints(folder: Path) -> None:
    """Checkpoints are for going on, which a finished cell never does, and larger than all the rest."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _given(plan: Plan, cell: Cell) -> dict[str, Any]:
    """The configuration's ids with the cell's overrides."""
    defaults: dict[str, Any] = json.loads(Path(plan.config_file).read_text(encoding="utf-8-sig"))
    return defaults | dict(cell.settings)


def _inputs(plan: Plan, cell: Cell) -> dict[str, str]:
    """SHA-256 of the configuration, of each manifest that a cell reads and, of drawn images, of how they were; "" where absent."""
    given = _given(plan, cell)
    external = given.get("external_manifests") or []
    files = {"config_file": plan.config_file, "manifest": given["manifest"]}
    files |= {f"external_manifests.{i}": path for i, path in enumerate([external] if isinstance(external, str) else external)}
    phantom = Path(given["dataset_dir"]) / PHANTOM_OPTIONS
    if phantom.is_file():
        files["phantom"] = phantom
    return {name: file_sha256(path) if Path(path).is_file() else "" for name, path in files.items()}


def _check_same(plan: Plan, out: Path, cell: Cell) -> None:
    """Record what a cell is, or refuse when it was begun as another."""
    path = out / f"{cell.folder}.json"
    settings = {key: value for key, value in cell.settings.items() if key not in PLACES}
    record = {"method": cell.method, "condition": cell.condition, "seed": cell.seed, "settings": settings, "inputs": _inputs(plan, cell)}
    record = json.loads(json.dumps(record))
    if path.is_file() and (out / cell.folder).exists():
        before = json.loads(path.read_text(encoding="utf-8-sig"))
        changed = differences(before["settings"], record["settings"]) + differences(before["inputs"], record["inputs"])
        # A cell that lacked a manifest failed before it was trained.
        if changed and all(before["inputs"].values()):
            raise InputError(f"{cell.name} is here with other settings ({'; '.join(changed[:5])}); give another output_dir")
    write_json(path, record)


def _copy_finished(plan: Plan, out: Path, cell: Cell, others: Iterable[Path]) -> None:
    """Copy the first finished run of ``others`` that is the same as ``cell``, unless that was begun here."""
    folder, mine = out / cell.folder, json.loads((out / f"{cell.folder}.json").read_text(encoding="utf-8-sig"))
    if folder.exists() or "" in mine["inputs"].values():
        return
    defaults = json.loads(Path(plan.config_file).read_text(encoding="utf-8-sig"))
    for record in sorted(path for other in others for path in other.glob("*/*/seed_*.json")):
        found, theirs = record.with_suffix(""), json.loads(record.read_text(encoding="utf-8-sig"))
        if theirs.get("inputs") != mine["inputs"] or not is_finished(found):
            continue
        # An override with the default's value is no difference.
        code = json.loads((found / "run.json").read_text(encoding="utf-8-sig"))["identity"]["code"]
        if defaults | theirs["settings"] == defaults | mine["settings"] and code == {"digest": code_digest(), "versions": versions()}:
            draft = folder.with_name(f".{folder.name}.tmp")
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(found, draft)
            draft.rename(folder)
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
            arguments, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, **_tied_to_parent()
        )


def _tied_to_parent() -> dict[str, Any]:
    """The option of a child that is to be told to stop when this process was killed and cannot tell it; Linux alone has it."""
    return {"preexec_fn": _end_with_parent} if sys.platform == "linux" else {}


def _end_with_parent() -> None:
    """In the child."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def _share_done(folder: Path) -> tuple[float, str]:
    """Completed epochs of a run as a share, and as text."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        card: dict[str, Any] = json.loads((folder / "run.json").read_text(encoding="utf-8-sig"))
        return card["epoch"] / card["max_epochs"], f"epoch {card['epoch']}/{card['max_epochs']}"
    return 0.0, "reading"


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"
