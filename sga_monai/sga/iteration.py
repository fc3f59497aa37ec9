"""Saliency guided adversarial training: Algorithm 1 as an iteration of MONAI's ``SupervisedTrainer``.

Li et al., "Saliency Guided Adversarial Training for Learning Generalizable Features with Applications to Medical Imaging
Classification System", AdvML Frontiers at ICML 2022. For each mini-batch (X, y) and network f:

    1. g  = gradient of the score of y in f(X) with respect to X                                    (Eq. 2)
    2. X~ = X with the ``mask_fraction`` of pixels of lowest g replaced by random values            (Eq. 3)
    3. X' = X~ + d,  d = argmax CE(f(X~ + d), y) over ||d||_p <= epsilon                         (Eq. 4, 5)
    4. minimize CE(f(X), y) + kl_weight * KL(f(X) || f(X'))                                         (Eq. 6)

Four methods by numbers: ``kl_weight`` 0 is natural training (NT, steps 1 to 3 do not run), ``mask_fraction`` 0 is adversarial
training (AT), ``epsilon_range`` [0, 0] is saliency guided training (SG), the defaults are SGA.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from monai.engines import SupervisedTrainer
from torch import Tensor, nn

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.model.modes import autocast, frozen_statistics, untracked_statistics
from sga_monai.sga.comparisons import Augmentation, GroupWeights
from sga_monai.sga.engine import Step
from sga_monai.sga.options import Attack, Domain, Masking, Objective
from sga_monai.sga.precision import GradientScale
from sga_monai.sga.steps import CleanPass


class Views(NamedTuple):
    """What steps 1 to 3 make of X: ``gradient``, ``mask``, ``masked`` (X~), ``epsilon`` and ``adversarial`` (X')."""

    gradient: Tensor
    mask: Tensor
    masked: Tensor
    epsilon: Tensor
    adversarial: Tensor


class SGAIteration:
    """One training step of Algorithm 1, for ``SupervisedTrainer(iteration_update=SGAIteration(...))``.

    Honors the trainer's ``accumulation_steps``, ``prepare_batch`` and ``loss_function`` (the CE of Eq. 6) and fires MONAI's
    four iteration events. ``engine.state.output`` holds ``image, label, pred, loss, ce_loss`` and, unless ``kl_weight`` is 0,
    ``kl_loss, epsilon`` (mean of the mini-batch) and ``adversarial_accuracy`` (share of f(X') that is right).

    Args:
        masking: steps 1 and 2.
        attack: step 3.
        objective: step 4.
        domain: where pixels may be.
        augmentation: of X before step 1.
        groups: group DRO, which then takes the place of the trainer's loss on X; its step 0 is the plain mean.
        attack_mode: mode of the network in steps 1 and 3, "eval" or "train"; BatchNorm's buffers never change there. In "train"
            one forward pass of X serves steps 1 and 4, since the mode is the same.
        adversarial_statistics: whether f(X') of step 4 moves BatchNorm's running statistics: "both" (f(X) and f(X') do) or
            "clean" (only f(X) does).
        gradient_reuse: take the direction of FGSM from the saliency at X instead of a second gradient at X~, which saves a
            quarter of the extra cost. With two classes the gradient of CE is minus a positive multiple of that of the score
            difference at the same point; here the point differs by the mask.
        precision: of every forward pass: "fp32", or "bf16" and "fp16" by autocast; losses are float32 either way. "fp16" scales
            gradients and leaves out a step in which they overflow, see ``GradientScale``.
        seed: all draws are a function of (seed, iteration, rank); the global random state is not touched.

    Raises:
        InputError: for options that contradict each other, or a trainer that asks for what this step cannot honor.
        NumericError: before the optimizer's step, when image, saliency, perturbation, loss or gradient is not finite.

    Example:
        >>> step = SGAIteration(Masking(mask_fraction=0.1), Attack(epsilon_range=(0.01, 0.05)), Objective(kl_weight=1.0))
        >>> step.settings["epsilon_range"]
        (0.01, 0.05)
    """

    def __init__(
        self,
        masking: Masking = Masking(),  # noqa: B008  (frozen)
        attack: Attack = Attack(),  # noqa: B008
        objective: Objective = Objective(),  # noqa: B008
        domain: Domain = Domain(),  # noqa: B008
        *,
        augmentation: Augmentation = Augmentation(),  # noqa: B008
        groups: GroupWeights | None = None,
        attack_mode: str = "eval",
        adversarial_statistics: str = "both",
        gradient_reuse: bool = False,
        precision: str = "fp32",
        seed: int = 0,
    ) -> None:
        self.masking, self.attack, self.objective, self.domain = masking, attack, objective, domain
        self.augmentation, self.groups = augmentation, groups or GroupWeights(0.0)
        self.attack_mode = check.choice("attack_mode", attack_mode, ("eval", "train"))
        self.adversarial_statistics = check.choice("adversarial_statistics", adversarial_statistics, ("both", "clean"))
        self.gradient_reuse = check.flag("gradient_reuse", gradient_reuse)
        self.scale = GradientScale(precision)
        self.seed = check.whole("seed", seed, low=0)
        mixup = augmentation.augmentation == "mixup"
        if attack.attack == "kl" and not (attack.random_start or masking.mask_fraction > 0):
            raise InputError("attack kl needs random_start true, or a mask: without them X' is X, where KL has no slope")
        if mixup and objective.kl_weight > 0:
            raise InputError("augmentation mixup has no single label to attack: set kl_weight to 0")
        if augmentation.augmentation == "standard" and domain.value_range != (0, 1):
            raise InputError("augmentation standard is of images in [0, 1]: leave value_range at it, or the augmentation off")
        if self.groups.group_dro_step > 0 and (mixup or objective.objective != "kl"):
            raise InputError("group_dro_step weighs the CE on X by label: leave augmentation mixup and objective adversarial_ce off")
        taken = masking.mask_fraction > 0 and masking.saliency_order != "random" and masking.saliency_target == "difference"
        if self.gradient_reuse and not (taken and attack.is_fgsm):
            raise InputError(
                "gradient_reuse needs saliency_target difference, a mask by saliency, and attack ce with one step and no random_start"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """All options by their ids in ``train.json``."""
        parts = [asdict(part) for part in (self.masking, self.attack, self.objective, self.domain, self.augmentation)]
        own = {"group_dro_step": self.groups.group_dro_step, "attack_mode": self.attack_mode}
        own |= {"adversarial_statistics": self.adversarial_statistics, "gradient_reuse": self.gradient_reuse}
        own |= {"precision": self.scale.precision, "seed": self.seed}
        return {key: value for part in (*parts, own) for key, value in part.items()}

    def __call__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        """Run one iteration and return ``engine.state.output``."""
        step = Step(engine, batchdata, self.domain)
        draw = step.generator(self.seed)
        image, target = self.augmentation(step.image, step.label, draw)
        step.begin_output(image, step.label)
        step.begin_training()
        if step.first:
            self.groups.keep()

        views = shared = None
        network, precision = self.scale.network(step.network), self.scale.precision
        if self.objective.kl_weight > 0:  # Steps 1 to 3, which natural training skips.
            # A context of its own: autocast would keep weights that were cast without a gradient, as attack kl does it.
            with autocast(image.device, precision):
                shared = CleanPass.of(network, image) if self.attack_mode == "train" else None
                views = self.views(step.bare, image, step.label, draw, shared)
            step.output["epsilon"] = views.epsilon.mean()
            step.check_finite(saliency=views.gradient, perturbation=views.adversarial)

        with autocast(image.device, precision):
            clean = network(image) if shared is None else shared.logits
            adversarial = None if views is None else self._forward_adversarial(network, views)
        step.forward_completed(clean)

        clean, adversarial = clean.float(), None if adversarial is None else adversarial.float()
        terms = self.objective(self._clean_loss(step, clean, target), clean, adversarial, step.label, step.ce)  # Step 4, Eq. 6.
        step.loss_completed(terms)
        loss = terms.loss if views is None else self.scale.mark(terms.loss, views.gradient, views.adversarial)
        output = step.optimize(loss, self.scale)
        if step.left_out:
            self.groups.take_back()
        return output

    def views(
        self,
        network: nn.Module,
        image: Tensor,
        label: Tensor,
        generator: torch.Generator | None = None,
        clean: CleanPass | None = None,
    ) -> Views:
        """Steps 1 to 3 for ``image`` ``[B, C, H, W]`` and ``label`` ``[B]``; no trace is left in the network.

        ``clean``, the forward pass of ``image`` in train mode, takes the place of passes that ``attack_mode`` train would repeat.
        """
        image = image.detach()
        with frozen_statistics(network, self.attack_mode):
            network = self.scale.network(network)
            gradient, mask, masked = self.masking(network, image, label, self.domain, generator, clean)  # Eq. 2 and 3.
            epsilon = self.attack.draw(image, generator)
            if self.attack.epsilon_range[1] == 0:
                return Views(gradient, mask, masked, epsilon, masked)
            slope, clean_logits = None, None
            if self.gradient_reuse:
                slope = -gradient
            elif clean is not None and self.attack.is_fgsm and self.masking.mask_fraction == 0:  # X~ is X.
                slope = clean.gradient(F.cross_entropy(clean.logits.float(), label, reduction="sum"))
            if self.attack.attack == "kl":
                with torch.no_grad():
                    clean_logits = (network(image) if clean is None else clean.logits.detach()).float()
            adversarial = self.attack(network, masked, label, epsilon, self.domain, generator, clean_logits, slope)  # Eq. 4 and 5.
        return Views(gradient, mask, masked, epsilon, adversarial)

    def _forward_adversarial(self, network: nn.Module, views: Views) -> Tensor:
        adversarial = self.scale.without_overflow(views.adversarial, views.masked)
        with untracked_statistics(network) if self.adversarial_statistics == "clean" else contextlib.nullcontext():
            logits: Tensor = network(adversarial)
        return logits

    def _clean_loss(self, step: Step, logits: Tensor, target: Tensor) -> Tensor:
        """CE(f(X), y): the trainer's loss, or that of the groups."""
        if not self.groups.group_dro_step:
            return step.ce(logits, target)
        if "site" not in step.batchdata:
            raise InputError("group_dro_step needs the site of each image in the batch, as load_manifest gives it")
        return self.groups.loss(F.cross_entropy(logits, target, reduction="none"), step.batchdata["site"], target)

    def state_dict(self) -> dict[str, Any]:
        """What the step has learned besides the network: the weights of groups, and the scale of gradients."""
        return {"groups": self.groups.state_dict(), "scale": self.scale.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
        self.groups.load_state_dict(state_dict["groups"])
        # A checkpoint from before fp16 has none, and may be resumed by force.
        self.scale.load_state_dict(state_dict.get("scale", {}))
