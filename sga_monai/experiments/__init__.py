"""Plans of many trainings, their runs, and pages made from their records alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.experiments.launch_local import LocalLauncher
    from sga_monai.experiments.launch_ray import RayLauncher
    from sga_monai.experiments.launch_slurm import SlurmLauncher
    from sga_monai.experiments.launchers import launcher_of
    from sga_monai.experiments.pages import collect_experiment, write_page
    from sga_monai.experiments.plan import Cell, Plan, read_plan
    from sga_monai.experiments.runner import run_experiment

__all__ = [
    "Cell",
    "LocalLauncher",
    "Plan",
    "RayLauncher",
    "SlurmLauncher",
    "collect_experiment",
    "launcher_of",
    "read_plan",
    "run_experiment",
    "write_page",
]
_MODULES = {
    "Cell": "plan",
    "LocalLauncher": "launch_local",
    "Plan": "plan",
    "RayLauncher": "launch_ray",
    "SlurmLauncher": "launch_slurm",
    "collect_experiment": "pages",
    "launcher_of": "launchers",
    "read_plan": "plan",
    "run_experiment": "runner",
    "write_page": "pages",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
