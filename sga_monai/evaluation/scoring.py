"""From a network and images to predictions: the one loop in which evaluations, audits and hospitals score a dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.data import DataLoader
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from sga_monai.core.display import track
from sga_monai.evaluation.predictions import control_column, image_features, row_columns
from sga_monai.model.features import forward_with_features
from sga_monai.model.modes import device_of, frozen_statistics
from sga_monai.model.networks import last_layer
from sga_monai.model.scores import logit_difference

LungReader = Callable[[int], Tensor | None]


@dataclass(frozen=True)
class Control:
    """A change of the images, after which they are scored again to see what the score depends on.

    Attributes:
        name: the scores are in the column ``score_<name>``.
        change: from images ``[N, 1, H, W]`` to images of that shape; with ``needs_lung`` from images and bool masks ``[N, 1, H, W]``.
        needs_lung: only images with a lung mask are scored.
    """

    name: str
    change: Callable[..., Tensor]
    needs_lung: bool = False


@dataclass(frozen=True)
class Scored:
    """What a network says about the images of a dataset.

    Attributes:
        predictions: one line for each image, with the columns ``SCORED`` and one for each control; NaN where a control needs
            a lung mask and the image has none.
        features: input of the network's last layer, ``[N, D]``; D is 0 where it has no such layer.
    """

    predictions: pd.DataFrame
    features: NDArray[np.float32]


def score_dataset(
    network: nn.Module,
    dataset: Dataset[Any],
    batch_size: int = 32,
    controls: Sequence[Control] = (),
    lung: LungReader | None = None,
    title: str = "scoring",
    temperature: float = 1.0,
) -> Scored:
    """Score every image of a dataset, as it is and under each control.

    Args:
        network: images ``[N, 1, H, W]`` to logits ``[N, 2]``; evaluated in eval mode, on the device where it is, and left as it was.
        dataset: gives ``image`` ``[1, H, W]`` in [0, 1], ``label, patient, row, set``.
        batch_size: images at once.
        controls: changes of the images.
        lung: from a row's number to its lung mask, bool ``[1, H, W]``, or to ``None``.
        title: of the progress bar.
        temperature: the probability is sigmoid(score / temperature).

    Raises:
        NumericError: when a logit is NaN or infinite.

    Example:
        >>> from sga_monai.model import build_network
        >>> rows = [{"image": torch.rand(1, 32, 32), "label": i % 2, "patient": i, "row": i + 2, "set": "site"} for i in range(3)]
        >>> scored = score_dataset(build_network("resnet18"), rows, controls=[Control("dark", lambda image: image / 2)])
        >>> list(scored.predictions)[:7]
        ['set', 'row', 'patient', 'label', 'score', 'probability', 'score_dark']
        >>> scored.features.shape
        (3, 512)
    """
    frames, features = [], []
    with frozen_statistics(network), torch.no_grad():
        for batch in track(DataLoader(dataset, batch_size=batch_size), title):
            columns, part = score_batch(network, batch, controls, lung, temperature)
            features.append(part)
            frames.append(pd.DataFrame(columns))
    return Scored(pd.concat(frames, ignore_index=True), np.concatenate(features))


def score_batch(
    network: nn.Module,
    batch: Mapping[str, Any],
    controls: Sequence[Control] = (),
    lung: LungReader | None = None,
    temperature: float = 1.0,
) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """Score one mini-batch, as it is and under each control, with one forward pass for all of them.

    Arguments are those of ``score_dataset``; ``network`` is in eval mode.

    Returns:
        The columns of the predictions, and the features ``[N, D]``.

    Raises:
        NumericError: when a logit is NaN or infinite.
    """
    device = device_of(network)
    image = batch["image"].to(device)
    rows = row_columns(batch)["row"]
    lungs = [None] * len(rows) if lung is None else [lung(row) for row in rows]
    changed = [_changed(image, control, lungs) for control in controls]
    with torch.no_grad():
        everything = torch.cat([image, *(images for images, _ in changed)])
        if last_layer(network) is not None:
            logits, features = forward_with_features(network, everything)
        else:
            logits, features = network(everything), np.zeros((len(everything), 0), dtype=np.float32)
    sizes = [len(image), *(len(images) for images, _ in changed)]
    own, *others = logits.split(sizes)
    columns = prediction_columns(batch, own, temperature)
    for control, (_, known), part in zip(controls, changed, others, strict=True):
        scores = np.full(len(image), np.nan)
        scores[known] = logit_difference(part).cpu().numpy()
        columns[control_column(control.name)] = scores
    return columns | image_features(image), features[: len(image)]


def prediction_columns(batch: Mapping[str, Any], logits: Tensor, temperature: float = 1.0) -> dict[str, Any]:
    """``set, row, patient, label, score, probability`` of one mini-batch.

    Args:
        batch: collated, with ``set, row, patient, label``.
        logits: ``[N, 2]``.
        temperature: the probability is sigmoid(score / temperature).

    Raises:
        NumericError: when a logit is NaN or infinite.
    """
    score = logit_difference(logits).cpu()
    return row_columns(batch) | {"score": score.numpy(), "probability": torch.sigmoid(score / temperature).numpy()}


def _changed(image: Tensor, control: Control, lungs: Sequence[Tensor | None]) -> tuple[Tensor, list[int]]:
    """The changed images, and which of the mini-batch they are: those with the mask that the control needs."""
    if not control.needs_lung:
        return control.change(image), list(range(len(image)))
    known = [i for i, mask in enumerate(lungs) if mask is not None]
    if not known:
        return image[:0], known
    mask = torch.stack([mask for mask in lungs if mask is not None]).to(image.device)
    return control.change(image[known], mask), known
