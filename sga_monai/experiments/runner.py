"""Runs the cells of a plan as ordinary bundle runs, wherever a launcher can; goes on where it was stopped."""

from __future__ import annotations

import contextlib
import inspect
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sga_monai.cohorts.phantom import OPTIONS as PHANTOM_OPTIONS
from sga_monai.cohorts.phantom import draw_once, ensure_phantom, write_phantom
from sga_monai.core.errors import InputError
from sga_monai.core.files import copy_folder, file_sha256, read_earlier, read_json, write_json
from sga_monai.core.folders import holds_other_results, is_finished, lock_output_dir
from sga_monai.core.provenance import code_facts, differences
from sga_monai.experiments.cell import CellRun, Ended, Launcher, last_words
from sga_monai.experiments.launch_local import LocalLauncher
from sga_monai.experiments.plan import Cell, Plan
from sga_monai.experiments.watch import ConsoleWatch

# Of a cell's record: where its files lie and what is told of it does not make it another run.
PLACES = ("dataset_dir", "cache_dir", "num_workers", "tracking")
# What a collection writes beside the cells; the first by which an experiment is known.
RECORDS, WRITTEN = "records.jsonl", ("results.csv", "results.md", "results.html", "tensorboard")


def run_experiment(
    plan: Plan,
    output_dir: str | Path,
    launcher: Launcher | None = None,
    reuse: Sequence[str | Path] = (),
    console: Console | None = None,
) -> list[str]:
    """Run every cell that is not finished; a cell that was stopped is resumed.

    Each cell is ``python -m monai.bundle run training`` with its overrides, in ``output_dir/<method>/<condition>/seed_N``.
    Beside it lie ``seed_N.json`` (the overrides) and ``seed_N.log``. A cell that fails does not stop the others; the
    checkpoints of one that is finished are deleted.

    Args:
        plan: of ``read_plan``.
        output_dir: one experiment at a time; an experiment of the same plan there is gone on with.
        launcher: where the cells run; one at a time on this machine when ``None``.
        reuse: folders of other experiments; a finished cell there with the same overrides, manifests and code is copied
            instead of run: on the same machine with as many threads it would be equal to the bit.
        console: where the progress is shown.

    Returns:
        One line for each cell that failed: its name and the last line of its log.

    Raises:
        InputError: when a cell in ``output_dir`` was begun with other overrides, configuration, manifests or phantom, a
            phantom's folder was drawn with other options, ``output_dir`` holds a run or another experiment, a folder of ``reuse``
            is missing, or the launcher cannot run cells here.
        DiskError: when the disk will not take the record or the copy of a cell.
    """
    out, console, launcher = Path(output_dir), console or Console(), launcher or LocalLauncher()
    waiting = _prepare(plan, out, reuse)
    done = len(plan.cells) - len(waiting)
    if done:
        console.print(f"{done} of {len(plan.cells)} cells are finished and are left as they are")
    runs = [_cell_run(plan, cell, out) for cell in waiting]
    failed = []
    with ConsoleWatch(plan.name, len(plan.cells), done, console) as watch:
        for ended in launcher.launch(runs, out.absolute(), watch) if runs else ():
            reason = _reason(ended)
            if reason:
                failed.append(f"{ended.run.name}: {reason[0]}")
                watch.ended(f"{ended.run.name}: {reason[1]}")
                continue
            _drop_checkpoints(ended.run.folder)
            watch.ended(f"{ended.run.name}: finished" + ("" if ended.seconds is None else f" in {ended.seconds:.0f} s"))
    return failed


def _prepare(plan: Plan, out: Path, reuse: Sequence[str | Path]) -> list[Cell]:
    """Lock the folder, draw the phantoms, record what each cell is, copy what can be reused; returns the cells that are to run."""
    for other in map(Path, reuse):
        if not other.is_dir():
            raise InputError(f"reuse: there is no folder {other.name}; give that of another experiment")
    _refuse_other_folder(plan.name, out)
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
    return [cell for cell in plan.cells if not is_finished(out / cell.folder)]


def _refuse_other_folder(name: str, out: Path) -> None:
    """Refuse a folder whose tables would be replaced by those of another experiment.

    Raises:
        InputError: when it holds a run, an experiment of another plan, or results that are of none.
    """
    if holds_other_results(out, RECORDS):
        raise InputError("output_dir holds a run, an evaluation, an audit or saliency maps, not an experiment; give another folder")
    if not (out / RECORDS).exists():
        found = next((written for written in WRITTEN if (out / written).exists()), None)
        if found:
            raise InputError(f"output_dir has a {found} that is of no experiment, and would be replaced; give another folder")
        return
    other = name
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError), (out / RECORDS).open(encoding="utf-8") as stream:
        other = json.loads(stream.readline())["name"]
    if other != name:
        text = f"output_dir holds the experiment of the plan {other}, whose tables would be replaced"
        raise InputError(f"{text}; give another folder, and --reuse to take over equal cells")


def _cell_run(plan: Plan, cell: Cell, out: Path) -> CellRun:
    folder = out / cell.folder
    return CellRun(cell.name, tuple(command(plan, cell, folder)[1:]), folder.absolute())


def _reason(ended: Ended) -> tuple[str, str] | None:
    """Why a cell failed, for the list at the end and for the line of the moment; ``None`` when it is finished."""
    if ended.code == 0 and is_finished(ended.run.folder):
        return None
    if ended.code == 0:
        # Never finished in silence, whatever the run has made of its folder's name.
        return "the run ended without results in its folder", "failed (no results in its folder)"
    words = ended.reason or last_words(ended.run.log)
    return words, f"failed with code {ended.code} ({words})"


def command(plan: Plan, cell: Cell, folder: Path) -> list[str]:
    """The command of a cell, without ``--resume``: one that a person can give too."""
    overrides = {**cell.settings, "output_dir": str(folder)}
    arguments = [f"--{key}={value if isinstance(value, str) else repr(value)}" for key, value in overrides.items()]
    return [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", plan.config_file, *arguments]


def _ensure_phantom(folder: Path, options: Mapping[str, Any]) -> None:
    """Draw a phantom where there is none; one that was drawn with other options is another experiment's."""
    draw_once(folder, **options)
    drawn = read_json(folder / PHANTOM_OPTIONS) if (folder / PHANTOM_OPTIONS).is_file() else {}
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
    defaults: dict[str, Any] = read_json(plan.config_file)
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
    # A condition may be its own folder of images.
    settings = {key: value for key, value in cell.settings.items() if key not in PLACES or key in cell.own}
    record = {"method": cell.method, "condition": cell.condition, "seed": cell.seed, "settings": settings, "inputs": _inputs(plan, cell)}
    record = json.loads(json.dumps(record))
    if path.is_file() and (out / cell.folder).exists():
        before = read_json(path)
        changed = differences(before["settings"], record["settings"]) + differences(before["inputs"], record["inputs"])
        # A cell that lacked a manifest failed before it was trained.
        if changed and all(before["inputs"].values()):
            raise InputError(f"{cell.name} is here with other settings ({'; '.join(changed[:5])}); give another output_dir")
    _check_run(cell, out / cell.folder, record["inputs"]["manifest"])
    write_json(path, record)


def _check_run(cell: Cell, folder: Path, manifest: str) -> None:
    """Refuse a finished run that was made in a cell's folder by hand, with other options than the cell's."""
    identity = read_earlier(folder / "run.json").get("identity", {}) if is_finished(folder) else {}
    recorded = identity.get("settings", {}) | {"manifest": (manifest and identity.get("data", {}).get("manifest_sha256")) or manifest}
    given = {key: value for key, value in cell.settings.items() if key in recorded} | {"manifest": manifest}
    # A text may stand for a number or a flag.
    given = {key: value for key, value in given.items() if isinstance(value, str) == isinstance(recorded[key], str)}
    changed = differences(given, {key: recorded[key] for key in given})
    if changed:
        raise InputError(f"the run of {cell.name} was made by hand with other options ({'; '.join(changed[:5])}); move its folder away")


def _copy_finished(plan: Plan, out: Path, cell: Cell, others: Iterable[Path]) -> None:
    """Copy the first finished run of ``others`` that is the same as ``cell``, unless that was begun here."""
    folder, mine = out / cell.folder, read_json(out / f"{cell.folder}.json")
    if folder.exists() or "" in mine["inputs"].values():
        return
    defaults = read_json(plan.config_file)
    for record in sorted(path for other in others for path in other.glob("*/*/seed_*.json")):
        found, theirs = record.with_suffix(""), read_json(record)
        if theirs.get("inputs") != mine["inputs"] or not is_finished(found):
            continue
        # An override with the default's value is no difference.
        code = read_json(found / "run.json")["identity"]["code"]
        if defaults | theirs["settings"] == defaults | mine["settings"] and code == code_facts():
            draft = folder.with_name(f".{folder.name}.tmp")
            shutil.rmtree(draft, ignore_errors=True)
            try:
                copy_folder(found, draft)
                draft.rename(folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
            return
