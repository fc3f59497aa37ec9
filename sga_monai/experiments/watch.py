"""Progress of an experiment on a console: one bar for all, one for each cell that runs."""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from sga_monai.experiments.cell import CellRun, share_done

# A method's name may hold brackets, which rich would take for its markup.
COLUMNS = (
    TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[at]}", markup=False), TimeElapsedColumn(),
    TimeRemainingColumn(),
)  # fmt: skip


class ConsoleWatch:
    """A ``Watch`` that shows bars on a terminal, and lines of text anywhere.

    Args:
        name: of the experiment.
        n_cells: of the plan.
        n_finished: of them before.
        console: where it is shown.
    """

    def __init__(self, name: str, n_cells: int, n_finished: int, console: Console) -> None:
        self.n_cells, self.n_ended = n_cells, n_finished
        self._console = console
        self._progress = Progress(*COLUMNS, console=console, disable=not console.is_terminal)
        self._all = self._progress.add_task(name, total=float(n_cells), completed=n_finished, at=f"{n_finished}/{n_cells}")
        self._bars: dict[CellRun, TaskID] = {}

    def __enter__(self) -> ConsoleWatch:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._progress.stop()

    def running(self, runs: Collection[CellRun]) -> None:
        """Show how far the cells are that run, and forget others."""
        for run in set(self._bars) - set(runs):
            self._progress.remove_task(self._bars.pop(run))
        shares = 0.0
        for run in runs:
            if run not in self._bars:
                self._bars[run] = self._progress.add_task(run.name, total=1.0, at="")
            share, at = share_done(run.folder)
            self._progress.update(self._bars[run], completed=share, at=at)
            shares += share
        self._progress.update(self._all, completed=self.n_ended + shares)

    def ended(self, text: str) -> None:
        """Count a cell that ended, and say how."""
        self.n_ended += 1
        at = f"{self.n_ended}/{self.n_cells}"
        self._progress.update(self._all, completed=self.n_ended, at=at)
        self.say(f"{at} {text}")

    def say(self, text: str) -> None:
        """Show one line."""
        (self._progress.console if self._console.is_terminal else self._console).print(text, markup=False, highlight=False, soft_wrap=True)
