"""The model of a finished training: its network and weights, and how its images were prepared."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.model.networks import DEFAULT_NETWORK, build_network

# A packaged bundle and the audit take no smaller one: nothing of a chest is left to see.
MIN_IMAGE_SIZE = 16
DAMAGED = "run.json beside the checkpoint is damaged; restore it, or move the checkpoint to a folder of its own"


def load_best_model(network: torch.nn.Module, checkpoint: str, image_size: int | None = None, voi: str | None = None) -> torch.nn.Module:
    """Load a plain state dict into ``network`` and return it.

    Args:
        network: gets the weights.
        checkpoint: path of a ``model.pt``.
        image_size: with which images are prepared; compared with ``run.json`` beside the checkpoint where both are there.
        voi: the same.

    Raises:
        InputError: when the file is missing, damaged, not finite, or does not fit the network, or the images would not be
            prepared as in the training.
    """
    if not Path(checkpoint).is_file():
        raise InputError("checkpoint: no such file; train first, or give the path of a model.pt")
    given = {name: value for name, value in (("image_size", image_size), ("voi", voi)) if value is not None}
    trained = _run_settings(checkpoint) if given else {}
    for name, value in given.items():
        if trained.get(name, value) != value:
            raise InputError(f"checkpoint: it was trained with {name} {trained[name]}, not {value}; give --{name} {trained[name]}")
    data = Path(checkpoint).read_bytes()
    card = Path(checkpoint).with_suffix(".json")
    if card.is_file() and json.loads(card.read_text(encoding="utf-8-sig")).get("sha256", "") not in ("", hashlib.sha256(data).hexdigest()):
        raise InputError("checkpoint: the weights are not those that model.json beside them describes; train again")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        network.load_state_dict(state)
    except Exception:  # noqa: BLE001
        # Whatever a foreign file makes of torch's reader.
        raise InputError("checkpoint: not a state dict of this network; give the model.pt of a training run") from None
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise InputError("checkpoint: the weights are NaN or infinite; train again")
    return network


@dataclass(frozen=True)
class TrainedModels:
    """Networks in eval mode, and the preparation of images that all of them were trained with.

    Attributes:
        networks: by any name.
        image_size: pixels of a side.
        voi: see ``read_cxr``.
    """

    networks: Mapping[str, torch.nn.Module]
    image_size: int
    voi: str


def load_trained_models(checkpoints: Mapping[str, str | Path], image_size: int | None = None, voi: str | None = None) -> TrainedModels:
    """Load the ``model.pt`` of one or more trainings; network and preparation are those of ``run.json`` beside each.

    Args:
        checkpoints: path of each ``model.pt`` by any name.
        image_size: see ``preparation_settings``.
        voi: see ``preparation_settings``.

    Raises:
        InputError: when a checkpoint is refused (see ``load_best_model``), or they were trained on images prepared differently.
    """
    prepared = {preparation_settings(path, image_size, voi) for path in checkpoints.values()}
    if len(prepared) > 1:
        listed = "; ".join(f"image_size {size}, voi {kind}" for size, kind in sorted(prepared))
        raise InputError(f"the models were trained on images prepared in different ways ({listed}); evaluate them apart")
    networks = {name: load_best_model(build_network(trained_network(path)), str(path)).eval() for name, path in checkpoints.items()}
    return TrainedModels(networks, *prepared.pop())


def trained_network(checkpoint: str | Path) -> str:
    """Name of the network of a training by ``run.json`` beside its checkpoint; "resnet18" where there is none.

    Raises:
        InputError: when the file is damaged.
    """
    identity = _run_identity(checkpoint)
    # Runs that do not name it were made when there was one network.
    return str((identity or {}).get("network", DEFAULT_NETWORK))


def preparation_settings(checkpoint: str | Path, image_size: int | None = None, voi: str | None = None) -> tuple[int, str]:
    """``image_size`` and ``voi`` with which a model was trained: given, or of ``run.json`` beside it, or 224 and "dicom".

    Raises:
        InputError: when the file is damaged or ``image_size`` is no whole number of 16 or more.
    """
    settings = _run_settings(checkpoint) if image_size is None or voi is None else {}
    size = settings.get("image_size", 224) if image_size is None else image_size
    return check.whole("image_size", size, low=MIN_IMAGE_SIZE), settings.get("voi", "dicom") if voi is None else voi


def _run_settings(checkpoint: str | Path) -> dict[str, Any]:
    """``image_size`` and ``voi`` of ``run.json`` beside the checkpoint; empty where there is none."""
    identity = _run_identity(checkpoint)
    if identity is None:
        return {}
    try:
        return {"image_size": int(identity["settings"]["image_size"]), "voi": str(identity["settings"]["voi"])}
    except (ValueError, KeyError, TypeError):
        raise InputError(DAMAGED) from None


def _run_identity(checkpoint: str | Path) -> Mapping[str, Any] | None:
    """``identity`` of ``run.json`` beside the checkpoint; ``None`` where there is none."""
    path = Path(checkpoint).with_name("run.json")
    if not path.is_file():
        return None
    try:
        identity: Any = json.loads(path.read_text(encoding="utf-8-sig"))["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(DAMAGED) from None
    if not isinstance(identity, Mapping):
        raise InputError(DAMAGED)
    return identity
