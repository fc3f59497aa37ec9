"""Scoring part by part against scoring a dataset at once."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import warm
from PIL import Image

from sga_monai.core.errors import InputError, ReadError
from sga_monai.data.dataset import CXRDataset
from sga_monai.data.manifest_writer import write_manifest
from sga_monai.data.transforms import preprocessing
from sga_monai.evaluation import stream
from sga_monai.evaluation.cohort import list_cohort
from sga_monai.evaluation.predictions import ROW
from sga_monai.evaluation.scoring import Control, score_batch, score_dataset
from sga_monai.model.networks import build_network
from sga_monai.model.preparation import Preparation
from sga_monai.statistics.feature_shift import moments
from sga_monai.statistics.separability import site_scores, site_scores_along, source_profile

N, BAD = 45, 7
PREPARATION = Preparation(image_size=32)
DARK = (Control("dark", lambda image: image / 2),)


@pytest.fixture
def cohort(tmp_path: Path):
    rows = []
    for i in range(N):
        pixels = np.random.default_rng(i).integers(0, 200 + i, (32, 32), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append({"image": f"{i}.png", "label": str(i % 2), "patient_id": f"P{i // 2}", "split": "test", "site": "here"})
    broken = tmp_path / f"{BAD}.png"
    broken.write_bytes(broken.read_bytes()[:200])
    write_manifest(tmp_path / "here.csv", rows)
    return list_cohort(tmp_path / "here.csv", tmp_path, PREPARATION)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_network("resnet18").eval()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(stream, "PART", 16)


def test_the_same_as_all_at_once(cohort, network, tmp_path):
    dataset = CXRDataset(cohort.items, preprocessing(PREPARATION), skip_failed=True)
    expected = score_dataset(network, dataset, 16, DARK)
    features = expected.features
    profile = source_profile(features, expected.predictions["label"], np.arange(len(features)))
    found = stream.stream_cohort(cohort, tmp_path / "parts", lambda batch: score_batch(network, batch, DARK), profile, batch_size=7)
    assert found.failures == dataset.failures
    assert list(found.predictions) == list(expected.predictions)
    for name in expected.predictions:
        ours, theirs = found.predictions[name], expected.predictions[name]
        assert ours.tolist() == (theirs.tolist() if theirs.dtype == object else pytest.approx(theirs.tolist(), abs=1e-5)), name
    summary, at_once = found.moments.summary(), moments(features)
    assert summary["n"] == at_once["n"] == N - 1
    for name in ("mean", "variance"):
        assert summary[name] == pytest.approx(at_once[name], rel=1e-4, abs=1e-7)
    label, patient = expected.predictions["label"], np.arange(len(features))
    ours = site_scores_along(found.along, label, patient, profile)
    assert ours == pytest.approx(site_scores(features, label, patient, profile), rel=1e-3, abs=1e-3)
    assert torch.equal(found[BAD]["image"], dataset[BAD]["image"])
    assert found[BAD]["row"] == dataset[BAD]["row"]


def test_parts_are_kept_and_a_damaged_one_is_scored_again(cohort, network, tmp_path):
    seen: list[int] = []

    def score(batch):
        seen.extend(batch["row"])
        return score_batch(network, batch)

    folder = tmp_path / "parts"
    whole = stream.stream_cohort(cohort, folder, score)
    assert len(seen) == N - 1
    assert len(list(folder.iterdir())) == 3
    seen.clear()
    again = stream.stream_cohort(cohort, folder, score)
    assert seen == []
    # What is cut short, and all that comes after it.
    (folder / "part_000001.json").write_text((folder / "part_000001.json").read_text()[:-9])
    third = stream.stream_cohort(cohort, folder, score)
    assert seen == [item["row"] for item in cohort.items[16:]]
    for other in (again, third):
        assert other.predictions.equals(whole.predictions)
        assert other.moments.plain() == whole.moments.plain()
        assert (other.failures, list(other.data)) == (whole.failures, list(whole.data))


def test_files_that_are_there_again_are_read_after_a_stop(cohort, network, tmp_path):
    """A share that was away while a part was read: the files are those of before, and their rows no failures for good."""
    folder, away = tmp_path / "parts", [Path(item["image"]) for item in cohort.items[20:40]]

    def stopped(batch):
        if 2 in batch["row"]:
            for path in away:
                path.rename(path.with_suffix(".away"))
        if 42 in batch["row"]:
            raise KeyboardInterrupt
        return score_batch(network, batch)

    with pytest.raises(KeyboardInterrupt):
        stream.stream_cohort(cohort, folder, stopped, batch_size=8)
    assert len(list(folder.iterdir())) == 2
    seen: list[int] = []

    def score(batch):
        seen.extend(batch["row"])
        return score_batch(network, batch)

    for path in away[1:]:
        path.with_suffix(".away").rename(path)
    broken = json.loads((folder / "part_000000.json").read_text())["failures"][0]["code"]
    found = stream.stream_cohort(cohort, folder, score)
    assert seen == [item["row"] for item in cohort.items[16:] if item["row"] != 22]
    assert [(line["row"], line["code"]) for line in found.failures] == [(BAD + 2, broken), (22, "missing")]


def test_parts_of_another_cohort_are_not_taken(cohort, network, tmp_path):
    folder = tmp_path / "parts"
    stream.stream_cohort(cohort, folder, lambda batch: score_batch(network, batch))
    part = json.loads((folder / "part_000000.json").read_text())
    part["data"][0]["row"] += 100
    (folder / "part_000000.json").write_text(json.dumps(part))
    found = stream.stream_cohort(cohort, folder, lambda batch: score_batch(network, batch))
    assert [line["row"] for line in itertools.islice(found.data, 3)] == [2, 3, 4]


def test_an_image_that_is_gone_has_its_reason(cohort, network, tmp_path):
    found = stream.stream_cohort(cohort, tmp_path / "parts", lambda batch: score_batch(network, batch))
    row = next(found.data)["row"]
    Path(next(item for item in cohort.items if item["row"] == row)["image"]).unlink()
    with pytest.raises(ReadError) as caught:
        found[0]
    assert caught.value.code == "missing"


@pytest.mark.parametrize("kept", [False, True])
def test_one_file_in_two_parts_is_refused(cohort, network, tmp_path, kept):
    (tmp_path / "40.png").write_bytes((tmp_path / "3.png").read_bytes())
    score = lambda batch: score_batch(network, batch)  # noqa: E731
    for _ in range(1 + kept):
        with pytest.raises(InputError, match="here row 5 and here row 42 are the same file, byte for byte; remove one"):
            stream.stream_cohort(cohort, tmp_path / "parts", score)


def test_a_name_that_may_be_burned_in_is_known_also_of_a_kept_part(cohort, tmp_path, dicom_file):
    """Or a heat map of it would be drawn."""

    def score(batch):
        mean = batch["image"].mean((1, 2, 3)).numpy()
        return {key: batch[key] for key in ROW} | {"score": mean, "probability": mean}, np.zeros((len(mean), 1))

    path = dicom_file(np.arange(2000, dtype=np.uint16).reshape(40, 50), BitsStored=12, BurnedInAnnotation="YES")
    cohort.items[20]["image"] = str(path)
    for _ in range(2):
        found = stream.stream_cohort(cohort, tmp_path / "parts", score)
        assert [line["row"] for line in found.data if line["burned_in"]] == [22]
        assert [found[int(i)]["row"] for i in np.flatnonzero(found.burned_in)] == [22]
        assert found[19]["burned_in"]


def test_nothing_that_can_be_read_is_refused(cohort, network, tmp_path):
    for item in cohort.items:
        Path(item["image"]).write_bytes(b"no image")
    with pytest.raises(InputError, match=f"{N} of {N} images cannot be read: here row 2:"):
        stream.stream_cohort(cohort, tmp_path / "parts", lambda batch: score_batch(network, batch))


def rows_of_noise(folder: Path, count: int) -> None:
    for i in range(count):
        pixels = np.zeros((40, 40), dtype=np.uint8)
        pixels[:, :20] = np.frombuffer((i + 40_000).to_bytes(4, "little") * 200, dtype=np.uint8).reshape(40, 20)
        pixels[0, 20:] = np.arange(100, 120)
        Image.fromarray(pixels).save(folder / f"{i}.png", compress_level=1)
    rows = [{"image": f"{i}.png", "label": str(i % 2), "patient_id": str(i), "split": "test", "site": "here"} for i in range(count)]
    write_manifest(folder / "here.csv", rows)


MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from sga_monai.evaluation.cohort import list_cohort
from sga_monai.evaluation.stream import stream_cohort
from sga_monai.model.preparation import Preparation

folder = Path(sys.argv[1])
cohort = list_cohort(folder / "here.csv", folder, Preparation(image_size=224))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

def score(batch):
    mean = batch["image"].mean((1, 2, 3)).double().numpy()
    columns = {key: batch[key] for key in ("set", "row", "patient", "label")}
    return columns | {"score": mean, "probability": mean}, np.zeros((len(mean), 512))

found = stream_cohort(cohort, folder / "parts", score)
print(len(found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("count", [pytest.param(800, id="short"), pytest.param(20_000, marks=pytest.mark.slow, id="20000")])
def test_memory_does_not_grow_with_images(tmp_path, count):
    """An image of 224 x 224 has 196 kB, its features 2 kB; a scored row may keep 200 bytes, beyond 100 MB for a part's images."""
    rows_of_noise(tmp_path, count)
    result = warm.run([sys.executable, "-c", MEASURE, str(tmp_path)], check=True)
    scored, kilobytes = map(int, result.stdout.split())
    assert scored == count
    assert kilobytes < 100_000 + 0.2 * count
