"""Where models look: saliency maps of the same cases side by side, and how much of them lies in regions of truth."""

from __future__ import annotations

import io
import json
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
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
from sga_monai.data.manifest import load_manifest, read_manifest
from sga_monai.data.masks import read_mask
from sga_monai.data.transforms import preprocessing
from sga_monai.imaging.read import read_cxr
from sga_monai.interpret.localization import boxes_to_mask, deletion_auc, energy_inside, insertion_auc, iou_at_area, pointing_game
from sga_monai.interpret.saliency import METHODS, logit_difference
from sga_monai.model.network import CXRResNet18
from sga_monai.model.weights import load_best_model, preparation_settings
from sga_monai.statistics.estimates import patient_mean

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
    standard deviation of a 16th of its side; each as a mean with an interval over patients.
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
    out = Path(output_dir)
    if any((out / name).exists() for name in ("run.json", "records.jsonl")):
        raise InputError("output_dir is the folder of a run or an experiment; give a folder of its own inside it")
    for name in (*checkpoints, *(regions or {})):
        if not re.fullmatch(r"[\w][\w .,=()-]*", name) or name in ("lung", "boxes"):
            raise InputError(
                f"the name {name!r} must be of letters, digits, spaces and .,=()- and not be lung or boxes, which the manifest gives"
            )
    prepared = {preparation_settings(path, image_size, voi) for path in checkpoints.values()}
    if len(prepared) > 1:
        listed = "; ".join(f"image_size {size}, voi {kind}" for size, kind in sorted(prepared))
        raise InputError(f"the models were trained on images prepared in different ways ({listed}); explain them apart")
    size, voi = prepared.pop()
    networks = {name: load_best_model(CXRResNet18(), str(path)).eval() for name, path in checkpoints.items()}
    rows = load_manifest(manifest, dataset_dir, split)
    rows = [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(limit, len(rows))).round().astype(int))]
    facts = {int(row["row"]): row for row in read_manifest(manifest)}
    dataset = CXRDataset(rows, preprocessing(size, voi), skip_failed=True)
    if dataset.failures:
        logger.warning("%d images cannot be read and are left out", len(dataset.failures))
    masks = _masks(dataset, facts, Path(dataset_dir), regions or {}, size)
    image = torch.stack([dataset[i]["image"] for i in range(len(dataset))])
    label = torch.tensor([int(item["label"]) for item in dataset.data])
    patient = [item["patient"] for item in dataset.data]
    table, maps = [], {}
    for name, network in networks.items():
        for kind, method in METHODS.items():
            maps[name, kind] = _maps(network, method, image, f"{name}: {kind}")
            table += _measure(name, kind, maps[name, kind], image, label, patient, masks, network)
    write_csv(out / "saliency.csv", pd.DataFrame(table))
    write_json(out / "saliency.json", table)
    drawn = [i for i, item in enumerate(dataset.data) if not item["burned_in"]]
    cases = sorted(i for value in (0, 1) for i in [i for i in drawn if label[i] == value][: max(n_cases // 2, 1)])
    shutil.rmtree(out / "tensorboard", ignore_errors=True)
    if not cases:
        logger.warning("every image has BurnedInAnnotation YES: no picture is drawn")
        _write_tensorboard(out, None, table)
        return table
    with torch.no_grad():
        probability = {name: network(image[cases]).softmax(1)[:, 1] for name, network in networks.items()}
    figure = draw_cases(
        image[cases],
        label[cases],
        {name: maps[name, "fullgrad"][cases] for name in networks},
        probability,
        {name: mask[cases] for name, mask in masks.items()},
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    write_whole(out / "cases.png", lambda path: path.write_bytes(buffer.getvalue()))
    _write_tensorboard(out, figure, table)
    return table


def render(table: Sequence[Mapping[str, Any]]) -> str:
    """The table of ``explain_checkpoints`` as text: one line a model, map and region."""
    measures = list(dict.fromkeys(line["measure"] for line in table))
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("model", "map", "region", "images", "patients", "share", *measures):
        shown.add_column(column, justify="left" if column in ("model", "map", "region") else "right")
    for key in dict.fromkeys((line["model"], line["map"], line["region"]) for line in table):
        lines = {line["measure"]: line for line in table if (line["model"], line["map"], line["region"]) == key}
        first = next(iter(lines.values()))
        counts = (str(first["n_images"]), str(first["n_patients"]), figure_text(first["chance"]))
        shown.add_row(*key, *counts, *(estimate_text(lines.get(measure)) for measure in measures))
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
            # From a map's median up: what is below says where it does not look. The brightest pixel is often a single one.
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


def _masks(
    dataset: CXRDataset, facts: Mapping[int, Mapping[str, str]], root: Path, regions: Mapping[str, str], size: int
) -> dict[str, Tensor]:
    """Regions by name, bool ``[N, size, size]``, empty where an image has none; regions that no image has are left out."""
    root = root.resolve()
    found: dict[str, list[Tensor]] = {}
    for item in dataset.data:
        row = facts[int(item["row"])]
        paths = {name: f"{folder}/{Path(row['image']).stem}.png" for name, folder in regions.items()}
        if row.get("lung_mask"):
            paths["lung"] = row["lung_mask"]
        masks = {name: _read_mask(root, path, row, name, size) for name, path in paths.items()}
        if row.get("boxes"):
            masks["boxes"] = boxes_to_mask(json.loads(row["boxes"]), read_cxr(root / row["image"]).shape, size)
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


def _measure(
    model: str,
    kind: str,
    maps: Tensor,
    image: Tensor,
    label: Tensor,
    patient: Sequence[Any],
    masks: Mapping[str, Tensor],
    network: nn.Module,
) -> list[dict[str, Any]]:
    lines = []
    for region, mask in masks.items():
        some = mask.flatten(1).any(1)
        keys = [key for key, used in zip(patient, some.tolist(), strict=True) if used]
        share = mask[some].double().mean((1, 2))
        for measure, function in MEASURES.items():
            mean = patient_mean(function(maps[some, 0], mask[some]), keys)
            # Two random sets of share a have about a^2 in common and 2a - a^2 together.
            chance = float((share / (2 - share) if measure == "iou_at_area" else share).mean())
            lines.append({"model": model, "map": kind, "region": region, "measure": measure, **asdict(mean), "chance": chance})
    sign = torch.where(label == 1, 1.0, -1.0)
    # A curve costs STEPS + 1 forward passes an image, so the cheap views go without.
    for measure, curve in (("insertion_auc", insertion_auc), ("deletion_auc", deletion_auc)) if kind == "fullgrad" else ():
        values = []
        for part, map_part, sign_part in zip(image.split(BATCH), maps.split(BATCH), sign.split(BATCH), strict=True):

            def probability(x: Tensor, sign_part: Tensor = sign_part) -> Tensor:
                return torch.sigmoid(sign_part * logit_difference(network(x)))

            values.append(curve(probability, part, map_part[:, 0], STEPS))
        mean = patient_mean(torch.cat(values), patient)
        lines.append({"model": model, "map": kind, "region": "image", "measure": measure, **asdict(mean), "chance": None})
    return lines


def _write_tensorboard(out: Path, figure: Figure | None, table: Sequence[Mapping[str, Any]]) -> None:
    if figure is not None:
        writer = SummaryWriter(str(out / "tensorboard"))
        writer.add_image("saliency/cases", figure_image(figure), dataformats="HWC")
        writer.close()
    for model in dict.fromkeys(line["model"] for line in table):
        writer = SummaryWriter(str(out / "tensorboard" / model))
        for line in table:
            if line["model"] == model and not np.isnan(line["value"]):
                writer.add_scalar(f"saliency/{line['region']}/{line['measure']}/{line['map']}", line["value"])
        writer.close()
