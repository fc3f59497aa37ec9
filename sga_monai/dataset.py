"""Images read once, prepared and kept in memory; an image that cannot be read is named by its row."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from typing import Any

from monai.data import Dataset
from rich.progress import track

from sga_monai.errors import InputError, ReadError, input_error

MOST_ERRORS = 5


class CXRDataset(Dataset):
    """Every row through ``transform`` at construction, then from memory (one float32 224 x 224 image is 200 kB).

    Args:
        data: data dictionaries of ``load_manifest``.
        transform: the deterministic preprocessing.
        skip_failed: keep the rows that can be read and list the others in ``failures``, instead of refusing all.

    Attributes:
        failures: ``row, label, patient, set`` and the reason ``code`` of each row that could not be read.

    Raises:
        InputError: naming the rows that cannot be read, unless ``skip_failed``; when none can be read.
    """

    def __init__(
        self, data: Sequence[dict[str, Any]], transform: Callable[..., Any], skip_failed: bool = False
    ) -> None:
        self.items: list[dict[str, Any]] = []
        self.failures: list[dict[str, Any]] = []
        kept = []
        for item in track(data, description="reading images", transient=True, disable=not sys.stdout.isatty()):
            try:
                # MONAI's transforms write into the dictionary they are given.
                self.items.append(transform(copy.copy(item)))
                kept.append(item)
            except Exception as error:
                reason = input_error(error)
                if not isinstance(reason, ReadError):
                    raise
                facts = {key: item[key] for key in ("row", "label", "patient", "set")}
                self.failures.append(facts | {"code": reason.code, "reason": str(reason)})
        if self.failures and not (skip_failed and kept):
            first = "; ".join(f"{f['set']} row {f['row']}: {f['reason']}" for f in self.failures[:MOST_ERRORS])
            raise InputError(f"{len(self.failures)} of {len(data)} images cannot be read: {first}")
        super().__init__(kept, None)

    def __getitem__(self, index: Any) -> Any:
        """The prepared data dictionary."""
        return self.items[index]
