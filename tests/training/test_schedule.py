from __future__ import annotations

import copy
import json
import math
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, TinyNet, batches, equal, iteration
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from torch import nn

from sga_monai.core.errors import InputError
from sga_monai.training.scalars import ScalarWriter
from sga_monai.training.schedule import learning_rate_factor, lr_scheduler


def rates(lr_schedule: str, warmup_epochs: float, epochs: int = 4, n: int = 5) -> list[float]:
    network, used = TinyNet(dropout=0), []
    optimizer = torch.optim.SGD(network.parameters(), lr=0.2)
    data = batches(n)
    scheduler = lr_scheduler(optimizer, data, epochs, lr_schedule, warmup_epochs)
    step = optimizer.step
    optimizer.step = lambda *given: (used.append(optimizer.param_groups[0]["lr"]), step(*given))[1]
    trainer = SupervisedTrainer(
        torch.device("cpu"), epochs, data, network, optimizer, nn.CrossEntropyLoss(), iteration_update=iteration(kl_weight=0),
        decollate=False, train_handlers=[LrScheduleHandler(scheduler, print_lr=False, epoch_level=False)],
    )  # fmt: skip
    trainer.run()
    return used


def test_constant_is_no_schedule():
    assert rates("constant", 0) == [0.2] * 20


def test_cosine_with_warm_up_by_hand():
    expected = [0.2 * (step + 1) / 10 for step in range(10)] + [0.1 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    assert rates("cosine", 2) == pytest.approx(expected)


def test_it_ends_near_zero_and_never_rises_after_the_warm_up():
    factors = [learning_rate_factor(step, 100, 10, "cosine") for step in range(100)]
    assert max(factors) == 1.0
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert factors[-1] < 1e-3


def test_a_schedule_goes_on_from_its_state():
    network = TinyNet()
    straight = lr_scheduler(torch.optim.SGD(network.parameters(), lr=0.1), range(10), 2, "cosine", 1)
    for _ in range(13):
        straight.optimizer.step()
        straight.step()
    state = copy.deepcopy((straight.state_dict(), straight.optimizer.state_dict()))
    resumed = lr_scheduler(torch.optim.SGD(network.parameters(), lr=0.1), range(10), 2, "cosine", 1)
    resumed.load_state_dict(state[0])
    resumed.optimizer.load_state_dict(state[1])
    for scheduler in (straight, resumed):
        scheduler.optimizer.step()
        scheduler.step()
    assert equal(straight.get_last_lr(), resumed.get_last_lr())
    assert straight.optimizer.param_groups[0]["lr"] == resumed.optimizer.param_groups[0]["lr"]


def test_the_bundle_logs_the_rate_of_the_step_that_was_made():
    """TensorBoard's scalars are written before the schedule goes on, as the order of the handlers says."""
    order = json.loads((ROOT / "bundles/sga/train.json").read_text())["train"]["handlers_in_order"]
    assert order.index("@train#scalars") < order.index("@train#learning_rate") < order.index("@train#checkpoints")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule, logged, used = lr_scheduler(optimizer, range(5), 2, "cosine", 1), [], []

    def update(engine: Engine, _batch: int) -> dict[str, torch.Tensor]:
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        return {"loss": torch.zeros(())}

    def add_scalar(tag: str, value: float, _step: int) -> None:
        if tag == "learning_rate":
            logged.append(value)

    trainer = Engine(update)
    trainer.optimizer = optimizer
    writer = SimpleNamespace(add_scalar=add_scalar, add_text=lambda *_: None, flush=lambda: None)
    handlers = {
        "@train#scalars": ScalarWriter(writer, Engine(lambda *_: None), {}),
        "@train#learning_rate": LrScheduleHandler(schedule, epoch_level=False, print_lr=False),
    }
    for name in sorted(handlers, key=order.index):
        handlers[name].attach(trainer)
    trainer.run(range(5), max_epochs=2)
    assert logged == used
    assert len(set(used)) > 5


@pytest.mark.parametrize(
    ("first", "later"),
    [
        ("epoch_seeds", "batch_norm_statistics"),
        # The statistics that are validated, scored for the curves and saved are those of the epoch's last weights.
        ("batch_norm_statistics", "validation curves review_panel checkpoints"),
        ("validation", "scalars progress early_stopping robust_overfitting checkpoints"),
        # A checkpoint holds what its own epoch has counted.
        ("progress early_stopping robust_overfitting learning_rate", "checkpoints"),
        # A resume that is refused has not yet deleted the results of the run's earlier end.
        ("checkpoints", "run_record"),
    ],
)
def test_the_bundle_attaches_each_handler_where_its_docstring_says(first, later):
    text = json.loads((ROOT / "bundles/sga/train.json").read_text())["train"]["handlers_in_order"]
    order = re.findall(r"@train#(\w+)", text)
    assert max(map(order.index, first.split())) < min(map(order.index, later.split()))


@pytest.mark.parametrize(
    ("schedule", "warmup", "message"),
    [("linear", 0, "lr_schedule must be one of"), ("cosine", -1, "warmup_epochs"), ("cosine", 9, "greater than max_epochs")],
)
def test_bad_arguments(schedule, warmup, message):
    with pytest.raises(InputError, match=message):
        lr_scheduler(torch.optim.SGD(TinyNet().parameters(), lr=0.1), range(10), 2, schedule, warmup)
