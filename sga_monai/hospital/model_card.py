"""What a bundle says of its model: method, network, data, settings and results of the training, instead of the source bundle's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from sga_monai.evaluation.predictions import INTERNAL
from sga_monai.evaluation.results import render, summarize
from sga_monai.model.architectures import find_architecture

# The network and the data that the source's documents name.
SOURCE_NETWORK = "ResNet-18"
SOURCE_DATA = "The embedded phantom, or any manifest (data_manifests/README.md)."
NATURAL, PAPER = "natural training", "saliency guided"


def method_name(settings: Mapping[str, Any]) -> str:
    """What a training is called by its settings, as in the paper: three of its methods are special cases of the fourth.

    Example:
        >>> settings = {"kl_weight": 1.0, "objective": "kl", "mask_fraction": 0.1, "epsilon_range": [0.01, 0.05], "augmentation": None}
        >>> method_name(settings), method_name(settings | {"kl_weight": 0, "augmentation": "mixup"})
        ('saliency guided adversarial training', 'natural training with augmentation mixup')
    """
    name = "saliency guided adversarial training"
    if not settings["kl_weight"]:
        name = NATURAL
    elif settings["objective"] != "kl" or not settings["mask_fraction"]:
        name = "adversarial training"
    elif not max(settings["epsilon_range"]):
        name = "saliency guided training"
    return name if settings["augmentation"] is None else f"{name} with augmentation {settings['augmentation']}"


def described(record: Mapping[str, Any], network: str) -> dict[str, str]:
    """The fields of ``metadata.json`` that say what was trained, how and on what.

    Args:
        record: ``run.json`` of the training.
        network: name in ``NETWORKS``.
    """
    method = method_name(record["identity"]["settings"])
    how = f"by {method}" + (" (Li et al., AdvML Frontiers at ICML 2022)" if method.startswith(PAPER) else "")
    if method.startswith(NATURAL):
        how = "with cross-entropy alone" + method.removeprefix(NATURAL).replace(" with ", ", ")
    return {
        "name": f"{method.capitalize()} for chest radiographs",
        "description": f"{find_architecture(network).title} trained {how}; the settings are in docs/README.md",
        "data_source": _data_source(record),
    }


def _data_source(record: Mapping[str, Any]) -> str:
    return f"images of the training manifest with SHA-256 {record['identity']['data']['manifest_sha256']}; ask the sender what they are"


def model_card(source: str, record: Mapping[str, Any], predictions: pd.DataFrame, network: str, folder: str) -> str:
    """The text of ``docs/README.md`` of a bundle.

    Args:
        source: the text of the source bundle's.
        record: ``run.json`` of the training.
        predictions: its ``predictions.csv``.
        network: name in ``NETWORKS``.
        folder: name of the bundle's folder.
    """
    # What comes before is of the source: its command, its time and the figures to expect.
    general = source[max(source.find("## Description"), 0) :].replace(SOURCE_NETWORK, find_architecture(network).title)
    data = _data_source(record)
    general = general.replace(SOURCE_DATA, f"{data[0].upper()}{data[1:]}.")
    identity = record["identity"]
    rows = "\n".join(f"| {key} | {json.dumps(value)} |" for key, value in identity["settings"].items())
    table = render(summarize(predictions, INTERNAL))
    return (
        f"# {folder}\n\n{general}\n## This model\nNetwork {network}, trained for {record['epoch']} epochs; best validation AUROC at epoch "
        f"{record['best']['epoch']}. Code {identity['code']['digest']}, manifest {identity['data']['manifest_sha256'][:16]}.\n\n"
        f"| setting | value |\n|---|---|\n{rows}\n\n## Results of the training run\n\n```\n{table}\n```\n\n## Use\n\n"
        "From the folder that holds this one; nothing may be written into it, or it is no longer what was packaged:\n\n"
        f"    sga-monai verify {folder}\n    sga-monai evaluate {folder} --manifest site.csv --dataset-dir images --output-dir out\n\n"
        "Or inside it and, since a configuration is a program, only after you trust the sender:\n\n"
        "    python -m monai.bundle run evaluating --config_file configs/evaluate.json --manifest ../site.csv --dataset_dir ../images "
        "--output_dir ../out_monai\n"
    )
