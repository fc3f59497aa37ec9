"""From a finished training to a bundle in MONAI's layout that a hospital can check, run offline and understand."""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sga_monai import __version__
from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, read_json, write_json
from sga_monai.core.source import source_bundle
from sga_monai.data.manifest import OPTIONAL, REQUIRED, read_manifest
from sga_monai.evaluation.embedding import read_embedding
from sga_monai.evaluation.predictions import FILE, read_predictions
from sga_monai.hospital.checksums import write_sums
from sga_monai.hospital.development import development_shares
from sga_monai.hospital.formats import BASELINE, MODEL, weights_file
from sga_monai.hospital.model_card import described, model_card
from sga_monai.hospital.reference import make_reference
from sga_monai.hospital.selftest import write_selftest
from sga_monai.hospital.torchscript import trace_apart
from sga_monai.hospital.verify import verify_bundle
from sga_monai.model.architectures import find_architecture
from sga_monai.model.networks import build_network
from sga_monai.model.preparation import trained_preparation
from sga_monai.model.weights import load_best_model, trained_network

TEMPLATE = "template.csv"
# As ``reference.json``, the folder in a zip and ``SHA256SUMS`` may name something.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
CONFIGS = ("train.json", "evaluate.json", "inference.json")


def package_bundle(
    checkpoint: str | Path,
    out: str | Path,
    source: str | Path | None = None,
    baseline_checkpoint: str | Path | None = None,
    site_manifests: Sequence[str | Path] = (),
    name: str = "sga_cxr",
    fit_temperature: bool = False,
    manifest: str | Path | None = None,
) -> Path:
    """Write ``out/<name>-<version>/`` and ``.zip``: configs, models, docs, manifests, LICENSE, reference.json, SHA256SUMS.

    The same run gives the same bytes.

    Args:
        checkpoint: ``model.pt`` of a finished training; its folder holds ``run.json`` and ``predictions.csv``.
        out: the folder of bundles.
        source: the flat source bundle; ``None`` takes that of this installation.
        baseline_checkpoint: ``model.pt`` of another training on the same manifest, with which sites compare the model;
            natural training, for example.
        site_manifests: manifests of known sites to go along; a template always does.
        name: of the bundle.
        fit_temperature: fit a temperature to each model's scores of the internal validation set; it changes probabilities, and
            no score, threshold or AUROC.
        manifest: the one that the model was trained with: shares of age, sex, view and manufacturer then travel in the reference.

    Returns:
        The bundle's folder.

    Raises:
        InputError: when ``name`` or a site manifest's is none that may be in a bundle; when a run is not finished, does not
            belong to its weights, or has weights that are not finite; when the baseline is of other data or images prepared
            differently; when no temperature fits; when the bundle is there already.
    """
    if not NAME.fullmatch(name):
        raise InputError(
            "name must be of letters A to Z, digits, _ . and -, begin with none of the last two, and have 64 characters at most"
        )
    _refuse_names([Path(path).name for path in site_manifests])
    source = source_bundle() if source is None else Path(source)
    if not (source / "train.json").is_file():
        raise InputError("source is no bundle; give the folder that sga-monai bundle wrote, or leave it out")
    runs = {MODEL: _finished_run(Path(checkpoint))}
    if baseline_checkpoint is not None:
        runs[BASELINE] = _finished_run(Path(baseline_checkpoint))
        _refuse_unlike(runs[MODEL], runs[BASELINE])
    reference = _reference(runs, name, fit_temperature, manifest)
    target = Path(out) / f"{name}-{__version__}"
    if target.exists():
        raise InputError(f"{target.name} is there already; give another folder as out")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as temporary:
        draft = Path(temporary) / target.name
        _write_draft(draft, runs, reference, source, [Path(path) for path in site_manifests])
        verify_bundle(draft)
        archive = draft.parent / f"{target.name}.zip"
        _write_zip(draft, archive)
        draft.replace(target)
        archive.replace(target.parent / archive.name)
    return target


def _refuse_names(manifests: Sequence[str]) -> None:
    """Refuse site manifests that would lie in one place, or have a name that ``SHA256SUMS`` cannot hold."""
    if len({name.lower() for name in (TEMPLATE, *manifests)}) <= len(manifests):
        raise InputError(f"two site manifests have the same name, or one is called {TEMPLATE}; rename it, or one would be lost")
    if not all(NAME.fullmatch(name) for name in manifests):
        raise InputError("the name of a site manifest must be of letters A to Z, digits, _ . and -; rename it")


@dataclass(frozen=True)
class _Run:
    """A finished training.

    Attributes:
        checkpoint: its ``model.pt``.
        record: its ``run.json``.
        predictions: its ``predictions.csv``.
        network: name in ``NETWORKS``.
    """

    checkpoint: Path
    record: Mapping[str, Any]
    predictions: pd.DataFrame
    network: str

    @property
    def settings(self) -> dict[str, Any]:
        settings: dict[str, Any] = self.record["identity"]["settings"]
        return settings


def _finished_run(checkpoint: Path) -> _Run:
    folder = checkpoint.parent
    try:
        record: dict[str, Any] = read_json(folder / "run.json")
        predictions = read_predictions(folder / FILE)
    except (OSError, ValueError):
        raise InputError("the checkpoint's folder has no run.json and predictions.csv; give the model.pt of a training") from None
    if record["finished"] is None:
        raise InputError("the run is not finished; go on with --resume true")
    if file_sha256(checkpoint) != record["model_sha256"]:
        raise InputError("the weights are not those of run.json; train again")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise InputError("the weights are not finite; train again")
    return _Run(checkpoint, record, predictions, trained_network(checkpoint))


def _refuse_unlike(model: _Run, baseline: _Run) -> None:
    """Both models must have learned from the same images, prepared in the same way."""
    if baseline.record["identity"]["data"] != model.record["identity"]["data"]:
        raise InputError("the baseline was trained on other data; train both with the same manifest")
    prepared = {trained_preparation(run.checkpoint) for run in (model, baseline)}
    if len(prepared) > 1:
        raise InputError(
            f"the baseline was trained on images prepared in another way; train both with {trained_preparation(model.checkpoint)}"
        )


def _reference(runs: Mapping[str, _Run], name: str, fit_temperature: bool, manifest: str | Path | None) -> dict[str, Any]:
    model = runs[MODEL]
    development = None if manifest is None else development_shares(manifest, model.record["identity"]["data"]["manifest_sha256"])
    return make_reference(
        {role: run.predictions for role, run in runs.items()},
        {role: {"network": run.network, "sha256": run.record["model_sha256"]} for role, run in runs.items()},
        read_embedding(model.checkpoint.with_name("embedding.json"), find_architecture(model.network).n_features),
        fit_temperature,
        name=name,
        version=__version__,
        **asdict(trained_preparation(model.checkpoint)),
        **({} if development is None else {"development": development}),
    )


def _write_draft(draft: Path, runs: Mapping[str, _Run], reference: Mapping[str, Any], source: Path, site_manifests: Sequence[Path]) -> None:
    """Every file of a bundle, the checksums last."""
    model = runs[MODEL]
    for role, run in runs.items():
        _copy(run.checkpoint, draft / weights_file(role))
    trace_apart(draft, model.settings["image_size"], model.network)
    network = load_best_model(build_network(model.network), str(draft / weights_file(MODEL))).eval()
    write_selftest(draft, network, trained_preparation(model.checkpoint))
    _write_configs(source, draft, model, reference["models"][MODEL])
    _copy(source / "LICENSE", draft / "LICENSE")
    _copy(source / "docs/data_license.txt", draft / "docs/data_license.txt")
    general = (source / "docs/README.md").read_text(encoding="utf-8")
    (draft / "docs/README.md").write_text(model_card(general, model.record, model.predictions, model.network, draft.name), encoding="utf-8")
    (draft / "manifests").mkdir()
    (draft / "manifests" / TEMPLATE).write_text(",".join(REQUIRED + OPTIONAL) + "\n", encoding="utf-8")
    for manifest in site_manifests:
        read_manifest(manifest)
        _copy(manifest, draft / "manifests" / manifest.name)
    write_json(draft / "reference.json", reference, sort_keys=True)
    write_sums(draft)


def _write_configs(source: Path, draft: Path, run: _Run, figures: Mapping[str, Any]) -> None:
    """The source's configurations with paths inside the bundle and the run's settings and temperature as defaults."""
    settings = run.settings
    (draft / "configs").mkdir()
    for name in CONFIGS:
        config = read_json(source / name)
        known = {key: value for key, value in settings.items() if key in config}
        config |= known | {"bundle_root": "."}
        if "checkpoint" in config:
            config |= {"checkpoint": "models/model.pt", "manifest": "manifests/template.csv", "dataset_dir": "images"}
        if "temperature" in config:
            config["temperature"] = figures["temperature"]
        elif figures["temperature"] != 1 and name != "train.json":
            raise InputError(f"the source's {name} has no temperature; write the source bundle again with sga-monai bundle")
        # As the source is indented, so that their difference is what was changed.
        write_json(draft / "configs" / name, config, indent=4)
    metadata = read_json(source / "metadata.json")
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = [settings["image_size"]] * 2
    metadata |= described(run.record, run.network)
    metadata["eval_metrics"] = {"internal_test": _eval_metrics(figures)}
    write_json(draft / "configs/metadata.json", metadata, indent=4)
    _copy(source / "logging.conf", draft / "configs/logging.conf")


def _eval_metrics(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The model's figures on its internal test set, as in ``reference.json``."""
    counts = {key: figures[key] for key in ("n_positive", "n_negative", "n_patients")}
    calibration = {f"calibration_{key}": figures[key]["value"] for key in ("slope", "intercept")}
    return {"auroc": figures["auroc"]} | calibration | {"brier": figures["brier"]["value"]} | counts


def _write_zip(draft: Path, archive: Path) -> None:
    """Sorted names, one date, one mode, so that equal folders give equal bytes."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as stream:
        for path in sorted(path for path in draft.rglob("*") if path.is_file()):
            entry = zipfile.ZipInfo(f"{draft.name}/{path.relative_to(draft).as_posix()}", (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            stream.writestr(entry, path.read_bytes())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
