"""Saliency maps of a classifier: where in an image its decision comes from. Pure functions that leave no trace.

FullGrad (Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization", NeurIPS 2019) splits
the output of a piecewise affine network exactly into a term of the input and one of each bias. Input gradient
(Simonyan et al., ICLR Workshop 2014) and Grad-CAM (Selvaraju et al., ICCV 2017) are the cheap views beside it.

All explain a score, a function of the logits; by default the difference of the two, by which images are ranked. All
run the network in eval mode and restore modes, buffers, gradients of parameters and random state, errors included.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from sga_monai.model.architectures import NETWORKS
from sga_monai.model.modes import frozen_statistics
from sga_monai.model.networks import network_name

Score = Callable[[Tensor], Tensor]
RESCALES = ("channel", "layer")
# Layers that make a network other than piecewise affine.
CURVED = (
    nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.MultiheadAttention, nn.GELU, nn.SiLU, nn.Mish, nn.ELU, nn.Sigmoid, nn.Tanh,
    nn.Softplus, nn.Softmax,
)  # fmt: skip


@dataclass(frozen=True)
class FullGrad:
    """A full-gradient decomposition of the scores of B images, detached.

    Attributes:
        map: ``[B, 1, H, W]``, not negative; see ``fullgrad``.
        value: ``[B]``, the scores.
        completeness: ``[B]``, input term plus bias terms minus ``value``; zero up to rounding when all biases were found.
    """

    map: Tensor
    value: Tensor
    completeness: Tensor


def log_odds(logits: Tensor) -> Tensor:
    """Log odds of the positive class, differentiable: logit of class 1 minus logit of class 0, ``[B, 2]`` -> ``[B]``.

    Raises:
        ValueError: when there are not two logits.
    """
    if logits.ndim != 2 or logits.shape[1] != 2:
        raise ValueError(f"log_odds needs logits [B, 2], got {list(logits.shape)}; give a score")
    return logits[:, 1] - logits[:, 0]


def fullgrad(network: nn.Module, image: Tensor, score: Score = log_odds, rescale: str = "channel") -> FullGrad:
    """FullGrad: f(x) = sum of x * df/dx + sum over biases b of b * df/db, and the map made of these terms.

    The map is psi(x * df/dx) + sum over layers and channels of psi(b * df/db); psi is the absolute value, rescaled to
    [0, 1] from minimum to maximum, and upsampled bilinearly to H x W. Interpolation is linear, so channels of one
    resolution are added before it. Biases without a place, of linear layers, count in ``completeness`` only.

    Biases are those of convolutions and linear layers, beta - gamma * mean / sqrt(variance + eps) of BatchNorm, and
    what the network adds to the image before its first such layer, as a standardization does. A network that is not
    piecewise affine or adds constants elsewhere shows it in ``completeness``.

    Args:
        network: maps ``[B, C, H, W]`` to logits ``[B, K]``, piecewise affine in eval mode.
        image: ``[B, C, H, W]``, finite.
        score: from logits to ``[B]``, linear; each image's score from its own logits.
        rescale: "channel" rescales each channel's map alone, as the paper's formula does, "layer" all channels of a
            layer together, as the authors' code does; there a channel counts by how much it contributes.

    Raises:
        ValueError: when ``image`` or scores have another shape, ``rescale`` is unknown, the network has a layer of ``CURVED``,
            or a BatchNorm has no running statistics.
    """
    if rescale not in RESCALES:
        raise ValueError(f"rescale must be one of {', '.join(RESCALES)}, got {rescale!r}")
    layer = curved_layer(network)
    if layer is not None:
        raise ValueError(f"FullGrad needs a piecewise affine network, and {layer} is not; use input gradients")
    with _scored(network, image) as x, _recorded(network, x) as biases:
        value = _scores(network, x, score)
        terms = [(x.detach(), get_gradient_edge(x)), *biases]
        gradients = torch.autograd.grad(value.sum(), [edge for _, edge in terms], allow_unused=True)
    total = -value.detach().double()
    # Sums of psi by resolution; a network that ignores its input has a map of zeros.
    maps = {tuple(x.shape[2:]): torch.zeros_like(x[:, :1]).detach()}
    for (bias, _), gradient in zip(terms, gradients, strict=True):
        if gradient is None:
            continue
        term = bias * gradient
        total += term.flatten(1).sum(1, dtype=torch.float64)
        if term.ndim == 4:
            size = tuple(term.shape[2:])
            maps[size] = maps.get(size, 0) + _rescaled(term.abs(), rescale).sum(1, keepdim=True)
    result = torch.stack([_upsampled(part, x) for part in maps.values()]).sum(0)
    return FullGrad(result, value.detach(), total.to(value.dtype))


def curved_layer(network: nn.Module) -> str | None:
    """The kind of the first layer for which FullGrad is not exact; ``None`` where there is none."""
    return next((type(module).__name__ for module in network.modules() if isinstance(module, CURVED)), None)


def fullgrad_map(network: nn.Module, image: Tensor, score: Score = log_odds) -> Tensor:
    """The map of ``fullgrad`` alone, ``[B, 1, H, W]``, rescaled by layer.

    By channel, a ResNet's thousands of channels count alike however little they contribute, and the map is flat.
    """
    return fullgrad(network, image, score, "layer").map


def input_gradient_map(network: nn.Module, image: Tensor, score: Score = log_odds) -> Tensor:
    """Absolute gradient of the score with respect to the pixels, summed over channels, ``[B, 1, H, W]``.

    Arguments and errors are those of ``fullgrad``; the network may be any that has a gradient.
    """
    with _scored(network, image) as x:
        gradient = torch.autograd.grad(_scores(network, x, score).sum(), x)[0]
    return gradient.abs().sum(1, keepdim=True)


def grad_cam(network: nn.Module, image: Tensor, layer: str | None = None, score: Score = log_odds) -> Tensor:
    """Grad-CAM: ReLU of the activations of ``layer`` weighted by their mean gradients (Eq. 1 and 2), ``[B, 1, H, W]``.

    Upsampled bilinearly, not rescaled. Only what raises the score is shown: a map may be zero everywhere.

    Args:
        network: maps ``[B, C, H, W]`` to logits ``[B, K]``.
        image: ``[B, C, H, W]``.
        layer: name of a submodule that is called once and returns ``[B, C', H', W']``; ``None`` takes ``cam_layer`` of
            ``NETWORKS``.
        score: from logits to ``[B]``.

    Raises:
        AttributeError: when ``network`` has no such submodule.
        ValueError: when ``layer`` is called otherwise, or is ``None`` and ``network`` not one of ``NETWORKS``, or ``image`` or
            scores have another shape.
    """
    if layer is None:
        name = network_name(network)
        if name is None:
            raise ValueError("Grad-CAM needs layer, the name of the last convolutional block, of a network outside of NETWORKS")
        layer = NETWORKS[name].cam_layer
    calls: list[tuple[Tensor, GradientEdge]] = []

    def record(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        # An in-place operation after the layer would change the values, but not the edge.
        calls.append((output.detach().clone(), get_gradient_edge(output)))

    handle = network.get_submodule(layer).register_forward_hook(record)
    try:
        with _scored(network, image) as x:
            value = _scores(network, x, score)
            if len(calls) != 1 or calls[0][0].ndim != 4:
                raise ValueError(f"layer {layer!r} must be called once and return [B, C, H, W]")
            activation, edge = calls[0]
            gradient = torch.autograd.grad(value.sum(), [edge])[0]
    finally:
        handle.remove()
    weight = gradient.mean((2, 3), keepdim=True)
    return _upsampled((weight * activation).sum(1, keepdim=True).relu(), x)


# Each from (network, image [B, 1, H, W]) to [B, 1, H, W], not negative, higher means more salient. FullGrad needs a network
# without a curved layer.
METHODS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "fullgrad": fullgrad_map,
    "input_gradient": input_gradient_map,
    "grad_cam": grad_cam,
}


@contextlib.contextmanager
def _scored(network: nn.Module, image: Tensor) -> Iterator[Tensor]:
    """``image`` as a leaf of a new graph, with ``network`` in eval mode meanwhile."""
    if image.ndim != 4:
        raise ValueError(f"image must be [B, C, H, W], got {list(image.shape)}")
    with frozen_statistics(network), torch.enable_grad():
        yield image.detach().as_subclass(Tensor).requires_grad_(True)


@contextlib.contextmanager
def _recorded(network: nn.Module, image: Tensor) -> Iterator[list[tuple[Tensor, GradientEdge]]]:
    """Each bias that a forward pass inside adds, and where in the graph its gradient is; ``image`` is the input.

    The edge of a module's output stays where it is when an in-place operation, such as ReLU, overwrites the output.
    """
    biases: list[tuple[Tensor, GradientEdge]] = []
    affine = [module for module in network.modules() if isinstance(module, (_ConvNd, nn.Linear, _BatchNorm))]
    reached = False

    def before(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal reached
        if not reached and inputs and inputs[0].requires_grad:
            reached = True
            if inputs[0] is not image:
                biases.append((_offset(inputs[0], image), get_gradient_edge(inputs[0])))

    def after(module: Any, _inputs: Any, output: Tensor) -> None:
        bias = _bias(module)
        if bias is not None and output.requires_grad:
            # Channels are the last axis of a linear layer's output, the second of the others'.
            axis = output.ndim - 1 if isinstance(module, nn.Linear) else 1
            shape = [-1 if i == axis else 1 for i in range(output.ndim)]
            biases.append((bias.view(shape), get_gradient_edge(output)))

    handles = [module.register_forward_pre_hook(before) for module in affine]
    handles += [module.register_forward_hook(after) for module in affine]
    try:
        yield biases
    finally:
        for handle in handles:
            handle.remove()


def _bias(module: _ConvNd | nn.Linear | _BatchNorm) -> Tensor | None:
    """What ``module`` adds to the linear part of its map in eval mode, ``[C]``, or ``None``."""
    if not isinstance(module, _BatchNorm):
        return None if module.bias is None else module.bias.detach()
    if module.running_mean is None or module.running_var is None:
        raise ValueError("FullGrad needs the running statistics of BatchNorm; without them it is not affine")
    shift = -module.running_mean / torch.sqrt(module.running_var + module.eps)
    return shift if module.weight is None else (module.bias + module.weight * shift).detach()


def _offset(z: Tensor, x: Tensor) -> Tensor:
    """What an affine function z of x adds to its linear part: z - (dz/dx) x.

    The product with the Jacobian is the gradient, with respect to u, of <(dz/dx)^T u, x>.
    """
    u = torch.zeros_like(z, requires_grad=True)
    pulled = torch.autograd.grad(z, x, u, create_graph=True, allow_unused=True)[0]
    if pulled is None:
        return z.detach()
    return z.detach() - torch.autograd.grad(pulled, u, x.detach())[0]


def _scores(network: nn.Module, x: Tensor, score: Score) -> Tensor:
    value = score(network(x))
    if value.shape != x.shape[:1]:
        raise ValueError(f"score must return [B], got {list(value.shape)} for {len(x)} images")
    return value


def _rescaled(size: Tensor, rescale: str) -> Tensor:
    """``size`` ``[B, C, h, w]`` from minimum to maximum as [0, 1], and 0 where the two are equal."""
    axes = (2, 3) if rescale == "channel" else (1, 2, 3)
    low, high = size.amin(axes, keepdim=True), size.amax(axes, keepdim=True)
    # A map that varies by rounding alone, as behind a global pooling, has no place to show.
    flat = high - low <= 32 * torch.finfo(size.dtype).eps * high
    return ((size - low) / torch.where(flat, 1, high - low)).masked_fill(flat, 0)


def _upsampled(part: Tensor, image: Tensor) -> Tensor:
    return F.interpolate(part, size=image.shape[2:], mode="bilinear", align_corners=False)
