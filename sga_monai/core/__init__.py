"""Errors, checks of arguments, safe files, output folders, provenance and display; nothing medical."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.core.errors import DiskError, InputError, NumericError, ReadError, WorkerError
    from sga_monai.core.folders import archive_previous_run

__all__ = [
    "DiskError",
    "InputError",
    "NumericError",
    "ReadError",
    "WorkerError",
    "archive_previous_run",
]
_MODULES = {
    "DiskError": "errors",
    "InputError": "errors",
    "NumericError": "errors",
    "ReadError": "errors",
    "WorkerError": "errors",
    "archive_previous_run": "folders",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
