"""The model of a finished training: its network and its weights."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sga_monai.core.errors import InputError
from sga_monai.core.files import read_json
from sga_monai.model.architectures import DEFAULT_NETWORK, NETWORKS, find_architecture
from sga_monai.model.networks import build_network, network_name
from sga_monai.model.preparation import Preparation, recorded_preparation, run_identity, trained_preparation

NO_FILE = "no such file; train first, or give the path of a model.pt"


def load_best_model(network: torch.nn.Module, checkpoint: str, **preparation: Any) -> torch.nn.Module:
    """Load a plain state dict into ``network`` and return it.

    Args:
        network: gets the weights.
        checkpoint: path of a ``model.pt``.
        preparation: ``image_size, voi, orientation`` with which images are prepared; compared with ``run.json`` beside the
            checkpoint where both are there.

    Raises:
        InputError: when the file is missing, damaged, not finite, or does not fit the network, or the images would not be
            prepared as in the training.
    """
    if not Path(checkpoint).is_file():
        raise InputError(f"checkpoint: {NO_FILE}")
    trained = recorded_preparation(checkpoint) if preparation else {}
    for name, value in preparation.items():
        if trained.get(name, value) != value:
            raise InputError(f"checkpoint: it was trained with {name} {trained[name]}, not {value}; give --{name} {trained[name]}")
    own, trained_with = network_name(network), (run_identity(checkpoint) or {}).get("network")
    if own is not None and trained_with in NETWORKS and trained_with != own:
        raise InputError(f"checkpoint: it was trained with architecture {trained_with}, not {own}; give --architecture {trained_with}")
    data = Path(checkpoint).read_bytes()
    if _recorded_sha256(Path(checkpoint).with_suffix(".json")) not in ("", hashlib.sha256(data).hexdigest()):
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


def _recorded_sha256(card: Path) -> str:
    """What ``model.json`` says of the weights beside it; empty where there is none, or it says nothing."""
    if not card.is_file():
        return ""
    try:
        return str(read_json(card).get("sha256", ""))
    except (OSError, ValueError, AttributeError):
        raise InputError(f"checkpoint: {card.name} beside it is damaged; train again, or remove it to go without its check") from None


@dataclass(frozen=True)
class TrainedModels:
    """Networks in eval mode, and the preparation of images that all of them were trained with.

    Attributes:
        networks: by any name.
        preparation: of their images.
    """

    networks: Mapping[str, torch.nn.Module]
    preparation: Preparation


def load_trained_models(checkpoints: Mapping[str, str | Path], **preparation: Any) -> TrainedModels:
    """Load the ``model.pt`` of one or more trainings; network and preparation are those of ``run.json`` beside each.

    Args:
        checkpoints: path of each ``model.pt`` by any name.
        preparation: ``image_size, voi, orientation`` where they are not to be those of the training.

    Raises:
        InputError: when a checkpoint is refused (see ``load_best_model``), or they were trained on images prepared differently.
    """
    # First: without run.json beside it a missing file would count as prepared by default, and differ from the others.
    for name, path in checkpoints.items():
        if not Path(path).is_file():
            raise InputError(f"checkpoint {name}: {NO_FILE}")
    prepared = {trained_preparation(path, **preparation) for path in checkpoints.values()}
    if len(prepared) > 1:
        listed = "; ".join(sorted(map(str, prepared)))
        raise InputError(f"the models were trained on images prepared in different ways ({listed}); evaluate them apart")
    networks = {name: load_best_model(build_network(trained_network(path)), str(path)).eval() for name, path in checkpoints.items()}
    return TrainedModels(networks, prepared.pop())


def trained_network(checkpoint: str | Path) -> str:
    """Name of the network of a training by ``run.json`` beside its checkpoint; "resnet18" where there is none.

    Raises:
        InputError: when the file is damaged, or names a network that this version does not have.
    """
    identity = run_identity(checkpoint)
    # Runs that do not name it were made when there was one network.
    name = str((identity or {}).get("network", DEFAULT_NETWORK))
    find_architecture(name, trained=True)
    return name
