"""Saliency maps as a picture: one row a case, one column a model."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from sga_monai.core.figures import figure_image, subplots
from sga_monai.core.files import write_bytes
from sga_monai.interpret.measures import Cases
from sga_monai.model.modes import device_of

logger = logging.getLogger(__name__)
OUTLINES = ("#00e5ff", "#ffd400", "#7cff6b", "#ff66c4")


def draw_first_cases(cases: Cases, maps: Mapping[str, Tensor], networks: Mapping[str, nn.Module], n_cases: int) -> Figure | None:
    """The first cases of each class that may be drawn; ``None`` where there is none.

    Args:
        cases: the images.
        maps: ``[N, 1, H, W]`` by model.
        networks: of the same models.
        n_cases: half of each class.
    """
    of_class = [[i for i, drawable in enumerate(cases.drawable) if drawable and cases.label[i] == value] for value in (0, 1)]
    chosen = sorted(i for numbers in of_class for i in numbers[: max(n_cases // 2, 1)])
    if not chosen:
        logger.warning("every image has BurnedInAnnotation YES: no picture is drawn")
        return None
    with torch.no_grad():
        probability = {
            name: network(cases.image[chosen].to(device_of(network))).softmax(1)[:, 1].cpu() for name, network in networks.items()
        }
    return draw_cases(
        cases.image[chosen],
        cases.label[chosen],
        {name: found[chosen] for name, found in maps.items()},
        probability,
        {name: mask[chosen] for name, mask in cases.masks.items()},
    )


def draw_cases(
    image: Tensor, label: Tensor, maps: Mapping[str, Tensor], probability: Mapping[str, Tensor], masks: Mapping[str, Tensor]
) -> Figure:
    """One row a case: the image with the outlines of the regions, then each model's map over it.

    Args:
        image: ``[B, 1, H, W]`` in [0, 1].
        label: ``[B]``.
        maps: ``[B, 1, H, W]``, not negative, by model.
        probability: ``[B]``, of the positive class, by model.
        masks: bool ``[B, H, W]`` by region.
    """
    figure, axes = subplots(len(image), 1 + len(maps), size=(2.2 * (1 + len(maps)), 2.35 * len(image)))
    for case, line in enumerate(axes):
        for axis in line:
            axis.imshow(image[case, 0].numpy(), cmap="gray", vmin=0, vmax=1)
            axis.set_xticks([])
            axis.set_yticks([])
        for (name, mask), color in zip(masks.items(), OUTLINES * len(masks), strict=False):
            if mask[case].any():
                line[0].contour(mask[case].numpy(), levels=[0.5], colors=[color], linewidths=0.9)
            if case == 0:
                line[0].plot([], [], color=color, label=name)
        line[0].set_ylabel(f"case {case + 1}: label {int(label[case])}", fontsize=9)
        for axis, (name, values) in zip(line[1:], maps.items(), strict=True):
            # Shown from a map's median up to its 99.5th percentile: the brightest pixel is often a single one.
            middle, top = values[case, 0].flatten().quantile(torch.tensor([0.5, 0.995]))
            shown = ((values[case, 0] - middle) / (top - middle).clamp(min=1e-12)).clamp(0, 1).numpy()
            axis.imshow(shown, cmap="inferno", alpha=0.75 * shown, vmin=0, vmax=1)
            axis.set_xlabel(f"p {float(probability[name][case]):.2f}", fontsize=8)
            if case == 0:
                axis.set_title(name, fontsize=10)
    axes[0][0].set_title("image", fontsize=10)
    if masks:
        axes[0][0].legend(fontsize=6, loc="lower right", framealpha=0.6)
    return figure


def write_pictures(out: Path, figure: Figure | None, table: Sequence[Mapping[str, Any]]) -> None:
    """``cases.png`` and ``tensorboard/``, instead of those of an earlier result.

    Args:
        out: the folder.
        figure: of ``draw_first_cases``.
        table: of ``explain_checkpoints``.
    """
    shutil.rmtree(out / "tensorboard", ignore_errors=True)
    (out / "cases.png").unlink(missing_ok=True)
    if figure is not None:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
        write_bytes(out / "cases.png", buffer.getvalue())
        writer = SummaryWriter(str(out / "tensorboard"))
        writer.add_image("saliency/cases", figure_image(figure), dataformats="HWC")
        writer.close()
    for model in dict.fromkeys(line["model"] for line in table):
        writer = SummaryWriter(str(out / "tensorboard" / model))
        for line in table:
            if line["model"] == model and not np.isnan(line["value"]):
                writer.add_scalar(f"saliency/{line['region']}/{line['measure']}/{line['map']}", line["value"])
        writer.close()
