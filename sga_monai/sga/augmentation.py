"""Standard augmentation, batched on the device: what practitioners do before anything adversarial."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Largest rotation in degrees, change of scale, shift as a share of a side, change of brightness, contrast and log2 of gamma,
# and standard deviation of the blur in pixels of an image of 224.
ROTATION, SCALE, SHIFT = 12.0, 0.15, 0.08
BRIGHTNESS, CONTRAST, GAMMA = 0.1, 0.2, 0.5
BLUR, BLUR_SHARE = 1.5, 0.3


class Parameters(NamedTuple):
    """The parameters of ``standard`` for one mini-batch: ``theta`` ``[B, 2, 3]``, the others ``[B, 1, 1, 1]``."""

    theta: Tensor
    brightness: Tensor
    contrast: Tensor
    gamma: Tensor
    blur: Tensor


def draw_parameters(image: Tensor, generator: torch.Generator | None = None) -> Parameters:
    """Parameters for the images ``[B, C, H, W]``, nine random numbers each, uniform in their ranges."""
    draw = torch.rand((len(image), 9), generator=generator, dtype=image.dtype, device=image.device)
    signed = 2 * draw - 1
    angle, scale = math.radians(ROTATION) * signed[:, 0], (1 + SCALE) ** signed[:, 1]
    cosine, sine, ratio = angle.cos() / scale, angle.sin() / scale, image.shape[2] / image.shape[3]
    theta = torch.stack(
        [
            torch.stack([cosine, -sine * ratio, 2 * SHIFT * signed[:, 2]], dim=1),
            torch.stack([sine / ratio, cosine, 2 * SHIFT * signed[:, 3]], dim=1),
        ],
        dim=1,
    )
    sigma = torch.where(draw[:, 7] < BLUR_SHARE, BLUR * min(image.shape[2:]) / 224 * draw[:, 8], 0.0)
    others = (BRIGHTNESS * signed[:, 4], 1 + CONTRAST * signed[:, 5], 2 ** (GAMMA * signed[:, 6]), sigma)
    return Parameters(theta, *(value.view(-1, 1, 1, 1) for value in others))


def warp(image: Tensor, parameters: Parameters, mode: str = "bilinear") -> Tensor:
    """Rotate, scale and shift ``[B, C, H, W]``; what comes from outside is the nearest edge. A mask takes mode "nearest"."""
    grid = F.affine_grid(parameters.theta, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode=mode, padding_mode="border", align_corners=False)


def standard(image: Tensor, label: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Random crop and scale, rotation, shift, blur, contrast, brightness and gamma of each image; no horizontal flip.

    A flip would put the heart on the other side. Values stay in [0, 1].

    Args:
        image: ``[B, C, H, W]`` in [0, 1].
        label: ``[B]``, returned as it is.
        generator: source of all random numbers.
    """
    parameters = draw_parameters(image, generator)
    image = _blur(warp(image, parameters), parameters.blur)
    mean = image.mean(dim=(2, 3), keepdim=True)
    image = (mean + parameters.contrast * (image - mean) + parameters.brightness).clamp(0, 1)
    return image**parameters.gamma, label


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with a standard deviation in pixels for each image; 0 leaves it to the bit."""
    reach = max(math.ceil(3 * BLUR * min(image.shape[2:]) / 224), 1)
    offset = torch.arange(-reach, reach + 1, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (offset / sigma.view(-1, 1).clamp(min=1e-3)) ** 2)
    kernel = (kernel / kernel.sum(dim=1, keepdim=True)).repeat_interleave(image.shape[1], dim=0)
    planes = image.reshape(1, -1, *image.shape[2:])
    planes = F.conv2d(F.pad(planes, (0, 0, reach, reach), mode="replicate"), kernel[:, None, :, None], groups=planes.shape[1])
    planes = F.conv2d(F.pad(planes, (reach, reach, 0, 0), mode="replicate"), kernel[:, None, None, :], groups=planes.shape[1])
    return torch.where(sigma > 0, planes.view_as(image), image)
