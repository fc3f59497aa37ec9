"""The networks of ``NETWORKS`` built by name. A file can choose among them; it can never name code."""

from __future__ import annotations

from torch import nn

from sga_monai.core.errors import InputError
from sga_monai.model.architectures import NETWORKS, find_architecture
from sga_monai.model.network import CXRDenseNet121, CXRResNet18, CXRResNet18GroupNorm, CXRResNet50

CLASSES: dict[str, type[nn.Module]] = {
    network.architecture: network for network in (CXRResNet18, CXRResNet50, CXRDenseNet121, CXRResNet18GroupNorm)
}
# Where the features of a network outside of NETWORKS are.
OTHER_LAST_LAYER = "fc"


def build_network(architecture: str, num_classes: int = 2, pretrained_weights: str | None = None) -> nn.Module:
    """A network of ``NETWORKS``: images ``[B, 1, H, W]`` in [0, 1] to logits ``[B, num_classes]``.

    Args:
        architecture: a key of ``NETWORKS``.
        num_classes: number of logits.
        pretrained_weights: local path of torchvision's file of ImageNet weights; ``None`` starts from random weights. Nothing
            is downloaded.

    Raises:
        InputError: when there is none of this name, or the file is not the network's.

    Example:
        >>> build_network("resnet18").fc
        Linear(in_features=512, out_features=2, bias=True)
    """
    pretrained = find_architecture(architecture).pretrained
    if not pretrained_weights:
        return CLASSES[architecture](num_classes=num_classes)
    if not pretrained:
        raise InputError(f"pretrained_weights: there are none of {architecture}; leave it out, or choose another architecture")
    return CLASSES[architecture](num_classes=num_classes, pretrained_weights=pretrained_weights)


def network_name(network: nn.Module) -> str | None:
    """The name in ``NETWORKS`` of a network, or ``None``."""
    name = getattr(network, "architecture", None)
    return name if isinstance(name, str) and name in NETWORKS else None


def last_layer(network: nn.Module) -> nn.Module | None:
    """The layer whose input are the features of ``network``; ``None`` where there is none."""
    name = network_name(network)
    try:
        return network.get_submodule(NETWORKS[name].last_layer if name else OTHER_LAST_LAYER)
    except AttributeError:
        return None
