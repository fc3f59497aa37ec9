"""The shortcut audit against networks whose shortcut is known, and against the phantom."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TinyNet
from ignite.engine import Engine, Events
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch import nn

from sga_monai.core.errors import InputError
from sga_monai.data.manifest import read_manifest
from sga_monai.data.masks import find_lung_masks, lung_pixels, lung_reader, mask_pixels, read_mask
from sga_monai.evaluation.embedding import read_embedding
from sga_monai.evaluation.saver import PredictionSaver
from sga_monai.interpret.audit import COLUMNS, AuditSet, audit_model
from sga_monai.interpret.audit_run import audit_checkpoint, render
from sga_monai.interpret.controls import BORDER, blank_border, blank_center, blank_lungs, crop_border, only_lungs, plant_tag
from sga_monai.model.architectures import NETWORKS
from sga_monai.model.features import forward_with_features
from sga_monai.model.network import CXRResNet18
from sga_monai.statistics.feature_shift import chance_distance, frechet_distance, moments
from sga_monai.statistics.probes import metadata_auroc, site_probe
from sga_monai.statistics.separability import source_profile

SIZE = 64
LUNG = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
LUNG[:, 20:44, 14:28] = LUNG[:, 20:44, 36:50] = True
CORNER = (slice(2, 8), slice(3, 8))


class Reader(nn.Module):
    """Logit 1 is ten times the mean of one place of the image."""

    def __init__(self, place: torch.Tensor) -> None:
        super().__init__()
        self.place = place

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        score = 10 * image[:, 0, self.place].mean(dim=1)
        return torch.stack([torch.zeros_like(score), score], dim=1)


def site(tagged: bool, diseased: bool, masked: int = 40, name: str = "a") -> AuditSet:
    """40 images of 40 patients whose label is in the corner, in the lungs, or in neither."""
    rng = np.random.default_rng(0)
    items = []
    for i in range(40):
        image = torch.full((1, SIZE, SIZE), 0.3)
        image[:, :12] = image[:, 52:] = torch.from_numpy(rng.uniform(0.1, 0.2, (1, 12, SIZE))).float()
        if tagged:
            image[0][CORNER] = 0.6 * (i % 2) + 0.2 + 0.001 * float(rng.random())
        if diseased:
            image[LUNG] = 0.4 * (i % 2) + 0.3 + 0.001 * float(rng.random())
        items.append({"image": image, "label": i % 2, "patient": i, "row": i + 2, "set": name})
    return AuditSet(items, lambda row: LUNG if row < masked + 2 else None)


def by_control(table: list[dict], name: str = "a") -> dict[str, dict]:
    return {line["control"]: line for line in table if line["set"] == name}


def corner_place() -> torch.Tensor:
    place = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    place[CORNER] = True
    return place


def test_a_model_that_reads_a_tag_is_found():
    lines = by_control(audit_model(Reader(corner_place()), {"a": site(True, False)}))
    assert lines["plain"]["auroc"] == lines["lungs_blank"]["auroc"] == 1
    assert lines["lungs_blank"]["difference"] == 0
    assert lines["only_lungs"]["auroc"] == 0.5
    assert lines["only_lungs"]["difference"] == -0.5
    assert lines["border_blank"]["low"] < 0.5 < lines["border_blank"]["high"]
    assert lines["tag"]["shift"] > lines["tag"]["shift_low"] > 0
    assert lines["plain"]["plain_sd"] == pytest.approx(3, rel=0.01)
    assert {line["n"] for line in lines.values()} == {40}


def test_a_model_that_reads_lungs_is_cleared():
    lines = by_control(audit_model(Reader(LUNG[0]), {"a": site(False, True)}))
    assert lines["plain"]["auroc"] == lines["only_lungs"]["auroc"] == lines["border_blank"]["auroc"] == 1
    assert lines["lungs_blank"]["auroc"] < 0.7
    assert lines["lungs_blank"]["low"] < 0.5 < lines["lungs_blank"]["high"]
    assert lines["only_lungs"]["difference"] == 0
    assert [lines["tag"][key] for key in ("shift", "shift_low", "shift_high")] == [0, 0, 0]


def test_a_set_of_the_diseased_alone_still_shows_what_is_lost_without_lungs():
    given = site(False, True)
    diseased = AuditSet([item for item in given.dataset if item["label"]], given.lung)
    lines = by_control(audit_model(Reader(LUNG[0]), {"a": diseased}))
    assert np.isnan(lines["lungs_blank"]["auroc"])
    assert lines["lungs_blank"]["shift"] < lines["lungs_blank"]["shift_high"] < 0
    assert lines["only_lungs"]["shift"] == 0


def test_what_was_blanked_cannot_be_read_from_the_fill():
    image = torch.rand(4, 1, SIZE, SIZE)
    lung = LUNG.expand(4, 1, SIZE, SIZE)
    brighter = torch.where(lung, image + 0.5, image)
    assert torch.equal(blank_lungs(image, lung), blank_lungs(brighter, lung))
    assert torch.equal(blank_center(image), blank_center(torch.where(lung, image + 0.1, image)))
    darker = torch.where(lung, image, image / 2)
    assert torch.equal(only_lungs(image, lung), only_lungs(darker, lung))


def test_controls_change_what_they_say():
    image = torch.rand(3, 1, 50, 100)
    frame = blank_border(image)
    assert torch.equal(frame[:, :, 6:44, 12:88], image[:, :, 6:44, 12:88])
    assert frame[:, 0, 0, 0] == pytest.approx(image[:, 0, 6:44, 12:88].mean(dim=(1, 2)), abs=1e-6)
    assert (frame[0, 0, :6] == frame[0, 0, 0, 0]).all()
    lung = torch.zeros(3, 1, 50, 100, dtype=torch.bool)
    lung[:, :, 10:20, 30:50] = True
    without, alone = blank_lungs(image, lung), only_lungs(image, lung)
    assert torch.equal(without[~lung], image[~lung])
    assert torch.equal(alone[lung], image[lung])
    assert alone[1][~lung[1]].unique() == pytest.approx(float(image[1][lung[1]].mean()), abs=1e-6)
    # A plane stays a plane: cut and enlarged it is the inner part of itself.
    ramp = torch.linspace(0, 1, 101)[None, None, None].expand(1, 1, 101, 101)
    cropped, cut = crop_border(ramp), round(BORDER * 101)
    assert cropped.shape == ramp.shape
    assert cropped[0, 0, 50, 50] == pytest.approx(0.5, abs=1e-6)
    assert cropped[0, 0, 0, 0] == ramp[0, 0, 0, cut]
    assert torch.equal(crop_border(torch.full((1, 1, 32, 32), 0.25)), torch.full((1, 1, 32, 32), 0.25))


@pytest.mark.parametrize("size", [32, 64, 224, 512])
def test_a_tag_has_one_place_and_size_at_every_resolution(size):
    image = torch.full((2, 1, size, size), 0.25)
    tagged = plant_tag(image)
    assert torch.equal(tagged, plant_tag(image))
    changed = (tagged[0, 0] != image[0, 0]).nonzero()
    top, left = (changed.min(dim=0).values / size).tolist()
    bottom, right = ((changed.max(dim=0).values + 1) / size).tolist()
    assert (top, left, bottom, right) == pytest.approx((0.05, 0.07, 0.135, 0.122), abs=1 / size)
    assert 0.25 <= tagged.min() < tagged.max() <= 0.97 + 1e-6
    # The same brightness is added in all, whatever the pixels: 17 cells of the letter and 5 of the bar of 45.
    cells = sum(row.count("#") for row in ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#", "#####"))
    assert (tagged - image).mean() == pytest.approx((0.97 - 0.25) * cells / 45 * 0.085 * 0.052, rel=1e-4)


def test_masks_of_some_images_or_none():
    # Where masks are given and none is of an image that could be read.
    none = by_control(audit_model(Reader(LUNG[0]), {"a": site(False, True, masked=0)}))["lungs_blank"]
    assert none["n"] == 0
    assert math.isnan(none["shift"])
    lines = by_control(audit_model(Reader(LUNG[0]), {"a": site(False, True, masked=30)}))
    assert lines["lungs_blank"]["n"] == lines["only_lungs"]["n"] == 30
    assert lines["plain"]["n"] == lines["tag"]["n"] == 40
    assert "center_blank" not in lines
    lines = by_control(audit_model(Reader(LUNG[0]), {"a": AuditSet(site(False, True).dataset)}))
    assert lines["center_blank"]["auroc"] < 0.7
    assert not {"lungs_blank", "only_lungs"} & set(lines)


def test_site_probe():
    rng = np.random.default_rng(0)
    place, patient = np.repeat(["a", "b"], 60), np.repeat(np.arange(60), 2)
    label = np.arange(120) // 2 % 2
    useless = rng.normal(size=(120, 20))
    found = site_probe(useless, place, patient, label)
    assert found["low"] < 0.5 < found["high"]
    assert (found["n"], found["n_patients"]) == (120, 60)
    telling = useless + 10 * (place == "a")[:, None]
    found = site_probe(telling, place, patient, label)
    assert found["value"] == 1
    assert [found["within_label"][value]["n"] for value in (0, 1)] == [60, 60]
    assert found["within_label"][0]["value"] == 1
    three = np.repeat(["a", "b", "c"], 40)
    found = site_probe(useless, three, patient, label)
    assert set(found["sites"]) == {"a", "b", "c"}
    assert found["value"] == pytest.approx(np.mean([line["value"] for line in found["sites"].values()]))
    assert all(line["low"] < 0.5 < line["high"] for line in found["sites"].values())
    # Each against the rest: a site that can be told, and two that can only be told from it.
    found = site_probe(useless + 10 * (three == "a")[:, None], three, patient, label)
    assert found["sites"]["a"]["value"] == 1
    assert all(0.6 < found["sites"][name]["value"] < 0.95 for name in "bc")
    # Nine patients at one site are too few, and so is one site.
    assert site_probe(telling[42:], place[42:], patient[42:], label[42:]) is None
    assert site_probe(telling, np.repeat("a", 120), patient, label) is None
    # Confounded: the features tell the label, and only the label tells the site.
    site_by_label = np.where(label == 1, "a", "b")
    confounded = site_probe(useless + 10 * label[:, None], site_by_label, patient, label)
    assert confounded["value"] == 1
    assert confounded["within_label"] == {0: None, 1: None}


def test_a_patient_of_two_sites_is_one_however_the_id_was_typed():
    """Otherwise the site probe would train on one half of a patient and be tested on the other."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.fc(nn.functional.adaptive_avg_pool2d(image, 2).flatten(1))

    sets = {}
    for name, form in (("a", "MRN {:02d}"), ("b", "mrn\u00a0 {:02d}")):
        given = site(tagged=True, diseased=True, name=name)
        sets[name] = AuditSet(given.dataset, given.lung, {i + 2: {"patient_id": form.format(i)} for i in range(40)})
    probe = by_control(audit_model(Small(), sets), "all sets")["site_probe"]
    assert (probe["n"], probe["n_patients"]) == (80, 40)


def test_probes_of_noise_hold_their_level():
    rng = np.random.default_rng(1)
    place, patient = np.repeat(["a", "b"], 40), np.repeat(np.arange(40), 2)
    label = np.arange(40).repeat(2) % 2
    found = [site_probe(rng.normal(size=(80, 8)), place, patient, np.zeros(80)) for _ in range(25)]
    found += [metadata_auroc({"view": rng.integers(0, 4, 80), "sex": rng.integers(0, 2, 80)}, label, patient) for _ in range(25)]
    assert np.mean([line["low"] < 0.5 < line["high"] for line in found]) > 0.93
    assert np.mean([line["value"] for line in found]) == pytest.approx(0.5, abs=0.05)


def test_metadata_probe():
    label, patient = np.arange(60) % 2, np.arange(60)
    telling = {"view": np.where(label == 1, "AP", "PA"), "sex": np.repeat("F", 60)}
    found = metadata_auroc(telling, label, patient)
    assert (found["value"], found["n"]) == (1, 60)
    assert metadata_auroc({"sex": np.repeat("F", 60)}, label, patient) is None
    assert metadata_auroc(telling, label, patient % 8) is None
    rng = np.random.default_rng(0)
    useless = [metadata_auroc({"view": rng.choice(["AP", "PA"], 60)}, label, patient) for _ in range(40)]
    # What is left out of a fold's training is under-represented there, which pulls a useless column a little below 0.5.
    assert np.mean([line["value"] for line in useless]) == pytest.approx(0.5, abs=0.08)
    assert np.mean([line["low"] > 0.6 or line["high"] < 0.4 for line in useless]) <= 0.05
    # Few images of one class and many of the other, so that a fold may lack a class.
    many = np.concatenate([np.repeat(np.arange(14), 10), 100 + np.arange(10)])
    assert metadata_auroc({"view": rng.choice(["AP", "PA"], 150)}, (many >= 100).astype(int), many) is not None


def test_distance_by_hand():
    internal = {"mean": [0.0, 1.0], "variance": [4.0, 0.0]}
    assert frechet_distance(internal, internal) == 0
    # By hand: (3^2 + 0 + (1 - 2)^2 + (2 - 0)^2) / (4 + 0).
    moved = {"mean": [3.0, 1.0], "variance": [1.0, 4.0]}
    assert frechet_distance(moved, internal) == pytest.approx(math.sqrt(14 / 4))
    assert math.isnan(frechet_distance(moved, {"mean": [0.0, 1.0], "variance": [0.0, 0.0]}))
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 3))
    found = moments(features)
    assert found["n"] == 50
    assert found["mean"] == pytest.approx(features.mean(axis=0))
    assert found["variance"] == pytest.approx(np.var(features, axis=0, ddof=1))
    assert moments(features[:9]) is None
    # Two samples of one Gaussian are as far apart as chance says.
    distances = [
        frechet_distance(moments(rng.normal(size=(60, 200))), moments(rng.normal(size=(100, 200)))) for _ in range(20)
    ]  # fmt: skip
    assert np.mean(distances) == pytest.approx(chance_distance(60, 100), rel=0.05)


def test_features_are_the_input_of_the_last_layer():
    network = CXRResNet18().eval()
    image = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        logits, features = forward_with_features(network, image)
        assert features.shape == (2, 512)
        assert torch.equal(network.fc(torch.from_numpy(features)), logits)
        assert torch.equal(network(image), logits)
    assert not network.fc._forward_pre_hooks
    with pytest.raises(InputError, match="no last layer fc"):
        forward_with_features(Reader(LUNG[0]), image)


class Rows:
    """As much of a dataset as ``PredictionSaver`` needs."""

    failures: tuple = ()

    def __init__(self, count: int) -> None:
        self.data = [None] * count


def test_the_saver_keeps_the_moments_of_internal_images(tmp_path):
    network, images = TinyNet(dropout=0).eval(), torch.rand(36, 1, 16, 16)
    names = ["internal (validation)"] * 8 + ["internal"] * 16 + ["harbor"] * 12
    batches = [
        {"image": images[i : i + 6], "set": names[i : i + 6], "row": list(range(i, i + 6)), "patient": list(range(i, i + 6)),
         "label": [k % 2 for k in range(6)]}
        for i in range(0, 36, 6)
    ]  # fmt: skip

    def evaluate(given: nn.Module | None, folder: str) -> None:
        def step(engine: Engine, batch: dict) -> dict:
            with torch.no_grad():
                return {"pred": network(batch["image"]), "image": batch["image"]}

        engine = Engine(step)
        saver = PredictionSaver(str(tmp_path / folder), Rows(36), "internal", network=given)
        saver.attach(engine)
        # What is seen before the run is not of the run.
        network(torch.rand(3, 1, 16, 16))
        engine.run(batches)
        assert engine.has_event_handler(saver.save, Events.COMPLETED)

    evaluate(network, "a")
    content = json.loads((tmp_path / "a/embedding.json").read_text())
    with torch.no_grad():
        _, features = forward_with_features(network, images[:24])
    assert content["n"] == 24
    assert content["mean"] == pytest.approx(features.astype(float).mean(axis=0), abs=1e-6)
    assert content["variance"] == pytest.approx(features.astype(float).var(axis=0, ddof=1), rel=1e-4)
    assert "profile" not in content
    assert not network.fc._forward_pre_hooks
    evaluate(None, "b")
    assert not (tmp_path / "b/embedding.json").exists()
    assert read_embedding(tmp_path / "a/embedding.json", 4) == content
    # Four features are not a ResNet-18's 512.
    with pytest.raises(InputError, match="damaged"):
        read_embedding(tmp_path / "a/embedding.json", NETWORKS["resnet18"].n_features)
    assert read_embedding(tmp_path / "b/embedding.json", 4) is None


def test_the_savers_profile_and_table_are_of_each_rows_own_features(tmp_path):
    """Rows that come mixed: sets, labels and patients stay beside their images, and one row that failed is in its place."""
    rng = np.random.default_rng(0)
    network, images, count = TinyNet(dropout=0).eval(), torch.rand(200, 1, 8, 8, generator=torch.Generator().manual_seed(0)), 200
    sets = rng.choice(["internal", "harbor", "internal (validation)"], count)
    label, order = rng.integers(0, 2, count), rng.permutation(count)
    # The order of their first rows, which is not that of their names.
    names = sets[order[:3]] = ["internal (validation)", "harbor", "internal"]
    batches = []
    for part in order.reshape(8, 25):
        facts = {"set": sets[part], "row": 2 * part, "patient": part // 2, "label": label[part]}
        batches.append({"image": images[part]} | {key: values.tolist() for key, values in facts.items()})

    def step(engine: Engine, batch: dict) -> dict:
        with torch.no_grad():
            return {"pred": network(batch["image"]), "image": batch["image"]}

    rows = Rows(count)
    rows.failures = ({"row": 77, "label": 1, "patient": 999, "set": "internal", "code": "truncated"},)

    def evaluate(batches: list[dict], **options: float) -> pd.DataFrame:
        engine = Engine(step)
        PredictionSaver(str(tmp_path), rows, "internal", network=network, temperature=2.0, **options).attach(engine)
        # Twice: the second run is none of the first one's.
        for _ in range(2):
            engine.run(batches)
        return pd.read_csv(tmp_path / "results.csv").set_index("set")

    assert evaluate(batches, failure_limit=0.0)["reportable"].to_dict() == {name: name != "internal" for name in names}
    with pytest.raises(InputError, match="some rows were neither scored nor failed"):
        evaluate(batches[:-1])
    results = evaluate(batches)
    score, features = np.zeros(count), np.zeros((count, 4), dtype=np.float32)
    with torch.no_grad():
        for part in order.reshape(8, 25):
            logits, features[part] = forward_with_features(network, images[part])
            score[part] = logits.double().diff(dim=1)[:, 0]
    inside = order[np.isin(sets[order], ["internal", "internal (validation)"])]
    expected = source_profile(features[inside], label[inside], inside // 2)
    content = json.loads((tmp_path / "embedding.json").read_text())
    assert content["n"] == len(inside)
    assert content["profile"] == json.loads(json.dumps(expected))
    table = pd.read_csv(tmp_path / "predictions.csv")
    every = {name: [*(2 * np.flatnonzero(sets == name)), *([77] if name == "internal" else [])] for name in names}
    places = [(name, row) for name, found in every.items() for row in sorted(found)]
    assert list(zip(table["set"], table["row"], strict=True)) == places
    scored = table[table["error"].isna()]
    at = scored["row"] // 2
    assert scored["score"].to_numpy() == pytest.approx(score[at], abs=1e-12)
    assert scored["probability"].to_numpy() == pytest.approx(1 / (1 + np.exp(-score[at] / 2)), abs=1e-6)
    assert scored["label"].tolist() == label[at].tolist()
    assert scored["patient"].tolist() == (at // 2).tolist()
    assert results.loc["internal", "n_failed"] == 1
    assert results.loc["internal", "auroc"] == pytest.approx(roc_auc_score(label[sets == "internal"], score[sets == "internal"]))
    assert results["auroc_difference"].notna().to_dict() == {name: name == "harbor" for name in names}


def test_masks_are_read_inside_the_folder_only(tmp_path):
    root = tmp_path / "data"
    root.mkdir()
    mask = np.zeros((40, 20), dtype=np.uint8)
    mask[20:] = 255
    Image.fromarray(mask).save(root / "a.png")
    Image.fromarray(np.zeros((4, 4), dtype=np.uint8)).save(root / "empty.png")
    (root / "bad.png").write_bytes(b"x")
    Image.fromarray(mask).save(tmp_path / "outside.png")
    (root / "link.png").symlink_to(tmp_path / "outside.png")

    def read(*names: str):
        rows = [{"row": str(i), "lung_mask": name} for i, name in enumerate(names, 2)]
        return lung_reader(find_lung_masks(rows, root, "site.csv"), "site.csv", 10)

    lung = read("", "a.png")
    assert lung(2) is None
    assert lung(3).shape == (1, 10, 10)
    assert torch.equal(lung(3)[0], (torch.arange(10) >= 5)[:, None].expand(10, 10))
    assert read("", "") is None
    for name in ("absent.png", "link.png"):
        with pytest.raises(InputError, match=r"site\.csv: the lung_mask of row 3 is no file inside dataset_dir"):
            read("a.png", name)
    with pytest.raises(InputError, match="the lung_mask of row 2 cannot be read"):
        read("bad.png")(2)
    with pytest.raises(InputError, match="the lung_mask of row 2 marks nothing or everything"):
        read("empty.png")(2)


@pytest.mark.parametrize("shape", [(10, 10), (64, 24), (37, 53), (80, 120)])
def test_a_mask_is_resized_as_pillow_does_by_nearest_neighbor(tmp_path, shape):
    mask = np.random.default_rng(0).choice(np.array([0, 1, 255], dtype=np.uint8), (37, 53), p=(0.5, 0.25, 0.25))
    Image.fromarray(mask).save(tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(mask).resize(shape[::-1], Image.Resampling.NEAREST)) > 0
    assert np.array_equal(lung_pixels(tmp_path / "a.png", 2, "site.csv", shape), expected)
    assert np.array_equal(read_mask(tmp_path / "a.png", 10), mask_pixels(tmp_path / "a.png", (10, 10)))


@pytest.fixture(scope="module")
def audited(phantom_dir, tmp_path_factory):
    """An audit of random weights at two sites of the phantom, 32 pixels."""
    folder = tmp_path_factory.mktemp("audit")
    torch.manual_seed(0)
    (folder / "run").mkdir()
    torch.save(CXRResNet18().state_dict(), folder / "run/model.pt")
    (folder / "run/run.json").write_text(json.dumps({"identity": {"settings": {"image_size": 32, "voi": "none"}}}))
    manifests = [phantom_dir / "northgate.csv", phantom_dir / "harbor.csv"]
    table = audit_checkpoint(folder / "run/model.pt", manifests, phantom_dir, folder / "out")
    return folder, table


def test_the_files_of_an_audit(audited, phantom_dir):
    folder, table = audited
    assert all(set(line) == set(COLUMNS) for line in table)
    n = {name: sum(row["split"] == "test" for row in read_manifest(phantom_dir / f"{name}.csv")) for name in ("northgate", "harbor")}
    for name, count in n.items():
        lines = by_control(table, name)
        assert list(lines) == [
            "plain",
            "lungs_blank",
            "only_lungs",
            "border_blank",
            "border_crop",
            "tag",
            "metadata_only",
            "frame_only",
            "thumbnail",
        ]
        assert {line["n"] for line in lines.values()} == {count}
    probes = by_control(table, "all sets")
    assert list(probes) == ["site_probe", "site_probe_label_0", "site_probe_label_1"]
    assert probes["site_probe"]["n"] == sum(n.values())
    assert probes["site_probe"]["auroc"] > 0.8
    content = json.loads((folder / "out/audit.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert (content["image_size"], content["voi"], content["split"]) == (32, "none", "test")
    assert content["failed"] == {"northgate": 0, "harbor": 0}
    assert len(content["table"]) == len(table)
    with (folder / "out/audit.csv").open() as stream:
        assert [line["control"] for line in csv.DictReader(stream)] == [line["control"] for line in table]
    text = render(table)
    assert "site_probe_label_1" in text
    assert "northgate-" not in text + (folder / "out/audit.json").read_text() + (folder / "out/audit.csv").read_text()
    assert list((folder / "out/tensorboard").iterdir())


def test_what_an_audit_refuses(audited, phantom_dir, tmp_path):
    folder, _ = audited
    (folder / "other").mkdir()
    (folder / "other/run.json").write_text("of another training, which an audit must not move aside")
    for change, message in (
        ({"manifests": []}, "no manifest"),
        ({"manifests": [phantom_dir / "harbor.csv"] * 2}, "same name"),
        ({"manifests": [phantom_dir / "harbor.csv"], "split": "train"}, "no row with split train"),
        ({"manifests": [phantom_dir / "harbor.csv"], "image_size": 0}, "image_size must be"),
        ({"manifests": [phantom_dir / "harbor.csv"], "num_workers": -1}, "num_workers must be a whole number, zero or more, got -1"),
        ({"manifests": [phantom_dir / "harbor.csv"], "output_dir": folder / "run"}, "give a folder of its own inside it"),
        ({"manifests": [phantom_dir / "harbor.csv"], "output_dir": folder / "other"}, "give a folder of its own inside it"),
    ):
        given = {"checkpoint": folder / "run/model.pt", "dataset_dir": phantom_dir, "output_dir": tmp_path / "out"} | change
        with pytest.raises(InputError, match=message):
            audit_checkpoint(**given)
    assert not (tmp_path / "out").exists()
