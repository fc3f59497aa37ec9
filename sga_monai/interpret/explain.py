"""Saliency maps of several models on the same cases, and how much of them lies in lungs, boxes and other regions."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich import box
from rich.table import Table
from torch import Tensor, nn

from sga_monai.core.display import estimate_text, figure_text, table_text, track
from sga_monai.core.errors import InputError
from sga_monai.core.files import write_csv, write_json
from sga_monai.core.folders import move_results_aside, refuse_other_results
from sga_monai.core.provenance import differences
from sga_monai.evaluation.cohort import list_cohort, read_cohorts
from sga_monai.interpret.measures import BATCH, Cases, Measured, measure_maps
from sga_monai.interpret.pictures import draw_first_cases, write_pictures
from sga_monai.interpret.regions import read_regions
from sga_monai.interpret.saliency import METHODS, curved_layer
from sga_monai.model.modes import default_device, device_of
from sga_monai.model.preparation import run_identity
from sga_monai.model.weights import load_trained_models

logger = logging.getLogger(__name__)
ENDS = {"value": "", "low": "_low", "high": "_high"}


def explain_checkpoints(
    checkpoints: Mapping[str, str | Path | Sequence[str | Path]],
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
    """Saliency of several models on the same images, measured and drawn.

    Writes ``saliency.csv`` and ``saliency.json`` (the table), ``saliency_images.csv`` (the figures of each image), ``cases.png`` and
    ``tensorboard/``.

    Measured for each map of ``saliency.METHODS``: energy inside, pointing game and IoU at the region's area for each
    region; for FullGrad insertion and deletion AUC of the probability of the label, from an image that is blurred with a
    standard deviation of a 16th of its side, and the first minus the second, which alone can be compared between models; each as
    a mean with its interval, and as a difference from the first model, paired by image and seed (see
    ``measures.Measured.describe``). Where FullGrad is not exact for one of the networks (see ``saliency.fullgrad``), input gradients
    take its place for all.
    ``chance`` is what a map without any preference would have: the region's share a of the image, a / (2 - a) for the IoU.

    Args:
        checkpoints: path of a ``model.pt`` by the name under which it is shown, or the paths of the method's seeds, as many and in
            the same order for each.
        manifest: the images; its columns ``lung_mask`` and ``boxes`` are the regions "lung" and "boxes".
        dataset_dir: the folder that the images are relative to.
        output_dir: an earlier result there is replaced.
        regions: further regions: a folder below ``dataset_dir`` by name, which holds ``<image's name>.png`` (see
            ``picture_name``), above zero inside; images without a file or with an empty one are left out of this region.
        split: rows of this split are taken.
        image_size: pixels of a side; ``None`` as in the checkpoints' runs, which must agree.
        voi: see ``read_cxr``; ``None`` as in the checkpoints' runs.
        n_cases: cases in the picture, half of each class.
        limit: number of images, evenly spaced over the rows.

    Returns:
        One dictionary for each model, map, region and measure: ``model, map, region, measure, value, low, high,
        n_images, n_patients, n_missing, n_seeds, chance, difference, difference_low, difference_high``.

    Raises:
        InputError: when a checkpoint, the manifest or a region is refused, the models have different numbers of checkpoints, or
            ``run.json`` beside several checkpoints of a model says that they are not its seeds, or others than the first model's, or
            another process writes to ``output_dir``.
        OSError: when ``output_dir`` cannot be made, before any map is computed.
    """
    out, regions = Path(output_dir), regions or {}
    refuse_other_results(out, "saliency.json")
    _refuse_names((*checkpoints, *regions))
    seeds = {name: [path] if isinstance(path, str | Path) else list(path) for name, path in checkpoints.items()}
    if len({len(paths) for paths in seeds.values()}) > 1:
        raise InputError("the models have different numbers of checkpoints; give the same seeds of each")
    _refuse_other_seeds(seeds)
    keys = {name: [f"{name}, checkpoint {i}" for i in range(1, len(paths) + 1)] for name, paths in seeds.items()}
    models = load_trained_models(
        {key: path for name in seeds for key, path in zip(keys[name], seeds[name], strict=True)}, image_size=image_size, voi=voi
    )
    for network in models.networks.values():
        network.to(default_device())
    cohort = list_cohort(manifest, dataset_dir, models.preparation, split, limit=limit)
    (dataset,) = read_cohorts([cohort])
    cases = Cases.of(dataset, read_regions(dataset, cohort, Path(dataset_dir), regions))
    # Before the maps, which take long: a folder that cannot be made is known, and nobody else writes to it. An earlier result is replaced.
    move_results_aside(out, ())
    main = _main_map(models.networks)
    drawn: dict[str, Tensor] = {}
    measured: dict[str, list[Measured]] = {}
    for name in seeds:
        of_seeds = []
        for key in keys[name]:
            found = _maps(models.networks[key], cases.image, (main, "input_gradient", "grad_cam"), key)
            drawn.setdefault(name, found[main])
            of_seeds.append(
                [one for kind, maps in found.items() for one in measure_maps(kind, maps, cases, models.networks[key], kind == main)]
            )
        measured[name] = [replace(same[0], values=np.concatenate([one.values for one in same])) for same in zip(*of_seeds, strict=True)]
    first = next(iter(seeds))
    table = [
        {"model": name, **one.describe(None if name == first else other)}
        for name, found in measured.items()
        for one, other in zip(found, measured[first], strict=True)
    ]
    write_csv(out / "saliency.csv", pd.DataFrame(table))
    write_csv(out / "saliency_images.csv", pd.concat([_by_image(name, one) for name, found in measured.items() for one in found]))
    write_json(out / "saliency.json", table)
    figure = draw_first_cases(cases, drawn, {name: models.networks[keys[name][0]] for name in seeds}, n_cases)
    write_pictures(out, figure, table)
    return table


def _by_image(model: str, measured: Measured) -> pd.DataFrame:
    """The figures behind the lines of the table, a row for each image and seed."""
    n_seeds = len(measured.values)
    facts = {"model": model, "map": measured.map, "region": measured.region, "measure": measured.measure}
    return pd.DataFrame(
        {
            **facts,
            "checkpoint": np.repeat(np.arange(1, n_seeds + 1), len(measured.row)),
            "row": [*measured.row] * n_seeds,
            "patient": [*measured.patient] * n_seeds,
            "value": measured.values.flatten(),
        }
    )


def _refuse_other_seeds(checkpoints: Mapping[str, Sequence[str | Path]]) -> None:
    """Refuse several checkpoints of a model that are not its seeds, or not those of the first model in its order: see ``run.json``."""
    first: list[Any] = []
    for name, paths in checkpoints.items():
        settings = [_recorded_settings(path) for path in paths if len(paths) > 1]
        seeds = [one.pop("seed", None) for one in settings]
        for i, (own, seed) in enumerate(zip(settings, seeds, strict=True), 1):
            # A run of an earlier version does not name every setting.
            changed = differences(*({key: one[key] for key in own.keys() & settings[0].keys()} for one in (settings[0], own)))
            if changed:
                raise InputError(f"{name}: checkpoint {i} is of other settings than the first ({'; '.join(changed[:3])}); give its seeds")
            if seed is not None and seed in seeds[: i - 1]:
                raise InputError(f"{name}: two checkpoints are of seed {seed}; give each seed once")
        first = first or seeds
        for i, (one, other) in enumerate(zip(seeds, first, strict=True), 1):
            if None not in (one, other) and one != other:
                raise InputError(
                    f"checkpoint {i} of {name} is of seed {one}, the first model's of seed {other}; give the same in one order"
                )


def _recorded_settings(checkpoint: str | Path) -> dict[str, Any]:
    """The settings of a checkpoint's training, and its manifest: with another split, test images of one may have trained the other."""
    identity = run_identity(checkpoint) or {}
    settings, data = (one if isinstance(one, Mapping) else {} for one in (identity.get("settings"), identity.get("data")))
    return dict(settings) | {key: data[key] for key in ("manifest_sha256",) if key in data}


def _refuse_names(names: Sequence[str]) -> None:
    """Refuse names of models and regions that cannot be shown."""
    for name in names:
        if not re.fullmatch(r"[\w][\w .,=()-]*", name) or name in ("lung", "boxes", "image"):
            raise InputError(
                f"the name {name!r} must be of letters, digits, spaces and .,=()- and not be lung, boxes or image, which are taken"
            )


def render(table: Sequence[Mapping[str, Any]]) -> str:
    """The table of ``explain_checkpoints`` as text: one line a model, map and region, then the differences from the first model."""
    measures = list(dict.fromkeys(line["measure"] for line in table))
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("model", "map", "region", "images", "patients", "seeds", "chance", "chance of IoU", *measures):
        shown.add_column(column, justify="left" if column in ("model", "map", "region") else "right")
    minus = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=f"minus {table[0]['model']}, paired by image", title_justify="left")
    for column in ("model", "map", "region", *measures):
        minus.add_column(column, justify="left" if column in ("model", "map", "region") else "right")
    for key in dict.fromkeys((line["model"], line["map"], line["region"]) for line in table):
        lines = {line["measure"]: line for line in table if (line["model"], line["map"], line["region"]) == key}
        first = next(iter(lines.values()))
        # A flat map has no energy, and the pointing game and IoU of chance.
        counts = [" to ".join(map(str, sorted({line[name] for line in lines.values()}))) for name in ("n_images", "n_patients", "n_seeds")]
        chances = (figure_text(line["chance"]) for line in (first, lines.get("iou_at_area", first)))
        shown.add_row(*key, *counts, *chances, *(estimate_text(lines.get(measure)) for measure in measures))
        if first["difference"] is not None:
            minus.add_row(*key, *(_difference_text(lines.get(measure)) for measure in measures))
    return "\n\n".join(table_text(one, 240) for one in (shown, minus) if one.row_count)


def _difference_text(line: Mapping[str, Any] | None) -> str:
    return "-" if line is None else estimate_text({key: line[f"difference{end}"] for key, end in ENDS.items()}, signed=True)


def _maps(network: nn.Module, image: Tensor, kinds: Sequence[str], name: str) -> dict[str, Tensor]:
    device = device_of(network)
    return {
        kind: torch.cat([METHODS[kind](network, part.to(device)).cpu() for part in track(image.split(BATCH), f"{name}: {kind}")])
        for kind in dict.fromkeys(kinds)
    }


def _main_map(networks: Mapping[str, nn.Module]) -> str:
    """The map that is drawn: one kind for all networks, so that they can be compared."""
    curved = {name: layer for name, network in networks.items() if (layer := curved_layer(network)) is not None}
    if not curved:
        return "fullgrad"
    listed = ", ".join(f"{name} ({layer})" for name, layer in curved.items())
    logger.warning("FullGrad is exact for piecewise affine networks only, not for %s: input gradients are drawn instead", listed)
    return "input_gradient"
