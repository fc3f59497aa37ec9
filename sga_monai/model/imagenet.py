"""ImageNet weights of torchvision, from a local file that is known by its SHA-256."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256

# torchvision's name of a layer of a DenseNet, with or without the point of its first release, and what MONAI calls it.
DENSE_LAYER = re.compile(r"(denselayer\d+)\.(norm|relu|conv)\.?([12])\.")
CLASSIFIERS = ("fc.", "classifier.")


def load_imagenet_weights(network: nn.Module, path: str, file: str, classifier: str, sha256: str) -> None:
    """Copy all parameters but those of the classifier from torchvision's checkpoint into ``network``.

    Args:
        network: gets the weights.
        path: of the checkpoint.
        file: torchvision's name of it; like torch.hub's, it carries the first digits of its SHA-256.
        classifier: with which the network's own names of the classifier begin.
        sha256: the digits with which the SHA-256 must begin.

    Raises:
        InputError: when the file is missing, its SHA-256 does not begin with ``sha256``, or its parameters without the
            classifier are not exactly those of the network.
    """
    if not Path(path).is_file():
        raise InputError(f"pretrained_weights: no such file; get {file} or leave it out")
    digest = file_sha256(path)
    if not digest.startswith(sha256):
        raise InputError(f"pretrained_weights: SHA-256 is {digest[:8]}..., expected {sha256}...; get {file} again")
    weights = {
        DENSE_LAYER.sub(r"\1.layers.\2\3.", key): value for key, value in torch.load(path, map_location="cpu", weights_only=True).items()
    }
    own = network.state_dict()
    wanted = {key: tuple(value.shape) for key, value in own.items() if not key.startswith(classifier)}
    given = {key: tuple(value.shape) for key, value in weights.items() if not key.startswith(CLASSIFIERS)}
    # The first files of torchvision were written before BatchNorm counted its batches.
    counters = {key for key in wanted if key.endswith("num_batches_tracked")}
    wrong = sorted(set(wanted.items()) ^ set(given.items()))
    wrong = [(key, shape) for key, shape in wrong if key not in counters - given.keys()]
    if wrong:
        raise InputError(f"pretrained_weights: not the parameters of {file}, e.g. {wrong[0][0]!r}")
    network.load_state_dict({key: weights[key] for key in wanted if key in given}, strict=False)
