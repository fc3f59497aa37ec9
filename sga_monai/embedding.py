"""The features before the last layer as one distribution of a whole set: mean and variance, and how far two are apart."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sga_monai.errors import InputError
from sga_monai.files import write_whole
from sga_monai.source_profile import FEWEST as FEWEST_PATIENTS
from sga_monai.source_profile import LABELS, N_AXES, source_profile

N_FEATURES = 512
# Moments of fewer images come close to a case's own features.
FEWEST = 10
_NUMBERS = {"type": "number", "minimum": -1e12, "maximum": 1e12}
_POSITIVE = {"type": "number", "minimum": 1e-24, "maximum": 1e24}
_EACH_FEATURE = {"type": "array", "minItems": N_FEATURES, "maxItems": N_FEATURES}
_COORDINATES = {"type": "array", "minItems": 2, "maxItems": N_AXES + 1}
_GAUSSIAN = {
    "type": "object",
    "additionalProperties": False,
    "required": ["n_patients", "mean", "covariance"],
    "properties": {
        "n_patients": {"type": "integer", "minimum": FEWEST_PATIENTS, "maximum": 10**9},
        "mean": _COORDINATES | {"items": _NUMBERS},
        "covariance": _COORDINATES | {"items": _COORDINATES | {"items": _NUMBERS}},
    },
}
_BY_LABEL = {"type": "object", "additionalProperties": False, "required": [*LABELS], "properties": dict.fromkeys(LABELS, _GAUSSIAN)}
_HALF = {
    "type": "object",
    "additionalProperties": False,
    "required": ["center", "axes", "rest", "drawn", "judge"],
    "properties": {
        "center": _EACH_FEATURE | {"items": _NUMBERS},
        "axes": {"type": "array", "items": _EACH_FEATURE | {"items": _NUMBERS}, "minItems": 1, "maxItems": N_AXES},
        "rest": _EACH_FEATURE | {"items": _POSITIVE},
        "drawn": _BY_LABEL,
        "judge": _BY_LABEL,
    },
}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["n", "mean", "variance"],
    "properties": {
        "n": {"type": "integer", "minimum": FEWEST, "maximum": 10**9},
        "mean": {"type": "array", "items": _NUMBERS, "minItems": N_FEATURES, "maxItems": N_FEATURES},
        "variance": {"type": "array", "items": _NUMBERS | {"minimum": 0}, "minItems": N_FEATURES, "maxItems": N_FEATURES},
        "profile": {"type": "array", "items": _HALF, "minItems": 2, "maxItems": 2},
    },
}


class FeatureWatch:
    """Sees the input of a network's last layer at every forward pass between ``start`` and ``finish``.

    Args:
        network: with a last layer ``fc``.

    Raises:
        InputError: when it has none.
    """

    def __init__(self, network: nn.Module) -> None:
        last = getattr(network, "fc", None)
        if not isinstance(last, nn.Module):
            raise InputError("the network has no last layer fc, so it has no features to compare")
        self.last = last
        self.handle: RemovableHandle | None = None

    def start(self) -> None:
        """Begin anew."""
        self.finish()
        self.seen: list[Tensor] = []
        self.kept: list[Tensor] = []
        self.handle = self.last.register_forward_pre_hook(lambda _, inputs: self.seen.append(inputs[0].detach()))

    def keep(self, chosen: Sequence[bool] | None = None) -> None:
        """Keep the features of the chosen images of the last mini-batch; all when ``None``."""
        features = self.seen[-1].float().cpu()
        self.kept.append(features if chosen is None else features[torch.tensor(chosen)])
        self.seen.clear()

    def finish(self) -> NDArray[np.float32]:
        """What was kept, ``[N, D]``."""
        if self.handle is None:
            return np.zeros((0, 0), dtype=np.float32)
        self.handle.remove()
        self.handle = None
        return torch.cat(self.kept).numpy() if self.kept else np.zeros((0, 0), dtype=np.float32)


def forward_with_features(network: nn.Module, image: Tensor) -> tuple[Tensor, NDArray[np.float32]]:
    """Logits ``[N, 2]`` of images and the features before the last layer, ``[N, D]``.

    Raises:
        InputError: when the network has no last layer ``fc``.
    """
    watch = FeatureWatch(network)
    watch.start()
    try:
        logits = network(image)
        watch.keep()
    finally:
        features = watch.finish()
    return logits, features


def moments(features: ArrayLike) -> dict[str, Any] | None:
    """``n``, and ``mean`` and ``variance`` (n - 1) of each column of ``[N, D]``; ``None`` below ``FEWEST`` images."""
    values = np.asarray(features, dtype=np.float64)
    if len(values) < FEWEST:
        return None
    return {"n": len(values), "mean": values.mean(axis=0).tolist(), "variance": values.var(axis=0, ddof=1).tolist()}


def write_embedding(path: Path, features: ArrayLike, label: ArrayLike | None = None, patient: ArrayLike | None = None) -> None:
    """Write ``moments`` as JSON; nothing, and nothing of an earlier run stays, below ``FEWEST`` images.

    With ``label`` and ``patient``, ``[N]`` each, it has ``source_profile`` too, where there are patients enough.
    """
    content = moments(features)
    if content is None:
        path.unlink(missing_ok=True)
        return
    profile = None if label is None or patient is None else source_profile(features, label, patient)
    if profile is not None:
        content["profile"] = profile
    write_whole(path, lambda temporary: temporary.write_text(json.dumps(content) + "\n"))


def read_embedding(path: Path) -> dict[str, Any] | None:
    """What ``write_embedding`` wrote; ``None`` where there is no such file.

    Raises:
        InputError: when it is something else.
    """
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.validate(content, SCHEMA)
        if not is_sound(content):
            raise ValueError("NaN, or sizes that differ")
    except (OSError, ValueError, RecursionError, jsonschema.ValidationError):
        raise InputError(f"{path.name} is damaged; run again what wrote it") from None
    return content


def is_sound(embedding: Mapping[str, Any]) -> bool:
    """What a schema does not see: no NaN, which JSON as Python reads it may hold, and as many axes everywhere."""
    arrays = [embedding["mean"], embedding["variance"]]
    for half in embedding.get("profile", ()):
        size = len(half["axes"]) + 1
        arrays += [half["center"], half["axes"], half["rest"]]
        for gaussian in (half[role][label] for role in ("drawn", "judge") for label in LABELS):
            if len(gaussian["mean"]) != size or [len(line) for line in gaussian["covariance"]] != [size] * size:
                return False
            arrays += [gaussian["mean"], gaussian["covariance"]]
    return all(bool(np.isfinite(array).all()) for array in arrays)


def frechet_distance(site: Mapping[str, Any], internal: Mapping[str, Any]) -> float:
    """Fréchet distance of two Gaussians with diagonal covariance, in units of the internal features' spread.

    sqrt((sum (m1 - m2)^2 + sum (s1 - s2)^2) / sum s2^2), with means m and standard deviations s: the distance of Dowson and
    Landau (Journal of Multivariate Analysis 12, 1982), whose trace term is sum (s1 - s2)^2 where both covariances are
    diagonal, divided by the root of the internal features' total variance. So it has no unit, is 0 for equal moments, 1 for
    a shift as large as the internal spread, and a feature that is always zero inside does no harm. A full covariance of 512
    features is not estimable from a few hundred images.

    Args:
        site: ``mean`` and ``variance`` of ``moments``.
        internal: the same of the internal images.

    Returns:
        NaN when the internal features have no variance.
    """
    (m1, v1), (m2, v2) = ((np.asarray(part["mean"]), np.asarray(part["variance"])) for part in (site, internal))
    total = float(v2.sum())
    squared = float(((m1 - m2) ** 2).sum() + ((np.sqrt(v1) - np.sqrt(v2)) ** 2).sum())
    return math.sqrt(squared / total) if total > 0 else math.nan


def chance_distance(n_site: int, n_internal: int) -> float:
    """The distance to expect of two samples of one Gaussian: sqrt(1.5 (1/n1 + 1/n2)).

    A mean's variance is s^2/n and a standard deviation's about s^2/(2n), both in units of s^2. Images are taken as
    independent; several of a patient make it larger.
    """
    return math.sqrt(1.5 * (1 / n_site + 1 / n_internal))
