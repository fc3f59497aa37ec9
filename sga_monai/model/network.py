"""ResNet-18 for one-channel chest radiographs, with torchvision's parameter names so that its weights load."""

from __future__ import annotations

from pathlib import Path

import torch
from monai.networks.nets.resnet import ResNet, ResNetBlock
from torch import Tensor

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256

# torchvision's resnet18-f37072fd.pth; like torch.hub, the file name carries the first digits of its SHA-256.
IMAGENET_SHA256 = "f37072fd"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class CXRResNet18(ResNet):
    """The paper's ResNet-18: image ``[B, 1, H, W]`` in [0, 1] -> logits ``[B, num_classes]``.

    Standardization with the ImageNet mean and standard deviation, and the step from one to three channels, happen
    inside, so that outside the network a pixel is one feature and ``epsilon`` has one meaning. Stem stride 2 and
    shortcuts without bias make MONAI's network torchvision's: the same 122 entries in the state dict.

    Args:
        num_classes: number of logits.
        pretrained_weights: local path of ``resnet18-f37072fd.pth``; ``None`` starts from random weights. Nothing is
            downloaded.
        sha256: the digits with which the SHA-256 of that file must begin.

    Raises:
        InputError: when the file is missing, has another SHA-256 or holds other parameters.
    """

    mean: Tensor
    std: Tensor
    # Its name in NETWORKS.
    architecture = "resnet18"

    def __init__(self, num_classes: int = 2, pretrained_weights: str | None = None, sha256: str = IMAGENET_SHA256) -> None:
        super().__init__(
            block=ResNetBlock,
            layers=[2, 2, 2, 2],
            block_inplanes=[64, 128, 256, 512],
            spatial_dims=2,
            n_input_channels=3,
            conv1_t_size=7,
            conv1_t_stride=2,
            num_classes=num_classes,
            bias_downsample=False,
        )
        # Not persistent: the state dict keeps torchvision's keys and nothing else.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        if pretrained_weights:
            load_imagenet_weights(self, pretrained_weights, sha256)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of images ``[B, 1, H, W]`` in [0, 1]."""
        return super().forward((x - self.mean) / self.std)


def load_imagenet_weights(network: ResNet, path: str, sha256: str = IMAGENET_SHA256) -> None:
    """Copy all parameters but the classifier ``fc.*`` from torchvision's checkpoint ``path`` into ``network``.

    Raises:
        InputError: when the file is missing, its SHA-256 does not begin with ``sha256``, or its keys without ``fc.*``
            are not exactly those of the network.
    """
    if not Path(path).is_file():
        raise InputError("pretrained_weights: no such file; get resnet18-f37072fd.pth or leave it out")
    digest = file_sha256(path)
    if not digest.startswith(sha256):
        raise InputError(f"pretrained_weights: SHA-256 is {digest[:8]}..., expected {sha256}...; get the file again")
    weights = torch.load(path, map_location="cpu", weights_only=True)
    wanted = {key for key in network.state_dict() if not key.startswith("fc.")}
    # Stride 1 would load these weights without an error and compute something else.
    if network.conv1.stride != (2, 2):
        raise InputError("pretrained_weights: the stem must have stride 2")
    given = {key for key in weights if not key.startswith("fc.")}
    if given != wanted:
        raise InputError(f"pretrained_weights: not a ResNet-18, e.g. {sorted(given ^ wanted)[0]!r}")
    network.load_state_dict({key: weights[key] for key in wanted}, strict=False)
