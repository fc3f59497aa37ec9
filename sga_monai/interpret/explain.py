"""Saliency maps of several models on the same cases, and how much of them lies in lungs, boxes and other regions."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from sga_monai.core.display import estimate_text, figure_text, table_text, track
from sga_monai.core.errors import InputError, ReadError
from sga_monai.core.figures import figure_image, subplots
from sga_monai.core.files import write_csv, write_json, write_whole
from sga_monai.data.dataset import CXRDataset
from sga_monai.data.masks import read_mask
from sga_monai.evaluation.cohort import Cohort, list_cohort, read_cohorts
from sga_monai.imaging.read import read_cxr
from sga_monai.interpret.localization import boxes_to_mask, deletion_auc, energy_inside, insertion_auc, iou_at_area, pointing_game
from sga_monai.interpret.saliency import METHODS, curved_layer, log_odds
from sga_monai.model.weights import load_trained_models
from sga_monai.statistics.estimates import PatientMean, patient_mean, share

logger = logging.getLogger(__name__)
MEASURES = {"energy_inside": energy_inside, "pointing_game": pointing_game, "iou_at_area": iou_at_area}
BATCH, STEPS = 16, 16
OUTLINES = ("#00e5ff", "#ffd400", "#7cff6b", "#ff66c4")


def explain_checkpoints(
    checkpoints: Mapping[str, str | Path],
    manifest: str | Path,
    dataset_dir: str | Path,
    output_dir: str | Path,
    regions: Mapping[str, str] | None = None,
    split: str = "test",
    image_size: int | None = None,
    voi: str | None = None,
    n_cases: int = 6,
    limit: int = 200,
) -> list[dict[str, Any]]:
    """Saliency of several models on the same images: ``saliency.csv``, ``saliency.json``, ``cases.png``, TensorBoard.

    Measured for each map of ``saliency.METHODS``: energy inside, pointing game and IoU at the region's area for each
    region; for FullGrad insertion and deletion AUC of the probability of the label, from an image that is blurred with a
    standard deviation of a 16th of its side; each as a mean with an interval over patients, which is Wilson's for the
    pointing game (see ``statistics.estimates.share``) and cut off at 0 and 1 for the others. Where FullGrad is not exact for
    one of the networks (see ``saliency.fullgrad``), input gradients take its place for all.
    ``chance`` is what a map without any preference would have: the region's share a of the image, a / (2 - a) for the IoU.

    Args:
        checkpoints: path of a ``model.pt`` by the name under which it is shown.
        manifest: the images; its columns ``lung_mask`` and ``boxes`` are the regions "lung" and "boxes".
        dataset_dir: the folder that the images are relative to.
        output_dir: an earlier result there is replaced.
        regions: further regions: a folder below ``dataset_dir`` by name, which holds ``<image's name>.png``, above zero
            inside; images without a file or with an empty one are left out of this region.
        split: rows of this split are taken.
        image_size: pixels of a side; ``None`` as in the checkpoints' runs, which must agree.
        voi: see ``read_cxr``; ``None`` as in the checkpoints' runs.
        n_cases: cases in the picture, half of each class.
        limit: number of images, evenly spaced over the rows.

    Returns:
        One dictionary for each model, map, region and measure: ``model, map, region, measure, value, low, high,
        n_images, n_patients, n_missing, chance``.

    Raises:
        InputError: when a checkpoint, the manifest or a region is refused.
    """
    out, regions = Path(output_dir), regions or {}
    _refuse_names(out, (*checkpoints, *regions))
    models = load_trained_models(checkpoints, image_size=image_size, voi=voi)
    cohort = list_cohort(manifest, dataset_dir, models.preparation, split, limit=limit)
    (dataset,) = read_cohorts([cohort])
    cases = _Cases.of(dataset, _masks(dataset, cohort, Path(dataset_dir), regions))
    main = _main_map(models.networks)
    maps = {
        (name, kind): _maps(network, METHODS[kind], cases.image, f"{name}: {kind}")
        for name, network in models.networks.items()
        for kind in dict.fromkeys((main, "input_gradient", "grad_cam"))
    }
    table = [line for (name, kind), found in maps.items() for line in _measure(name, kind, found, cases, models.networks[name], main)]
    write_csv(out / "saliency.csv", pd.DataFrame(table))
    write_json(out / "saliency.json", table)
    figure = _draw(cases, {name: maps[name, main] for name in models.networks}, models.networks, n_cases)
    _write_pictures(out, figure, table)
    return table


@dataclass(frozen=True)
class _Cases:
    """The images that are explained.

    Attributes:
        image: ``[N, 1, H, W]`` in [0, 1].
        label: ``[N]``.
        patient: key of each image's patient.
        drawable: of each image, whether it may be drawn: what is burned into an image may be a name.
        masks: bool ``[N, H, W]`` by region.
    """

    image: Tensor
    label: Tensor
    patient: Sequence[Any]
    drawable: Sequence[bool]
    masks: Mapping[str, Tensor]

    @classmethod
    def of(cls, dataset: CXRDataset, masks: Mapping[str, Tensor]) -> _Cases:
        image = torch.stack([dataset[i]["image"] for i in range(len(dataset))])
        label = torch.tensor([int(item["label"]) for item in dataset.data])
        drawable = [not item["burned_in"] for item in dataset.data]
        return cls(image, label, [item["patient"] for item in dataset.data], drawable, masks)


def _refuse_names(out: Path, names: Sequence[str]) -> None:
    """Refuse the folder of a run, and names of models and regions that cannot be shown."""
    if any((out / name).exists() for name in ("run.json", "records.jsonl")):
        raise InputError("output_dir is the folder of a run or an experiment; give a folder of its own inside it")
    for name in names:
        if not re.fullmatch(r"[\w][\w .,=()-]*", name) or name in ("lung", "boxes"):
            raise InputError(
                f"the name {name!r} must be of letters, digits, spaces and .,=()- and not be lung or boxes, which the manifest gives"
            )


def _draw(cases: _Cases, maps: Mapping[str, Tensor], networks: Mapping[str, nn.Module], n_cases: int) -> Figure | None:
    """The first cases of each class that may be drawn; ``None`` where there is none."""
    of_class = [[i for i, drawable in enumerate(cases.drawable) if drawable and cases.label[i] == value] for value in (0, 1)]
    chosen = sorted(i for numbers in of_class for i in numbers[: max(n_cases // 2, 1)])
    if not chosen:
        logger.warning("every image has BurnedInAnnotation YES: no picture is drawn")
        return None
    with torch.no_grad():
        probability = {name: network(cases.image[chosen]).softmax(1)[:, 1] for name, network in networks.items()}
    return draw_cases(
        cases.image[chosen],
        cases.label[chosen],
        {name: found[chosen] for name, found in maps.items()},
        probability,
        {name: mask[chosen] for name, mask in cases.masks.items()},
    )


def render(table: Sequence[Mapping[str, Any]]) -> str:
    """The table of ``explain_checkpoints`` as text: one line a model, map and region."""
    measures = list(dict.fromkeys(line["measure"] for line in table))
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("model", "map", "region", "images", "patients", "chance", "chance of IoU", *measures):
        shown.add_column(column, justify="left" if column in ("model", "map", "region") else "right")
    for key in dict.fromkeys((line["model"], line["map"], line["region"]) for line in table):
        lines = {line["measure"]: line for line in table if (line["model"], line["map"], line["region"]) == key}
        first = next(iter(lines.values()))
        counts = (str(first["n_images"]), str(first["n_patients"]))
        chances = (figure_text(line["chance"]) for line in (first, lines.get("iou_at_area", first)))
        shown.add_row(*key, *counts, *chances, *(estimate_text(lines.get(measure)) for measure in measures))
    return table_text(shown, 240)


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


def _masks(dataset: CXRDataset, cohort: Cohort, root: Path, regions: Mapping[str, str]) -> dict[str, Tensor]:
    """Regions by name, bool ``[N, size, size]``, empty where an image has none; regions that no image has are left out."""
    root, size = root.resolve(), cohort.preparation.image_size
    found: dict[str, list[Tensor]] = {}
    for item in dataset.data:
        row = cohort.cells[item["row"]]
        masks = {name: _read_mask(root, f"{folder}/{Path(row['image']).stem}.png", row, name, size) for name, folder in regions.items()}
        lung = None if cohort.lung is None else cohort.lung(item["row"])
        if lung is not None:
            masks["lung"] = lung[0]
        if row.get("boxes"):
            shape = read_cxr(root / row["image"], cohort.preparation.voi, orientation=cohort.preparation.orientation).shape
            masks["boxes"] = boxes_to_mask(json.loads(row["boxes"]), shape, size)
        for name in dict.fromkeys(["boxes", "lung", *regions]):
            found.setdefault(name, []).append(masks.get(name, torch.zeros((size, size), dtype=torch.bool)))
    stacked = {name: torch.stack(masks) for name, masks in found.items()}
    for name in regions:
        if not stacked[name].any():
            raise InputError(f"region {name}: no image of the manifest has a picture there; the folder is relative to dataset_dir")
    return {name: mask for name, mask in stacked.items() if mask.any()}


def _read_mask(root: Path, path: str, row: Mapping[str, str], name: str, size: int) -> Tensor:
    """The mask of a row; empty where there is no file."""
    full = (root / path).resolve()
    if not full.is_relative_to(root):
        raise InputError(f"region {name}: the picture of row {row['row']} lies outside dataset_dir; correct the folder")
    if not full.is_file():
        return torch.zeros((size, size), dtype=torch.bool)
    try:
        return read_mask(full, size)
    except ReadError:
        raise InputError(f"region {name}: the picture of row {row['row']} cannot be read as a PNG; restore or remove it") from None


def _maps(network: nn.Module, method: Any, image: Tensor, description: str) -> Tensor:
    return torch.cat([method(network, part) for part in track(image.split(BATCH), description)])


def _main_map(networks: Mapping[str, nn.Module]) -> str:
    """The map that is drawn: one kind for all networks, so that they can be compared."""
    curved = {name: layer for name, network in networks.items() if (layer := curved_layer(network)) is not None}
    if not curved:
        return "fullgrad"
    listed = ", ".join(f"{name} ({layer})" for name, layer in curved.items())
    logger.warning("FullGrad is exact for piecewise affine networks only, not for %s: input gradients are drawn instead", listed)
    return "input_gradient"


def _measure(model: str, kind: str, maps: Tensor, cases: _Cases, network: nn.Module, main: str) -> list[dict[str, Any]]:
    """A line for each region and measure, and for the map that is drawn two of the whole image."""
    lines = []
    for region, mask in cases.masks.items():
        some = mask.flatten(1).any(1)
        keys = [key for key, used in zip(cases.patient, some.tolist(), strict=True) if used]
        area = mask[some].double().mean((1, 2))
        for measure, function in MEASURES.items():
            mean = _mean(measure, function(maps[some, 0], mask[some]), keys)
            # Two random sets of share a have about a^2 in common and 2a - a^2 together.
            chance = float((area / (2 - area) if measure == "iou_at_area" else area).mean())
            lines.append({"model": model, "map": kind, "region": region, "measure": measure, **asdict(mean), "chance": chance})
    # A curve costs STEPS + 1 forward passes an image, so the cheap views go without.
    for measure, curve in (("insertion_auc", insertion_auc), ("deletion_auc", deletion_auc)) if kind == main else ():
        mean = _mean(measure, _areas(curve, maps, cases, network), cases.patient)
        lines.append({"model": model, "map": kind, "region": "image", "measure": measure, **asdict(mean), "chance": None})
    return lines


def _mean(measure: str, values: Tensor, patient: Sequence[Any]) -> PatientMean:
    """``patient_mean`` of a measure in [0, 1], with an interval that does not leave it."""
    figures, keys = values.numpy(), np.asarray(patient)
    mean, used = patient_mean(figures, keys), ~np.isnan(figures)
    # Tied maxima make parts of a hit, which are no proportion.
    if measure == "pointing_game" and np.isin(figures[used], (0, 1)).all():
        hits = share(figures[used] == 1, keys[used])
        return replace(mean, low=hits.low, high=hits.high)
    low, high = np.clip((mean.low, mean.high), 0, 1)
    return replace(mean, low=float(low), high=float(high))


def _areas(curve: Callable[..., Tensor], maps: Tensor, cases: _Cases, network: nn.Module) -> Tensor:
    """Insertion or deletion AUC of the probability of each image's label, ``[N]``."""
    sign = torch.where(cases.label == 1, 1.0, -1.0)
    values = []
    for image, found, signs in zip(cases.image.split(BATCH), maps.split(BATCH), sign.split(BATCH), strict=True):

        def probability(x: Tensor, signs: Tensor = signs) -> Tensor:
            return torch.sigmoid(signs * log_odds(network(x)))

        values.append(curve(probability, image, found[:, 0], STEPS))
    return torch.cat(values)


def _write_pictures(out: Path, figure: Figure | None, table: Sequence[Mapping[str, Any]]) -> None:
    """``cases.png`` and ``tensorboard/``, instead of those of an earlier result."""
    shutil.rmtree(out / "tensorboard", ignore_errors=True)
    (out / "cases.png").unlink(missing_ok=True)
    if figure is not None:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
        write_whole(out / "cases.png", lambda path: path.write_bytes(buffer.getvalue()))
        writer = SummaryWriter(str(out / "tensorboard"))
        writer.add_image("saliency/cases", figure_image(figure), dataformats="HWC")
        writer.close()
    for model in dict.fromkeys(line["model"] for line in table):
        writer = SummaryWriter(str(out / "tensorboard" / model))
        for line in table:
            if line["model"] == model and not np.isnan(line["value"]):
                writer.add_scalar(f"saliency/{line['region']}/{line['measure']}/{line['map']}", line["value"])
        writer.close()
