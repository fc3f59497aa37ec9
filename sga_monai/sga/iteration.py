"""Saliency guided adversarial training: Algorithm 1 as an iteration of MONAI's ``SupervisedTrainer``.

Li et al., "Saliency Guided Adversarial Training for Learning Generalizable Features with Applications to Medical
Imaging Classification System", AdvML Frontiers at ICML 2022. For each mini-batch (X, y) and network f:

    1. g  = gradient of the score of y in f(X) with respect to X                       (saliency, Eq. 2)
    2. X~ = X with the ``mask_fraction`` of pixels of lowest g replaced by random values            (Eq. 3)
    3. X' = X~ + d,  d = argmax CE(f(X~ + d), y) over ||d||_p <= epsilon                         (Eq. 4, 5)
    4. minimize CE(f(X), y) + kl_weight * KL(f(X) || f(X'))                                         (Eq. 6)

Four methods by numbers: ``kl_weight`` 0 is natural training (NT, steps 1 to 3 do not run), ``mask_fraction`` 0 is
adversarial training (AT), ``epsilon_range`` [0, 0] is saliency guided training (SG), the defaults are SGA.

Where the paper leaves a choice, it is an argument of ``SGAIteration`` and this is the default: the score is the
logit of the label (``saliency_target``); pixels are ordered by signed gradient, lowest first, ties in raster order
(``saliency_order``); random values are uniform between the image's own minimum and maximum (``fill``); the network is
in eval mode for steps 1 and 3 (``attack_mode``); one epsilon a mini-batch (``epsilon_per``), in units of
``value_range``, into which X' is clipped; FGSM, that is one step from X~ (``attack_steps``, ``random_start``); both
branches of KL have gradients (``detach_clean``). A feature is a pixel: channels share one mask.

Opponents by numbers too: ``saliency_order`` "highest" masks what speaks most for the label instead of least (as Huang et
al., "Self-Challenging Improves Cross-Domain Generalization", ECCV 2020, do with features), "random" masks any pixels,
``attack`` "noise" takes a random direction of the same size, ``attack`` "kl" with several steps is TRADES (Zhang et al.,
ICML 2019), ``border_width`` below 0.5 keeps mask and perturbation out of the middle of the image, where the lungs are,
``objective`` "adversarial_ce" minimizes CE(f(X'), y) alone (Madry et al., ICLR 2018), and ``augmentation`` and
``group_dro_step`` are of ``baselines.py``.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.engines import SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.inferers import SimpleInferer
from monai.utils.enums import CommonKeys as Keys
from torch import Tensor, nn

from sga_monai.core.errors import InputError, NumericError
from sga_monai.model.modes import frozen_statistics
from sga_monai.sga import lp_ball as perturbation
from sga_monai.sga.comparisons import AUGMENTATIONS, GroupWeights
from sga_monai.sga.steps import adversarial_example, border, fill_masked, input_gradient, kl_divergence, lowest_mask

CHOICES = {
    "saliency_order": ("signed", "magnitude", "highest", "highest_magnitude", "random"),
    "saliency_target": ("label", "predicted"),
    "attack_mode": ("eval", "train"),
    "attack": ("ce", "kl", "noise"),
    "objective": ("kl", "adversarial_ce"),
    "augmentation": (None, *AUGMENTATIONS),
    "fill": ("image_range", "value_range", "image_mean"),
    "epsilon_per": ("batch", "sample"),
    "precision": ("fp32", "bf16"),
}


class SGAIteration:
    """One training step of Algorithm 1, for ``SupervisedTrainer(iteration_update=SGAIteration(...))``.

    Honors the trainer's ``accumulation_steps``, ``prepare_batch`` and ``loss_function`` (the CE of Eq. 6) and fires
    MONAI's four iteration events. ``engine.state.output`` holds ``image, label, pred, loss`` and, apart, ``ce_loss,
    kl_loss, epsilon`` (mean of the mini-batch) and ``adversarial_accuracy`` (share of f(X') that is right); the last
    three are missing when ``kl_weight`` is 0.

    Args:
        mask_fraction: k as a fraction of the pixels, in [0, 1).
        kl_weight: lambda, not negative. 0 is natural training, bit for bit.
        epsilon_range: ``epsilon`` is drawn uniformly from it, in units of ``value_range``, each end in [0, 1].
        norm: p of the attack: "inf", 0, 1, 2 or any p > 1.
        attack_steps: 1 is FGSM, more are PGD.
        random_start: start the attack at a random point of the ball.
        saliency_order: "signed", "magnitude", "highest", "highest_magnitude" or "random"; see ``lowest_mask``.
        saliency_target: "label" or "predicted".
        attack_mode: mode of the network in steps 1 and 3: "eval" or "train". BatchNorm's buffers never change there.
        fill: "image_range", "value_range" or "image_mean".
        epsilon_per: "batch" or "sample".
        border_width: steps 2 and 3 change only pixels nearer to an edge than this share of that side, in (0, 0.5];
            ``mask_fraction`` and the radius of the attack are then of these pixels. 0.5 is the whole image.
        detach_clean: stop the gradient of KL through f(X).
        attack: what step 3 raises: "ce" (Eq. 5), "kl" (TRADES; needs a random start or a mask, since KL has no slope
            where X' is X) or "noise".
        objective: "kl" (Eq. 6), or "adversarial_ce", which is CE(f(X'), y) alone; a positive ``kl_weight`` is then
            without effect.
        augmentation: of X before step 1: ``None``, "mixup" (with ``kl_weight`` 0) or "border_and_marker".
        group_dro_step: eta of ``GroupWeights`` over (site, label) for the CE on X, which then takes the place of the
            trainer's ``loss_function``; 0 is the plain mean.
        precision: "fp32", or "bf16" for autocast in every forward pass; losses are float32 either way.
        value_range: lowest and highest pixel value.
        seed: all draws are a function of (seed, iteration, rank); the global random state is not touched.

    Raises:
        InputError: when an argument is outside its range, or the trainer asks for what this step cannot honor.
        NumericError: before the optimizer's step, when image, saliency, perturbation, loss or gradient is not finite.
    """

    def __init__(
        self,
        mask_fraction: float = 0.1,
        kl_weight: float = 1.0,
        epsilon_range: Sequence[float] = (0.01, 0.05),
        norm: float | str = "inf",
        attack_steps: int = 1,
        random_start: bool = False,
        saliency_order: str = "signed",
        saliency_target: str = "label",
        attack_mode: str = "eval",
        fill: str = "image_range",
        epsilon_per: str = "batch",
        border_width: float = 0.5,
        detach_clean: bool = False,
        attack: str = "ce",
        objective: str = "kl",
        augmentation: str | None = None,
        group_dro_step: float = 0.0,
        precision: str = "fp32",
        value_range: Sequence[float] = (0.0, 1.0),
        seed: int = 0,
    ) -> None:
        numbers = {"mask_fraction": mask_fraction, "kl_weight": kl_weight, "attack_steps": attack_steps, "seed": seed}
        numbers |= {"group_dro_step": group_dro_step, "border_width": border_width}
        if isinstance(epsilon_range, (str, int, float)):
            raise InputError(f"epsilon_range must be [low, high], got {epsilon_range!r}")
        for name, value in (numbers | {f"epsilon_range[{i}]": value for i, value in enumerate(epsilon_range)}).items():
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise InputError(f"{name} must be a number, got {value!r}")
        # Fire passes `false` as a string, which would count as true.
        for name, flag in (("random_start", random_start), ("detach_clean", detach_clean)):
            if not isinstance(flag, bool):
                raise InputError(f"{name} must be True or False, got {flag!r}")
        if seed != int(seed) or seed < 0:
            raise InputError(f"seed must be a whole number, zero or more, got {seed!r}")
        if len(value_range) != 2 or not value_range[0] < value_range[1]:
            raise InputError(f"value_range must be [low, high] with low < high, got {value_range!r}")
        if not 0 < border_width <= 0.5:
            raise InputError(f"border_width must be in (0, 0.5], got {border_width!r}")
        if not 0 <= mask_fraction < 1:
            raise InputError(f"mask_fraction must be in [0, 1), got {mask_fraction!r}")
        if not (kl_weight >= 0 and math.isfinite(kl_weight)):
            raise InputError(f"kl_weight must be zero or more, got {kl_weight!r}")
        if len(epsilon_range) != 2 or not 0 <= epsilon_range[0] <= epsilon_range[1] <= 1:
            raise InputError(f"epsilon_range must be [low, high] with 0 <= low <= high <= 1, got {epsilon_range!r}")
        if attack_steps < 1 or attack_steps != int(attack_steps):
            raise InputError(f"attack_steps must be 1 or more, got {attack_steps!r}")
        for name, choices in CHOICES.items():
            if locals()[name] not in choices:
                raise InputError(f"{name} must be one of {', '.join(map(str, choices))}, got {locals()[name]!r}")
        if attack == "kl" and not (random_start or mask_fraction > 0):
            raise InputError("attack kl needs random_start true, or a mask: without them X' is X, where KL has no slope")
        if augmentation == "mixup" and kl_weight > 0:
            raise InputError("augmentation mixup has no single label to attack: set kl_weight to 0")
        if objective == "adversarial_ce" and kl_weight == 0:
            raise InputError("objective adversarial_ce needs an attack, which kl_weight 0 turns off: set kl_weight to 1")
        if not (group_dro_step >= 0 and math.isfinite(group_dro_step)):
            raise InputError(f"group_dro_step must be zero or more, got {group_dro_step!r}")
        if group_dro_step > 0 and (augmentation == "mixup" or objective != "kl"):
            raise InputError("group_dro_step weighs the CE on X by label: leave augmentation mixup and objective adversarial_ce off")
        self.mask_fraction = float(mask_fraction)
        self.kl_weight = float(kl_weight)
        self.epsilon_range = (float(epsilon_range[0]), float(epsilon_range[1]))
        self.norm = perturbation.parse_norm(norm)
        self.attack_steps = int(attack_steps)
        self.random_start = bool(random_start)
        self.saliency_order = saliency_order
        self.saliency_target = saliency_target
        self.attack_mode = attack_mode
        self.fill = fill
        self.epsilon_per = epsilon_per
        self.border_width = float(border_width)
        self.detach_clean = bool(detach_clean)
        self.attack = attack
        self.objective = objective
        self.augmentation = augmentation
        self.groups = GroupWeights(float(group_dro_step))
        self.precision = precision
        self.value_range = (float(value_range[0]), float(value_range[1]))
        self.seed = int(seed)

    def __call__(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any]) -> dict[str, Any]:
        """Run one iteration and return ``engine.state.output``."""
        self._refuse_what_cannot_be_honored(engine)
        batch = engine.prepare_batch(batchdata, engine.state.device, engine.non_blocking, **engine.to_kwargs)
        if len(batch) != 2:
            raise InputError("SGAIteration takes batches of image and label only")
        image, label = (t.as_tensor() if isinstance(t, MetaTensor) else t for t in batch)
        self._refuse_non_finite(engine, batchdata, image=image)
        if engine.state.iteration == 1 and not self.value_range[0] <= float(image.min()) <= float(image.max()) <= self.value_range[1]:
            raise InputError("images are outside value_range; scale them to it in preprocessing")
        network = engine.network
        generator, target = self._generator(engine, image), label
        if self.augmentation is not None:
            image, target = AUGMENTATIONS[self.augmentation](image, label, generator)
        output: dict[str, Any] = {Keys.IMAGE: image, Keys.LABEL: label}
        engine.state.output = output

        adversarial = None
        if self.kl_weight > 0:
            with self.autocast(image.device):
                stages = self.stages(network, image, label, generator)
            adversarial, output["epsilon"] = stages["adversarial"], stages["epsilon"].mean()
            self._refuse_non_finite(engine, batchdata, saliency=stages["gradient"], perturbation=adversarial)

        first, last = self._accumulation_window(engine)
        network.train()
        if first:
            engine.optimizer.zero_grad(set_to_none=engine.optim_set_to_none)
        with self.autocast(image.device):
            output[Keys.PRED] = network(image)
            adversarial_logits = None if adversarial is None else network(adversarial)
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)

        # Eq. 6: L = CE(f(X), y) + lambda * KL(f(X) || f(X')).
        clean_logits = output[Keys.PRED].float()
        loss = self._clean_loss(engine, batchdata, clean_logits, target)
        output["ce_loss"] = loss.detach()
        if adversarial_logits is not None:
            reference = clean_logits.detach() if self.detach_clean else clean_logits
            kl_loss = kl_divergence(reference, adversarial_logits.float())
            if self.objective == "kl":
                loss = loss + self.kl_weight * kl_loss
            else:
                loss = engine.loss_function(adversarial_logits.float(), label).mean()
            output["kl_loss"] = kl_loss.detach()
            output["adversarial_accuracy"] = (adversarial_logits.argmax(dim=1) == label).float().mean()
        output[Keys.LOSS] = loss
        engine.fire_event(IterationEvents.LOSS_COMPLETED)
        self._refuse_non_finite(engine, batchdata, loss=loss)

        (loss / engine.accumulation_steps if engine.accumulation_steps > 1 else loss).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        # Before the optimizer, which would spread what is not finite over all weights.
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        self._refuse_non_finite(engine, batchdata, gradient=nn.utils.get_total_norm(gradients))
        if last:
            engine.optimizer.step()
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def state_dict(self) -> dict[str, Any]:
        """What the step has learned besides the network: the weights of groups."""
        return {"groups": self.groups.state_dict()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The inverse."""
        self.groups.load_state_dict(state_dict["groups"])

    def perturb(self, network: nn.Module, image: Tensor, label: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Steps 1 to 3 of Algorithm 1: X' of ``image`` ``[B, C, H, W]``, and the mean ``epsilon`` that was drawn."""
        stages = self.stages(network, image, label, generator)
        return stages["adversarial"], stages["epsilon"].mean()

    def stages(self, network: nn.Module, image: Tensor, label: Tensor, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Everything steps 1 to 3 make: ``gradient, mask, masked, epsilon, adversarial``; no trace is left behind.

        With ``mask_fraction`` 0 the mask is empty and no gradient is taken; with epsilon 0 there is no attack.
        """
        image, gradient = image.detach(), torch.zeros_like(image)
        mask, masked = torch.zeros_like(image[:, :1], dtype=torch.bool), image
        region = self.region(image)
        with frozen_statistics(network, self.attack_mode):
            if self.mask_fraction > 0:
                if self.saliency_order != "random":
                    gradient = input_gradient(network, image, label, self.saliency_target)
                mask = lowest_mask(gradient, self.mask_fraction, self.saliency_order, generator, region)
                if not bool(mask.any()):
                    raise InputError("mask_fraction is less than one pixel of the image; raise it, border_width or image_size")
                masked = fill_masked(image, mask, self.fill, generator, self.value_range)
            low, high = self.epsilon_range
            n_draws = image.shape[0] if self.epsilon_per == "sample" else 1
            uniform = torch.rand((n_draws, 1, 1, 1), generator=generator, dtype=image.dtype, device=image.device)
            epsilon = low + uniform * (high - low)
            adversarial, clean_logits = masked, None
            if high > 0:
                if self.attack == "kl":
                    with torch.no_grad():
                        clean_logits = network(image).float()
                adversarial = adversarial_example(
                    network,
                    masked,
                    label,
                    epsilon,
                    self.norm,
                    self.attack_steps,
                    self.random_start,
                    generator,
                    self.value_range,
                    clean_logits,
                    self.attack,
                    region,
                )
        return {"gradient": gradient, "mask": mask, "masked": masked, "epsilon": epsilon, "adversarial": adversarial}

    def region(self, image: Tensor) -> Tensor | None:
        """Where steps 2 and 3 may change ``image`` ``[B, C, H, W]``: ``[1, 1, H, W]`` bool, ``None`` for everywhere."""
        return border(image, self.border_width) if self.border_width < 0.5 else None

    def autocast(self, device: torch.device) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 autocast on ``device`` when ``precision`` is "bf16", nothing otherwise."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")

    def _clean_loss(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any], logits: Tensor, target: Tensor) -> Tensor:
        """CE(f(X), y): the trainer's loss, or that of the groups."""
        if not self.groups.step:
            loss: Tensor = engine.loss_function(logits, target).mean()
            return loss
        if "site" not in batchdata:
            raise InputError("group_dro_step needs the site of each image in the batch, as load_manifest gives it")
        return self.groups.loss(F.cross_entropy(logits, target, reduction="none"), batchdata["site"], target)

    def _generator(self, engine: SupervisedTrainer, image: Tensor) -> torch.Generator:
        """A generator whose state depends on (seed, iteration, rank) alone, so that a resumed run draws the same."""
        entropy = np.random.SeedSequence((self.seed, engine.state.iteration, engine.state.rank))
        return torch.Generator(image.device).manual_seed(int(entropy.generate_state(1, np.uint64)[0] >> np.uint64(1)))

    def _accumulation_window(self, engine: SupervisedTrainer) -> tuple[bool, bool]:
        """Whether this iteration is the first and the last one of its accumulated step; an epoch's end closes one."""
        steps, length = engine.accumulation_steps, engine.state.epoch_length
        position = (engine.state.iteration - 1) % length if length else engine.state.iteration - 1
        return position % steps == 0, (position + 1) % steps == 0 or position + 1 == length

    def _refuse_non_finite(self, engine: SupervisedTrainer, batchdata: Mapping[str, Any], **tensors: Tensor) -> None:
        """Stop at a NaN or an infinite value, naming the step and the rows of the manifest: those concerned, or all."""
        for name, tensor in tensors.items():
            finite = tensor.isfinite()
            if bool(finite.all()):
                continue
            rows = [int(row) for row in batchdata.get("row", [])]
            if tensor.ndim == 4 and rows:
                rows = [row for row, good in zip(rows, finite.flatten(1).all(dim=1).tolist(), strict=True) if not good]
            listed = ", ".join(str(row) for row in sorted(rows)[:8]) + (", ..." if len(rows) > 8 else "")
            where = f"epoch {engine.state.epoch}, iteration {engine.state.iteration}" + (f", rows {listed}" if rows else "")
            remedy = "check these images" if name == "image" else "lower learning_rate, or look at these images"
            raise NumericError(f"{where}: the {name} is NaN or infinite, and the step was not taken; {remedy}")

    def _refuse_what_cannot_be_honored(self, engine: SupervisedTrainer) -> None:
        """Say no to trainer options that this step would otherwise ignore in silence."""
        if engine.amp:
            raise InputError("SGAIteration has its own precision: set precision to bf16 and leave amp off")
        if engine.compile:
            raise InputError("SGAIteration needs input gradients of the plain network: leave compile off")
        if type(engine.inferer) is not SimpleInferer:
            raise InputError("SGAIteration trains on whole images: the inferer must be SimpleInferer")
