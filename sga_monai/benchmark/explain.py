"""``benchmark explain``: FullGrad beside a forward pass, an input gradient and the authors' way of computing it."""

from __future__ import annotations

from functools import partial

import torch

from sga_monai.benchmark.measure import Case, Fact, Machine, Result, compare
from sga_monai.benchmark.peers import authors_fullgrad
from sga_monai.benchmark.step import draw_batch
from sga_monai.interpret.saliency import fullgrad_map, input_gradient_map
from sga_monai.model.modes import recalibrate
from sga_monai.model.networks import build_network

NAME = "explain"
FULLGRAD_AT_MOST, AUTHORS_AT_LEAST, DIFFERENCE_AT_MOST = 3.0, 8.0, 1e-4


def benchmark_explain(machine: Machine) -> Result:
    """Time of FullGrad over that of a forward pass, and of the authors' over ours; how far the two maps are apart."""
    network, image = build_network("resnet18").to(machine.device), draw_batch(machine)["image"]
    # A network fresh from its initialization has no biases to speak of.
    recalibrate(network, [image])
    network.eval()

    def forward() -> None:
        with torch.no_grad():
            network(image)

    cases = [
        Case("forward", forward, "forward"),
        Case("input gradient", partial(input_gradient_map, network, image), "forward"),
        Case("FullGrad", partial(fullgrad_map, network, image), "forward", at_most=FULLGRAD_AT_MOST),
        Case("FullGrad, authors' way", partial(authors_fullgrad, network, image), "FullGrad", at_least=AUTHORS_AT_LEAST),
    ]
    ours, theirs = fullgrad_map(network, image), authors_fullgrad(network, image)
    apart = float((ours - theirs).abs().max() / theirs.abs().max())
    facts = [Fact(NAME, "largest difference of the two maps over the maximum", apart, "", DIFFERENCE_AT_MOST)]
    return Result(compare(NAME, cases, machine), facts)
