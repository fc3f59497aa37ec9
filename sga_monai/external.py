"""External validation at a site: a verified bundle's weights and numbers, run by this package's own code."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import platform
import shutil
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from monai.data import DataLoader
from rich.progress import track
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from sga_monai.bundle import load_best_model, set_aside
from sga_monai.dataset import CXRDataset, refuse_same_bytes
from sga_monai.errors import InputError
from sga_monai.files import write_csv, write_whole
from sga_monai.handlers import image_features, logit_difference, row_columns
from sga_monai.lock import lock_output_dir
from sga_monai.manifest import load_manifest, read_manifest
from sga_monai.network import CXRResNet18
from sga_monai.preprocessing import preprocessing
from sga_monai.reference import GROUPS, read_reference
from sga_monai.settings import code_digest, versions
from sga_monai.sga import frozen_statistics, input_gradient
from sga_monai.verify import SUMS, verify_bundle, verify_signature

logger = logging.getLogger(__name__)
BORDER = 0.12
N_CASES = 8


def evaluate_bundle(
    bundle: str | Path,
    manifest: str | Path,
    dataset_dir: str | Path,
    output_dir: str | Path,
    public_key: str | Path | None = None,
    site_key: str | Path | None = None,
    failure_limit: float = 0.01,
    num_workers: int = 0,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Score a site's images with a bundle's models. Nothing of the bundle is executed: weights, and plain numbers.

    Writes to ``output_dir``: ``predictions.csv`` (one line for each row of the manifest; stays at the site),
    ``reference.json``, ``run.json``, ``heatmaps/``, ``tensorboard/`` and ``cache/``. A run that was killed goes on where it
    was when the same command is given again, since what was read lies in the cache.

    Args:
        bundle: folder of ``package_bundle``.
        manifest: the site's; rows with split "test" are taken.
        dataset_dir: the folder that the images are relative to.
        output_dir: an earlier finished evaluation there is set aside.
        public_key: of the bundle's sender; the signature is checked with it.
        site_key: see ``load_manifest``.
        failure_limit: see ``summarize``; recorded for the report.
        num_workers: processes that read.
        batch_size: images at once; changes no score.

    Returns:
        The predictions.

    Raises:
        InputError: when the bundle is not what was packaged, or the manifest is refused.
    """
    bundle, out = Path(bundle), Path(output_dir)
    verify_bundle(bundle)
    if public_key is not None:
        verify_signature(bundle, public_key)
    reference = read_reference(bundle / "reference.json")
    networks = _load_models(bundle, reference)
    lock_output_dir(out)
    rows = load_manifest(manifest, dataset_dir, "test", allow_missing=True, site_key=site_key)
    facts = _facts(bundle, manifest, reference, public_key, failure_limit)
    if not _same_evaluation(out / "run.json", facts):
        set_aside(str(out))
    started = datetime.now(UTC).isoformat(timespec="seconds")
    _write_json(out / "run.json", facts | {"started": started, "finished": None})
    dataset = CXRDataset(rows, preprocessing(reference["image_size"], reference["voi"]), True, str(out / "cache"), num_workers)
    refuse_same_bytes([dataset])
    predictions = _predict(networks, dataset, batch_size)
    failed = pd.DataFrame(dataset.failures, columns=["row", "label", "patient", "set", "code"])
    predictions = pd.concat([predictions, failed.rename(columns={"code": "error"})], ignore_index=True)
    groups = {int(row["row"]): {key: row.get(key, "") for key in GROUPS} for row in read_manifest(manifest)}
    for key in GROUPS:
        predictions[key] = [groups[row][key] for row in predictions["row"]]
    predictions = predictions.sort_values("row", ignore_index=True)
    predictions["error"] = predictions["error"].fillna("")
    write_csv(out / "predictions.csv", predictions)
    shutil.copyfile(bundle / "reference.json", out / "reference.json")
    _draw_cases(networks["sga"], dataset, predictions, reference["models"]["sga"]["threshold"], out)
    counts = {"rows": len(rows), "scored": int(predictions["score"].notna().sum()), "failed": len(failed)}
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    _write_json(out / "run.json", facts | {"counts": counts, "started": started, "finished": finished})
    return predictions


def blank_center(image: Tensor) -> Tensor:
    """``[N, 1, H, W]`` with an ellipse over both lungs replaced by the image's mean: what is left is no lung."""
    height, width = image.shape[2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    inside = (x / 0.8) ** 2 + (y / 0.85) ** 2 <= 1
    return torch.where(inside.to(image.device), image.mean(dim=(2, 3), keepdim=True), image)


def blank_border(image: Tensor) -> Tensor:
    """``[N, 1, H, W]`` with a frame of 12 % of each side replaced by the image's mean: markers and collimation go."""
    height, width = image.shape[2:]
    top, left = round(BORDER * height), round(BORDER * width)
    inside = torch.zeros(height, width, dtype=torch.bool, device=image.device)
    inside[top : height - top, left : width - left] = True
    return torch.where(inside, image, image.mean(dim=(2, 3), keepdim=True))


def _load_models(bundle: Path, reference: Mapping[str, Any]) -> dict[str, nn.Module]:
    networks = {}
    for key in reference["models"]:
        path = bundle / "models" / ("model.pt" if key == "sga" else "nt.pt")
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != reference["models"][key]["sha256"]:
            raise InputError("the bundle's weights are not those of its reference; ask for it again")
        networks[key] = load_best_model(CXRResNet18(), str(path)).eval()
        if not all(bool(tensor.isfinite().all()) for tensor in networks[key].state_dict().values()):
            raise InputError("the bundle's weights are not finite; ask for it again")
    return networks


def _predict(networks: Mapping[str, nn.Module], dataset: CXRDataset, batch_size: int) -> pd.DataFrame:
    frames = []
    loader = DataLoader(dataset, batch_size=batch_size)
    for batch in track(loader, description="scoring", transient=True, disable=not sys.stdout.isatty()):
        image = batch["image"]
        with torch.no_grad():
            score = logit_difference(networks["sga"](image))
            columns: dict[str, Any] = row_columns(batch)
            columns |= {"score": score.numpy(), "probability": torch.sigmoid(score).numpy()}
            columns["score_center_blank"] = logit_difference(networks["sga"](blank_center(image))).numpy()
            columns["score_border_blank"] = logit_difference(networks["sga"](blank_border(image))).numpy()
            if "nt" in networks:
                columns["score_nt"] = logit_difference(networks["nt"](image)).numpy()
        frames.append(pd.DataFrame(columns | image_features(image)))
    return pd.concat(frames, ignore_index=True)


def _draw_cases(network: nn.Module, dataset: CXRDataset, predictions: pd.DataFrame, threshold: float, out: Path) -> None:
    """Heat maps of the surest right and wrong calls of each class, none with BurnedInAnnotation YES."""
    index_of = {int(item["row"]): i for i, item in enumerate(dataset.data) if not item["burned_in"]}
    scored = predictions[predictions["score"].notna() & predictions["row"].isin(index_of)]
    margin = (scored["score"] - threshold) * np.where(scored["label"] == 1, 1, -1)
    chosen = []
    for label in (1, 0):
        order = margin[scored["label"] == label].sort_values()
        chosen += [*order.index[: N_CASES // 4], *order.index[::-1][: N_CASES // 4]]
    rows = sorted({int(scored.loc[i, "row"]) for i in chosen})
    shutil.rmtree(out / "heatmaps", ignore_errors=True)
    (out / "heatmaps").mkdir(parents=True)
    if not rows:
        return
    image = torch.stack([dataset[index_of[row]]["image"] for row in rows])
    positive = torch.ones(len(rows), dtype=torch.int64)
    with frozen_statistics(network):
        gradient = input_gradient(network, image, positive) - input_gradient(network, image, torch.zeros_like(positive))
    # Single pixels of a gradient say little; a mean over a neighborhood shows where it is.
    heat = nn.functional.avg_pool2d(gradient.abs(), 9, 1, 4)
    writer = SummaryWriter(str(out / "tensorboard"))
    for i, row in enumerate(rows):
        line = predictions.loc[predictions["row"] == row].iloc[0]
        figure, axes = plt.subplots(1, 2, figsize=(3.6, 1.95), layout="constrained")
        for axis in axes:
            axis.imshow(image[i, 0], cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
        axes[1].imshow(heat[i, 0], cmap="inferno", alpha=0.55)
        called = "called positive" if line["score"] >= threshold else "called negative"
        figure.suptitle(f"row {row}: label {int(line['label'])}, {called}, p {line['probability']:.2f}", fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
        (out / "heatmaps" / f"row_{row:06d}.png").write_bytes(buffer.getvalue())
        writer.add_figure(f"heat_maps/row_{row:06d}", figure)
    writer.close()


def _facts(bundle: Path, manifest: str | Path, reference: Mapping[str, Any], public_key: object, failure_limit: float) -> dict[str, Any]:
    """What the evaluation is; equal for equal inputs."""
    return {
        "bundle": {
            "name": reference["name"],
            "version": reference["version"],
            "sha256sums": hashlib.sha256((bundle / SUMS).read_bytes()).hexdigest(),
            "signature_verified": public_key is not None,
        },
        "manifest_sha256": hashlib.sha256(Path(manifest).read_bytes()).hexdigest(),
        "failure_limit": failure_limit,
        "software": versions() | {"python": platform.python_version(), "code": code_digest()},
        "device": "cpu",
        "threads": torch.get_num_threads(),
    }


def _same_evaluation(path: Path, facts: Mapping[str, Any]) -> bool:
    """Whether an unfinished evaluation of the same inputs is there, whose cache can be used."""
    try:
        earlier = json.loads(path.read_text())
    except (OSError, ValueError):
        return False
    return earlier.get("finished") is None and all(earlier.get(key) == value for key, value in facts.items())


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n"))
