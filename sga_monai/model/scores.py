"""The score of a network's output: the difference of its two logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ignite.metrics import Average
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor

from sga_monai.core.errors import NumericError


def logit_difference(pred: Tensor) -> Tensor:
    """Score of the positive class, ``[N]`` float64: logit 1 minus logit 0 of ``pred`` ``[N, 2]``.

    Not a softmax, which saturates in float32 and ties what it saturates.

    Raises:
        NumericError: when a logit is NaN or infinite, of which an AUROC would make 1.0 without a word.
    """
    score = pred.detach().double()[:, 1] - pred.detach().double()[:, 0]
    if not bool(score.isfinite().all()):
        raise NumericError("the network's output is NaN or infinite; lower learning_rate")
    return score


def score_and_label(output: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """``output_transform`` of MONAI's ``ROCAUC``: score ``[N]`` and label ``[N]`` of an undecollated output."""
    return logit_difference(output[Keys.PRED]), output[Keys.LABEL]


class MeanScore(Average):
    """Mean score of an evaluation, as a metric of a MONAI evaluator: near the logit of the prevalence when calibrated."""

    def __init__(self) -> None:
        # Ignite takes one dimension for one vector.
        super().__init__(output_transform=lambda output: logit_difference(output[Keys.PRED])[:, None])

    def compute(self) -> float:
        """The mean as a number."""
        return float(super().compute())
