"""MONAI's side of a training step: batch, events, accumulation, random state, finite checks."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import SimpleInferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sga_monai.core.errors import InputError, NumericError, first_of
from sga_monai.sga.options import Domain, Terms
from sga_monai.sga.precision import GradientScale

logger = logging.getLogger(__name__)

# What a step records in ``engine.state.output`` besides images and tensors of the network.
SCALARS = (str(Keys.LOSS.value), "ce_loss", "kl_loss", "epsilon", "adversarial_accuracy")


class Step:
    """One iteration of a ``SupervisedTrainer`` as a custom ``iteration_update`` needs it.

    Args:
        engine: the trainer; what this step cannot honor is refused.
        batchdata: the mini-batch; ``row`` names the manifest's rows in errors.
        domain: images of the first iteration must lie in its ``value_range``.

    Attributes:
        image: ``[B, C, H, W]``, a plain tensor on the trainer's device.
        label: ``[B]``.
        network: the trainer's, maybe wrapped in ``DistributedDataParallel``.
        bare: the network without that wrapper, for gradients of images, which processes do not share.
        first: whether an accumulated step begins with this iteration.
        left_out: whether ``optimize`` has left out the accumulated step.

    Raises:
        InputError: when the trainer asks for what this step cannot honor, or an image is outside ``value_range``.
        NumericError: when an image is not finite.
    """

    def __init__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any], domain: Domain) -> None:
        _refuse_what_cannot_be_honored(engine)
        batch = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        if len(batch) != 2:
            raise InputError("SGAIteration takes batches of image and label only")
        self.engine, self.batchdata, self.network = engine, batchdata, engine.network
        self.bare: nn.Module = self.network.module if isinstance(self.network, DistributedDataParallel) else self.network
        self.image, self.label = (t.as_tensor() if isinstance(t, MetaTensor) else t for t in batch)
        self.left_out = False
        self.output: dict[str, Any] = {}
        self.checked: dict[str, Tensor] = {}
        self.check_finite(image=self.image)
        if engine.state.iteration == 1:
            self.settle()
            if not domain.contains(self.image):
                raise InputError("images are outside value_range; scale them to it in preprocessing")
        steps, length = engine.accumulation_steps, engine.state.epoch_length
        position = (engine.state.iteration - 1) % length if length else engine.state.iteration - 1
        # The first and the last iteration of an accumulated step; an epoch's end closes one.
        self.first, self.last = position % steps == 0, (position + 1) % steps == 0 or position + 1 == length

    def generator(self, seed: int) -> torch.Generator:
        """A generator whose state depends on (seed, iteration, rank) alone, so that a resumed run draws the same."""
        entropy = np.random.SeedSequence((seed, self.engine.state.iteration, self.engine.state.rank))
        return torch.Generator(self.image.device).manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def begin_output(self, image: Tensor, label: Tensor) -> None:
        """Start ``engine.state.output`` with what the network is trained on."""
        self.output = {Keys.IMAGE: image, Keys.LABEL: label}
        self.engine.state.output = self.output

    def begin_training(self) -> None:
        """Train mode, and gradients of zero at the beginning of an accumulated step."""
        self.network.train()
        if self.first:
            self.engine.optimizer.zero_grad(set_to_none=self.engine.optim_set_to_none)

    def forward_completed(self, pred: Tensor) -> None:
        """Record f(X) and fire MONAI's event."""
        self.output[Keys.PRED] = pred
        self.engine.fire_event(IterationEvents.FORWARD_COMPLETED)

    def ce(self, logits: Tensor, target: Tensor) -> Tensor:
        """The trainer's ``loss_function``, mean over the batch."""
        loss: Tensor = self.engine.loss_function(logits, target).mean()
        return loss

    def loss_completed(self, terms: Terms) -> None:
        """Record the terms and fire MONAI's event."""
        self.output["ce_loss"] = terms.ce_loss.detach()
        if terms.kl_loss is not None:
            self.output["kl_loss"], self.output["adversarial_accuracy"] = terms.kl_loss.detach(), terms.adversarial_accuracy
        self.output[Keys.LOSS] = terms.loss
        self.engine.fire_event(IterationEvents.LOSS_COMPLETED)
        self.check_finite(loss=terms.loss)

    def optimize(self, loss: Tensor, scale: GradientScale) -> dict[str, Any]:
        """Backward pass and, at the end of an accumulated step, the optimizer's; returns the output.

        With float16 a step whose values are not finite is left out, as long as a smaller scale can be tried.
        """
        engine = self.engine
        (loss / engine.accumulation_steps if engine.accumulation_steps > 1 else loss).backward()
        if self.last:
            scale.unscale(engine.optimizer)
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        self.check_finite(gradient=nn.utils.get_total_norm(gradients))
        # Before the optimizer, which would spread what is not finite over all weights.
        finite = self.settle(scale)
        if self.last:
            if finite:
                engine.optimizer.step()
            else:
                self.left_out = True
                logger.info("iteration %d was left out: float16 overflows, the scale of gradients is halved", engine.state.iteration)
            scale.update()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return self.output

    def check_finite(self, **tensors: Tensor) -> None:
        """Name quantities in which ``settle`` is to find a NaN or an infinite value, in the order in which they arise."""
        self.checked |= tensors

    def settle(self, scale: GradientScale | None = None) -> bool:
        """Stop if a quantity is not finite, naming the rows of the manifest: those concerned, or all. Scalars go to the host.

        Both in one transfer: it is the only place where a step waits for the device.

        Args:
            scale: where it can fall, what is not finite is no error, unless it is the image.

        Returns:
            Whether all quantities are finite.

        Raises:
            NumericError: before the optimizer's step.
        """
        scalars = {key: self.output[key] for key in SCALARS if key in self.output}
        # A sum is finite only if its terms are, and takes a fraction of the time; one that overflows is looked into.
        sums = [tensor.detach().sum().float() for tensor in self.checked.values()]
        values = torch.stack([*sums, *(value.detach().float() for value in scalars.values())]).cpu()
        finite = True
        for (name, tensor), total in zip(self.checked.items(), values.tolist(), strict=False):
            if not math.isfinite(total) and not bool(tensor.isfinite().all()):
                finite = False
                if name == "image" or scale is None or not scale.can_fall:
                    raise NumericError(self._not_finite(name, tensor))
        self.output |= dict(zip(scalars, values[len(sums) :], strict=True))
        self.checked = {}
        return finite

    def _not_finite(self, name: str, tensor: Tensor) -> str:
        rows = [int(row) for row in self.batchdata.get("row", [])]
        if tensor.ndim == 4 and rows:
            rows = [row for row, good in zip(rows, tensor.isfinite().flatten(1).all(dim=1).tolist(), strict=True) if not good]
        listed = first_of(sorted(rows), 8)
        state = self.engine.state
        where = f"epoch {state.epoch}, iteration {state.iteration}" + (f", rows {listed}" if rows else "")
        remedy = "check these images" if name == "image" else "lower learning_rate, or look at these images"
        return f"{where}: the {name} is NaN or infinite, and the step was not taken; {remedy}"


def _refuse_what_cannot_be_honored(engine: SupervisedTrainer) -> None:
    """Refuse trainer options that the step would otherwise ignore silently."""
    if engine.amp:
        raise InputError("SGAIteration has its own precision: set precision to bf16 and leave amp off")
    if engine.compile:
        raise InputError("SGAIteration needs input gradients of the plain network: leave compile off")
    if type(engine.inferer) is not SimpleInferer:
        raise InputError("SGAIteration trains on whole images: the inferer must be SimpleInferer")
