from __future__ import annotations

import json
import shutil
import unicodedata
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import LinearNet
from PIL import Image
from typer.testing import CliRunner

from sga_monai.benchmark import peak_memory
from sga_monai.cli.research import app
from sga_monai.core.errors import InputError
from sga_monai.data.dataset import CXRDataset
from sga_monai.data.transforms import preprocessing
from sga_monai.evaluation.cohort import list_cohort, read_cohorts
from sga_monai.interpret.explain import explain_checkpoints, render
from sga_monai.interpret.localization import deletion_auc, insertion_auc
from sga_monai.interpret.measures import MINUS, Cases, Measured, measure_maps
from sga_monai.interpret.pictures import draw_first_cases
from sga_monai.interpret.regions import read_regions
from sga_monai.model.network import CXRResNet18
from sga_monai.model.preparation import Preparation
from sga_monai.statistics.estimates import patient_mean, share
from sga_monai.statistics.seeds import mean_over_seeds


def explain(*arguments, **options):
    """``explain_checkpoints`` with curves of 4 steps instead of 16, whose forward passes take most of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sga_monai.interpret.measures.STEPS", 4)
        return explain_checkpoints(*arguments, **options)


@pytest.fixture(scope="module")
def explained(phantom_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explained")
    models = {}
    for seed, name in enumerate(("NT", "SGA")):
        torch.manual_seed(seed)
        models[name] = folder / f"{name}.pt"
        torch.save(CXRResNet18().state_dict(), models[name])
    regions = {"marker": "masks/marker/northgate", "lesion": "masks/lesion/northgate"}
    table = explain(models, phantom_dir / "northgate.csv", phantom_dir, folder / "out", regions, image_size=48, n_cases=4, limit=8)
    return models, regions, folder / "out", table


def test_every_model_map_region_and_measure_is_there(explained):
    _, _, out, table = explained
    keys = {(line["model"], line["map"], line["region"], line["measure"]) for line in table}
    measures = ("energy_inside", "pointing_game", "iou_at_area")
    measured = {(region, measure) for region in ("lung", "marker", "lesion") for measure in measures}
    kinds = ("fullgrad", "input_gradient", "grad_cam")
    expected = {(kind, *pair) for kind in kinds for pair in measured}
    expected |= {("fullgrad", "image", measure) for measure in ("insertion_auc", "deletion_auc", MINUS)}
    assert keys == {(model, *rest) for model in ("NT", "SGA") for rest in expected}
    assert len(table) == len(keys) == len(pd.read_csv(out / "saliency.csv")) == len(json.loads((out / "saliency.json").read_text()))
    images = pd.read_csv(out / "saliency_images.csv").groupby(["model", "map", "region", "measure"])["value"].mean()
    for line in table:
        # Markers and lesions are in the positives alone, half of the eight images.
        assert line["n_images"] + line["n_missing"] == (4 if line["region"] in ("marker", "lesion") else 8)
        least, chance = (-1, 0) if line["measure"] == MINUS else (0, None)
        assert least <= line["value"] <= 1 or line["n_images"] == 0
        assert line["value"] == pytest.approx(images[line["model"], line["map"], line["region"], line["measure"]], abs=1e-12, nan_ok=True)
        assert (line["difference"] is None) == (line["model"] == "NT")
        assert np.isnan(line["low"]) or least <= line["low"] <= line["value"] <= line["high"] <= 1
        assert line["chance"] == chance if line["region"] == "image" else 0 < line["chance"] < 0.6
    text = render(table)
    assert "marker" in text
    assert "insertion_auc" in text
    columns = ["model", "map", "region", "images", "patients", "seeds", "chance", "chance", "of", "IoU"]
    assert text.split("energy_inside")[0].split() == columns
    assert any(line.strip() == "minus NT, paired by image" for line in text.splitlines())


def test_several_seeds_of_a_model_and_differences_paired_by_image(explained, phantom_dir, tmp_path):
    models, _, _, table = explained
    given = {"A": [models["NT"], models["SGA"]], "B": [models["SGA"], models["NT"]], "C": [models["NT"], models["NT"]]}
    found = explain(given, phantom_dir / "northgate.csv", phantom_dir, tmp_path / "out", image_size=48, n_cases=2, limit=8)
    assert {line["n_seeds"] for line in found} == {2}
    single = {(line["model"], line["map"], line["region"], line["measure"]): line for line in table}
    images = pd.read_csv(tmp_path / "out/saliency_images.csv")
    assert set(images["checkpoint"]) == {1, 2}
    compared = 0
    for line in found:
        key = (line["map"], line["region"], line["measure"])
        ones = [single[name, *key] for name in ("NT", "SGA")]
        if any(one["n_missing"] for one in ones):
            continue
        compared += 1
        nt, sga = (one["value"] for one in ones)
        assert line["value"] == pytest.approx(nt if line["model"] == "C" else (nt + sga) / 2, abs=1e-9)
        if line["model"] == "B":
            # The same networks in another order: no difference, and seeds that differ much.
            assert line["difference"] == pytest.approx(0, abs=1e-12)
        if line["model"] == "C":
            assert line["difference"] == pytest.approx((nt - sga) / 2, abs=1e-9)
    assert compared > len(found) / 2
    with pytest.raises(InputError, match="different numbers of checkpoints; give the same seeds"):
        explain_checkpoints({"A": [models["NT"]], "B": given["B"]}, phantom_dir / "northgate.csv", phantom_dir, tmp_path / "x")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["A=nt/0", "A=nt/1", "B=sga/1", "B=sga/0"], "checkpoint 1 of B is of seed 1, the first model's of seed 0"),
        (["A=nt/0", "A=nt/0"], "A: two checkpoints are of seed 0; give each seed once"),
        (["A=nt/0", "A=sga/1"], "A: checkpoint 2 is of other settings than the first (kl_weight: was 0, is 1.0); give its seeds"),
        (["A=nt/0", "A=nt/1", "B=sga/0", "B=sga/1"], ""), (["A=nt/0", "B=nt/1"], ""),
        (["A=nt/0", "A=rebuilt/1"], "A: checkpoint 2 is of other settings than the first (manifest_sha256: was a, is b); give its seeds"),
        (["A=nt/0", "A=old/1"], ""), (["A=bare/0", "A=bare/1"], ""),
    ],
)  # fmt: skip
def test_the_checkpoints_of_a_model_are_its_seeds_and_those_of_the_others(explained, phantom_dir, tmp_path, given, message):
    models, _, _, _ = explained
    both = {"image_size": 32, "voi": "dicom", "orientation": "header"}
    nt = {"kl_weight": 0}
    for name, settings in (("nt", nt), ("sga", {"kl_weight": 1.0}), ("rebuilt", nt), ("old", {}), ("bare", None)):
        for seed in (0, 1):
            folder = tmp_path / name / str(seed)
            folder.mkdir(parents=True)
            shutil.copy(models["NT"], folder / "model.pt")
            if settings is not None:
                identity = {"settings": both | settings | {"seed": seed}, "data": {"manifest_sha256": "b" if name == "rebuilt" else "a"}}
                identity = identity if name != "old" else {"settings": identity["settings"]}
                (folder / "run.json").write_text(json.dumps({"identity": identity}))
    paths = [text.replace("=", f"={tmp_path}/") + "/model.pt" for text in given]
    # Damaged, so that a call which is not refused before ends here.
    (tmp_path / "bad.csv").write_text("")
    rest = ["--manifest", str(tmp_path / "bad.csv"), "--dataset-dir", str(phantom_dir), "--output-dir", str(tmp_path / "out")]
    refused = CliRunner().invoke(app, ["explain", *paths, *rest])
    assert isinstance(refused.exception, InputError)
    assert (message and message in str(refused.exception)) or (not message and "bad.csv" in str(refused.exception))


def test_what_explain_would_take_for_its_own_is_refused(explained, phantom_dir, tmp_path):
    models, _, _, _ = explained
    for name in ("predictions.csv", "audit.json", "run.json"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
        with pytest.raises(InputError, match="give a folder of its own inside it"):
            explain_checkpoints({"NT": models["NT"]}, phantom_dir / "northgate.csv", phantom_dir, tmp_path / name)
    with pytest.raises(InputError, match="the name 'image' must be of"):
        explain_checkpoints({"NT": models["NT"]}, phantom_dir / "northgate.csv", phantom_dir, tmp_path / "x", {"image": "masks"})


def test_two_images_of_one_name_are_refused_where_a_region_goes_by_it(drawn, dicom_file, tmp_path):
    rows = []
    for patient in ("p0", "p1"):
        (tmp_path / patient).mkdir()
        shutil.move(dicom_file(drawn), tmp_path / patient / "view1.dcm")
        rows.append({"image": f"{patient}/view1.dcm", "label": "1", "patient_id": patient, "site": "s", "split": "test"})
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    cohort = list_cohort(tmp_path / "m.csv", tmp_path, Preparation(32))
    (dataset,) = read_cohorts([cohort])
    assert read_regions(dataset, cohort, tmp_path, {}) == {}
    with pytest.raises(InputError, match="rows 2 and 3 have images of one name"):
        read_regions(dataset, cohort, tmp_path, {"marker": "masks"})


def test_images_that_are_called_by_their_uids_have_pictures_of_their_own(drawn, dicom_file, tmp_path):
    (tmp_path / "lesion").mkdir()
    rows = []
    for name in ("1.2.840.7", "1.2.840.8"):
        shutil.move(dicom_file(drawn), tmp_path / name)
        Image.fromarray(np.uint8([[255, 0], [0, 0]])).save(tmp_path / f"lesion/{name}.png")
        rows.append({"image": name, "label": "1", "patient_id": name, "site": "s", "split": "test"})
    pixels = bytearray((tmp_path / "1.2.840.8").read_bytes())
    pixels[-1] ^= 1
    (tmp_path / "1.2.840.8").write_bytes(pixels)
    pd.DataFrame(rows).to_csv(tmp_path / "m.csv", index=False)
    cohort = list_cohort(tmp_path / "m.csv", tmp_path, Preparation(32))
    (dataset,) = read_cohorts([cohort])
    assert read_regions(dataset, cohort, tmp_path, {"lesion": "lesion"})["lesion"].flatten(1).sum(1).tolist() == [256, 256]


def test_a_folder_that_cannot_be_written_is_known_before_any_map(explained, phantom_dir, tmp_path, monkeypatch):
    models, _, _, _ = explained
    monkeypatch.setattr("sga_monai.interpret.explain._maps", lambda *_: pytest.fail("maps were computed"))
    (tmp_path / "out").write_text("")
    with pytest.raises(OSError, match=r"exists|directory"):
        explain_checkpoints({"NT": models["NT"]}, phantom_dir / "northgate.csv", phantom_dir, tmp_path / "out", image_size=32, limit=2)


def test_one_name_for_two_models_is_refused_unless_they_are_named_as_seeds(explained, phantom_dir, tmp_path):
    models, _, _, _ = explained
    for name in ("a", "b"):
        (tmp_path / name / "seed_0").mkdir(parents=True)
        shutil.copy(models["NT"], tmp_path / name / "seed_0/model.pt")
    paths = [str(tmp_path / name / "seed_0/model.pt") for name in ("a", "b")]
    rest = ["--manifest", str(phantom_dir / "northgate.csv"), "--dataset-dir", str(phantom_dir), "--image-size", "32", "--limit", "2"]
    refused = CliRunner().invoke(app, ["explain", *paths, *rest, "--output-dir", str(tmp_path / "out")])
    assert "two models have the same name" in str(refused.exception)
    regions = ["--region", "x=masks/marker/northgate", "--region", "x=masks/lesion/northgate"]
    refused = CliRunner().invoke(app, ["explain", "NT=" + paths[0], *rest, *regions, "--output-dir", str(tmp_path / "out")])
    assert "two regions have the same name" in str(refused.exception)
    done = CliRunner().invoke(app, ["explain", *(f"NT={path}" for path in paths), *rest, "--output-dir", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert pd.read_csv(tmp_path / "out/saliency.csv")["n_seeds"].unique().tolist() == [2]


def test_the_counts_of_measures_that_some_images_have_not_are_both_shown():
    facts = {"model": "NT", "map": "grad_cam", "region": "lung", "chance": 0.3, "n_seeds": 1, "difference": None}
    line = {"value": 0.3, "low": 0.2, "high": 0.4}
    flat = [facts | {"measure": "energy_inside", "value": np.nan, "low": np.nan, "high": np.nan, "n_images": 0, "n_patients": 0}]
    text = render([*flat, facts | line | {"measure": "pointing_game", "n_images": 9, "n_patients": 8}])
    assert "0 to 9     0 to 8" in text


def measured(measure: str, values: np.ndarray) -> dict:
    """The line of a measure of ten or eleven patients, one image each."""
    patient = np.arange(values.shape[-1])
    return Measured("fullgrad", "boxes", measure, np.atleast_2d(values), [str(key) for key in patient], patient, 0.5).describe()


def test_measures_of_many_images_take_the_memory_of_a_few():
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand((160, 1, 32, 32), generator=generator)
    mask = torch.rand((160, 32, 32), generator=generator) < torch.linspace(0, 0.5, 160)[:, None, None]
    cases = Cases(maps, torch.zeros(160), [*map(str, range(160))], range(160), [True] * 160, {"lung": mask})
    few = Cases(maps[:16], torch.zeros(16), cases.row[:16], range(16), [True] * 16, {"lung": mask[:16]})
    found = list(measure_maps("fullgrad", maps, cases, CXRResNet18(), curves=False))
    for one, first in zip(found, measure_maps("fullgrad", maps[:16], few, CXRResNet18(), curves=False), strict=True):
        assert np.array_equal(one.values[:, : first.values.shape[1]], first.values)
        marked = mask.flatten(1).any(1).nonzero().flatten().tolist()
        assert (one.map, one.region, list(one.row), list(one.patient)) == ("fullgrad", "lung", [*map(str, marked)], marked)
        share = mask[mask.flatten(1).any(1)].double().mean((1, 2))
        assert one.chance == pytest.approx(float((share / (2 - share) if one.measure == "iou_at_area" else share).mean()), abs=1e-15)
    # The maps and masks that have the region are one copy of ten times as many.
    peak = [peak_memory(lambda c=c: list(measure_maps("fullgrad", c.image, c, CXRResNet18(), curves=False))) for c in (few, cases)]
    assert peak[1] - peak[0] < 2 * maps.nbytes


def test_insertion_and_deletion_are_of_the_probability_of_each_images_label():
    generator = torch.Generator().manual_seed(0)
    image, maps = (torch.rand((18, 1, 8, 8), generator=generator) for _ in range(2))
    network = LinearNet(torch.randn((1, 1, 8, 8), generator=generator))
    label = torch.arange(18) % 2
    cases = Cases(image, label, [*map(str, range(18))], range(18), [True] * 18, {})
    found = {one.measure: one.values[0] for one in measure_maps("fullgrad", maps, cases, network, curves=True)}
    for name, curve in (("insertion_auc", insertion_auc), ("deletion_auc", deletion_auc)):
        for i, own in enumerate(label):
            expected = curve(lambda x, own=own: network(x).softmax(1)[:, own], image[[i]], maps[[i], 0], 16)
            assert found[name][i] == pytest.approx(float(expected), abs=1e-6)
    assert found[MINUS].tolist() == (found["insertion_auc"] - found["deletion_auc"]).tolist()


def test_an_image_with_a_name_burned_in_is_never_drawn(drawn, dicom_file, tmp_path, monkeypatch, caplog):
    """Neither when it was read from its file nor when it comes from the cache."""
    items = []
    for i, said in enumerate(("YES", "NO", "YES", "", "NO")):
        path = dicom_file(drawn // (i + 1), name=f"{i}.dcm", BurnedInAnnotation=said)
        items.append({"image": str(path), "label": i % 2, "row": i + 2, "patient": i, "set": "site", "sha256": ""})
    pictures = []
    monkeypatch.setattr("sga_monai.interpret.pictures.draw_cases", lambda *given: pictures.append(given))
    maps, network = torch.arange(5.0).view(5, 1, 1, 1).expand(5, 1, 16, 16), LinearNet(torch.ones(1, 1, 16, 16))
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        dataset = CXRDataset(items, preprocessing(Preparation(16)), cache_dir=cache and str(cache))
        cases = Cases.of(dataset, {"lung": maps[:, 0] > 2})
        assert (cases.row, cases.patient, cases.label.tolist()) == ([2, 3, 4, 5, 6], [0, 1, 2, 3, 4], [0, 1, 0, 1, 0])
        for n_cases, expected in ((4, [1, 3, 4]), (2, [1, 4])):
            draw_first_cases(cases, {"NT": maps}, {"NT": network}, n_cases)
            image, label, shown, probability, masks = pictures.pop()
            assert torch.equal(image, torch.stack([dataset[i]["image"] for i in expected]))
            assert (label.tolist(), shown["NT"][:, 0, 0, 0].tolist()) == ([i % 2 for i in expected], expected)
            assert (masks["lung"][:, 0, 0].tolist(), len(probability["NT"])) == ([i > 2 for i in expected], len(expected))
    dataset = CXRDataset(items[:1], preprocessing(Preparation(16)))
    assert draw_first_cases(Cases.of(dataset, {}), {"NT": maps[:1]}, {"NT": network}, 4) is None
    assert "every image has BurnedInAnnotation YES: no picture is drawn" in caplog.text


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_difference_is_of_the_images_that_both_models_have(seeds):
    rng, patient = np.random.default_rng(0), np.arange(12) // 2
    values, others = rng.random((2, seeds, 12))
    values[0, 3] = others[-1, 8] = np.nan
    one, other = (
        Measured("fullgrad", "boxes", "energy_inside", figures, [*map(str, range(12))], patient, None) for figures in (values, others)
    )
    line, both = one.describe(other), ~np.isin(np.arange(12), (3, 8))
    change = (values - others)[:, both]
    expected = patient_mean(change[0], patient[both]) if seeds == 1 else mean_over_seeds(change, patient[both])
    assert [line[f"difference{end}"] for end in ("", "_low", "_high")] == [expected.value, expected.low, expected.high]
    assert (line["n_images"], line["n_patients"], line["n_missing"], line["n_seeds"]) == (11, 6, 1, seeds)
    assert line["value"] == pytest.approx(np.delete(values, 3, axis=1).mean())


def test_intervals_of_shares_stay_within_0_and_1():
    patient, hits = np.arange(10), np.array([1.0] * 9 + [0.0])
    assert patient_mean(hits, patient).high > 1
    found, wilson = measured("pointing_game", hits), share(hits == 1, patient)
    assert (found["value"], found["low"], found["high"]) == (0.9, wilson.low, wilson.high)
    assert (found["n_images"], found["n_patients"], found["n_missing"]) == (10, 10, 0)
    # Figures that are no proportion, one of them missing: the t interval, cut off.
    for first, measure in ((1.0, "energy_inside"), (0.5, "pointing_game")):
        values = np.array([first, *hits[1:], np.nan])
        found, plain = measured(measure, values), patient_mean(values, np.arange(11))
        assert (found["low"], found["high"], found["n_missing"]) == (plain.low, 1.0, 1)
    assert np.isnan(measured("iou_at_area", hits[:1])["low"])
    assert np.isnan(measured("iou_at_area", np.full((2, 3), np.nan))["value"])


def test_boxes_are_of_the_image_as_the_training_read_it(drawn, dicom_file, tmp_path):
    """A header that says "turned by a quarter" is obeyed by orientation header and ignored by stored; boxes are in stored pixels there."""
    path = dicom_file(drawn[:, :160].copy(), PatientOrientation=["F", "L"])
    row = {"image": path.name, "label": "1", "patient_id": "p", "site": "s", "split": "test", "boxes": "[[20, 40, 40, 100]]"}
    pd.DataFrame([row]).to_csv(tmp_path / "m.csv", index=False)
    cohort = list_cohort(tmp_path / "m.csv", tmp_path, Preparation(32, "dicom", "stored"))
    (dataset,) = read_cohorts([cohort])
    rows, columns = read_regions(dataset, cohort, tmp_path, {})["boxes"][0].nonzero().T
    # 320 rows and 160 columns become 32 and 32.
    assert (int(columns.min()), int(columns.max())) == (4, 11)
    assert (int(rows.min()), int(rows.max())) == (4, 13)


def test_masks_and_regions_of_an_accented_name_are_found_where_accents_are_decomposed(drawn, dicom_file, tmp_path):
    row = {"label": "1", "patient_id": "p", "site": "s", "split": "test", "boxes": "[[20, 40, 40, 100]]"}
    row |= {"image": "müller.dcm", "lung_mask": "masks/müller.png"}
    dicom_file(drawn, name="a.dcm").rename(tmp_path / unicodedata.normalize("NFD", row["image"]))
    (tmp_path / "masks").mkdir()
    Image.fromarray(np.eye(32, dtype=np.uint8)).save(tmp_path / unicodedata.normalize("NFD", row["lung_mask"]))
    pd.DataFrame([row]).to_csv(tmp_path / "m.csv", index=False)
    cohort = list_cohort(tmp_path / "m.csv", tmp_path, Preparation(32))
    (dataset,) = read_cohorts([cohort])
    regions = read_regions(dataset, cohort, tmp_path, {"x": "masks"})
    assert set(regions) == {"boxes", "lung", "x"}
    assert all(torch.equal(regions[name][0], torch.eye(32, dtype=torch.bool)) for name in ("lung", "x"))


@pytest.mark.parametrize(
    ("pair", "mask", "message"),
    [
        (["F", "L"], (320, 160), "refused"), (["H", "R"], (64, 32), "refused"), (["F", "L"], (160, 320), "told"),
        (["F", "L"], (64, 64), "told"), (["R", "F"], (320, 160), "told"), (["L", "F"], (320, 160), ""), (["F", "L"], (320, 160), "stored"),
    ],
)  # fmt: skip
def test_a_mask_that_lies_as_the_pixels_of_a_turned_image_are_stored_is_refused(drawn, dicom_file, tmp_path, caplog, pair, mask, message):
    """Of an image that its header turns, a mask is turned too; where its sides cannot tell, a line says that it must be."""
    path = dicom_file(drawn[:, :160].copy(), PatientOrientation=pair)
    (tmp_path / "masks").mkdir()
    pixels = np.zeros(mask, dtype=np.uint8)
    pixels[: mask[0] // 2] = 255
    Image.fromarray(pixels).save(tmp_path / "masks/a.png")
    row = {"image": path.name, "label": "1", "patient_id": "p", "site": "s", "split": "test"}
    preparation = Preparation(32, "dicom", "stored" if message == "stored" else "header")
    lung, region = (row | {"lung_mask": "masks/a.png"}, {}, "m: the lung_mask"), (row, {"x": "masks"}, "region x: the picture")
    for content, regions, name in (lung, region):
        caplog.clear()
        pd.DataFrame([content]).to_csv(tmp_path / "m.csv", index=False)
        cohort = list_cohort(tmp_path / "m.csv", tmp_path, preparation)
        with pytest.raises(InputError, match=f"{name} of row 2 lies as the pixels are stored") if message == "refused" else nullcontext():
            (dataset,) = read_cohorts([cohort])
            assert len(read_regions(dataset, cohort, tmp_path, regions)) == 1
        assert (f"{name}: 1 images are shown turned by their PatientOrientation (row 2)" in caplog.text) == (message == "told")


def test_picture_and_tensorboard(explained):
    _, _, out, _ = explained
    with Image.open(out / "cases.png") as picture:
        # Four cases of one image and two maps.
        assert picture.height > picture.width
    assert {path.parent.name for path in (out / "tensorboard").rglob("events.*")} == {"tensorboard", "NT", "SGA"}
    assert not [path for path in out.rglob("*") if path.is_file() and b"northgate-0" in path.read_bytes()]


def test_a_region_that_is_not_there_is_refused(explained, phantom_dir, tmp_path):
    models, _, _, _ = explained
    for folder, message in (("masks/nowhere", "no image of the manifest"), ("../..", "outside dataset_dir")):
        with pytest.raises(InputError, match=message):
            explain_checkpoints(
                {"NT": models["NT"]}, phantom_dir / "northgate.csv", phantom_dir, tmp_path, {"x": folder}, image_size=32, limit=2
            )
    for name, size in (("a", 32), ("b", 48)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps({"identity": {"settings": {"image_size": size, "voi": "dicom"}}}))
        shutil.copy(models["NT"], tmp_path / name / "model.pt")
    both = {name: tmp_path / name / "model.pt" for name in ("a", "b")}
    with pytest.raises(InputError, match=r"prepared in different ways \(image_size 32, voi dicom, orientation stored; image_size 48,"):
        explain_checkpoints(both, phantom_dir / "northgate.csv", phantom_dir, tmp_path / "out")
    damaged = tmp_path / "model.pt"
    damaged.write_bytes(b"no")
    with pytest.raises(InputError, match="not a state dict"):
        explain_checkpoints({"NT": damaged}, phantom_dir / "northgate.csv", phantom_dir, tmp_path / "out")
