"""What is attached to the trainer: checkpoints, seeds, stopping, progress and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sga_monai.core.lazy import lazy_index

if TYPE_CHECKING:
    from sga_monai.training.best_model import BestModelSaver
    from sga_monai.training.checkpoint import Checkpoints
    from sga_monai.training.curves import LearningCurves
    from sga_monai.training.distributed import (
        RankSampler,
        data_parallel,
        handlers_of_rank,
        join_group,
        leave_group,
        local_device,
        rank_summary_writer,
        world_size,
    )
    from sga_monai.training.epochs import EpochSampler, EpochSeeds
    from sga_monai.training.progress import TrainingProgress
    from sga_monai.training.review import ReviewPanel
    from sga_monai.training.run_record import RunRecord, identify
    from sga_monai.training.scalars import ScalarWriter
    from sga_monai.training.schedule import lr_scheduler
    from sga_monai.training.statistics import BatchNormStatistics
    from sga_monai.training.stopping import EarlyStopping, RobustOverfitting
    from sga_monai.training.tracking import tracked_name, tracking_handlers

__all__ = [
    "BatchNormStatistics",
    "BestModelSaver",
    "Checkpoints",
    "EarlyStopping",
    "EpochSampler",
    "EpochSeeds",
    "LearningCurves",
    "RankSampler",
    "ReviewPanel",
    "RobustOverfitting",
    "RunRecord",
    "ScalarWriter",
    "TrainingProgress",
    "data_parallel",
    "handlers_of_rank",
    "identify",
    "join_group",
    "leave_group",
    "local_device",
    "lr_scheduler",
    "rank_summary_writer",
    "tracked_name",
    "tracking_handlers",
    "world_size",
]
_MODULES = {
    "BatchNormStatistics": "statistics",
    "BestModelSaver": "best_model",
    "Checkpoints": "checkpoint",
    "EarlyStopping": "stopping",
    "EpochSampler": "epochs",
    "EpochSeeds": "epochs",
    "LearningCurves": "curves",
    "RankSampler": "distributed",
    "ReviewPanel": "review",
    "RobustOverfitting": "stopping",
    "RunRecord": "run_record",
    "ScalarWriter": "scalars",
    "TrainingProgress": "progress",
    "data_parallel": "distributed",
    "handlers_of_rank": "distributed",
    "identify": "run_record",
    "join_group": "distributed",
    "leave_group": "distributed",
    "local_device": "distributed",
    "lr_scheduler": "schedule",
    "rank_summary_writer": "distributed",
    "tracked_name": "tracking",
    "tracking_handlers": "tracking",
    "world_size": "distributed",
}
__getattr__, __dir__ = lazy_index(__name__, _MODULES)
