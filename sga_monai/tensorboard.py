"""What a reviewer sees in TensorBoard. Tags and pictures carry no identifier; cases are numbered."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from sga_monai.errors import InputError
from sga_monai.settings import as_count
from sga_monai.sga import SGAIteration
from sga_monai.steps import frozen_statistics, input_gradient

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

SCALARS = (str(Keys.LOSS.value), "ce_loss", "kl_loss", "epsilon", "adversarial_accuracy")


class ScalarWriter:
    """Writes ``train_*`` scalars and ``learning_rate`` each iteration, ``val_*`` each epoch, hyper-parameters once.

    Args:
        summary_writer: a TensorBoard ``SummaryWriter``.
        evaluator: its metrics are written under their own names.
        hyper_parameters: shown as text.
    """

    def __init__(self, summary_writer: Any, evaluator: Engine, hyper_parameters: Mapping[str, Any]) -> None:
        self.writer = summary_writer
        self.evaluator = evaluator
        self.hyper_parameters = dict(hyper_parameters)

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after its ``ValidationHandler``."""
        # Not at the start, where a resume may still be refused.
        engine.add_event_handler(Events.ITERATION_STARTED(once=1), self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write_iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)

    def start(self, engine: Engine) -> None:
        """Write the hyper-parameters as a table."""
        rows = "\n".join(f"| {key} | {json.dumps(value)} |" for key, value in self.hyper_parameters.items())
        self.writer.add_text("hyper_parameters", f"| name | value |\n|---|---|\n{rows}")

    def write_iteration(self, engine: SupervisedTrainer) -> None:
        """Write the loss terms of one iteration."""
        output: Any = engine.state.output
        for key in SCALARS:
            if key in output:
                self.writer.add_scalar(f"train_{key}", output[key].item(), engine.state.iteration)
        self.writer.add_scalar("learning_rate", engine.optimizer.param_groups[0]["lr"], engine.state.iteration)

    def epoch(self, engine: Engine) -> None:
        """Write the validation metrics of one epoch."""
        if self.evaluator.state.epoch != engine.state.epoch:
            return
        for key, value in self.evaluator.state.metrics.items():
            self.writer.add_scalar(key, float(value), engine.state.epoch)
        self.writer.flush()


class ReviewPanel:
    """Every ``interval`` epochs a picture of the same validation cases: X, mask, X~, perturbation, X', saliency.

    Args:
        summary_writer: a TensorBoard ``SummaryWriter``.
        iteration: the training step whose steps 1 to 3 are shown.
        network: the trained network; it is left as it was.
        dataset: validation dataset; the first cases of each class are taken, none with BurnedInAnnotation YES.
        n_cases: number of cases, half of each class.
        interval: epochs between pictures; the last of ``max_epochs`` has one too. 0 turns the panel off.
    """

    def __init__(
        self,
        summary_writer: Any,
        iteration: SGAIteration,
        network: nn.Module,
        dataset: Sequence[Mapping[str, Any]],
        n_cases: int = 4,
        interval: int = 5,
    ) -> None:
        self.interval = as_count("review_interval", interval)
        self.writer = summary_writer
        self.iteration = iteration
        self.network = network
        # What is burned into an image may be a name: such an image is not drawn.
        labels = [None if item.get("burned_in") else int(item[Keys.LABEL]) for item in dataset]
        per_class = max(n_cases // 2, 1)
        chosen = sorted(i for value in (0, 1) for i in [k for k, label in enumerate(labels) if label == value][:per_class])
        if not chosen and interval > 0:
            raise InputError("every validation image has BurnedInAnnotation YES, so none may be drawn; set review_interval to 0")
        chosen = chosen or [0]
        self.image = torch.stack([torch.as_tensor(np.asarray(dataset[i][Keys.IMAGE])) for i in chosen])
        self.label = torch.tensor([int(dataset[i][Keys.LABEL]) for i in chosen])

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        if self.interval > 0:
            engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Draw the panel when it is due."""
        epoch = engine.state.epoch
        if epoch % self.interval and epoch != engine.state.max_epochs:
            return
        device = next(self.network.parameters()).device
        image, label = self.image.to(device), self.label.to(device)
        # The same random values each time, so that pictures of two epochs differ by the network alone.
        generator = torch.Generator(device).manual_seed(self.iteration.seed)
        stages = self.iteration.stages(self.network, image, label, generator)
        with frozen_statistics(self.network):
            gradient = input_gradient(self.network, image, label)
            with torch.no_grad():
                probability = self.network(image).softmax(1)[:, 1]
        figure = draw_panel(image, stages, gradient, label, probability)
        self.writer.add_figure("review/validation_cases", figure, epoch)
        plt.close(figure)


def draw_panel(image: Tensor, stages: Mapping[str, Tensor], gradient: Tensor, label: Tensor, probability: Tensor) -> Figure:
    """One row a case: X, mask, X~, perturbation, X' and the input gradient.

    Args:
        image: ``[B, 1, H, W]`` in [0, 1].
        stages: ``mask, masked, adversarial`` and ``epsilon`` of ``SGAIteration.stages``.
        gradient: ``[B, 1, H, W]``, shown by magnitude.
        label: ``[B]``.
        probability: ``[B]``, of the positive class.
    """
    perturbation = stages["adversarial"] - stages["masked"]
    bound = float(perturbation.abs().max()) or 1.0
    saliency = gradient.abs().sum(1, keepdim=True)
    saliency = saliency / saliency.amax((2, 3), keepdim=True).clamp(min=torch.finfo(saliency.dtype).tiny)
    gray = {"cmap": "gray", "vmin": 0, "vmax": 1}
    columns = (
        ("X", image, gray),
        ("mask", stages["mask"].float(), gray),
        ("X~ (masked)", stages["masked"], gray),
        (f"perturbation (+/- {bound:.3f})", perturbation, {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}),
        ("X' (adversarial)", stages["adversarial"], gray),
        ("saliency |gradient|", saliency.sqrt(), {"cmap": "inferno", "vmin": 0, "vmax": 1}),
    )
    figure, axes = plt.subplots(len(image), 6, figsize=(13.2, 2.35 * len(image)), squeeze=False, layout="constrained")
    for case, line in enumerate(axes):
        for axis, (title, values, style) in zip(line, columns, strict=True):
            axis.imshow(values[case, 0].cpu().numpy(), interpolation="nearest", **style)
            axis.set_xticks([])
            axis.set_yticks([])
            if case == 0:
                axis.set_title(title, fontsize=10)
        line[0].set_ylabel(f"case {case + 1}: label {int(label[case])}, p {float(probability[case]):.2f}", fontsize=9)
    return figure
