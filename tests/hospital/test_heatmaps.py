"""Which cases get a heat map, and what it shows."""

from __future__ import annotations

import pandas as pd
import torch
from torch import nn

from sga_monai.hospital.heatmaps import confident_calls, heat_map
from sga_monai.model.networks import build_network
from sga_monai.sga.steps import input_gradient


def test_the_two_most_confident_calls_of_each_class_on_each_side():
    score = {1: -9, 2: -8, 3: -1, 4: 1, 5: 8, 6: 9, 11: -9, 12: -8, 13: -1, 14: 1, 15: 8, 16: 9}
    table = pd.DataFrame({"label": [1] * 6 + [0] * 6, "score": list(score.values())}, index=pd.Index(list(score), name="row"))
    assert confident_calls(table, 0.0) == [1, 2, 5, 6, 11, 12, 15, 16]
    assert confident_calls(table.loc[[4, 13]], 0.0) == [4, 13]
    assert confident_calls(table.loc[[]], 0.0) == []


def test_the_map_is_the_gradient_of_the_difference_of_the_two_logits():
    torch.manual_seed(0)
    network = build_network("resnet18").eval()
    image = torch.rand(2, 1, 32, 32)
    one = torch.ones(2, dtype=torch.int64)
    gradient = input_gradient(network, image, one) - input_gradient(network, image, 0 * one)
    expected = nn.functional.avg_pool2d(gradient.abs(), 9, 1, 4)
    found = heat_map(network, image)
    assert found.shape == image.shape
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
