"""Where a model looks, and what it can do without."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.interpret.audit import AuditSet, audit_model
    from sga_monai.interpret.audit_run import audit_checkpoint
    from sga_monai.interpret.explain import explain_checkpoints
    from sga_monai.interpret.localization import deletion_auc, energy_inside, insertion_auc, iou_at_area, pointing_game
    from sga_monai.interpret.saliency import fullgrad, fullgrad_map, grad_cam, input_gradient_map

__all__ = [
    "AuditSet",
    "audit_checkpoint",
    "audit_model",
    "deletion_auc",
    "energy_inside",
    "explain_checkpoints",
    "fullgrad",
    "fullgrad_map",
    "grad_cam",
    "input_gradient_map",
    "insertion_auc",
    "iou_at_area",
    "pointing_game",
]
_MODULES = {
    "AuditSet": "audit",
    "audit_checkpoint": "audit_run",
    "audit_model": "audit",
    "deletion_auc": "localization",
    "energy_inside": "localization",
    "explain_checkpoints": "explain",
    "fullgrad": "saliency",
    "fullgrad_map": "saliency",
    "grad_cam": "saliency",
    "input_gradient_map": "saliency",
    "insertion_auc": "localization",
    "iou_at_area": "localization",
    "pointing_game": "localization",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
