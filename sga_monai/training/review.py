"""The review panel in TensorBoard: what Algorithm 1 masks and changes. No identifiers; cases are numbered."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.figures import figure_image, subplots
from sga_monai.model.modes import device_of, frozen_statistics
from sga_monai.sga.iteration import SGAIteration, Views
from sga_monai.sga.steps import input_gradient

logger = logging.getLogger(__name__)


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
        self.interval = check.whole("review_interval", interval, low=0)
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
        device = device_of(self.network)
        image, label = self.image.to(device), self.label.to(device)
        # The same random values each time, so that pictures of two epochs differ by the network alone.
        generator = torch.Generator(device).manual_seed(self.iteration.seed)
        try:
            views = self.iteration.views(self.network, image, label, generator)
        except InputError as error:
            # Natural training does nothing of what would be shown, so it does not end for it.
            if self.iteration.objective.kl_weight > 0:
                raise
            logger.warning("no review panel: %s", error)
            return
        with frozen_statistics(self.network):
            gradient = input_gradient(self.network, image, label)
            with torch.no_grad():
                probability = self.network(image).softmax(1)[:, 1]
        figure = draw_panel(image, views, gradient, label, probability)
        self.writer.add_image("review/validation_cases", figure_image(figure), epoch, dataformats="HWC")


def draw_panel(image: Tensor, views: Views, gradient: Tensor, label: Tensor, probability: Tensor) -> Figure:
    """One row a case: X, mask, X~, perturbation, X' and the input gradient.

    Args:
        image: ``[B, 1, H, W]`` in [0, 1].
        views: of ``SGAIteration.views``.
        gradient: ``[B, 1, H, W]``, shown by magnitude.
        label: ``[B]``.
        probability: ``[B]``, of the positive class.
    """
    perturbation = views.adversarial - views.masked
    bound = float(perturbation.abs().max()) or 1.0
    saliency = gradient.abs().sum(1, keepdim=True)
    saliency = saliency / saliency.amax((2, 3), keepdim=True).clamp(min=torch.finfo(saliency.dtype).tiny)
    gray = {"cmap": "gray", "vmin": 0, "vmax": 1}
    columns = (
        ("X", image, gray),
        ("mask", views.mask.float(), gray),
        ("X~ (masked)", views.masked, gray),
        (f"perturbation (+/- {bound:.3f})", perturbation, {"cmap": "RdBu_r", "vmin": -bound, "vmax": bound}),
        ("X' (adversarial)", views.adversarial, gray),
        ("saliency |gradient|", saliency.sqrt(), {"cmap": "inferno", "vmin": 0, "vmax": 1}),
    )
    figure, axes = subplots(len(image), 6, size=(13.2, 2.35 * len(image)))
    for case, line in enumerate(axes):
        for axis, (title, values, style) in zip(line, columns, strict=True):
            axis.imshow(values[case, 0].cpu().numpy(), interpolation="nearest", **style)
            axis.set_xticks([])
            axis.set_yticks([])
            if case == 0:
                axis.set_title(title, fontsize=10)
        line[0].set_ylabel(f"case {case + 1}: label {int(label[case])}, p {float(probability[case]):.2f}", fontsize=9)
    return figure
