"""MONAI's ``--tracking mlflow`` beside TensorBoard: its handlers fitted to this training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.handlers import MLFlowHandler

from sga_monai.core import checks as check

# MLflow refuses another value of a parameter; a training may go on to more epochs.
MAY_CHANGE = ("max_epochs",)
PARTS = 4


def tracking_handlers(
    handlers: Sequence[Any], hyper_parameters: Mapping[str, Any], resume: bool | str = False, force_resume: bool | str = False
) -> list[Any]:
    """Handlers that ``--tracking`` has added to the trainer, with the loss of a whole mini-batch and all hyper-parameters.

    MONAI takes the loss from the first item of a decollated batch, which the output of this training is not.

    Args:
        handlers: those of ``train#handlers``; empty without ``--tracking``.
        hyper_parameters: recorded as the run's parameters.
        resume: go on instead of starting.
        force_resume: in spite of differences: MLflow keeps the parameters that the run began with, ``run.json`` has the new ones.
    """
    forced = check.flag("resume", resume) and check.flag("force_resume", force_resume)
    for handler in handlers:
        if isinstance(handler, MLFlowHandler):
            handler.output_transform = _loss
            handler.experiment_param = {key: value for key, value in hyper_parameters.items() if not forced and key not in MAY_CHANGE}
    return list(handlers)


def tracked_name(output_dir: str) -> str:
    """Name of a run in MLflow: the last folders of its ``output_dir``, as ``four_methods/sga/all/seed_0``.

    Without a name of its own a run would go on in any that is not finished, which on a server may be another training's.
    """
    return "/".join(Path(output_dir).parts[-PARTS:]).strip("/")


def _loss(output: Mapping[str, Any]) -> Any:
    return output["loss"]
