"""Where a result was made is part of its record."""

from __future__ import annotations

import torch

from sga_monai.core.live_objects import processor


def test_the_processor_of_a_gpu_is_named_by_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    assert processor("cuda:1") == "GPU 1"
    assert processor(torch.device("cuda", 0)) == "GPU 0"
    assert processor("cpu") not in ("", "GPU 0")
