"""The networks that may be built by name. A file can choose among them; it can never name code."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sga_monai.core.errors import InputError
from sga_monai.model.network import CXRDenseNet121, CXRResNet18, CXRResNet18GroupNorm, CXRResNet50
from sga_monai.model.preparation import MIN_IMAGE_SIZE

DEFAULT_NETWORK = "resnet18"


@dataclass(frozen=True)
class Architecture:
    """A network of ``NETWORKS``, and where its features are.

    Attributes:
        title: what papers call it.
        network: the class; it takes ``num_classes``, and its attribute ``architecture`` is its name in ``NETWORKS``.
        last_layer: name of the submodule whose input are the features.
        n_features: number of features.
        cam_layer: name of the last submodule that gives a map ``[B, C, H, W]``, for Grad-CAM.
        pretrained: whether torchvision has ImageNet weights, for ``pretrained_weights``.
        smallest: the least ``image_size`` of which a map is left at the end.
        one_pixel: up to this ``image_size`` the last map is one pixel, of which BatchNorm has no variance in a mini-batch of one
            image; 0 without BatchNorm.
    """

    title: str
    network: type[nn.Module]
    last_layer: str
    n_features: int
    cam_layer: str
    pretrained: bool = True
    smallest: int = MIN_IMAGE_SIZE
    one_pixel: int = 32


NETWORKS: dict[str, Architecture] = {
    "resnet18": Architecture("ResNet-18", CXRResNet18, "fc", 512, "layer4"),
    "resnet50": Architecture("ResNet-50", CXRResNet50, "fc", 2048, "layer4"),
    "densenet121": Architecture("DenseNet-121", CXRDenseNet121, "class_layers.out", 1024, "features", smallest=29, one_pixel=60),
    "resnet18_group_norm": Architecture(
        "ResNet-18 with group normalization", CXRResNet18GroupNorm, "fc", 512, "layer4", pretrained=False, one_pixel=0
    ),
}
# Where the features of a network outside of NETWORKS are.
OTHER_LAST_LAYER = "fc"


def find_architecture(name: object, trained: bool = False) -> Architecture:
    """The entry of ``NETWORKS``.

    Args:
        name: its key.
        trained: whether the name is that of a finished training, which cannot be chosen anew; the remedy is another one.

    Raises:
        InputError: when there is none of this name.
    """
    if not isinstance(name, str) or name not in NETWORKS:
        remedy = "; use a version of sga_monai that has the one that was trained" if trained else f", got {name!r}"
        raise InputError(f"architecture must be one of {', '.join(NETWORKS)}{remedy}")
    return NETWORKS[name]


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
    found = find_architecture(architecture)
    if not pretrained_weights:
        return found.network(num_classes=num_classes)
    if not found.pretrained:
        raise InputError(f"pretrained_weights: there are none of {architecture}; leave it out, or choose another architecture")
    return found.network(num_classes=num_classes, pretrained_weights=pretrained_weights)


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
