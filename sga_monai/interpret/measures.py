"""How much of a saliency map lies where it should: measures of each image, and their means over patients and seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sga_monai.data.dataset import CXRDataset
from sga_monai.interpret.localization import deletion_auc, energy_inside, insertion_auc, iou_at_area, pointing_game
from sga_monai.interpret.saliency import log_odds
from sga_monai.model.modes import device_of
from sga_monai.statistics.estimates import Estimate, patient_mean, share
from sga_monai.statistics.seeds import mean_over_seeds

MEASURES = {"energy_inside": energy_inside, "pointing_game": pointing_game, "iou_at_area": iou_at_area}
MINUS = "insertion_minus_deletion"
BATCH, STEPS = 16, 16


@dataclass(frozen=True)
class Cases:
    """The images that are explained.

    Attributes:
        image: ``[N, 1, H, W]`` in [0, 1].
        label: ``[N]``.
        row: of each image in the manifest.
        patient: key of each image's patient.
        drawable: of each image, whether it may be drawn: what is burned into an image may be a name.
        masks: bool ``[N, H, W]`` by region.
    """

    image: Tensor
    label: Tensor
    row: Sequence[str]
    patient: Sequence[Any]
    drawable: Sequence[bool]
    masks: dict[str, Tensor]

    @classmethod
    def of(cls, dataset: CXRDataset, masks: dict[str, Tensor]) -> Cases:
        """The images of ``dataset`` with ``masks`` of ``read_regions``."""
        image = torch.stack([dataset[i]["image"] for i in range(len(dataset))])
        label = torch.tensor([int(item["label"]) for item in dataset.data])
        drawable = [not item["burned_in"] for item in dataset.data]
        rows, patients = ([item[key] for item in dataset.data] for key in ("row", "patient"))
        return cls(image, label, rows, patients, drawable, masks)


@dataclass(frozen=True)
class Measured:
    """One measure of the maps of one model, image by image.

    Attributes:
        map: kind of the map, a key of ``saliency.METHODS``.
        region: name of the region; "image" where it is the whole image.
        measure: name of the measure.
        values: ``[S, N]``, one row a seed; NaN where an image has none.
        row: ``[N]``, of the manifest.
        patient: ``[N]``, any keys.
        chance: what a map without any preference would have; ``None`` where that is not known.
    """

    map: str
    region: str
    measure: str
    values: NDArray[np.float64]
    row: Sequence[str]
    patient: Sequence[Any]
    chance: float | None

    def describe(self, other: Measured | None = None) -> dict[str, Any]:
        """The mean with its interval, and the difference from ``other``, paired by image and by seed.

        With one seed the interval is over patients: Wilson's for the pointing game, that of t for the others, cut off at 0 and 1.
        With several it is over patients and seeds (see ``statistics.seeds.mean_over_seeds``). An image that has no figure with
        one of the seeds is left out.

        Returns:
            ``map, region, measure, value, low, high, n_images, n_patients, n_missing, n_seeds, chance, difference,
            difference_low, difference_high``; the last three are ``None`` without ``other``.
        """
        patient = np.asarray(self.patient)
        used = ~np.isnan(self.values).any(0)
        found = _mean(self.measure, self.values[:, used], patient[used])
        low, high = np.clip((found.low, found.high), -1 if self.measure == MINUS else 0, 1)
        change = None
        if other is not None:
            both = used & ~np.isnan(other.values).any(0)
            change = _plain_mean((self.values - other.values)[:, both], patient[both])
        return {
            "map": self.map,
            "region": self.region,
            "measure": self.measure,
            "value": found.value,
            "low": float(low),
            "high": float(high),
            "n_images": int(used.sum()),
            "n_patients": len(np.unique(patient[used])),
            "n_missing": int((~used).sum()),
            "n_seeds": len(self.values),
            "chance": self.chance,
            "difference": None if change is None else change.value,
            "difference_low": None if change is None else change.low,
            "difference_high": None if change is None else change.high,
        }


def measure_maps(kind: str, maps: Tensor, cases: Cases, network: nn.Module, curves: bool) -> Iterator[Measured]:
    """Each region and measure of the maps of one network, ``[N, 1, H, W]``.

    Args:
        kind: of the maps.
        maps: not negative.
        cases: the images.
        network: whose maps they are.
        curves: whether insertion and deletion AUC and their difference are measured too: each AUC costs ``STEPS + 1`` forward passes
            an image.
    """
    for region, mask in cases.masks.items():
        some = mask.flatten(1).any(1)
        rows, patients = ([key for key, used in zip(keys, some.tolist(), strict=True) if used] for keys in (cases.row, cases.patient))
        used, area = mask[some], mask[some].sum((1, 2)).double() / mask[0].numel()
        for measure, function in MEASURES.items():
            # Two random sets of share a have about a^2 in common and 2a - a^2 together.
            chance = float((area / (2 - area) if measure == "iou_at_area" else area).mean())
            # A few at a time, since a measure makes several copies of its maps, and of ranks.
            parts = zip(maps[some, 0].split(BATCH), used.split(BATCH), strict=True)
            values = torch.cat([function(*part).double() for part in parts]).numpy()
            yield Measured(kind, region, measure, values[None], rows, patients, chance)
    if curves:
        inserted, deleted = (_areas(curve, maps, cases, network).double().numpy() for curve in (insertion_auc, deletion_auc))
        yield Measured(kind, "image", "insertion_auc", inserted[None], cases.row, cases.patient, None)
        yield Measured(kind, "image", "deletion_auc", deleted[None], cases.row, cases.patient, None)
        # Both rise and fall with how sure a network is; what is left tells of the order that the map gives the pixels.
        yield Measured(kind, "image", MINUS, (inserted - deleted)[None], cases.row, cases.patient, 0.0)


def _mean(measure: str, values: NDArray[np.float64], patient: NDArray[Any]) -> Estimate:
    """Of a measure in [0, 1]."""
    # Tied maxima make parts of a hit, which are no proportion.
    if measure == "pointing_game" and len(values) == 1 and np.isin(values, (0, 1)).all():
        return share(values[0] == 1, patient)
    return _plain_mean(values, patient)


def _plain_mean(values: NDArray[np.float64], patient: NDArray[Any]) -> Estimate:
    if not values.size:
        return Estimate(math.nan, math.nan, math.nan)
    found = patient_mean(values[0], patient) if len(values) == 1 else mean_over_seeds(values, patient)
    return Estimate(found.value, found.low, found.high)


def _areas(curve: Callable[..., Tensor], maps: Tensor, cases: Cases, network: nn.Module) -> Tensor:
    """Insertion or deletion AUC of the probability of each image's label, ``[N]``."""
    device = device_of(network)
    sign = torch.where(cases.label == 1, 1.0, -1.0).to(device)
    values = []
    for image, found, signs in zip(cases.image.split(BATCH), maps.split(BATCH), sign.split(BATCH), strict=True):

        def probability(x: Tensor, signs: Tensor = signs) -> Tensor:
            return torch.sigmoid(signs * log_odds(network(x)))

        values.append(curve(probability, image.to(device), found[:, 0].to(device), STEPS).cpu())
    return torch.cat(values)
