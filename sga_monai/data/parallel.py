"""Reading many rows, in this process or in several: a row's failure is a code, a dead process is an error, no text leaks."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai.data import DataLoader

from sga_monai.core import checks as check
from sga_monai.core.display import track
from sga_monai.core.errors import NO_MEMORY, ReadError, WorkerError, input_error

SECONDS_AN_IMAGE = 45.0


class _Rows(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows through a function, in any process. An exception's text may hold a path or a tag's value, so none goes on."""

    def __init__(self, rows: Sequence[dict[str, Any]], read: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.rows = rows
        self.read = read

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            return self.read(self.rows[index])
        except Exception as error:  # noqa: BLE001
            # In a worker process: whatever is raised goes home as data, since not every exception can be pickled.
            reason = input_error(error)
            if isinstance(reason, ReadError):
                return {"code": reason.code}
            if reason is not None:
                return {"refused": reason}
            # MONAI wraps what a transform raises: the innermost exception is the one that tells.
            inner: BaseException = error
            while inner.__cause__ is not None:
                inner = inner.__cause__
            return {"bug": f"{type(inner).__name__}\n" + "".join(traceback.format_tb(inner.__traceback__))}


def read_rows(
    rows: Sequence[dict[str, Any]], read: Callable[[dict[str, Any]], dict[str, Any]], num_workers: int = 0, title: str = "reading images"
) -> Iterator[dict[str, Any]]:
    """``read`` of every row, in order, with a progress bar on a terminal.

    Args:
        rows: data dictionaries with ``row``.
        read: from a row to a dictionary of plain values and arrays; must be picklable where processes are spawned.
        num_workers: processes; 0 reads in this one.
        title: of the progress bar.

    Yields:
        What ``read`` returned, or ``{"code": reason}`` where it raised a ``ReadError``.

    Raises:
        InputError: what ``read`` raised other than a ``ReadError``; when ``num_workers`` is negative.
        WorkerError: when a process died, a row took longer than 45 s, or memory ran out.
        RuntimeError: on any other exception, with its kind and place but not its text.
    """
    check.whole("num_workers", num_workers, low=0)
    options: dict[str, Any] = {"batch_size": None, "collate_fn": _as_it_is, "generator": torch.Generator()}
    timeout = SECONDS_AN_IMAGE if num_workers else 0
    loader = DataLoader(_Rows(rows, read), num_workers=num_workers, timeout=timeout, **options)
    results = iter(track(loader, title))
    for number, row in enumerate(rows, 1):
        try:
            result = next(results)
        except MemoryError:
            raise WorkerError(NO_MEMORY) from None
        except RuntimeError:
            raise WorkerError(
                f"a process that reads images died or took longer than {SECONDS_AN_IMAGE:.0f} s near image {number} of "
                f"{len(rows)}; free memory, or set num_workers to 0 to find the image"
            ) from None
        if "refused" in result:
            raise result["refused"]
        if "bug" in result:
            raise RuntimeError(f"row {row['row']}: {result['bug']}")
        yield result


def _as_it_is(value: Any) -> Any:
    return value
