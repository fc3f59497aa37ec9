"""What the bundle's JSON names besides the parts themselves: checks before training, test sets, plain errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.bundle.configuration import check_overrides, hyper_parameters, resolved_config
    from sga_monai.bundle.preparation import prepare, refuse_batch_of_one
    from sga_monai.bundle.sets import exit_by_failures, load_test_sets

__all__ = [
    "check_overrides",
    "exit_by_failures",
    "hyper_parameters",
    "load_test_sets",
    "prepare",
    "refuse_batch_of_one",
    "resolved_config",
]
_MODULES = {
    "check_overrides": "configuration",
    "exit_by_failures": "sets",
    "hyper_parameters": "configuration",
    "load_test_sets": "sets",
    "prepare": "preparation",
    "refuse_batch_of_one": "preparation",
    "resolved_config": "configuration",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
