"""Heat maps of a site's most confident correct and incorrect calls; they stay at the site."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from sga_monai.core.figures import figure_image, subplots
from sga_monai.data.dataset import CXRDataset
from sga_monai.evaluation.stream import Streamed
from sga_monai.interpret.saliency import input_gradient_map

N_CASES = 8


def write_heat_maps(network: nn.Module, dataset: CXRDataset | Streamed, predictions: pd.DataFrame, threshold: float, out: Path) -> None:
    """Write ``heatmaps/row_<row>.png`` and TensorBoard images; no image with BurnedInAnnotation YES is drawn.

    Args:
        network: the model that is validated.
        dataset: the images.
        predictions: with the model's ``score``.
        threshold: scores from here on are called positive.
        out: output folder of the evaluation.
    """
    index_of = {int(item["row"]): i for i, item in enumerate(dataset.data) if not item["burned_in"]}
    scored = predictions[predictions["score"].notna() & predictions["row"].isin(index_of)].set_index("row")
    rows = confident_calls(scored, threshold)
    shutil.rmtree(out / "heatmaps", ignore_errors=True)
    (out / "heatmaps").mkdir(parents=True)
    if not rows:
        return
    image = torch.stack([dataset[index_of[row]]["image"] for row in rows])
    heat = heat_map(network, image)
    writer = SummaryWriter(str(out / "tensorboard"))
    for i, row in enumerate(rows):
        line = scored.loc[row]
        figure, axes = subplots(1, 2, size=(3.6, 1.95))
        for axis in axes[0]:
            axis.imshow(image[i, 0], cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
        axes[0, 1].imshow(heat[i, 0], cmap="inferno", alpha=0.55)
        called = "called positive" if line["score"] >= threshold else "called negative"
        figure.suptitle(f"row {row}: label {int(line['label'])}, {called}, probability {line['probability']:.2f}", fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
        (out / "heatmaps" / f"row_{row:06d}.png").write_bytes(buffer.getvalue())
        writer.add_image(f"heat_maps/row_{row:06d}", figure_image(figure), dataformats="HWC")
    writer.close()


def confident_calls(scored: pd.DataFrame, threshold: float) -> list[int]:
    """Rows, sorted, of the calls farthest from the threshold on the wrong and on the right side, as many of each class.

    Args:
        scored: ``label`` and ``score``, indexed by row.
        threshold: scores from here on are called positive.
    """
    margin = (scored["score"] - threshold) * np.where(scored["label"] == 1, 1, -1)
    chosen: set[int] = set()
    for label in (1, 0):
        order = margin[scored["label"] == label].sort_values().index
        chosen |= {*map(int, order[: N_CASES // 4]), *map(int, order[::-1][: N_CASES // 4])}
    return sorted(chosen)


def heat_map(network: nn.Module, image: Tensor) -> Tensor:
    """Absolute gradient of the logit difference, ``[N, 1, H, W]``, averaged over 9 x 9 pixels: single ones say little."""
    return nn.functional.avg_pool2d(input_gradient_map(network, image), 9, 1, 4)
