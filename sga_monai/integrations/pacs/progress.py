"""One bar of progress for a whole pull: studies done, rate, amount received, time left."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

import rich.progress


class Progress:
    """A bar on a terminal, and nothing elsewhere; used by several threads."""

    def __init__(self) -> None:
        columns = (
            rich.progress.TextColumn("{task.description}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TextColumn("{task.fields[rate]}"),
            rich.progress.TimeRemainingColumn(compact=True),
        )
        self.bar = rich.progress.Progress(*columns, transient=True, disable=not sys.stdout.isatty())
        self.task = self.bar.add_task("", rate="")
        self.bytes = 0
        self.lock = threading.Lock()

    def __enter__(self) -> Progress:
        if not self.bar.disable:
            self.bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        # Where it was never shown, rich would print an empty line.
        if not self.bar.disable:
            self.bar.stop()

    def begin(self, description: str, total: int) -> None:
        """Start the bar again for another step."""
        self.bar.reset(self.task, total=total, description=description, rate="")

    def advance(self, number: int) -> None:
        """Count studies as done."""
        self.bar.advance(self.task, number)
        speed = self.bar.tasks[0].speed
        rate = "" if speed is None else f"{speed:.1f}/s"
        self.bar.update(self.task, rate=f"{rate} {self.bytes / 1e6:.0f} MB" if self.bytes else rate)

    def received(self, size: int) -> None:
        """Count what was transferred."""
        with self.lock:
            self.bytes += size
