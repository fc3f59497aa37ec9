"""External validation at a site: a verified bundle's weights and numbers, run by this package's own code."""

from __future__ import annotations

import io
import json
import platform
import shutil
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from monai.data import DataLoader
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from sga_monai.core.display import track
from sga_monai.core.errors import InputError
from sga_monai.core.figures import figure_image, subplots
from sga_monai.core.files import file_sha256, write_csv, write_json
from sga_monai.core.folders import archive_previous_run, lock_output_dir
from sga_monai.core.provenance import code_digest, versions
from sga_monai.data.dataset import CXRDataset, refuse_same_bytes
from sga_monai.data.manifest import load_manifest, read_manifest
from sga_monai.data.masks import lung_reader
from sga_monai.data.transforms import preprocessing
from sga_monai.evaluation.embedding import write_embedding
from sga_monai.evaluation.predictions import GROUPS, image_features, row_columns
from sga_monai.hospital.reference import read_reference
from sga_monai.hospital.verify import SUMS, verify_bundle, verify_signature
from sga_monai.interpret.audit import score_lungs
from sga_monai.interpret.controls import blank_border, blank_center, plant_tag
from sga_monai.model.features import forward_with_features
from sga_monai.model.modes import frozen_statistics
from sga_monai.model.network import CXRResNet18
from sga_monai.model.scores import logit_difference
from sga_monai.model.weights import load_best_model
from sga_monai.sga.steps import input_gradient
from sga_monai.statistics.separability import site_scores

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
    ``embedding.json`` (mean and variance of all images' features), ``reference.json``, ``run.json``, ``heatmaps/``,
    ``tensorboard/`` and ``cache/``. A run that was killed goes on where it was when the same command is given again, since
    what was read lies in the cache.

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
        InputError: when the bundle is not what was packaged, or the manifest or a lung mask is refused.
    """
    bundle, out = Path(bundle), Path(output_dir)
    verify_bundle(bundle)
    if public_key is not None:
        verify_signature(bundle, public_key)
    reference = read_reference(bundle / "reference.json")
    networks = _load_models(bundle, reference)
    lock_output_dir(out)
    rows = load_manifest(manifest, dataset_dir, "test", allow_missing=True, site_key=site_key)
    listed = {int(row["row"]): row for row in read_manifest(manifest)}
    tested = [listed[row["row"]] for row in rows]
    lung = lung_reader(tested, dataset_dir, Path(manifest).name, reference["image_size"])
    facts = _facts(bundle, manifest, reference, public_key, failure_limit)
    if not _same_evaluation(out / "run.json", facts):
        archive_previous_run(str(out))
    started = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(out / "run.json", facts | {"started": started, "finished": None}, sort_keys=True)
    dataset = CXRDataset(rows, preprocessing(reference["image_size"], reference["voi"]), True, str(out / "cache"), num_workers)
    refuse_same_bytes([dataset])
    predictions, features = _predict(networks, dataset, batch_size, lung)
    profile = reference.get("embedding", {}).get("profile")
    if profile is not None:
        predictions["site_score"] = site_scores(features, predictions["label"], predictions["patient"], profile)
    failed = pd.DataFrame(dataset.failures, columns=["row", "label", "patient", "set", "code"])
    predictions = pd.concat([predictions, failed.rename(columns={"code": "error"})], ignore_index=True)
    for key in GROUPS:
        predictions[key] = [listed[row].get(key, "") for row in predictions["row"]]
    predictions = predictions.sort_values("row", ignore_index=True)
    predictions["error"] = predictions["error"].fillna("")
    write_csv(out / "predictions.csv", predictions)
    write_embedding(out / "embedding.json", features)
    shutil.copyfile(bundle / "reference.json", out / "reference.json")
    _draw_cases(networks["sga"], dataset, predictions, reference["models"]["sga"]["threshold"], out)
    counts = {"rows": len(rows), "scored": int(predictions["score"].notna().sum()), "failed": len(failed)}
    finished = datetime.now(UTC).isoformat(timespec="seconds")
    write_json(out / "run.json", facts | {"counts": counts, "started": started, "finished": finished}, sort_keys=True)
    return predictions


def _load_models(bundle: Path, reference: Mapping[str, Any]) -> dict[str, nn.Module]:
    networks = {}
    for key in reference["models"]:
        path = bundle / "models" / ("model.pt" if key == "sga" else "nt.pt")
        if not path.is_file() or file_sha256(path) != reference["models"][key]["sha256"]:
            raise InputError("the bundle's weights are not those of its reference; ask for it again")
        networks[key] = load_best_model(CXRResNet18(), str(path)).eval()
        if not all(bool(tensor.isfinite().all()) for tensor in networks[key].state_dict().values()):
            raise InputError("the bundle's weights are not finite; ask for it again")
    return networks


def _predict(
    networks: Mapping[str, nn.Module], dataset: CXRDataset, batch_size: int, lung: Callable[[int], Tensor | None] | None
) -> tuple[pd.DataFrame, NDArray[np.float32]]:
    """The scores, and the features of the plain images ``[N, 512]``."""
    frames, features = [], []
    loader = DataLoader(dataset, batch_size=batch_size)
    for batch in track(loader, "scoring"):
        image = batch["image"]
        with torch.no_grad():
            logits, part = forward_with_features(networks["sga"], image)
            features.append(part)
            score = logit_difference(logits)
            columns: dict[str, Any] = row_columns(batch)
            columns |= {"score": score.numpy(), "probability": torch.sigmoid(score).numpy()}
            columns["score_center_blank"] = logit_difference(networks["sga"](blank_center(image))).numpy()
            columns["score_border_blank"] = logit_difference(networks["sga"](blank_border(image))).numpy()
            columns["score_tag"] = logit_difference(networks["sga"](plant_tag(image))).numpy()
            if lung is not None:
                scores = score_lungs(networks["sga"], image, [lung(row) for row in columns["row"]])
                columns |= {f"score_{control}": values for control, values in scores.items()}
            if "nt" in networks:
                columns["score_nt"] = logit_difference(networks["nt"](image)).numpy()
        frames.append(pd.DataFrame(columns | image_features(image)))
    return pd.concat(frames, ignore_index=True), np.concatenate(features)


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
        figure, axes = subplots(1, 2, size=(3.6, 1.95))
        for axis in axes[0]:
            axis.imshow(image[i, 0], cmap="gray", vmin=0, vmax=1)
            axis.set_axis_off()
        axes[0, 1].imshow(heat[i, 0], cmap="inferno", alpha=0.55)
        called = "called positive" if line["score"] >= threshold else "called negative"
        figure.suptitle(f"row {row}: label {int(line['label'])}, {called}, p {line['probability']:.2f}", fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
        (out / "heatmaps" / f"row_{row:06d}.png").write_bytes(buffer.getvalue())
        writer.add_image(f"heat_maps/row_{row:06d}", figure_image(figure), dataformats="HWC")
    writer.close()


def _facts(bundle: Path, manifest: str | Path, reference: Mapping[str, Any], public_key: object, failure_limit: float) -> dict[str, Any]:
    """What the evaluation is; equal for equal inputs."""
    return {
        "bundle": {
            "name": reference["name"],
            "version": reference["version"],
            "sha256sums": file_sha256(bundle / SUMS),
            "signature_verified": public_key is not None,
        },
        "manifest_sha256": file_sha256(manifest),
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
