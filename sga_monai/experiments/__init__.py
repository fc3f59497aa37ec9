"""Plans of many trainings, their runs, and pages made from their records alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.experiments.pages import collect_experiment, write_page
    from sga_monai.experiments.plan import Cell, Plan, read_plan
    from sga_monai.experiments.runner import run_experiment

__all__ = [
    "Cell",
    "Plan",
    "collect_experiment",
    "read_plan",
    "run_experiment",
    "write_page",
]
_MODULES = {
    "Cell": "plan",
    "Plan": "plan",
    "collect_experiment": "pages",
    "read_plan": "plan",
    "run_experiment": "runner",
    "write_page": "pages",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
