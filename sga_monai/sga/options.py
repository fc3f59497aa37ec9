"""The options of Algorithm 1 as frozen values that check themselves; each is a step of the paper.

Li et al., "Saliency Guided Adversarial Training for Learning Generalizable Features with Applications to Medical Imaging
Classification System", AdvML Frontiers at ICML 2022. Field names are the ids of the bundle's ``train.json``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.sga import lp_ball
from sga_monai.sga.steps import CleanPass, border, class_score, fill_masked, input_gradient, kl_divergence, lowest_mask, mask_size

ORDERS = ("signed", "magnitude", "highest", "highest_magnitude", "random")
FILLS = ("image_range", "value_range", "image_mean")


@dataclass(frozen=True)
class Domain:
    """Where the pixels of an image may be: the box of their values, and the region that steps 2 and 3 may change.

    Args:
        value_range: lowest and highest value of a pixel.
        border_width: only pixels nearer to an edge than this share of that side may change, in (0, 0.5];
            ``mask_fraction`` and the radius of the attack are then of these pixels. 0.5 is the whole image.
    """

    value_range: tuple[float, float] = (0.0, 1.0)
    border_width: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "value_range", check.pair("value_range", self.value_range, distinct=True))
        object.__setattr__(self, "border_width", check.number("border_width", self.border_width, above=0, high=0.5))

    def region(self, image: Tensor) -> Tensor | None:
        """The pixels of ``image`` ``[B, C, H, W]`` that may change: ``[1, 1, H, W]`` bool, ``None`` for all of them."""
        return border(image, self.border_width) if self.border_width < 0.5 else None

    def contains(self, image: Tensor) -> bool:
        """Whether all values of ``image`` are within ``value_range``."""
        return self.value_range[0] <= float(image.min()) <= float(image.max()) <= self.value_range[1]


@dataclass(frozen=True)
class Masking:
    """Steps 1 and 2: the pixels of lowest saliency become random values (Eq. 2 and 3).

    Args:
        mask_fraction: k as a share of the pixels, in [0, 1). 0 masks nothing and takes no gradient.
        saliency_order: which pixels are masked first, see ``lowest_mask``: "signed" (the paper), "magnitude", "highest",
            "highest_magnitude" or "random".
        saliency_target: score whose gradient is the saliency: the logit of the "label" (the paper), the largest logit
            ("predicted") or the label's logit minus the largest other one ("difference").
        fill: "image_range" (uniform between the image's own minimum and maximum), "value_range" or "image_mean".

    Example:
        >>> Masking(mask_fraction=1.5)
        Traceback (most recent call last):
            ...
        sga_monai.core.errors.InputError: mask_fraction must be in [0, 1), got 1.5
    """

    mask_fraction: float = 0.1
    saliency_order: str = "signed"
    saliency_target: str = "label"
    fill: str = "image_range"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mask_fraction", check.number("mask_fraction", self.mask_fraction, low=0, below=1))
        check.choice("saliency_order", self.saliency_order, ORDERS)
        check.choice("saliency_target", self.saliency_target, ("label", "predicted", "difference"))
        check.choice("fill", self.fill, FILLS)

    def __call__(
        self,
        network: nn.Module,
        image: Tensor,
        label: Tensor,
        domain: Domain,
        generator: torch.Generator | None = None,
        clean: CleanPass | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient ``[B, C, H, W]``, mask ``[B, 1, H, W]`` and masked image X~ ``[B, C, H, W]``; ``clean`` saves a pass of X."""
        gradient, region = torch.zeros_like(image), domain.region(image)
        if self.mask_fraction == 0:
            return gradient, torch.zeros_like(image[:, :1], dtype=torch.bool), image
        if mask_size(image, self.mask_fraction, region) == 0:
            raise InputError("mask_fraction is less than one pixel of the image; raise it, border_width or image_size")
        if self.saliency_order != "random":
            if clean is None:
                gradient = input_gradient(network, image, label, self.saliency_target)
            else:
                gradient = clean.gradient(class_score(clean.logits, label, self.saliency_target))
        mask = lowest_mask(gradient, self.mask_fraction, self.saliency_order, generator, region)
        return gradient, mask, fill_masked(image, mask, self.fill, generator, domain.value_range)


@dataclass(frozen=True)
class Attack:
    """Step 3: X' = X~ + d, where d raises CE(f(X~ + d), y) and ||d||_p <= epsilon (Eq. 4 and 5).

    One step without random start is FGSM, several are PGD with steps of 2.5 * radius / ``attack_steps`` (Madry et al., ICLR
    2018), one step after a random start has 1.25 * radius (Wong et al., ICLR 2020).

    Args:
        epsilon_range: ``epsilon`` is drawn uniformly from it, in units of the domain's ``value_range``; each end in [0, 1].
        epsilon_per: one ``epsilon`` a "batch" (the paper) or a "sample".
        norm: p of the ball: "inf", 0, 1, 2 or any number above 1.
        attack: what is raised: "ce", "kl" (KL of f(X) and f(X'), TRADES of Zhang et al., ICML 2019; needs ``random_start`` or
            a mask, since KL has no slope where X' is X) or "noise" (nothing: a random direction of the same length).
        attack_steps: number of gradient steps, 1 or more.
        random_start: begin at a random point of the ball.
    """

    epsilon_range: tuple[float, float] = (0.01, 0.05)
    epsilon_per: str = "batch"
    norm: float | str = "inf"
    attack: str = "ce"
    attack_steps: int = 1
    random_start: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "epsilon_range", check.pair("epsilon_range", self.epsilon_range, low=0, high=1))
        check.choice("epsilon_per", self.epsilon_per, ("batch", "sample"))
        object.__setattr__(self, "norm", lp_ball.parse_norm(self.norm))
        check.choice("attack", self.attack, ("ce", "kl", "noise"))
        object.__setattr__(self, "attack_steps", check.whole("attack_steps", self.attack_steps, low=1))
        object.__setattr__(self, "random_start", check.flag("random_start", self.random_start))

    @property
    def is_fgsm(self) -> bool:
        """One step along the gradient of CE at X~ itself, so that a gradient at hand can take its place."""
        return self.attack == "ce" and self.attack_steps == 1 and not self.random_start

    def draw(self, image: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``epsilon`` for a mini-batch, ``[1, 1, 1, 1]``, or ``[B, 1, 1, 1]`` with ``epsilon_per`` "sample"."""
        low, high = self.epsilon_range
        n_draws = image.shape[0] if self.epsilon_per == "sample" else 1
        uniform = torch.rand((n_draws, 1, 1, 1), generator=generator, dtype=image.dtype, device=image.device)
        return low + uniform * (high - low)

    def __call__(
        self,
        network: nn.Module,
        start: Tensor,
        label: Tensor,
        epsilon: Tensor,
        domain: Domain | None = None,
        generator: torch.Generator | None = None,
        clean_logits: Tensor | None = None,
        slope: Tensor | None = None,
    ) -> Tensor:
        """X', detached, ``[B, C, H, W]``, inside the domain; ``||X' - start||_p`` is at most the radius.

        Args:
            network: maps ``[B, C, H, W]`` to logits ``[B, K]``; see ``frozen_statistics``.
            start: X~, ``[B, C, H, W]``.
            label: ``[B]``, class numbers.
            epsilon: of ``draw``; all zero returns ``start``.
            domain: the box and the region.
            generator: source of the random start and of "noise"; the global one when ``None``.
            clean_logits: f(X), ``[B, K]``, for attack "kl".
            slope: a direction to move in, ``[B, C, H, W]``, instead of the gradient at each step.
        """
        domain = domain or Domain()
        norm, box, region = float(self.norm), domain.value_range, domain.region(start)
        n_values = start[0].numel() if region is None else start.shape[1] * int(region.sum())
        radius = lp_ball.radius(epsilon, norm, n_values, box)
        if self.attack_steps == 1:
            step = 1.25 * radius if self.random_start else radius
        else:
            step = 2.5 * radius / self.attack_steps
        d = lp_ball.random_start(start, radius, norm, generator, box, region) if self.random_start else torch.zeros_like(start)
        if self.attack == "noise" and slope is None:
            # One direction for all steps, or they would undo one another.
            slope = torch.randn(start.shape, generator=generator, dtype=start.dtype, device=start.device)
        for _ in range(self.attack_steps):
            image = (start + d).clamp(*box).requires_grad_(True)
            uphill = self._slope(network, image, label, clean_logits) if slope is None else slope
            uphill = uphill if region is None else uphill * region
            d = lp_ball.project(d + lp_ball.steepest_step(uphill, image.detach(), step, norm, box), start, radius, norm, box)
            # The sign of NaN is 0: a gradient that is not finite must make X' so too, or nobody would notice.
            d = d + 0 * uphill
        return (start + d).clamp(*box)

    def _slope(self, network: nn.Module, image: Tensor, label: Tensor, clean_logits: Tensor | None) -> Tensor:
        """The direction in which ``image`` is moved, ``[B, C, H, W]``."""
        with torch.enable_grad():
            logits = network(image).float()
            if self.attack == "ce":
                loss = F.cross_entropy(logits, label, reduction="sum")
            elif clean_logits is None:
                raise ValueError("attack kl needs clean_logits")
            else:
                loss = len(label) * kl_divergence(clean_logits, logits)
        return torch.autograd.grad(loss, image)[0]

    def strongest(self, attack_steps: int = 10) -> Attack:
        """The attack at the upper end of ``epsilon_range``, with more steps and no random start, for measuring robustness."""
        high = self.epsilon_range[1]
        return replace(self, epsilon_range=(high, high), attack="ce", attack_steps=attack_steps, random_start=False)


class Terms(NamedTuple):
    """The loss of a step and its parts; ``kl_loss`` and ``adversarial_accuracy`` are ``None`` without an attack."""

    loss: Tensor
    ce_loss: Tensor
    kl_loss: Tensor | None = None
    adversarial_accuracy: Tensor | None = None


@dataclass(frozen=True)
class Objective:
    """Step 4: the loss CE(f(X), y) + kl_weight * KL(f(X) || f(X')) (Eq. 6).

    Args:
        kl_weight: lambda, zero or more. 0 is natural training, bit for bit: steps 1 to 3 do not run.
        objective: "kl" (Eq. 6), or "adversarial_ce": CE(f(X'), y) alone (Madry et al., ICLR 2018), where any positive
            ``kl_weight`` only turns the attack on.
        detach_clean: no gradient of KL through f(X).
    """

    kl_weight: float = 1.0
    objective: str = "kl"
    detach_clean: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "kl_weight", check.number("kl_weight", self.kl_weight, low=0))
        check.choice("objective", self.objective, ("kl", "adversarial_ce"))
        object.__setattr__(self, "detach_clean", check.flag("detach_clean", self.detach_clean))
        if self.objective == "adversarial_ce" and self.kl_weight == 0:
            raise InputError("objective adversarial_ce needs an attack, which kl_weight 0 turns off: set kl_weight to 1")

    def __call__(
        self, clean_loss: Tensor, clean: Tensor, adversarial: Tensor | None, label: Tensor, ce: Callable[[Tensor, Tensor], Tensor]
    ) -> Terms:
        """The terms of Eq. 6 from CE(f(X), y), f(X), f(X') (``None`` without an attack), y and the CE to use."""
        if adversarial is None:
            return Terms(clean_loss, clean_loss)
        kl = kl_divergence(clean.detach() if self.detach_clean else clean, adversarial)
        loss = clean_loss + self.kl_weight * kl if self.objective == "kl" else ce(adversarial, label)
        return Terms(loss, clean_loss, kl, (adversarial.argmax(dim=1) == label).float().mean())
