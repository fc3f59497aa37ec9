"""Where a result was made is part of its record."""

from __future__ import annotations

import torch

from sga_monai.core.live_objects import processor
from sga_monai.core.provenance import differences, flatten


def test_the_processor_of_a_gpu_is_named_by_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert processor("cuda:1") == "GPU 1"
    assert processor(torch.device("cuda", 0)) == "GPU 0"
    assert processor("cpu") not in ("", "GPU 0")


def test_an_empty_list_is_not_an_absent_one():
    """No external manifests, and those of the phantom where the setting is absent: the finished cell was taken for the same."""
    assert differences({"external_manifests": [], "seed": 1}, {"seed": 1}) == ["external_manifests: was [], is absent"]
    assert differences({"a": {"b": {}}}, {"a": {"b": {"c": 1}}}) == ["a.b: was {}, is absent", "a.b.c: was absent, is 1"]
    assert differences({"a": [], "b": {}}, {"a": [], "b": {}}) == differences({}, {}) == []
    assert flatten({"a": {"b": [1, {"c": 2}]}}) == {"a.b.0": 1, "a.b.1.c": 2}
