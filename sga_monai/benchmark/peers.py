"""What one would write without this package: public methods put together as their papers and documentation show them."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from monai.transforms import Compose, EnsureTyped, LoadImaged, Resized, ScaleIntensityRangePercentilesd
from torch import Tensor, nn

from sga_monai.core.errors import InputError


def monai_chain(image_size: int) -> Compose:
    """What MONAI's documentation composes: default reader, percentiles at full size, anti-aliased bilinear resize."""
    # Its readers say at once which of their optional packages are absent.
    with silence():
        load = LoadImaged(keys="image", image_only=True, ensure_channel_first=True)
    return Compose(
        [
            load,
            ScaleIntensityRangePercentilesd(keys="image", lower=0.5, upper=99.5, b_min=0.0, b_max=1.0, clip=True),
            Resized(keys="image", spatial_size=[image_size, image_size], mode="bilinear", anti_aliasing=True),
            EnsureTyped(keys="image", track_meta=False),
        ]
    )


def naive_step(network: nn.Module, optimizer: torch.optim.Optimizer, image: Tensor, label: Tensor, epsilon: float = 0.03) -> None:
    """One step of SGA from its public parts: a saliency pass in eval mode, a loop over the images that masks each, FGSM of torchattacks.

    The loop is that of Ismail et al., "Improving Deep Learning Interpretability by Saliency Guided Training" (NeurIPS 2021):
    top-k of one image's gradient, random values between its extremes, one indexed assignment.

    Raises:
        InputError: when torchattacks is not installed.
    """
    try:
        import torchattacks
    except ImportError:
        raise InputError("this comparison needs torchattacks: pip install 'sga_monai[bench]'") from None
    network.eval()
    leaf = image.detach().clone().requires_grad_(True)
    score = network(leaf).gather(1, label[:, None]).sum()
    gradient = torch.autograd.grad(score, leaf)[0]
    masked = image.clone()
    for i in range(len(image)):
        flat = gradient[i].flatten()
        chosen = flat.topk(math.floor(0.1 * flat.numel()), largest=False).indices
        low, high = image[i].min().item(), image[i].max().item()
        pixels = masked[i].flatten()
        pixels[chosen] = torch.empty(len(chosen), device=image.device).uniform_(low, high)
        masked[i] = pixels.view_as(masked[i])
    adversarial = torchattacks.FGSM(network, eps=epsilon)(masked, label)
    network.train()
    optimizer.zero_grad()
    clean = network(image)
    attacked = network(adversarial)
    kl = F.kl_div(attacked.log_softmax(1), clean.log_softmax(1), log_target=True, reduction="batchmean")
    (F.cross_entropy(clean, label) + kl).backward()
    optimizer.step()


def authors_fullgrad(network: nn.Module, image: Tensor) -> Tensor:
    """FullGrad as its authors' code computes it: every channel of every layer is interpolated to the image's size, then rescaled.

    Srinivas and Fleuret, "Full-Gradient Representation for Neural Network Visualization" (NeurIPS 2019); score and biases are
    those of ``sga_monai.interpret.fullgrad`` with ``rescale`` "layer", so that the two maps can be compared.

    Args:
        network: ``CXRResNet18`` or one like it: BatchNorm behind convolutions without bias, and a standardization of the image, which
            adds to it as a bias does.
        image: ``[B, 1, H, W]``.
    """
    found: list[tuple[Tensor, Tensor]] = []
    network.eval()
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))

    def keep(module: Any, _inputs: Any, output: Tensor) -> None:
        bias = module.bias - module.weight * module.running_mean / torch.sqrt(module.running_var + module.eps)
        found.append((bias.detach()[:, None, None], output))
        output.retain_grad()

    def keep_standardized(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        found.append((-network.get_buffer("mean") / network.get_buffer("std"), inputs[0]))
        inputs[0].retain_grad()

    handles = [module.register_forward_hook(keep) for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    handles.append(first.register_forward_pre_hook(keep_standardized))
    inplace = [module for module in network.modules() if isinstance(module, nn.ReLU) and module.inplace]
    for module in inplace:
        module.inplace = False
    try:
        leaf = image.detach().clone().requires_grad_(True)
        logits = network(leaf)
        (logits[:, 1] - logits[:, 0]).sum().backward()
        assert leaf.grad is not None
        total = _rescale(leaf.detach() * leaf.grad).sum(1, keepdim=True)
        for bias, output in found:
            assert output.grad is not None
            full = F.interpolate(_rescale(bias * output.grad), size=image.shape[2:], mode="bilinear", align_corners=False)
            total = total + full.sum(1, keepdim=True)
    finally:
        for handle in handles:
            handle.remove()
        for module in inplace:
            module.inplace = True
    network.zero_grad()
    return total.detach()


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Drop what foreign packages print, log and warn of."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _rescale(term: Tensor) -> Tensor:
    """Absolute values from minimum to maximum as [0, 1], for each image."""
    flat = term.abs().flatten(1)
    low, high = flat.amin(1), flat.amax(1)
    return ((flat - low[:, None]) / (high - low).clamp(min=torch.finfo(flat.dtype).tiny)[:, None]).view_as(term)


def torchxrayvision_chain(image_size: int) -> Callable[[str], Any] | None:
    """From a DICOM file to ``[1, image_size, image_size]`` as torchxrayvision's examples do it; ``None`` where it is not installed."""
    try:
        import torchxrayvision as xrv
        from torchvision.transforms import Compose as TorchCompose
    except (ImportError, RuntimeError):
        # torchvision raises the latter where its build does not fit torch's.
        return None
    chain = TorchCompose([xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(image_size)])
    return lambda path: chain(xrv.utils.read_xray_dcm(path)[None])
