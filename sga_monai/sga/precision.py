"""float16: gradients are scaled so that they do not vanish, and a step in which they overflow is left out.

Micikevicius et al., "Mixed precision training", ICLR 2018, section 3.2; the scale itself is torch's ``GradScaler``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sga_monai.core import checks as check
from sga_monai.model.modes import PRECISIONS, device_of

# A sum of logits, whose gradient is the saliency, begins its backward pass with the scale itself: it must be far below 65,504,
# the largest number of float16. The scale grows by itself where there is room.
INITIAL_SCALE = 2.0**12


class GradientScale:
    """The scale of gradients in a training with float16; for other precisions it is 1 and changes nothing, to the bit.

    It is put into the network's backward pass, between logits and image, so that gradients of weights, saliency and attack
    are all scaled: ``network`` takes it out of the image's gradient again, ``unscale`` out of the weights'.

    Args:
        precision: "fp32", "bf16" or "fp16".

    Example:
        >>> scale, net = GradientScale("fp16"), nn.Flatten()
        >>> image = torch.ones(1, 1, 1, 2, requires_grad=True)
        >>> torch.autograd.grad(scale.network(net)(image).sum(), image)[0]
        tensor([[[[1., 1.]]]])
        >>> scale.state_dict()["scale"]
        4096.0
    """

    def __init__(self, precision: str = "fp32") -> None:
        self.precision = check.choice("precision", precision, PRECISIONS)
        self._scaler: torch.amp.GradScaler | None = None
        self._restored: dict[str, Any] = {}

    def network(self, network: nn.Module) -> nn.Module:
        """``network`` with scaled gradients inside."""
        if self.precision != "fp16":
            return network
        device = device_of(network)
        # Multiplying one by the scale gives it as a tensor, without waiting for the device.
        return _Scaled(network, self._on(device).scale(torch.ones((), device=device)))

    def mark(self, loss: Tensor, *tensors: Tensor) -> Tensor:
        """``loss`` times 1, or times NaN where a tensor made of scaled gradients of the image has overflowed.

        So the gradients of the weights are not finite either, in all processes: the step is left out and the scale falls.
        """
        return loss if self._scaler is None else loss * (1 + sum(0 * tensor.sum() for tensor in tensors))

    def without_overflow(self, adversarial: Tensor, masked: Tensor) -> Tensor:
        """X', but X~ where X' overflowed: its step is left out, but statistics of BatchNorm would take in f(X')."""
        return adversarial if self._scaler is None else torch.where(adversarial.isfinite(), adversarial, masked)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients of the weights by the scale."""
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)

    def update(self) -> None:
        """Halve the scale after gradients that were not finite; double it after 2,000 steps without any."""
        if self._scaler is not None:
            self._scaler.update()

    @property
    def can_fall(self) -> bool:
        """Whether a value that is not finite may come from the scale, so that the step is left out and a smaller one tried."""
        return self._scaler is not None and self._scaler.get_scale() > 1

    def state_dict(self) -> dict[str, Any]:
        """Scale and steps since it last changed; empty unless the precision is "fp16"."""
        return dict(self._scaler.state_dict()) if self._scaler is not None else dict(self._restored)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self._scaler, self._restored = None, dict(state_dict)

    def _on(self, device: torch.device) -> torch.amp.GradScaler:
        if self._scaler is None:
            self._scaler = torch.amp.GradScaler(device.type, init_scale=INITIAL_SCALE)
            if self._restored:
                self._scaler.load_state_dict(self._restored)
        return self._scaler


class _Scaled(nn.Module):
    def __init__(self, network: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.inner, self.scale = network, scale

    def forward(self, image: Tensor) -> Tensor:
        scaled: Any = _ScaleGradient.apply
        # The logits in float32, so that their gradient is scaled before it becomes float16.
        logits: Tensor = scaled(self.inner(scaled(image, 1 / self.scale)).float(), self.scale)
        return logits


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradients[0] * factor, None
