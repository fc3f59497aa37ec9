"""Cells as tasks of a Ray cluster whose nodes share the experiment's folder; a cell of a lost node goes on at another."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.folders import is_finished
from sga_monai.experiments.cell import STOP_S, CellRun, Ended, Watch, environment_of, log_size, start, stop, wait_until_free

POLL_S = 0.5
# Lost nodes that one cell survives.
RETRIES = 3


@dataclass(frozen=True)
class RayLauncher:
    """Runs cells in the Ray cluster of ``RAY_ADDRESS``, in one that runs on this machine, or in a new one of this machine alone.

    Attributes:
        jobs: cells at once; ``None`` as many as the cluster has room for.
        cpus: cores of each cell.
        gpu: whether each cell has a GPU; ``None`` where the cluster has some.

    Raises:
        InputError: on a number below one.
    """

    jobs: int | None = None
    cpus: int = 1
    gpu: bool | None = None

    def __post_init__(self) -> None:
        check.whole("cpus", self.cpus, low=1)
        if self.jobs is not None:
            check.whole("jobs", self.jobs, low=1)

    def launch(self, runs: Sequence[CellRun], out: Path, watch: Watch) -> Iterator[Ended]:  # noqa: ARG002
        """Submit cells in their order and yield each when it ends; those that still run are stopped with this function.

        Raises:
            InputError: when Ray is not installed, cannot be reached, or no node has what a cell needs.
        """
        from sga_monai.core.provenance import code_facts

        with _connection() as ray:
            gpu = self._gpu(ray.nodes())
            code = code_facts()
            task = ray.remote(
                num_cpus=self.cpus, num_gpus=int(gpu is True), max_retries=RETRIES, retry_exceptions=False, scheduling_strategy="SPREAD"
            )(run_cell)
            queue, submitted = list(runs), dict[Any, CellRun]()
            # A cell that waits for room writes nothing to its log.
            before = {run: log_size(run) for run in runs}
            try:
                while queue or submitted:
                    while queue and (self.jobs is None or len(submitted) < self.jobs):
                        run = queue.pop(0)
                        submitted[task.remote(run, Path.cwd(), self.cpus, gpu, code)] = run
                    ready, _ = ray.wait(list(submitted), timeout=POLL_S)
                    for reference in ready:
                        yield _ended(ray, reference, submitted.pop(reference))
                    watch.running([run for run in submitted.values() if log_size(run) > before[run]])
            finally:
                _cancel(ray, list(submitted))

    def _gpu(self, nodes: Sequence[Mapping[str, Any]]) -> bool | None:
        """Whether a cell has a GPU: ``None`` where there are none to give or to hide.

        Raises:
            InputError: when no node has what a cell needs, which Ray would wait for without an end.
        """
        offers = [node["Resources"] for node in nodes if node["Alive"]]
        gpu = True if self.gpu is None and any(offer.get("GPU", 0) >= 1 for offer in offers) else self.gpu
        if not any(offer.get("CPU", 0) >= self.cpus and offer.get("GPU", 0) >= int(gpu is True) for offer in offers):
            wanted = f"{self.cpus} cores" + (" and a GPU" if gpu else "")
            raise InputError(f"no node of the Ray cluster has {wanted}; give a smaller --cpus" + (", or --no-gpu" if gpu else ""))
        return gpu


def run_cell(run: CellRun, cwd: Path, cpus: int, gpu: bool | None, code: Mapping[str, Any]) -> tuple[int, float, str]:
    """Run a cell on the node that this is called on.

    Args:
        run: the cell.
        cwd: folder in which the experiment was started, which the cell's paths are relative to.
        cpus: cores that it may use.
        gpu: ``False`` hides the node's GPUs; otherwise it sees what Ray gave it.
        code: package and versions of the experiment; a node with others would make another cell.

    Returns:
        Exit code, seconds, and why it was not run where it was not.
    """
    from sga_monai.core.provenance import code_facts, differences

    began = time.monotonic()
    changed = differences(code, code_facts())
    if changed:
        return 1, 0.0, f"a node has another sga_monai or other packages ({'; '.join(changed[:3])}); install the same on all nodes"
    if not cwd.is_dir() or not run.folder.parent.is_dir():
        return 1, 0.0, "a node does not see output_dir or the folder of this command; start it in a folder that all nodes share"
    # The node that had the cell before may be lost for Ray and still be writing.
    wait_until_free(run.folder)
    if is_finished(run.folder):
        return 0, time.monotonic() - began, ""
    process = start(run, environment_of(os.environ, cpus, "" if gpu is False else None), cwd)
    try:
        # Not wait(): Ray cancels a task by an exception, which needs Python's own steps.
        while process.poll() is None:
            time.sleep(POLL_S)
    finally:
        stop([process])
    return process.returncode, time.monotonic() - began, ""


@contextlib.contextmanager
def _connection() -> Iterator[ModuleType]:
    """Ray, connected; a connection that was there before stays.

    Raises:
        InputError: when Ray is not installed or cannot be reached.
    """
    try:
        import ray
    except ImportError:
        raise InputError("--launcher ray needs the extra: pip install 'sga_monai[ray]'") from None
    if ray.is_initialized():
        yield ray
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"no Ray cluster can be reached ({reason}); start one with ray start, or unset RAY_ADDRESS") from None
    if threading.current_thread() is threading.main_thread():
        # Ray has set its own.
        signal.signal(signal.SIGTERM, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _ended(ray: ModuleType, reference: Any, run: CellRun) -> Ended:
    try:
        code, seconds, reason = ray.get(reference)
    except ray.exceptions.RayError as error:
        # Ray's text goes on with addresses and paths.
        return Ended(run, 1, reason=f"lost with its node or worker more than {RETRIES} times ({type(error).__name__}); see Ray's logs")
    return Ended(run, code, seconds, reason)


def _cancel(ray: ModuleType, references: Sequence[Any]) -> None:
    """Let the tasks stop their cells; a worker that does not is ended with this connection, and its cell with it."""
    if not references:
        return
    for reference in references:
        ray.cancel(reference)
    ray.wait(references, num_returns=len(references), timeout=STOP_S)
