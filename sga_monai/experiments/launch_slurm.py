"""Cells as one job array of Slurm: a script that stands for itself, and a wait for what it leaves in the shared folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.files import write_json, write_utf8
from sga_monai.core.folders import is_finished
from sga_monai.experiments.cell import CellRun, Ended, Watch, log_size

# A question every few seconds would be a load for the scheduler of a whole site.
POLL_S = 15.0
SCRIPT, JOB = "cells.sbatch", "slurm_job"
OURS = ("--array", "--output", "--error", "--wrap", "--wait", "--test-only", "--parsable")
HEAD = """\
#!/bin/bash
# Written by sga-monai experiment: one task of the array for each cell that was not finished. Each writes its log beside its folder.
#SBATCH --job-name={name}
#SBATCH --array=0-{last}{limit}
#SBATCH --output=/dev/null
#SBATCH --cpus-per-task={cpus}
#SBATCH --requeue
{options}
set -euo pipefail
export OMP_NUM_THREADS={cpus}
{hide}cd {cwd}
cell=({python} -m sga_monai.experiments.cell)
case "$SLURM_ARRAY_TASK_ID" in
"""
CELL = """\
{index}) exec "${{cell[@]}}" {words} ;;
"""
TAIL = """\
*) exit 64 ;;
esac
"""


@dataclass(frozen=True)
class SlurmLauncher:
    """Submits cells as a job array and waits for it; a job that was submitted before and still lives is waited for instead.

    Attributes:
        jobs: cells at once; ``None`` as many as Slurm lets run.
        cpus: cores of each cell.
        gpu: whether each cell has a GPU; ``None`` where the partition has some.
        options: further options of ``sbatch``, such as ``--partition=gpu``.
        dry_run: write the script and submit nothing.

    Raises:
        InputError: on a number below one, or an option that is none or is set here.
    """

    jobs: int | None = None
    cpus: int = 1
    gpu: bool | None = None
    options: tuple[str, ...] = ()
    dry_run: bool = False

    def __post_init__(self) -> None:
        check.whole("cpus", self.cpus, low=1)
        if self.jobs is not None:
            check.whole("jobs", self.jobs, low=1)
        for option in self.options:
            if not re.fullmatch(r"--?[A-Za-z][^\n\r]*", option):
                raise InputError(f"--sbatch {option!r} is no option of sbatch; give one as --sbatch=--partition=gpu")
            if re.split(r"[= ]", option)[0] in (*OURS, "-a", "-o", "-e", "-W"):
                raise InputError(f"--sbatch {option!r} is set by the experiment; leave it out")

    def launch(self, runs: Sequence[CellRun], out: Path, watch: Watch) -> Iterator[Ended]:
        """Submit the array, wait until it has ended, and yield each cell when it is finished, the others at the end.

        Stopping this function leaves the job in Slurm.

        Raises:
            InputError: when there is no ``sbatch`` here, it refuses the job, or the record of an earlier job is damaged.
        """
        path = out / SCRIPT
        job, sizes = ("", {}) if self.dry_run else _living_job(out / JOB)
        if job:
            watch.say(f"Slurm job {job} of an earlier call is still there and is waited for; scancel {job} ends it")
        else:
            text = script(runs, out.name, Path.cwd(), self.cpus, self._gpu(), self.jobs, self.options)
            write_utf8(path, text)
        if self.dry_run:
            watch.say(f"wrote {path.name}, an array of {len(runs)} cells: submit it with sbatch {shlex.quote(str(path))}")
            watch.say("then give this command without --dry-run: it collects what is finished and submits the rest")
            return
        if not job:
            # Before the job, whose cells may begin at once.
            sizes = {str(run.folder): log_size(run) for run in runs}
            job = _submit(path)
            write_json(out / JOB, {"job": job, "log_bytes": sizes})
            watch.say(f"Slurm job {job}: {len(runs)} cells; the same command waits for it again, scancel {job} ends it")
        yield from _wait(job, runs, sizes, watch)
        (out / JOB).unlink(missing_ok=True)

    def _gpu(self) -> bool | None:
        return (
            True
            if self.gpu is None and has_gpus(_output(["sinfo", "--noheader", "--format=%P %G"]), _partition(self.options))
            else self.gpu
        )


def script(
    runs: Sequence[CellRun],
    name: str,
    cwd: Path,
    cpus: int = 1,
    gpu: bool | None = None,
    jobs: int | None = None,
    options: Sequence[str] = (),
) -> str:
    """The job array's script.

    Args:
        runs: one task for each.
        name: of the job.
        cwd: folder that the cells' paths are relative to.
        cpus: cores of a cell.
        gpu: ``True`` asks for one, ``False`` hides all.
        jobs: cells at once; ``None`` as many as Slurm lets run.
        options: further ones of ``sbatch``, which win.
    """
    given = ["--gres=gpu:1"] if gpu else []
    head = HEAD.format(
        name=re.sub(r"[^A-Za-z0-9_.-]+", "_", name),
        last=len(runs) - 1,
        limit=f"%{jobs}" if jobs else "",
        cpus=cpus,
        options="\n".join(f"#SBATCH {option}" for option in (*given, *options)),
        hide="export CUDA_VISIBLE_DEVICES=\n" if gpu is False else "",
        cwd=shlex.quote(str(cwd)),
        python=shlex.quote(sys.executable),
    )
    cells = (CELL.format(index=i, words=shlex.join([str(run.folder), *run.arguments])) for i, run in enumerate(runs))
    return "".join((head, *cells, TAIL))


def has_gpus(listing: str | None, partition: str | None) -> bool:
    """Whether a partition, the default one where none is named, has GPUs by ``sinfo --format="%P %G"``."""
    for line in (listing or "").splitlines():
        name, _, resources = line.strip().partition(" ")
        chosen = name.rstrip("*") in partition.split(",") if partition else name.endswith("*")
        if chosen and re.search(r"\bgpu:", resources):
            return True
    return False


def _partition(options: Sequence[str]) -> str | None:
    """The partition of the options of ``sbatch``, or of its environment."""
    for option in reversed(options):
        found = re.fullmatch(r"(?:--partition[= ]|-p ?)(\S+)", option)
        if found:
            return found[1]
    return os.environ.get("SBATCH_PARTITION")


def _output(command: Sequence[str]) -> str | None:
    """Output of a program, ``None`` where it is absent or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _submit(path: Path) -> str:
    """Submit a script; returns the job's number."""
    if shutil.which("sbatch") is None:
        raise InputError("--launcher slurm: there is no sbatch on this machine; start it where jobs are submitted, or give --dry-run")
    result = subprocess.run(["sbatch", "--parsable", str(path)], capture_output=True, text=True, check=False)
    if result.returncode:
        words = (result.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise InputError(f"sbatch refused the job ({words}); give what it asks for by --sbatch")
    # "id" or "id;cluster".
    return result.stdout.strip().splitlines()[-1].partition(";")[0]


def _living_job(record: Path) -> tuple[str, dict[str, int]]:
    """The job of an earlier call and the bytes of each cell's log before it, while Slurm has the job; "" and nothing otherwise.

    Raises:
        InputError: when the record is damaged: what it stood for must not be submitted twice.
    """
    if not record.is_file():
        return "", {}
    try:
        content = json.loads(record.read_text(encoding="utf-8"))
        job, sizes = str(content["job"]), dict(content["log_bytes"])
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{record.name} is no record of a job; remove it when squeue lists no job of this experiment") from None
    return (job, sizes) if is_in_queue(job) else ("", {})


def is_in_queue(job: str) -> bool:
    """Whether tasks of a job wait or run; a scheduler that does not answer is taken for one that has it still.

    Raises:
        InputError: when there is no ``squeue`` here.
    """
    try:
        result = subprocess.run(
            ["squeue", "--noheader", f"--jobs={job}", "--format=%i"], capture_output=True, text=True, timeout=120, check=False
        )
    except FileNotFoundError:
        raise InputError("--launcher slurm: there is no squeue on this machine; start it where jobs are submitted") from None
    except subprocess.TimeoutExpired:
        return True
    if result.returncode:
        # Slurm forgets a job some minutes after its end.
        return "invalid job id" not in result.stderr.lower()
    return bool(result.stdout.strip())


def _wait(job: str, runs: Sequence[CellRun], sizes: Mapping[str, int], watch: Watch) -> Iterator[Ended]:
    waiting = list(runs)
    # A cell that is not of the job has no size from before it.
    began = {run: sizes.get(str(run.folder), log_size(run)) for run in runs}
    misses = 0
    # Once more after its end: a shared folder shows what others wrote with a delay.
    while waiting and misses < 2:
        misses = 0 if is_in_queue(job) else misses + 1
        for run in [run for run in waiting if is_finished(run.folder)]:
            waiting.remove(run)
            yield Ended(run, 0)
        watch.running([run for run in waiting if log_size(run) != began[run]])
        if waiting and misses < 2:
            time.sleep(POLL_S)
    for run in waiting:
        started = log_size(run) != began[run]
        yield Ended(run, 1, reason="" if started else f"Slurm job {job} ended without having started it; give the command again")
