"""The server's part without a network: which answers of sites count, and what they come to together."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sga_monai.core.errors import InputError
from sga_monai.hospital.approval import CHANGED, approval_state
from sga_monai.hospital.pool import is_countable
from sga_monai.hospital.release import check_release, numbers
from sga_monai.integrations.federated.refusals import Refusal

MOST_BYTES = 1_000_000
# More than any site has. What a site states within it cannot be checked; its share of the mean is shown.
MOST_IMAGES = 10_000_000
# The largest change in a round, of weights and of BatchNorm's statistics, of variances that of their roots. On the phantom, rounds of the
# networks of NETWORKS changed them by 1 and 100 at learning rate 0.01, by 500 and 1.2e5 at 0.3. Larger changes than these limits were
# seen only where training had diverged: at 1 and more, and with kl_weight 10. After 1000 rounds of them float32 is still finite.
MOST_CHANGE, MOST_STATISTIC = 1e5, 1e8
VARIANCE, STATISTICS = "running_var", ("running_mean", "running_var", "num_batches_tracked")
METRICS = ("val_auroc_received", "val_auroc_trained")
Weights = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Update:
    """What a site sends after its local epochs.

    Attributes:
        weights: the tensors that are shared.
        images: number of training images, its weight in the mean.
        metrics: the numbers ``METRICS``.
    """

    weights: Weights
    images: int
    metrics: Mapping[str, float]


def read_release(text: object, sums: str | None = None) -> dict[str, Any]:
    """The release in a site's answer.

    Args:
        text: JSON as the site's ``release.json`` has it.
        sums: SHA-256 of the bundle's ``SHA256SUMS`` that was asked for; ``None`` takes any.

    Raises:
        Refusal: when it is no release, holds a value that is not finite, or is of another bundle.
    """
    if not isinstance(text, str) or len(text) > MOST_BYTES:
        raise Refusal("not a release")
    try:
        release = json.loads(text, parse_constant=_not_finite)
        check_release(release)
    except Refusal:
        raise
    except (ValueError, RecursionError):
        raise Refusal("not a release") from None
    if any(isinstance(value, float) and not math.isfinite(value) for _, value in numbers(release)):
        # 1e999 is a number of JSON, and infinite in Python.
        raise Refusal("not finite")
    if not is_countable(release):
        raise Refusal("not a release")
    if sums is not None and release["bundle"]["sha256sums"] != sums:
        raise Refusal("other bundle")
    if approval_state(release) == CHANGED:
        raise Refusal("other approval")
    checked: dict[str, Any] = release
    return checked


def read_update(weights: object, images: object, metrics: object, sent: Weights) -> Update:
    """The update in a site's answer.

    Args:
        weights: arrays by name.
        images: number of training images.
        metrics: numbers by name; all of ``METRICS``.
        sent: what the server sent in this round.

    Raises:
        Refusal: when names, shapes or types differ, a value is not finite, no training gives the values, or there is no number of
            images.
    """
    if not isinstance(weights, Mapping) or weights.keys() != sent.keys():
        raise Refusal("other weights")
    for name, value in weights.items():
        if not isinstance(value, np.ndarray) or value.shape != sent[name].shape or value.dtype != sent[name].dtype:
            raise Refusal("other weights")
        if not np.isfinite(value).all():
            raise Refusal("not finite")
        if is_negative(name, value) or _change(name, value, sent[name]) > _most(name):
            raise Refusal("diverged")
    if isinstance(images, bool) or not isinstance(images, int) or not 1 <= images <= MOST_IMAGES:
        raise Refusal("no count")
    return Update(weights, images, read_metrics(metrics, METRICS))


def is_negative(name: str, value: NDArray[Any]) -> bool:
    """Whether a variance or a counter of BatchNorm is below 0; the root of such a variance is NaN."""
    return bool((name.endswith(VARIANCE) or np.issubdtype(value.dtype, np.integer)) and (value < 0).any())


def read_metrics(metrics: object, names: Sequence[str]) -> dict[str, float]:
    """Metrics of a site: these names, and each a number in [0, 1].

    Raises:
        Refusal: when they are anything else.
    """
    if not isinstance(metrics, Mapping) or set(metrics) != set(names):
        raise Refusal("no metrics")
    values = [metrics[name] for name in names]
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        raise Refusal("no metrics")
    if not all(math.isfinite(value) for value in values):
        raise Refusal("not finite")
    if not all(0 <= value <= 1 for value in values):
        raise Refusal("no metrics")
    return {name: float(metrics[name]) for name in names}


def average(updates: Sequence[Update]) -> dict[str, NDArray[Any]]:
    """The mean of the sites' weights, weighted by images (FedAvg; McMahan et al., AISTATS 2017, arXiv:1602.05629).

    Sums are in float64, in the order given; a whole number (BatchNorm's counter) is rounded.

    Raises:
        InputError: when there is no update.

    Example:
        >>> one, three = ({"w": np.array([value], dtype=np.float32)} for value in (1.0, 3.0))
        >>> float(average([Update(one, 10, {}), Update(three, 30, {})])["w"][0])
        2.5
    """
    if not updates:
        raise InputError("no site sent weights; nothing can be averaged")
    total = sum(update.images for update in updates)
    mean = {}
    for name, first in updates[0].weights.items():
        summed = sum(np.asarray(update.weights[name], dtype=np.float64) * (update.images / total) for update in updates)
        # What NumPy computes of an array without axes is no array.
        mean[name] = np.asarray(np.rint(summed) if np.issubdtype(first.dtype, np.integer) else summed, dtype=first.dtype)
    return mean


def _change(name: str, value: NDArray[Any], sent: NDArray[Any]) -> float:
    """The largest change of one number of a tensor; of variances that of their roots, which have the unit of the means."""
    after, before = (np.asarray(part, dtype=np.float64) for part in (value, sent))
    if name.endswith(VARIANCE):
        after, before = np.sqrt(after), np.sqrt(before)
    return float(np.abs(after - before).max(initial=0))


def _most(name: str) -> float:
    return MOST_STATISTIC if name.endswith(STATISTICS) else MOST_CHANGE


def _not_finite(_: str) -> NoReturn:
    raise Refusal("not finite")
