"""Pictures of the images that a model calls wrongly, with what it looks at; they stay at the site."""

from __future__ import annotations

import io
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import binary_erosion
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor, nn
from torch.utils.tensorboard import FileWriter

from sga_monai.core.display import track
from sga_monai.core.errors import ReadError
from sga_monai.core.files import write_json
from sga_monai.data.dataset import CXRDataset
from sga_monai.evaluation.scoring import LungReader
from sga_monai.evaluation.stream import Streamed
from sga_monai.hospital.cases import FACTS, FOLDER, ranked_calls
from sga_monai.interpret.saliency import curved_layer, fullgrad_map, input_gradient_map

logger = logging.getLogger(__name__)

# Pictures of errors of each kind at most; each takes about three times as long as scoring the image.
MOST_ERRORS = 500
# Right calls of each class, for comparison.
RIGHT_CALLS = 2
# Errors of each kind in TensorBoard.
IN_TENSORBOARD = 4
# Side of a picture; smaller and larger images are resampled.
SIDE = 256
_TOGETHER = 8
OUTLINE = (64, 224, 208)


def write_heat_maps(
    network: nn.Module,
    dataset: CXRDataset | Streamed,
    predictions: pd.DataFrame,
    threshold: float,
    out: Path,
    lung: LungReader | None = None,
    most_errors: int = MOST_ERRORS,
) -> None:
    """Write ``heatmaps/row_<row>.jpg``: the image, and beside it the image under its heat map. The first also go to TensorBoard.

    No image with BurnedInAnnotation YES is drawn.

    Args:
        network: the model that is validated.
        dataset: the images.
        predictions: with the model's ``score``.
        threshold: scores from here on are called positive.
        out: output folder of the evaluation.
        lung: from a row's number to its lung mask, bool ``[1, H, W]``, or to ``None``; lungs are outlined where there is one.
        most_errors: of each kind, those farthest from the threshold.
    """
    index_of = {int(item["row"]): i for i, item in enumerate(dataset.data) if not item["burned_in"]}
    scored = predictions[predictions["score"].notna() & predictions["row"].isin(index_of)].set_index("row")
    wrong, right = ranked_calls(scored, threshold)
    chosen = [row for rows in wrong for row in rows[:most_errors]]
    compared = [row for rows in right for row in rows[:RIGHT_CALLS]]
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    (out / FOLDER).mkdir(parents=True)
    method = "input gradient" if curved_layer(network) else "FullGrad"
    write_json(out / FOLDER / FACTS, {"method": method, "lungs": lung is not None, "most_errors": most_errors})
    rows = chosen + compared
    shown = {row for kind in wrong for row in kind[:IN_TENSORBOARD]} | set(compared)
    writer = FileWriter(str(out / "tensorboard")) if rows else None
    for start in track(range(0, len(rows), _TOGETHER), "drawing errors"):
        images = _read_again(dataset, {row: index_of[row] for row in rows[start : start + _TOGETHER]})
        if not images:
            continue
        some, image = list(images), torch.stack(list(images.values()))
        heat = heat_map(network, image)
        for i, row in enumerate(some):
            picture = case_picture(image[i, 0], heat[i, 0], None if lung is None else lung(row))
            content = jpeg(picture)
            (out / FOLDER / f"row_{row:06d}.jpg").write_bytes(content)
            if writer is not None and row in shown:
                # As it is: SummaryWriter would compress it once more, as a PNG, which takes longer than drawing it.
                height, width, _ = picture.shape
                encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
                value = Summary.Value(tag=f"heat_maps/row_{row:06d}", image=encoded)
                writer.add_summary(Summary(value=[value]))
    if writer is not None:
        writer.close()


def _read_again(dataset: CXRDataset | Streamed, index_of: Mapping[int, int]) -> dict[int, Tensor]:
    """The images of some rows; one that could be scored and is gone now has no picture, and nothing else is lost."""
    images = {}
    for row, index in index_of.items():
        try:
            images[row] = dataset[index]["image"]
        except ReadError as error:
            logger.warning("row %d was scored and is not drawn: %s", row, error)
    return images


def heat_map(network: nn.Module, image: Tensor) -> Tensor:
    """Where the score comes from, ``[N, 1, H, W]``: FullGrad where it is exact, else the absolute gradient of the pixels."""
    return input_gradient_map(network, image) if curved_layer(network) else fullgrad_map(network, image)


def case_picture(image: Tensor, heat: Tensor, lung: Tensor | None) -> NDArray[np.uint8]:
    """The image, and beside it the image under its heat map, ``[SIDE, 2 SIDE + 8, 3]``; both with the outline of the lungs.

    Args:
        image: ``[H, W]`` in [0, 1].
        heat: ``[H, W]``, not negative.
        lung: bool ``[1, H, W]``.
    """
    gray = _resampled(image)
    plain = np.repeat(gray[..., None], 3, axis=2)
    # A few pixels would take all of the scale.
    top = float(torch.quantile(heat.flatten().float(), 0.995)) or 1.0
    strength = _resampled((heat / top).clamp(0, 1))
    colors = colormaps["inferno"](strength)[..., :3]
    alpha = (0.7 * strength)[..., None]
    pair = [plain, plain * (1 - alpha) + colors * alpha]
    pixels = [np.clip(np.rint(255 * part), 0, 255).astype(np.uint8) for part in pair]
    if lung is not None:
        inside = _resampled(lung[0].float()) > 0.5
        for part in pixels:
            part[inside & ~binary_erosion(inside, iterations=1)] = OUTLINE
    return np.concatenate([pixels[0], np.zeros((SIDE, 8, 3), dtype=np.uint8), pixels[1]], axis=1)


def _resampled(picture: Tensor) -> NDArray[np.float64]:
    """``[SIDE, SIDE]``, by area where it shrinks."""
    found = nn.functional.interpolate(picture[None, None].float(), size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return np.clip(found[0, 0].double().numpy(), 0, 1)


def jpeg(picture: NDArray[np.uint8]) -> bytes:
    """A picture ``[H, W, 3]`` as the bytes of a JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=82, optimize=True)
    return buffer.getvalue()
