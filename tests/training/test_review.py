from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from conftest import TinyNet, iteration

from sga_monai.core.errors import InputError
from sga_monai.training.review import ReviewPanel


@pytest.mark.parametrize(("options", "pictures"), [({"mask_fraction": 0.1}, 1), ({"mask_fraction": 0.001}, 0)])
def test_natural_training_does_not_end_at_a_picture_of_what_it_does_not_do(caplog, options, pictures):
    drawn: list[str] = []
    writer = SimpleNamespace(add_image=lambda tag, *_, **__: drawn.append(tag))
    data = [{"image": torch.rand(1, 12, 12), "label": i % 2} for i in range(4)]
    engine = SimpleNamespace(state=SimpleNamespace(epoch=1, max_epochs=1))
    ReviewPanel(writer, iteration(kl_weight=0, **options), TinyNet(), data, interval=1)(engine)
    assert len(drawn) == pictures
    assert ("no review panel: mask_fraction is less than one pixel" in caplog.text) == (pictures == 0)
    if not pictures:
        with pytest.raises(InputError, match="less than one pixel"):
            ReviewPanel(writer, iteration(**options), TinyNet(), data, interval=1)(engine)
