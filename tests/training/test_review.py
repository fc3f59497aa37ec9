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


def test_the_panel_has_the_first_cases_of_each_class_and_none_with_a_name_burned_in():
    data = [{"image": torch.full((1, 4, 4), i / 10), "label": int(i > 3), "burned_in": i in (0, 5)} for i in range(8)]
    for n_cases, expected in ((4, [1, 2, 4, 6]), (2, [1, 4])):
        panel = ReviewPanel(None, iteration(), TinyNet(), data, n_cases)
        assert torch.equal(panel.image, torch.stack([data[i]["image"] for i in expected]))
        assert panel.label.tolist() == [data[i]["label"] for i in expected]
    every = [item | {"burned_in": True} for item in data]
    with pytest.raises(InputError, match="every validation image has BurnedInAnnotation YES"):
        ReviewPanel(None, iteration(), TinyNet(), every)
    ReviewPanel(None, iteration(), TinyNet(), every, interval=0)


def test_pictures_are_every_few_epochs_and_of_the_last_one():
    drawn: list[int] = []
    writer = SimpleNamespace(add_image=lambda _tag, _image, epoch, **__: drawn.append(epoch))
    data = [{"image": torch.rand(1, 12, 12), "label": i % 2} for i in range(4)]
    panel = ReviewPanel(writer, iteration(), TinyNet(), data, 2, interval=3)
    for epoch in range(1, 8):
        panel(SimpleNamespace(state=SimpleNamespace(epoch=epoch, max_epochs=7)))
    assert drawn == [3, 6, 7]
