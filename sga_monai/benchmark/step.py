"""``benchmark step``: what a training step costs beside natural training, in operations, time and memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from sga_monai.benchmark.counts import count_flops, peak_memory
from sga_monai.benchmark.measure import Case, Fact, Machine, Result, compare, has_bf16
from sga_monai.benchmark.peers import naive_step
from sga_monai.core.errors import InputError
from sga_monai.core.process import keep_freed_memory
from sga_monai.model.modes import to_device
from sga_monai.model.networks import build_network
from sga_monai.sga.iteration import SGAIteration
from sga_monai.sga.options import Attack, Masking, Objective

NAME = "step"
MASKED, UNMASKED, FGSM, NO_ATTACK = Masking(), Masking(mask_fraction=0.0), Attack(), Attack(epsilon_range=(0.0, 0.0))
DIFFERENCE = Masking(saliency_target="difference")


@dataclass(frozen=True)
class Method:
    """A row of the table: options of ``SGAIteration`` and the goal for its time over that of natural training."""

    masking: Masking
    attack: Attack
    objective: Objective = Objective()  # noqa: RUF009  (frozen)
    gradient_reuse: bool = False
    attack_mode: str = "eval"
    at_most: float | None = None

    def iteration(self, precision: str = "fp32") -> SGAIteration:
        """The step with these options."""
        return SGAIteration(
            self.masking, self.attack, self.objective, attack_mode=self.attack_mode, gradient_reuse=self.gradient_reuse,
            precision=precision,
        )  # fmt: skip


METHODS = {
    "NT": Method(UNMASKED, NO_ATTACK, Objective(kl_weight=0.0)),
    "AT": Method(UNMASKED, FGSM, at_most=2.6),
    "SG": Method(MASKED, NO_ATTACK, at_most=2.6),
    "SGA": Method(MASKED, FGSM, at_most=3.5),
    "SGA, gradient_reuse": Method(DIFFERENCE, FGSM, gradient_reuse=True),
    # In train mode f(X) is computed once for saliency and loss.
    "AT, attack_mode train": Method(UNMASKED, FGSM, attack_mode="train", at_most=2.6),
    "SG, attack_mode train": Method(MASKED, NO_ATTACK, attack_mode="train", at_most=2.6),
    "SGA, attack_mode train": Method(MASKED, FGSM, attack_mode="train", at_most=3.5),
    "SGA, attack_mode train, gradient_reuse": Method(DIFFERENCE, FGSM, gradient_reuse=True, attack_mode="train"),
}
# Against natural training in float32.
FAST_AT_MOST = {"SGA": 1.6, "SGA, attack_mode train": 1.6}
FAST = "bf16, channels_last"


def draw_batch(machine: Machine) -> dict[str, Tensor]:
    """A mini-batch of noise, ``image`` ``[batch_size, 1, image_size, image_size]`` in [0, 1] and ``label``, on the device."""
    shape = (machine.batch_size, 1, machine.image_size, machine.image_size)
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return {"image": image.to(machine.device), "label": (torch.arange(machine.batch_size) % 2).to(machine.device)}


class Steps:
    """The steps of one network on one drawn mini-batch; each method has its own copy of the network.

    Args:
        machine: image size, batch size and device.
        memory_format: of the network, see ``to_device``.
        precision: "fp32" or "bf16".
    """

    def __init__(self, machine: Machine, memory_format: str = "contiguous_format", precision: str = "fp32") -> None:
        self.machine, self.memory_format, self.precision = machine, memory_format, precision
        self.batch = draw_batch(machine)
        self.network = build_network("resnet18")

    def method(self, method: Method) -> Callable[[], object]:
        """One step of a method in MONAI's trainer."""
        network = self._copy()
        iteration: Any = method.iteration(self.precision)
        trainer = SupervisedTrainer(
            device=torch.device(self.machine.device), max_epochs=1, train_data_loader=[self.batch], network=network,
            optimizer=torch.optim.SGD(network.parameters(), lr=1e-4), loss_function=nn.CrossEntropyLoss(),
            iteration_update=iteration, optim_set_to_none=True, decollate=False,
        )  # fmt: skip
        trainer.state.iteration, trainer.state.epoch_length, trainer.state.epoch = 1, 1, 1
        # The step itself; what the trainer adds is another benchmark's.
        return lambda: trainer._process_function(trainer, self.batch)

    def naive(self) -> Callable[[], object]:
        """The same step as one would put it together from public parts."""
        network = self._copy()
        optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
        step = partial(naive_step, network, optimizer, self.batch["image"], self.batch["label"])
        if self.precision == "fp32":
            return step

        def autocast() -> None:
            with torch.autocast(self.machine.device, dtype=torch.bfloat16):
                step()

        return autocast

    def _copy(self) -> nn.Module:
        return to_device(copy.deepcopy(self.network), self.machine.device, self.memory_format)


def benchmark_step(machine: Machine) -> Result:
    """NT, AT, SG, SGA, SGA with ``gradient_reuse`` and the naive composition, in float32 and in bfloat16 with channels_last.

    FLOPs are exact counts, and their ratio is the limit beside each time. Every method is compared with natural training in
    float32, the naive composition with SGA of its own kind.
    """
    keep_freed_memory()
    plain = Steps(machine)
    runs = {name: plain.method(method) for name, method in METHODS.items()}
    flops = {name: count_flops(run) for name, run in runs.items()}
    facts = [Fact(NAME, f"{name}, FLOPs over NT's", flops[name] / flops["NT"], "") for name in METHODS]
    cases = [
        Case(name, runs[name], "NT", method.at_most, limit=flops[name] / flops["NT"], peak=partial(peak_memory, runs[name], machine.device))
        for name, method in METHODS.items()
    ]
    notes = []
    has_peer, note = _naive(plain)
    if has_peer is not None:
        cases.append(Case("naive SGA", has_peer, "SGA", at_least=1.0, peak=partial(peak_memory, has_peer, machine.device)))
    if note:
        notes.append(note)
    if machine.device == "cuda" or has_bf16():
        fast = Steps(machine, "channels_last", "bf16")
        for name, method in METHODS.items():
            cases.append(Case(f"{name}, {FAST}", fast.method(method), "NT", FAST_AT_MOST.get(name)))
        if has_peer is not None:
            cases.append(Case(f"naive SGA, {FAST}", fast.naive(), f"SGA, {FAST}", at_least=1.0))
    else:
        notes.append("this processor has no bfloat16 instructions: bf16 was left out")
    return Result(compare(NAME, cases, machine), facts, notes)


def _naive(steps: Steps) -> tuple[Callable[[], object] | None, str]:
    """The naive step, tried once, or why there is none."""
    run = steps.naive()
    try:
        run()
    except InputError as error:
        return None, str(error)
    return run, ""
