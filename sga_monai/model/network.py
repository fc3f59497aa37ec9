"""Networks for one-channel chest radiographs, with torchvision's parameters so that its weights load."""

from __future__ import annotations

import torch
from monai.networks.nets.densenet import DenseNet121
from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetBottleneck
from torch import Tensor, nn

from sga_monai.model.imagenet import load_imagenet_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
GROUPS = 32


class _FromGray(nn.Module):
    """Standardization with the ImageNet mean and standard deviation, and the step from one to three channels.

    They happen inside the network, so that outside of it a pixel is one feature and ``epsilon`` has one meaning.
    """

    mean: Tensor
    std: Tensor

    def _standardize(self) -> None:
        # Not persistent: the state dict keeps torchvision's keys and nothing else.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[B, num_classes]`` of images ``[B, 1, H, W]`` in [0, 1]."""
        logits: Tensor = super().forward((x - self.mean) / self.std)
        return logits


class _CXRResNet(_FromGray, ResNet):
    """MONAI's ResNet with torchvision's stem of stride 2 and shortcuts without bias."""

    def __init__(self, num_classes: int, layers: list[int], block: type[ResNetBlock | ResNetBottleneck] = ResNetBlock) -> None:
        super().__init__(
            block=block,
            layers=layers,
            block_inplanes=[64, 128, 256, 512],
            spatial_dims=2,
            n_input_channels=3,
            conv1_t_size=7,
            conv1_t_stride=2,
            num_classes=num_classes,
            bias_downsample=False,
        )
        self._standardize()


class CXRResNet18(_CXRResNet):
    """The paper's ResNet-18: image ``[B, 1, H, W]`` in [0, 1] -> logits ``[B, num_classes]``.

    Args:
        num_classes: number of logits.
        pretrained_weights: local path of torchvision's ``resnet18-f37072fd.pth``; ``None`` starts from random weights. Nothing
            is downloaded. The other networks name their file in ``NETWORKS``.
        sha256: the digits with which the SHA-256 of that file must begin.

    Raises:
        InputError: when the file is missing, has another SHA-256 or holds other parameters.

    Example:
        >>> CXRResNet18()(torch.rand(4, 1, 64, 64)).shape
        torch.Size([4, 2])
    """

    # Its name in NETWORKS.
    architecture = "resnet18"

    def __init__(self, num_classes: int = 2, pretrained_weights: str | None = None, sha256: str = "f37072fd") -> None:
        super().__init__(num_classes, [2, 2, 2, 2])
        if pretrained_weights:
            load_imagenet_weights(self, pretrained_weights, "resnet18-f37072fd.pth", "fc.", sha256)


class CXRResNet50(_CXRResNet):
    """ResNet-50 (He et al., CVPR 2016), otherwise as ``CXRResNet18``."""

    architecture = "resnet50"

    def __init__(self, num_classes: int = 2, pretrained_weights: str | None = None, sha256: str = "0676ba61") -> None:
        super().__init__(num_classes, [3, 4, 6, 3], ResNetBottleneck)
        if pretrained_weights:
            load_imagenet_weights(self, pretrained_weights, "resnet50-0676ba61.pth", "fc.", sha256)


class CXRResNet18GroupNorm(_CXRResNet):
    """ResNet-18 with GroupNorm (Wu and He, ECCV 2018) in place of BatchNorm: no image depends on others of its mini-batch.

    torchvision has no weights of it.
    """

    architecture = "resnet18_group_norm"

    def __init__(self, num_classes: int = 2) -> None:
        super().__init__(num_classes, [2, 2, 2, 2])
        # The option norm of MONAI's ResNet changes the first layer only.
        for module in list(self.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.BatchNorm2d):
                    setattr(module, name, nn.GroupNorm(GROUPS, child.num_features))


class CXRDenseNet121(_FromGray, DenseNet121):
    """DenseNet-121 (Huang et al., CVPR 2017), the network of CheXNet, otherwise as ``CXRResNet18``."""

    architecture = "densenet121"

    def __init__(self, num_classes: int = 2, pretrained_weights: str | None = None, sha256: str = "a639ec97") -> None:
        super().__init__(spatial_dims=2, in_channels=3, out_channels=num_classes)
        self._standardize()
        if pretrained_weights:
            load_imagenet_weights(self, pretrained_weights, "densenet121-a639ec97.pth", "class_layers.", sha256)
