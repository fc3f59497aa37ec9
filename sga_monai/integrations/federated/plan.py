"""What a server may ask for: a task of plain numbers, each checked at the site. There is no configuration and no code in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from sga_monai.core import checks as check
from sga_monai.integrations.federated.refusals import Refusal
from sga_monai.model.architectures import find_architecture

# The numbers of a task change when its meaning does.
EVALUATE, TRAIN, FINISH = "sga_evaluate_1", "train", "validate"
MOST_ROUNDS = 1000


@dataclass(frozen=True)
class TrainingPlan:
    """The numbers of a federated training, the same at all sites; other options have the defaults of ``train.json``.

    Attributes:
        rounds: how often weights are averaged.
        local_epochs: epochs at each site in a round.
        image_size: pixels of a side.
        batch_size: images of a mini-batch.
        learning_rate: of SGD with momentum, which begins anew in each round.
        kl_weight: 0 is natural training.
        mask_fraction: see ``Masking``.
        architecture: a key of ``NETWORKS``.
        fed_bn: BatchNorm's weights and statistics stay at each site (FedBN; Li et al., ICLR 2021, arXiv:2102.07623).
        seed: of the first weights and of all draws.

    Raises:
        InputError: naming the value that is out of range.
    """

    rounds: int = 10
    local_epochs: int = 1
    image_size: int = 224
    batch_size: int = 64
    learning_rate: float = 0.01
    kl_weight: float = 1.0
    mask_fraction: float = 0.1
    architecture: str = "resnet18"
    fed_bn: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check.whole("rounds", self.rounds, low=1, high=MOST_ROUNDS)
        check.whole("local_epochs", self.local_epochs, low=1, high=MOST_ROUNDS)
        check.whole("image_size", self.image_size, low=16, high=1024)
        check.whole("batch_size", self.batch_size, low=2, high=4096)
        check.number("learning_rate", self.learning_rate, above=0, high=10)
        check.number("kl_weight", self.kl_weight, low=0, high=1000)
        check.number("mask_fraction", self.mask_fraction, low=0, below=1)
        find_architecture(self.architecture)
        check.choice("fed_bn", self.fed_bn, (True, False))
        check.whole("seed", self.seed, low=0)


def plan_content(plan: TrainingPlan) -> dict[str, Any]:
    """The plan as a task carries it."""
    return asdict(plan)


def read_plan(content: Any) -> TrainingPlan:
    """The plan of a task.

    Raises:
        Refusal: "task", when a number is missing, unknown or out of range.
    """
    if not isinstance(content, Mapping) or set(content) != {field.name for field in fields(TrainingPlan)}:
        raise Refusal("task")
    try:
        return TrainingPlan(**content)
    except ValueError:
        raise Refusal("task") from None


def read_sums(content: Any) -> str:
    """The SHA-256 of the bundle's ``SHA256SUMS`` that an evaluation asks for.

    Raises:
        Refusal: "task", when it is none.
    """
    if not isinstance(content, str) or re.fullmatch("[0-9a-f]{64}", content) is None:
        raise Refusal("task")
    return content
