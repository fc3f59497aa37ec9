"""A federated task is run: in NVFlare's simulator with one process a site, or by the server of a provisioned federation."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from sga_monai.core.errors import InputError
from sga_monai.core.files import copy_folder, write_json
from sga_monai.core.folders import move_results_aside
from sga_monai.core.process import tied_to_parent
from sga_monai.integrations.federated.jobs import Job, write_job
from sga_monai.integrations.federated.results import RESULTS, WRITTEN
from sga_monai.integrations.federated.site import local_name, read_site_file, site_content, site_name

EXTRA = "this command needs the extra: pip install 'sga_monai[federated]'"
# When this process is killed, the system tells this shell alone, which ends the group that it leads.
AS_GROUP = ("sh", "-c", 'trap "kill -KILL 0" TERM; "$@" & wait "$!"', "sh")
SIMULATION, LOG, SIMULATED = "simulation", "simulation.log", "server/simulate_job"


def require_nvflare() -> None:
    """Refuse a command before anything is done when NVFlare is not installed.

    Raises:
        InputError: naming the extra.
    """
    if importlib.util.find_spec("nvflare") is None:
        raise InputError(EXTRA)


def simulate(job: Job, site_files: Sequence[str | Path], out: str | Path) -> Path:
    """Run a job in NVFlare's simulator: a server, and a process for each site, on this computer.

    Args:
        job: of ``evaluation_job`` or ``training_job``.
        site_files: a site's name is that of its file.
        out: gets the results; NVFlare's own files are in ``simulation`` there. Results of an earlier call are moved to ``out.N``.

    Returns:
        ``out``.

    Raises:
        InputError: when a site's file is refused, two have one name, another call is writing ``out``, or the simulator ended
            without a result.
    """
    require_nvflare()
    sites = {site_name(path): site_content(read_site_file(path)) for path in site_files}
    if len(sites) < len(site_files) or not sites:
        raise InputError("give one file for each site, each with its own name")
    out = Path(out).resolve()
    move_results_aside(out, (*WRITTEN, SIMULATION, LOG))
    workspace = out / SIMULATION
    with tempfile.TemporaryDirectory() as folder:
        prepare_simulation(workspace, sites)
        command = simulator_command(write_job(job, Path(folder) / job.name), workspace, list(sites))
        workspace.mkdir(parents=True, exist_ok=True)
        _run_simulator(command, out / LOG)
    return _take_results(workspace / SIMULATED, out, LOG)


def prepare_simulation(workspace: Path, sites: Mapping[str, object]) -> None:
    """Write what the simulator's sites decide for themselves: their files, and the classes that are allowed."""
    from sga_monai.integrations.federated.jobs import CONTROLLERS, EXECUTORS
    from sga_monai.integrations.federated.kit import DEFAULT, allow

    for name, content in sites.items():
        write_json(workspace / "local" / local_name(name), content)
    write_json(workspace / "local" / DEFAULT, allow({"format_version": 2}, (*CONTROLLERS, *EXECUTORS)))


def simulator_command(job: Path, workspace: Path, names: Sequence[str]) -> list[str]:
    """The command of NVFlare's simulator with a process for each site at the same time."""
    options = ["-w", str(workspace), "-c", ",".join(names), "-t", str(len(names))]
    return [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator", str(job), *options]


def _run_simulator(command: Sequence[str], log: Path) -> None:
    """Run the simulator; however this process ends, the simulator and the server that it starts end with it.

    A site's process is in no group with them. NVFlare ends it within a second of the server.
    """
    with log.open("w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            [*AS_GROUP, *command],
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
            **tied_to_parent(),
        )
    try:
        process.wait()
    finally:
        # The server is still there when the simulator alone was killed.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def submit(job: Job, kit: str | Path, user: str, out: str | Path, timeout: float = 0.0) -> Path:
    """Give a job to the server of a provisioned federation, wait, and fetch its results.

    Args:
        job: of ``evaluation_job`` or ``training_job``.
        kit: startup kit of the person, with the certificate.
        user: the person's name in the federation.
        out: gets the results; those of an earlier call are moved to ``out.N``.
        timeout: seconds to wait; 0 waits for ever.

    Returns:
        ``out``.

    Raises:
        InputError: when the server cannot be reached, refuses the person, another call is writing ``out``, or the job ended
            without a result.
    """
    require_nvflare()
    from nvflare.fuel.flare_api.api_spec import MonitorReturnCode
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    kit, out = Path(kit), Path(out).resolve()
    if not (kit / "startup").is_dir():
        raise InputError("kit: it has no folder startup; give your startup kit, as NVFlare provisioned it")
    try:
        session = new_secure_session(user, str(kit.resolve()))
    except Exception as error:
        # Its kinds are many, and none has a sentence.
        raise InputError(
            f"the server cannot be reached or refuses {user} ({type(error).__name__}); check it, the kit and the name"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        try:
            move_results_aside(out, (*WRITTEN, SIMULATION, LOG))
            number = session.submit_job(str(write_job(job, Path(folder) / job.name).resolve()))
            if session.monitor_job(number, timeout=timeout) != MonitorReturnCode.JOB_FINISHED:
                raise InputError(f"the job {number} did not end within {timeout:g} seconds; it goes on at the server")
            fetched = Path(session.download_job_result(number, str(Path(folder) / "results")))
        finally:
            session.close()
        return _take_results(fetched / "workspace", out, "the server's log")


def _take_results(source: Path, out: Path, log: str) -> Path:
    """Copy the results of a job into ``out``."""
    if not (source / RESULTS).is_dir():
        raise InputError(f"the job ended without a result; the reason is in {log}")
    copy_folder(source / RESULTS, out, into=True)
    return out


def _environment() -> dict[str, str]:
    """That of this process; the sites' processes find the same sga_monai, and keep to one thread unless told otherwise."""
    package = str(Path(__file__).resolve().parents[3])
    paths = [package, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return os.environ | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(path for path in paths if path))}


def read_result(path: Path) -> dict[str, object]:
    """A JSON file of the results."""
    content: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return content
