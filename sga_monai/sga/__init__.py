"""The paper: Algorithm 1, its options and its attack; knows no file, no DICOM and no handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.sga.comparisons import GroupWeights, border_and_marker, mixup
    from sga_monai.sga.iteration import SGAIteration
    from sga_monai.sga.steps import adversarial_example, fill_masked, input_gradient, kl_divergence, lowest_mask

__all__ = [
    "GroupWeights",
    "SGAIteration",
    "adversarial_example",
    "border_and_marker",
    "fill_masked",
    "input_gradient",
    "kl_divergence",
    "lowest_mask",
    "mixup",
]
_MODULES = {
    "GroupWeights": "comparisons",
    "SGAIteration": "iteration",
    "adversarial_example": "steps",
    "border_and_marker": "comparisons",
    "fill_masked": "steps",
    "input_gradient": "steps",
    "kl_divergence": "steps",
    "lowest_mask": "steps",
    "mixup": "comparisons",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
