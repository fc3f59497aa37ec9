"""From a finished run to a bundle in MONAI's layout that a hospital can check, run offline and understand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from sga_monai import __version__
from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, write_json, write_whole
from sga_monai.core.source import source_bundle
from sga_monai.data.manifest import OPTIONAL, REQUIRED, read_manifest
from sga_monai.evaluation.embedding import read_embedding
from sga_monai.evaluation.results import render, summarize
from sga_monai.hospital.reference import make_reference
from sga_monai.hospital.verify import SUMS, verify_bundle
from sga_monai.model.network import CXRResNet18

CONFIGS = ("train.json", "evaluate.json", "inference.json")


def package_bundle(
    checkpoint: str | Path,
    out: str | Path,
    source: str | Path | None = None,
    nt_checkpoint: str | Path | None = None,
    site_manifests: Sequence[str | Path] = (),
    name: str = "sga_cxr",
) -> Path:
    """Write ``out/<name>-<version>/`` and ``.zip``: configs, models, docs, manifests, LICENSE, reference.json, SHA256SUMS.

    The same run gives the same bytes.

    Args:
        checkpoint: ``model.pt`` of a finished training; its folder holds ``run.json`` and ``predictions.csv``.
        out: the folder of bundles.
        source: the flat source bundle; ``None`` takes that of this installation.
        nt_checkpoint: ``model.pt`` of a natural training on the same manifest, for the paired comparison.
        site_manifests: manifests of known sites to go along; a template always does.
        name: of the bundle.

    Returns:
        The bundle's folder.

    Raises:
        InputError: when the run is not finished, does not belong to its weights, or has weights that are not finite;
            when the bundle is there already.
    """
    source = source_bundle() if source is None else Path(source)
    if not (source / "train.json").is_file():
        raise InputError("source is no bundle; give the folder that sga-monai bundle wrote, or leave it out")
    runs = {"sga": _finished_run(Path(checkpoint))}
    if nt_checkpoint is not None:
        runs["nt"] = _finished_run(Path(nt_checkpoint))
        if runs["nt"]["identity"]["data"] != runs["sga"]["identity"]["data"]:
            raise InputError("the twin was trained on other data; train both with the same manifest")
    settings = runs["sga"]["identity"]["settings"]
    predictions = {key: run["predictions"] for key, run in runs.items()}
    sums = {key: run["model_sha256"] for key, run in runs.items()}
    facts = {"name": name, "version": __version__, "image_size": settings["image_size"], "voi": settings["voi"]}
    reference = make_reference(predictions, sums, runs["sga"]["embedding"], **facts)
    target = Path(out) / f"{name}-{__version__}"
    if target.exists():
        raise InputError(f"{target.name} is there already; give another folder as out")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".") as temporary:
        draft = Path(temporary) / target.name
        for key, run in runs.items():
            _copy(run["checkpoint"], draft / "models" / ("model.pt" if key == "sga" else "nt.pt"))
        _write_torchscript(draft, settings["image_size"])
        _write_configs(source, draft, settings)
        _copy(source / "LICENSE", draft / "LICENSE")
        _copy(source / "docs/data_license.txt", draft / "docs/data_license.txt")
        # What comes before is of the source: its command, its time and the figures to expect.
        general = (source / "docs/README.md").read_text()
        general = general[max(general.find("## Description"), 0) :]
        card = f"# {target.name}\n\n{general}{_model_card(runs['sga'], settings, target.name)}"
        (draft / "docs/README.md").write_text(card)
        (draft / "manifests").mkdir()
        (draft / "manifests/template.csv").write_text(",".join(REQUIRED + OPTIONAL) + "\n")
        for manifest in map(Path, site_manifests):
            read_manifest(manifest)
            _copy(manifest, draft / "manifests" / manifest.name)
        write_json(draft / "reference.json", reference, sort_keys=True)
        _write_sums(draft)
        verify_bundle(draft)
        archive = draft.parent / f"{target.name}.zip"
        _write_zip(draft, archive)
        draft.replace(target)
        archive.replace(target.parent / archive.name)
    return target


def _finished_run(checkpoint: Path) -> dict[str, Any]:
    folder = checkpoint.parent
    try:
        run: dict[str, Any] = json.loads((folder / "run.json").read_text())
        predictions = pd.read_csv(folder / "predictions.csv")
    except (OSError, ValueError):
        raise InputError("the checkpoint's folder has no run.json and predictions.csv; give the model.pt of a training") from None
    if run["finished"] is None:
        raise InputError("the run is not finished; go on with --resume true")
    if file_sha256(checkpoint) != run["model_sha256"]:
        raise InputError("the weights are not those of the run card; train again")
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise InputError("the weights are not finite; train again")
    embedding = read_embedding(folder / "embedding.json")
    return run | {"checkpoint": checkpoint, "predictions": predictions, "embedding": embedding, "folder": folder}


def write_torchscript(draft: str | Path, image_size: int) -> None:
    """``models/model.ts`` of ``models/model.pt`` in the folder ``draft``, traced in eval mode with one image.

    Without TorchScript's debug records, which name the source files of the machine it was traced on.
    """
    network = CXRResNet18()
    network.load_state_dict(torch.load(Path(draft) / "models/model.pt", map_location="cpu", weights_only=True))
    with torch.no_grad():
        traced = torch.jit.trace(network.eval(), torch.zeros(1, 1, image_size, image_size))
    path, whole = (str(Path(draft) / f"models/{name}.ts") for name in ("model", "whole"))
    traced.save(whole)
    # torch's own writer aligns the tensors; a plain zip would not.
    reader, writer = torch._C.PyTorchFileReader(whole), torch._C.PyTorchFileWriter(path)
    for name in reader.get_all_records():
        if not name.endswith(".debug_pkl") and name not in ("version", "byteorder", ".data/serialization_id"):
            content = reader.get_record(name)
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    del reader
    Path(whole).unlink()


def _write_torchscript(draft: Path, image_size: int) -> None:
    """In a process of its own: TorchScript numbers its classes by what a process has traced before."""
    program = "import sys; from sga_monai.hospital.package import write_torchscript; write_torchscript(sys.argv[1], int(sys.argv[2]))"
    result = subprocess.run([sys.executable, "-c", program, str(draft), str(image_size)], capture_output=True, check=False)
    if result.returncode:
        raise InputError("the network could not be traced to TorchScript; check image_size and free memory")


def _write_configs(source: Path, draft: Path, settings: dict[str, Any]) -> None:
    """The source's configurations with paths inside the bundle and the run's settings as defaults."""
    (draft / "configs").mkdir()
    for name in CONFIGS:
        config = json.loads((source / name).read_text())
        known = {key: value for key, value in settings.items() if key in config}
        config |= known | {"bundle_root": "."}
        if "checkpoint" in config:
            config |= {"checkpoint": "models/model.pt", "manifest": "manifests/template.csv", "dataset_dir": "images"}
        # As the source is indented, so that their difference is what was changed.
        write_json(draft / "configs" / name, config, indent=4)
    metadata = json.loads((source / "metadata.json").read_text())
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = [settings["image_size"]] * 2
    write_json(draft / "configs/metadata.json", metadata, indent=4)
    _copy(source / "logging.conf", draft / "configs/logging.conf")


def _model_card(run: dict[str, Any], settings: dict[str, Any], folder: str) -> str:
    rows = "\n".join(f"| {key} | {json.dumps(value)} |" for key, value in settings.items())
    table = render(summarize(run["predictions"], "internal"))
    return (
        f"\n## This model\nTrained for {run['epoch']} epochs; best validation AUROC at epoch {run['best']['epoch']}. Code "
        f"{run['identity']['code']['digest']}, manifest {run['identity']['data']['manifest_sha256'][:16]}.\n\n"
        f"| setting | value |\n|---|---|\n{rows}\n\n## Results of the training run\n\n```\n{table}\n```\n\n## Use\n\n"
        "From the folder that holds this one; nothing may be written into it, or it is no longer what was packaged:\n\n"
        f"    sga-monai verify {folder}\n    sga-monai evaluate {folder} --manifest site.csv --dataset-dir images --output-dir out\n\n"
        "Or inside it and, since a configuration is a program, only after you trust the sender:\n\n"
        "    python -m monai.bundle run evaluating --config_file configs/evaluate.json --manifest ../site.csv --dataset_dir ../images "
        "--output_dir ../out_monai\n"
    )


def _write_sums(draft: Path) -> None:
    lines = []
    for path in sorted(path for path in draft.rglob("*") if path.is_file()):
        lines.append(f"{file_sha256(path)}  {path.relative_to(draft).as_posix()}\n")
    write_whole(draft / SUMS, lambda temporary: temporary.write_text("".join(lines)))


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
