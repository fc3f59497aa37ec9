"""The paper: Algorithm 1, its options and its attack; knows no file, no DICOM and no handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.sga.augmentation import standard
    from sga_monai.sga.comparisons import Augmentation, GroupWeights, border_and_marker, mixup
    from sga_monai.sga.iteration import SGAIteration, Views
    from sga_monai.sga.options import Attack, Domain, Masking, Objective, Terms
    from sga_monai.sga.steps import fill_masked, input_gradient, kl_divergence, lowest_mask

__all__ = [
    "Attack",
    "Augmentation",
    "Domain",
    "GroupWeights",
    "Masking",
    "Objective",
    "SGAIteration",
    "Terms",
    "Views",
    "border_and_marker",
    "fill_masked",
    "input_gradient",
    "kl_divergence",
    "lowest_mask",
    "mixup",
    "standard",
]
_MODULES = {
    "Attack": "options",
    "Augmentation": "comparisons",
    "Domain": "options",
    "GroupWeights": "comparisons",
    "Masking": "options",
    "Objective": "options",
    "SGAIteration": "iteration",
    "Terms": "options",
    "Views": "iteration",
    "border_and_marker": "comparisons",
    "fill_masked": "steps",
    "input_gradient": "steps",
    "kl_divergence": "steps",
    "lowest_mask": "steps",
    "mixup": "comparisons",
    "standard": "augmentation",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
