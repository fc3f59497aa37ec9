"""Which cases get a picture, and what it shows."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sga_monai.core.errors import ReadError
from sga_monai.hospital.cases import FACTS, FOLDER, ranked_calls
from sga_monai.hospital.heatmaps import OUTLINE, SIDE, case_picture, heat_map, jpeg, write_heat_maps
from sga_monai.interpret.saliency import fullgrad, input_gradient_map
from sga_monai.model.networks import build_network

SCORES = {1: -9, 2: -8, 3: -1, 4: 1, 5: 8, 6: 9, 11: -9, 12: -8, 13: -1, 14: 1, 15: 8, 16: 9}


def test_calls_are_ranked_by_their_distance_from_the_threshold():
    table = pd.DataFrame({"label": [1] * 6 + [0] * 6, "score": list(SCORES.values())}, index=pd.Index(list(SCORES), name="row"))
    assert ranked_calls(table, 0.0) == ([[1, 2, 3], [16, 15, 14]], [[6, 5, 4], [11, 12, 13]])
    # What is at the threshold is called positive.
    assert ranked_calls(table, 9.0) == ([[1, 2, 3, 4, 5], [16]], [[6], [11, 12, 13, 14, 15]])
    assert ranked_calls(table.loc[[]], 0.0) == ([[], []], [[], []])


@pytest.mark.parametrize("name", ["resnet18", "resnet18_group_norm"])
def test_the_map_is_fullgrad_where_that_is_exact(name):
    torch.manual_seed(0)
    network = build_network(name).eval()
    image = torch.rand(2, 1, 32, 32)
    exact = name == "resnet18"
    found = heat_map(network, image)
    torch.testing.assert_close(found, fullgrad(network, image, rescale="layer").map if exact else input_gradient_map(network, image))
    if exact:
        assert fullgrad(network, image, rescale="layer").completeness.abs().max() < 1e-3


def test_a_picture_shows_the_image_twice_and_the_lungs_as_an_outline():
    image, heat = torch.rand(48, 32), torch.zeros(48, 32)
    lung = torch.zeros(1, 48, 32, dtype=torch.bool)
    lung[0, 12:36, 8:24] = True
    plain, outlined = (case_picture(image, heat, mask) for mask in (None, lung))
    assert plain.shape == outlined.shape == (SIDE, 2 * SIDE + 8, 3)
    # Without heat both halves are the image.
    assert (plain[:, :SIDE] == plain[:, SIDE + 8 :]).all()
    changed = (plain != outlined).any(axis=2)
    assert (outlined[changed] == OUTLINE).all()
    rows, columns = np.nonzero(changed[:, :SIDE])
    edges = (rows.min(), rows.max(), columns.min(), columns.max())
    assert edges == pytest.approx((SIDE / 4, SIDE * 3 / 4, SIDE / 4, SIDE * 3 / 4), abs=3)
    assert not changed[SIDE // 2, SIDE // 2]
    # Hot places are colored, cold ones are not, whatever the map's scale.
    heat[20:28, 12:20] = 1e-7
    hot = case_picture(image, heat, None)
    assert (hot[:8] == plain[:8]).all()
    middle = hot[SIDE // 2, SIDE + 8 + SIDE // 2].astype(int)
    assert middle[0] - middle[2] > 40
    with Image.open(io.BytesIO(jpeg(hot))) as picture:
        assert picture.size == (2 * SIDE + 8, SIDE)


class Rows:
    """A stand-in for a data set of twelve images, of which the third is burned in."""

    def __init__(self, gone: tuple[int, ...] = ()) -> None:
        self.gone = gone
        self.data = [{"row": row, "burned_in": row == 3} for row in SCORES]

    def __getitem__(self, index: int) -> dict:
        if self.data[index]["row"] in self.gone:
            raise ReadError("missing")
        return {"image": torch.full((1, 32, 32), index / 12)}


def test_every_error_gets_a_picture_up_to_a_limit_and_nothing_burned_in(tmp_path: Path, caplog):
    predictions = pd.DataFrame({"row": list(SCORES), "label": [1] * 6 + [0] * 6, "score": list(SCORES.values())})
    predictions.loc[len(predictions)] = [99, 1, np.nan]
    network = build_network("resnet18").eval()
    for most, rows in ((500, {1, 2, 16, 15, 14, 6, 5, 11, 12}), (1, {1, 16, 6, 5, 11, 12})):
        write_heat_maps(network, Rows(), predictions, 0.0, tmp_path, most_errors=most)
        assert {int(path.stem[4:]) for path in (tmp_path / FOLDER).glob("*.jpg")} == rows
    # TensorBoard shows the same files.
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"images": 0}).Reload()
    assert len(events.Tags()["images"]) == 9
    (shown,) = {event.encoded_image_string for event in events.Images("heat_maps/row_000016")}
    assert shown == (tmp_path / FOLDER / "row_000016.jpg").read_bytes()
    assert (events.Images("heat_maps/row_000016")[0].width, events.Images("heat_maps/row_000016")[0].height) == (2 * SIDE + 8, SIDE)
    # One that is gone costs its own picture alone.
    write_heat_maps(network, Rows(gone=(16,)), predictions, 0.0, tmp_path, most_errors=1)
    assert {int(path.stem[4:]) for path in (tmp_path / FOLDER).glob("*.jpg")} == {1, 6, 5, 11, 12}
    assert "row 16 was scored and is not drawn: the file does not exist" in caplog.text
    facts = json.loads((tmp_path / FOLDER / FACTS).read_text())
    assert facts == {"method": "FullGrad", "lungs": False, "most_errors": 1}
