"""Launchers by name, with the options that each takes."""

from __future__ import annotations

from collections.abc import Sequence

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.experiments.cell import Launcher
from sga_monai.experiments.launch_local import LocalLauncher
from sga_monai.experiments.launch_ray import RayLauncher
from sga_monai.experiments.launch_slurm import SlurmLauncher

NAMES = ("local", "ray", "slurm")


def launcher_of(
    name: str = "local",
    jobs: int | None = None,
    cpus: int | None = None,
    gpu: bool | None = None,
    sbatch: Sequence[str] = (),
    dry_run: bool = False,
) -> Launcher:
    """The launcher of a command line.

    Args:
        name: one of ``NAMES``.
        jobs: cells at once; ``None`` one on this machine, elsewhere as many as there is room for.
        cpus: cores of a cell; ``None`` its share of the process's, elsewhere one.
        gpu: whether each cell has a GPU; ``None`` where there are some.
        sbatch: further options of ``sbatch``, for Slurm.
        dry_run: for Slurm: write the script and submit nothing.

    Raises:
        InputError: on another name, or an option that the launcher does not take.
    """
    check.choice("launcher", name, NAMES)
    if name != "slurm" and (sbatch or dry_run):
        raise InputError(f"{'--sbatch' if sbatch else '--dry-run'} is for --launcher slurm; leave it out or add that")
    if name == "local":
        return LocalLauncher(1 if jobs is None else jobs, cpus, gpu)
    if name == "ray":
        return RayLauncher(jobs, 1 if cpus is None else cpus, gpu)
    return SlurmLauncher(jobs, 1 if cpus is None else cpus, gpu, tuple(sbatch), dry_run)
