"""The networks that may be chosen by name: facts alone, which a report reads without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

from sga_monai.core.errors import InputError
from sga_monai.model.preparation import MIN_IMAGE_SIZE

DEFAULT_NETWORK = "resnet18"


@dataclass(frozen=True)
class Architecture:
    """A network of ``NETWORKS``, and where its features are.

    Attributes:
        title: what papers call it.
        last_layer: name of the submodule whose input are the features.
        n_features: number of features.
        cam_layer: name of the last submodule that gives a map ``[B, C, H, W]``, for Grad-CAM.
        pretrained: whether torchvision has ImageNet weights, for ``pretrained_weights``.
        smallest: the least ``image_size`` of which a map is left at the end.
        one_pixel: up to this ``image_size`` the last map is one pixel, of which BatchNorm has no variance in a mini-batch of one
            image; 0 without BatchNorm.
    """

    title: str
    last_layer: str
    n_features: int
    cam_layer: str
    pretrained: bool = True
    smallest: int = MIN_IMAGE_SIZE
    one_pixel: int = 32


NETWORKS: dict[str, Architecture] = {
    "resnet18": Architecture("ResNet-18", "fc", 512, "layer4"),
    "resnet50": Architecture("ResNet-50", "fc", 2048, "layer4"),
    "densenet121": Architecture("DenseNet-121", "class_layers.out", 1024, "features", smallest=29, one_pixel=60),
    "resnet18_group_norm": Architecture("ResNet-18 with group normalization", "fc", 512, "layer4", pretrained=False, one_pixel=0),
}


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
