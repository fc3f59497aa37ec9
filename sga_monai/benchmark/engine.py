"""``benchmark engine``: what trainer, handlers, progress and checks cost an iteration beyond the network's passes."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from monai.handlers import LrScheduleHandler
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from sga_monai.benchmark.measure import Case, Fact, Machine, Result, compare
from sga_monai.benchmark.peers import silence
from sga_monai.benchmark.step import METHODS, Method, draw_batch
from sga_monai.core.process import keep_freed_memory
from sga_monai.training.progress import TrainingProgress
from sga_monai.training.scalars import ScalarWriter

NAME = "engine"
ITERATIONS = 50
GOAL_MS, GOAL_WAITS = 1.0, 1.0


class OneLayer(nn.Module):
    """The cheapest network that takes a radiograph: the mean of its pixels and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, 2]``."""
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def benchmark_engine(machine: Machine) -> Result:
    """The same iterations in a plain loop and in the trainer with what the bundle attaches, on a network that costs next to nothing.

    On CUDA also how often an iteration of SGA waits for the device, which is what a GPU loses most by.
    """
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        cases = [
            Case("plain loop", _plain_loop(machine), "plain loop", units=ITERATIONS),
            Case("trainer with handlers", _trainer(machine, METHODS["NT"], writer), "plain loop", units=ITERATIONS),
        ]
        lines = compare(NAME, cases, machine)
        facts = [Fact(NAME, "beyond the passes, an iteration", 1e3 * (lines[1].seconds - lines[0].seconds), "ms", GOAL_MS)]
        if machine.device == "cuda":
            waits = count_waits(_trainer(machine, METHODS["SGA"], writer)) / ITERATIONS
            facts.append(Fact(NAME, "waits for the device, an iteration of SGA", waits, "", GOAL_WAITS))
    return Result(lines, facts)


def count_waits(run: Callable[[], object]) -> int:
    """How often the host waits for the CUDA device during ``run``, as torch itself reports it."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            run()
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return sum("synchronizing" in str(warning.message) for warning in caught)


def _plain_loop(machine: Machine) -> Callable[[], object]:
    network, batch = OneLayer().to(machine.device), draw_batch(machine)
    optimizer, loss_function = torch.optim.SGD(network.parameters(), lr=1e-4), nn.CrossEntropyLoss()

    def run() -> None:
        for _ in range(ITERATIONS):
            optimizer.zero_grad()
            loss_function(network(batch["image"]), batch["label"]).backward()
            optimizer.step()

    return run


def _trainer(machine: Machine, method: Method, writer: SummaryWriter) -> Callable[[], object]:
    network, batch = OneLayer().to(machine.device), draw_batch(machine)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)

    def run() -> None:
        evaluator = Engine(_no_validation)
        schedule: Any = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        iteration: Any = method.iteration()
        handlers = [
            LrScheduleHandler(schedule, epoch_level=False, print_lr=False), ScalarWriter(writer, evaluator, {}), TrainingProgress(evaluator)
        ]  # fmt: skip
        trainer = SupervisedTrainer(
            device=torch.device(machine.device), max_epochs=1, train_data_loader=[batch] * ITERATIONS, network=network, optimizer=optimizer,
            loss_function=nn.CrossEntropyLoss(), iteration_update=iteration, train_handlers=handlers, optim_set_to_none=True,
            decollate=False,
        )  # fmt: skip
        with silence():
            trainer.run()

    return run


def _no_validation(_engine: Engine, _batch: object) -> None:
    """The update of an evaluator that is never run."""
