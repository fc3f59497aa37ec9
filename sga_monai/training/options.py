"""Options of a training that its parts take, checked before an image is read and before an earlier run is moved aside."""

from __future__ import annotations

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.training.schedule import check_schedule
from sga_monai.training.statistics import CHOICES
from sga_monai.training.stopping import check_robust


def check_options(
    max_epochs: int,
    lr_schedule: str,
    warmup_epochs: float,
    batch_norm: str,
    early_stopping_patience: int,
    robust_interval: int,
    robust_drop: float | None,
    review_interval: int,
    curve_images: int,
    force_resume: bool | str,
) -> None:
    """Check what the parts of a training check themselves, but only when they are made: with the writer, in the new run's folder.

    Args:
        max_epochs: see ``lr_scheduler``.
        lr_schedule: see ``lr_scheduler``.
        warmup_epochs: see ``lr_scheduler``.
        batch_norm: see ``BatchNormStatistics``.
        early_stopping_patience: see ``EarlyStopping``.
        robust_interval: see ``RobustOverfitting``.
        robust_drop: see ``RobustOverfitting``.
        review_interval: see ``ReviewPanel``.
        curve_images: see ``LearningCurves``.
        force_resume: see ``Checkpoints``.

    Raises:
        InputError: when one of them would be refused, or ``robust_interval`` is longer than the training.
    """
    check_schedule(max_epochs, lr_schedule, warmup_epochs)
    check.choice("batch_norm", batch_norm, CHOICES)
    check.whole("early_stopping_patience", early_stopping_patience, low=0)
    if check_robust(robust_interval, robust_drop) > max_epochs:
        raise InputError(
            f"robust_interval {robust_interval} is more than max_epochs {max_epochs}: nothing would be measured; give at most that"
        )
    check.whole("review_interval", review_interval, low=0)
    check.whole("curve_images", curve_images, low=0)
    check.flag("force_resume", force_resume)
