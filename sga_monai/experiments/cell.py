"""One cell of an experiment as a process: its command, its environment, its log, and how far it is.

As a program, ``python -m sga_monai.experiments.cell FOLDER -m monai.bundle run ...``, it becomes the cell's process: what a job of a
scheduler runs.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sga_monai.core.files import read_json
from sga_monai.core.folders import is_finished, is_in_use
from sga_monai.core.process import tied_to_parent

STOP_S = 30
# A lost node's process may live on for a while: it notices only then that what started it is gone.
WAIT_S = 120
LOCK_POLL_S = 0.5
RESUME = "--resume=True"


@dataclass(frozen=True)
class CellRun:
    """What a launcher needs to know of a cell.

    Attributes:
        name: for people.
        arguments: of the interpreter, without ``--resume``.
        folder: absolute; the log is beside it.
    """

    name: str
    arguments: tuple[str, ...]
    folder: Path

    @property
    def log(self) -> Path:
        """Path of the log."""
        return self.folder.with_name(f"{self.folder.name}.log")


@dataclass(frozen=True)
class Ended:
    """How a cell ended.

    Attributes:
        run: the cell.
        code: exit code of its process.
        seconds: it took; ``None`` where the launcher does not know.
        reason: why it failed, where the log cannot say it; empty otherwise.
    """

    run: CellRun
    code: int
    seconds: float | None = None
    reason: str = ""


class Watch(Protocol):
    """What a launcher tells while cells run."""

    def running(self, runs: Collection[CellRun]) -> None:
        """Show how far these are; to be called again and again."""

    def say(self, text: str) -> None:
        """Show one line."""


class Launcher(Protocol):
    """Runs cells somewhere."""

    def launch(self, runs: Sequence[CellRun], out: Path, watch: Watch) -> Iterator[Ended]:
        """Run all cells, in their order as far as there is room, and yield each when it ends.

        Args:
            runs: the cells.
            out: folder of the experiment, absolute.
            watch: is told what runs.
        """


def arguments_of(run: CellRun) -> list[str]:
    """Arguments of the interpreter, with ``--resume`` where there is a checkpoint to go on from."""
    resumed = any((run.folder / "checkpoints").glob("epoch_*.pt"))
    return [*run.arguments, RESUME] if resumed else list(run.arguments)


def environment_of(base: Mapping[str, str], threads: int | None = None, gpu: str | None = None) -> dict[str, str]:
    """Environment of a cell.

    Args:
        base: the environment of the launcher.
        threads: cores that it may use; ``None`` leaves the number as it is.
        gpu: the one GPU that it sees, as an entry of ``CUDA_VISIBLE_DEVICES``; "" hides all, ``None`` leaves them as they are.
    """
    # MLflow, where it is installed, sends usage statistics from the moment it is imported, which MONAI does.
    environment = {"MLFLOW_DISABLE_TELEMETRY": "true", **base}
    if threads is not None:
        # Without it each run would take all cores, and all would wait for each other.
        environment["OMP_NUM_THREADS"] = str(threads)
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    return environment


def start(run: CellRun, environment: Mapping[str, str], cwd: Path | None = None) -> subprocess.Popen[bytes]:
    """Start a cell's process; it is told to stop when this one ends, also when this one is killed."""
    with run.log.open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *arguments_of(run)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            cwd=cwd,
            **tied_to_parent(),
        )


def stop(processes: Collection[subprocess.Popen[bytes]]) -> None:
    """Tell processes to stop; those that do not are killed after ``STOP_S``."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def log_size(run: CellRun) -> int:
    """Bytes of a cell's log: more than before when it has started, which a folder of an earlier call does not tell."""
    try:
        return run.log.stat().st_size
    except OSError:
        return 0


def share_done(folder: Path) -> tuple[float, str]:
    """Completed epochs of a run as a share, and as text."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        card: dict[str, Any] = read_json(folder / "run.json")
        return card["epoch"] / card["max_epochs"], f"epoch {card['epoch']}/{card['max_epochs']}"
    return 0.0, "reading"


def last_words(log: Path) -> str:
    """The last line of a log."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "no log"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no output"


def wait_until_free(folder: Path, seconds: float = WAIT_S) -> None:
    """Wait while another process writes ``folder``; after ``seconds`` the cell itself will refuse it, and say why."""
    deadline = time.monotonic() + seconds
    while is_in_use(folder) and time.monotonic() < deadline:
        time.sleep(LOCK_POLL_S)


def main(arguments: Sequence[str]) -> None:
    """Become the process of the cell in the folder that is the first argument, unless it is finished; see the module."""
    run = CellRun("", tuple(arguments[1:]), Path(arguments[0]))
    # A job may be in the queue twice, or be started again after its node was lost.
    if is_finished(run.folder):
        return
    descriptor = os.open(run.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.close(descriptor)
    wait_until_free(run.folder)
    if is_finished(run.folder):
        return
    os.execve(sys.executable, [sys.executable, *arguments_of(run)], environment_of(os.environ))


if __name__ == "__main__":
    main(sys.argv[1:])
