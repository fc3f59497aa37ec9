from __future__ import annotations

import errno
import functools
import itertools
import json
import math
import re
import shutil
import signal
import sys
import tarfile
import time
from dataclasses import asdict
from pathlib import Path

import matplotlib.axes
import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from fixtures import warm

from sga_monai.cohorts.phantom import SOURCE
from sga_monai.core.errors import DiskError, InputError
from sga_monai.core.files import file_sha256
from sga_monai.core.folders import is_finished, is_in_use
from sga_monai.core.provenance import code_digest, versions
from sga_monai.data.identity import same_id
from sga_monai.data.manifest import read_manifest
from sga_monai.experiments import pages as collect
from sga_monai.experiments import tables
from sga_monai.experiments.figures import learning_curves
from sga_monai.experiments.plan import read_plan
from sga_monai.experiments.records import experiment_records, read_records
from sga_monai.experiments.runner import command, run_experiment
from sga_monai.experiments.selection import selections
from sga_monai.experiments.tables import render_text
from sga_monai.statistics.calibration import calibration_line, expected_calibration_error
from sga_monai.statistics.discrimination import auroc, paired_difference
from sga_monai.statistics.effects import pooled_effect
from sga_monai.statistics.seeds import combine, holm, mean_auroc, mean_difference

PLANS = sorted((ROOT / "bundles/sga/experiments").glob("*.json"))
TINY = {"image_size": 32, "max_epochs": 2, "batch_size": 32, "review_interval": 0}


def write_plan(path: Path, **changes: object) -> Path:
    content = {
        "title": "Two methods",
        "question": "Is it the same after a kill?",
        "settings": TINY,
        "methods": {"NT": {"kl_weight": 0}, "SGA": {}},
        "seeds": [0],
    }
    path.write_text(json.dumps(content | changes))
    return path


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_committed_plans_override_what_the_bundle_has(path):
    plan = read_plan(path)
    known = json.loads((ROOT / plan.config_file).read_text())
    for cell in plan.cells:
        assert set(cell.settings) <= set(known)
    assert {cell.settings["kl_weight"] for cell in plan.cells if cell.method == "NT"} <= {0}


def test_cells_are_whole_seeds_first_and_overrides_are_merged_in_order(tmp_path):
    plan = read_plan(
        write_plan(tmp_path / "p.json", seeds=[3, 1], conditions={"a": {"image_size": 64}, "B 2": {"norm": 2}}), dataset_dir="/d"
    )
    assert [(cell.seed, cell.condition, cell.method) for cell in plan.cells[:4]] == [
        (3, "a", "NT"),
        (3, "a", "SGA"),
        (3, "B 2", "NT"),
        (3, "B 2", "SGA"),
    ]
    assert plan.cells[0].settings == TINY | {"image_size": 64, "kl_weight": 0, "dataset_dir": "/d", "seed": 3}
    assert plan.cells[3].folder == "sga/b_2/seed_3"
    given = command(plan, plan.cells[3], Path("out"))
    assert "--norm=2" in given
    assert "--output_dir=out" in given


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_pooled_sets_have_no_common_patients_but_for_42_of_two_views(path):
    pooled = read_plan(path).pooled_sets
    patients = {name: {same_id(row["patient_id"]) for row in read_manifest(ROOT / f"data_manifests/{name}.csv")} for name in pooled}
    common = {pair: len(patients[pair[0]] & patients[pair[1]]) for pair in itertools.combinations(pooled, 2)}
    assert {pair: count for pair, count in common.items() if count} in ({}, {("nih_pa", "nih_ap"): 42})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": []}, "seeds"),
        ({"methods": {}}, "methods"),
        ({"methods": {"a b": {}, "A-B": {}}}, "same name"),
        ({"baseline": "XX"}, "none of the methods NT, SGA"),
        ({"axis": "r", "conditions": {"x": {}}}, "must be a number, zero or more"),
        ({"axis": "r", "conditions": {"-1": {}}}, "must be a number, zero or more"),
        ({"methods": {"+ mask": {}}}, "'\\+ mask' begins with '\\+'"),
        ({"settings": {"output_dir": "x"}}, "output_dir"),
        ({"settings": {"seed": 1}}, "a seed in settings, conditions or methods is not used; list all in seeds"),
        ({"conditions": {"a": {}, "b": {"seed": 1}}}, "a seed in settings, conditions or methods is not used"),
        ({"methods": {"TensorBoard": {}}}, "must not be tensorboard"),
        ({"config_file": "nowhere.json"}, "no JSON file here"),
        ({"config_file": "bundles/sga/multi_gpu_train.json"}, "is no configuration of a training"),
        ({"settings": {"manifest": 3}}, "manifest must be a path in quotes, got 3"),
        ({"conditions": {"a": {"dataset_dir": None}}}, "dataset_dir must be a path in quotes, got null"),
        ({"methods": {"NT": {"external_manifests": [1]}}}, "external_manifests must be a list of paths in quotes, got \\[1\\]"),
        ({"methods": {"NT": {}, "SGA": {"external_manifests": 5}}}, "external_manifests must be a list of paths in quotes, got 5"),
        (
            {"methods": {name: {"external_manifests": [f"{name}/far.csv"]} for name in "ab"}},
            r"two methods have different external_manifests far\.csv; rename one of the files",
        ),
        ({"settings": {"cache_dir": "null"}}, r"p\.json: cache_dir is the text 'null', which is no path; leave the option out for none"),
        ({"methods": {"NT": {"pretrained_weights": ""}}}, "pretrained_weights is an empty text"),
        (
            {"methods": {"NT": {"kl_weigth": 0}}},
            r"methods\.NT: kl_weigth names nothing in the configuration; is kl_weight meant\?",
        ),
        ({"conditions": {"a": {"trian#trainer": 1}}}, r"conditions\.a: trian#trainer names nothing in the configuration; is train meant\?"),
        ({"settings": {"colour": 1}}, "settings: colour names nothing in the configuration; remove it"),
        ({"colour": 1}, "colour"),
        ({"selection_set": "far"}, "selection_set 'far' must be one of two or more external_manifests; there are harbor, lakeside, summit"),
        ({"selection_set": "far", "settings": {"external_manifests": []}}, "there are none"),
        ({"selection_set": "far", "settings": {"external_manifests": ["m/near.csv", "m/b.csv"]}}, "there are near, b"),
        ({"selection_set": "far", "settings": {"external_manifests": "m/far.csv"}}, "there are far"),
        ({"phantoms": {"p": {"external_images": 3}}}, "3 is not a multiple of 2"),
        ({"pooled_sets": ["far"], "settings": {"external_manifests": ["m/near.csv"]}}, "none of the external_manifests, near"),
        ({"pooled_sets": ["internal"], "settings": {"manifest": "m.csv"}}, "none of the external_manifests, none"),
        ({"pooled_sets": ["near"], "selection_set": "near"}, "names the selection_set 'near', which is no result"),
    ],
)
def test_a_bad_plan_is_refused_in_a_sentence(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        read_plan(write_plan(tmp_path / "p.json", **changes))
    with pytest.raises(InputError, match="no plan absent"):
        read_plan(tmp_path / "absent.json")
    with pytest.raises(InputError, match="is a folder, and a plan is a JSON file"):
        read_plan(tmp_path)


def test_a_method_that_is_there_twice_is_refused(tmp_path):
    """JSON takes the second, and the first was never trained."""
    text = write_plan(tmp_path / "p.json").read_text()
    (tmp_path / "p.json").write_text(text.replace('"SGA": {}', '"NT": {"mask_fraction": 0}'))
    with pytest.raises(InputError, match=r"p\.json: 'NT' is there twice in one place, and the first would be ignored"):
        read_plan(tmp_path / "p.json")


def test_options_that_refer_to_each_other_and_sections_are_known(tmp_path):
    settings = TINY | {"optimizer#momentum": "@mine", "mine": 0.8, "train::sampler::seed": 3}
    assert read_plan(write_plan(tmp_path / "p.json", settings=settings), tracking="mlflow").cells


def test_a_set_of_the_phantom_may_choose_and_be_pooled_without_being_named(tmp_path):
    plan = read_plan(write_plan(tmp_path / "p.json", selection_set="harbor", pooled_sets=["lakeside", "summit"]))
    assert (plan.selection_set, plan.pooled_sets) == ("harbor", ("lakeside", "summit"))


def run(plan: Path, out: Path, *more: str, wait: bool = True) -> warm.Process:
    """The command; it and its cells are forks of warm parents."""
    given = [sys.executable, "-m", "sga_monai", "experiment", str(plan), "--output-dir", str(out), "--jobs", "2", *more]
    process = warm.Process(given, forks=True)
    if wait:
        process.output = "".join(process.communicate(timeout=300))
    return process


def test_a_killed_experiment_goes_on_to_the_same_table(tmp_path, few, phantom_dir):
    settings = TINY | {
        "batch_size": 8, "manifest": str(few), "dataset_dir": str(phantom_dir), "external_manifests": [str(phantom_dir / "summit.csv")],
    }  # fmt: skip
    plan = write_plan(tmp_path / "plan.json", settings=settings)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    # With a cache here and without one below: the tables must be the same.
    whole = run(plan, straight, "--cache-dir", str(tmp_path / "cache"))
    assert whole.returncode == 0, whole.output
    assert "2/2" in whole.output
    assert list((tmp_path / "cache").iterdir())

    process = run(plan, killed, wait=False)
    deadline = time.monotonic() + 120
    while not list(killed.glob("*/all/seed_0/checkpoints/epoch_*.pt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    # A killed parent takes its runs with it; the same command skips, resumes and starts.
    while any(is_in_use(folder) for folder in killed.glob("*/all/seed_?")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    again = run(plan, killed)
    assert again.returncode == 0, again.output
    for name in ("results.csv", "results.md"):
        first, second = ((folder / name).read_text() for folder in (straight, killed))
        assert first == second
    third = run(plan, killed)
    assert "2 of 2 cells are finished" in third.output

    other = write_plan(tmp_path / "other.json", settings=settings, methods={"SGA again": {"kl_weight": 1.0}}, seeds=[0])
    reused = run(other, tmp_path / "reused", "--reuse", str(straight))
    assert "1 of 1 cells are finished" in reused.output, reused.output
    first, second = (folder / "seed_0/model.pt" for folder in (straight / "sga/all", tmp_path / "reused/sga_again/all"))
    assert first.read_bytes() == second.read_bytes()

    changed = write_plan(plan, settings=settings | {"learning_rate": 0.5})
    refused = run(changed, killed)
    assert refused.returncode == 3
    assert "NT, seed 0 is here with other settings (learning_rate: was absent, is 0.5)" in refused.output
    broken = write_plan(plan, settings=settings | {"manifest": "nowhere.csv"}, methods={"NT": {"kl_weight": 0}})
    failed = run(broken, tmp_path / "broken")
    assert failed.returncode == 2
    assert "failed: NT, seed 0" in failed.output
    assert "nowhere.csv" in failed.output


def finished_cell(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"finished": "now"}))
    for name in ("predictions.csv", "results.csv"):
        (folder / name).write_text("")


def test_a_finished_cell_of_other_inputs_is_no_result(tmp_path):
    """Manifests of one file name, a phantom drawn again under the same manifest: the plan is the same, the images are not."""
    data = tmp_path / "data"
    for place in (tmp_path / "a", tmp_path / "b", data):
        place.mkdir()
        (place / "site.csv").write_text(place.name)
    (data / "phantom.json").write_text('{"confounding": 0.9}')
    manifests = {"manifest": f"{tmp_path}/a/site.csv", "external_manifests": [f"{tmp_path}/b/site.csv"], "dataset_dir": str(data)}
    plan = read_plan(write_plan(tmp_path / "p.json", settings=TINY | manifests, methods={"NT": {}}))
    out = tmp_path / "out"
    finished_cell(out / plan.cells[0].folder)
    assert run_experiment(plan, out) == []
    changes = ((tmp_path / "a/site.csv", "manifest"), (tmp_path / "b/site.csv", "external_manifests.0"), (data / "phantom.json", "phantom"))
    for path, name in changes:
        before = path.read_text()
        path.write_text("changed")
        with pytest.raises(InputError, match=f"is here with other settings \\({name}: was"):
            run_experiment(plan, out)
        path.write_text(before)
    with pytest.raises(InputError, match="there is no folder typo"):
        run_experiment(plan, out, reuse=[tmp_path / "typo"])
    assert run_experiment(plan, out) == []


def test_a_run_that_was_made_by_hand_in_a_cells_folder_is_no_result(tmp_path):
    """Its command given again with another option, where the experiment had its cell: it was taken for the cell's own."""
    (tmp_path / "site.csv").write_text("x")
    settings = TINY | {"manifest": str(tmp_path / "site.csv"), "dataset_dir": str(tmp_path), "epsilon_range": [0, 0], "norm": "2"}
    plan = read_plan(write_plan(tmp_path / "p.json", settings=settings, methods={"NT": {"kl_weight": 0}}))
    card = tmp_path / "out" / plan.cells[0].folder / "run.json"
    finished_cell(card.parent)
    own = TINY | {"kl_weight": 0.0, "epsilon_range": [0.0, 0.0], "norm": 2.0, "seed": 0, "precision": "fp32"}
    sha256 = file_sha256(tmp_path / "site.csv")
    for identity in ({"settings": own}, {"settings": own, "data": {"manifest_sha256": sha256}}):
        card.write_text(json.dumps({"finished": "now", "identity": identity}))
        assert run_experiment(plan, tmp_path / "out") == []
    for identity, changed in (
        ({"settings": own | {"kl_weight": 3.0}}, "kl_weight: was 0, is 3.0"),
        ({"settings": own, "data": {"manifest_sha256": "0"}}, f"manifest: was {sha256}, is 0"),
    ):
        card.write_text(json.dumps({"finished": "now", "identity": identity}))
        with pytest.raises(InputError, match=rf"the run of NT, seed 0 was made by hand with other options \({changed}\); move its folder"):
            run_experiment(plan, tmp_path / "out")


def test_a_condition_with_its_own_folder_of_images_is_another_run(tmp_path):
    (tmp_path / "site.csv").write_text("x")
    for name in ("whole", "lungs"):
        (tmp_path / name).mkdir()
        settings = TINY | {"manifest": str(tmp_path / "site.csv"), "dataset_dir": str(tmp_path)}
        write_plan(
            tmp_path / f"{name}.json", settings=settings, methods={"NT": {}}, conditions={"c": {"dataset_dir": str(tmp_path / name)}}
        )
    whole, lungs = (read_plan(tmp_path / f"{name}.json", dataset_dir="elsewhere") for name in ("whole", "lungs"))
    assert whole.cells[0].settings["dataset_dir"] == str(tmp_path / "whole")
    out = tmp_path / "out"
    finished_cell(out / whole.cells[0].folder)
    assert run_experiment(whole, out) == []
    with pytest.raises(InputError, match="is here with other settings \\(dataset_dir: was"):
        run_experiment(lungs, out)


def test_the_default_phantom_is_drawn_once_before_the_cells(tmp_path, monkeypatch):
    drawn = []
    folder = tmp_path / "phantom"
    folder.mkdir()
    settings = TINY | {"manifest": f"{folder}/{SOURCE}.csv", "dataset_dir": str(folder)}
    plan = read_plan(write_plan(tmp_path / "p.json", settings=settings))
    for cell in plan.cells:
        finished_cell(tmp_path / "out" / cell.folder)
    monkeypatch.setattr(
        "sga_monai.cohorts.phantom.write_phantom", lambda place: (drawn.append(place), (folder / f"{SOURCE}.csv").write_text("x"))
    )
    assert run_experiment(plan, tmp_path / "out") == []
    assert drawn == [str(folder)]
    record = json.loads((tmp_path / "out" / f"{plan.cells[0].folder}.json").read_text())
    assert all(record["inputs"].values())


def test_a_cell_that_cannot_be_copied_leaves_nothing(tmp_path, monkeypatch):
    (tmp_path / "site.csv").write_text("x")
    settings = TINY | {"manifest": str(tmp_path / "site.csv"), "dataset_dir": str(tmp_path)}
    plan = read_plan(write_plan(tmp_path / "p.json", settings=settings, methods={"NT": {}}))
    first, second = (tmp_path / name / plan.cells[0].folder for name in ("first", "second"))
    finished_cell(first)
    code = {"digest": code_digest(), "versions": versions()}
    (first / "run.json").write_text(json.dumps({"finished": "now", "identity": {"code": code}}))
    assert run_experiment(plan, tmp_path / "first") == []
    copy = shutil.copy2

    def half(source, target):
        if Path(source).name == "results.csv":
            raise OSError(errno.ENOSPC, "")
        copy(source, target)

    monkeypatch.setattr("shutil.copy2", half)
    with pytest.raises(DiskError, match=r"cannot write a copy of results\.csv: no space is left"):
        run_experiment(plan, tmp_path / "second", reuse=[tmp_path / "first"])
    assert [path.name for path in second.parent.iterdir()] == ["seed_0.json"]
    monkeypatch.undo()
    assert run_experiment(plan, tmp_path / "second", reuse=[tmp_path / "first"]) == []
    assert is_finished(second)


def fake_run(folder: Path, seed: int, shift: float) -> None:
    """Predictions of a run without training: a normal score for each image, higher for the positives by ``shift``."""
    rng = np.random.default_rng((seed, round(10 * shift)))
    frames = []
    for name, n, gap in (("internal (validation)", 40, 2.0), ("internal", 60, 2.0), ("far", 80, shift)):
        label = np.arange(n) % 2
        common = np.random.default_rng(n).normal(size=n)
        frames.append(pd.DataFrame({"set": name, "row": np.arange(n) + 2, "patient": np.arange(n) // 2 * 2 + label, "label": label}))
        frames[-1]["score"] = common + 0.5 * rng.normal(size=n) + gap * label
        frames[-1]["probability"] = 1 / (1 + np.exp(-frames[-1]["score"]))
    folder.mkdir(parents=True)
    table = pd.concat(frames)
    table.to_csv(folder / "predictions.csv", index=False)
    lines = [
        {"set": name, "n_positive": 1, "n_negative": 1, "n_patients": 2, "n_failed": 0, "auroc": 0.5, "ci_low": 0.1, "ci_high": 0.9}
        for name in ("internal (validation)", "internal", "far")
    ]
    pd.DataFrame(lines).to_csv(folder / "results.csv", index=False)
    identity = {
        "settings": {"kl_weight": shift, "seed": seed}, "data": {}, "code": {"digest": "d", "versions": {"torch": "2"}},
        "machine": {"platform": "Linux", "device": "cpu", "processor": "AMD EPYC", "threads": 1},
    }  # fmt: skip
    card = {"identity": identity, "epoch": 2, "best": {"epoch": 1}, "model_sha256": "0", "git_revision": "g", "duration_s": 6.0}
    card["finished"] = "now"
    (folder / "run.json").write_text(json.dumps(card))


@pytest.fixture
def fake(tmp_path):
    plan = read_plan(write_plan(tmp_path / "fake.json", seeds=[0, 1, 2]))
    shifts = {"NT": 0.3, "SGA": 1.5}
    for cell in plan.cells:
        fake_run(tmp_path / "out" / cell.folder, cell.seed, shifts[cell.method])
    return plan, tmp_path / "out"


def test_records_are_the_statistics_of_the_predictions(fake):
    plan, out = fake
    records = experiment_records(plan, {cell: out / cell.folder for cell in plan.cells})
    frames = {cell: pd.read_csv(out / cell.folder / "predictions.csv").query("set == 'far'") for cell in plan.cells}
    means = {(r["method"], r["set"]): r for r in records if r["kind"] == "mean"}
    for method in ("NT", "SGA"):
        each = [auroc(f["score"], f["label"], f["patient"]).auroc for cell, f in frames.items() if cell.method == method]
        assert means[method, "far"]["auroc"]["value"] == pytest.approx(np.mean(each))
        assert list(means[method, "far"]["each_seed"].values()) == pytest.approx(each)
        inside = means[method, "internal"]["auroc"]["value"]
        assert means[method, "far"]["auroc_difference"]["value"] == pytest.approx(np.mean(each) - inside)
    against = means["SGA", "far"]["against_baseline"]
    assert against["value"] == pytest.approx(means["SGA", "far"]["auroc"]["value"] - means["NT", "far"]["auroc"]["value"])
    assert against["low"] > 0
    assert against["p"] == against["p_holm"] < 0.01
    assert means["NT", "far"]["against_baseline"] is None
    rules = {r["rule"].split()[0]: r for r in records if r["kind"] == "selection"}
    assert rules["average"]["chosen"] == ["SGA"]


def test_records_have_the_intervals_of_patients_and_seeds(fake):
    plan, out = fake
    for cell in plan.cells[1::2]:
        # Rows in another order, and an image that failed with one method.
        table = pd.read_csv(out / cell.folder / "predictions.csv").iloc[::-1]
        table.loc[(table["set"] == "far") & (table["row"] == 7), ["score", "probability"]] = math.nan
        table.to_csv(out / cell.folder / "predictions.csv", index=False)
    records = experiment_records(plan, {cell: out / cell.folder for cell in plan.cells})
    frames = {(cell.method, cell.seed): pd.read_csv(out / cell.folder / "predictions.csv").sort_values("row") for cell in plan.cells}

    def scores(method: str, name: str, rows: np.ndarray | None = None) -> tuple[np.ndarray, pd.DataFrame]:
        """``[S, N]`` and the rows that they are of."""
        chosen = [frame[(frame["set"] == name) & frame["score"].notna()] for (of, _), frame in frames.items() if of == method]
        chosen = [frame if rows is None else frame[frame["row"].isin(rows)] for frame in chosen]
        return np.stack([frame["score"] for frame in chosen]), chosen[0]

    means = {(r["method"], r["set"]): r for r in records if r["kind"] == "mean"}
    assert [name for method, name in means if method == "NT"] == ["internal (validation)", "internal", "far"]
    for (method, name), mean in means.items():
        joined, rows = scores(method, name)
        expected = mean_auroc(joined, rows["label"], rows["patient"])
        assert mean["auroc"] == pytest.approx(asdict(expected))
        assert (mean["n_positive"], mean["n_negative"]) == (rows["label"].sum(), (1 - rows["label"]).sum())
        assert mean["n_patients"] == rows["patient"].nunique()
        drop = mean["auroc_difference"]
        assert (drop is None) == (name != "far")
        if drop:
            each, inside = list(mean["each_seed"].values()), list(means[method, "internal"]["each_seed"].values())
            change = np.subtract(each, inside)
            patients = expected.sd_patients**2 + means[method, "internal"]["auroc"]["sd_patients"] ** 2
            assert drop == pytest.approx(asdict(combine(change.mean(), patients, change.var(ddof=1) / 3, 3)))
    common = scores("SGA", "far")[1]
    compared = mean_difference(scores("SGA", "far")[0], scores("NT", "far", common["row"])[0], common["label"], common["patient"])
    assert means["SGA", "far"]["against_baseline"] == pytest.approx(asdict(compared) | {"p_holm": compared.p})
    for cell in (record for record in records if record["kind"] == "cell"):
        for name, figures in cell["sets"].items():
            rows = frames[cell["method"], cell["seed"]].dropna(subset="score")
            rows = rows[rows["set"] == name]
            slope, intercept = calibration_line(rows["probability"], rows["label"], rows["patient"])
            ece = expected_calibration_error(rows["probability"], rows["label"])
            expected = {"mean_score": rows["score"].mean(), "slope": slope.value, "intercept": intercept.value, "ece": ece}
            assert {key: figures[key] for key in expected} == pytest.approx(expected)
    areas = {key: mean["auroc"]["value"] for key, mean in means.items()}
    first, second = (record["all"] for record in records if record["kind"] == "selection")
    assert first == {method: areas[method, "internal (validation)"] for method in ("NT", "SGA")}
    assert second == pytest.approx({method: (areas[method, "internal"] + areas[method, "far"]) / 2 for method in ("NT", "SGA")})


def test_methods_that_are_equal_to_three_digits_are_all_chosen():
    for lead, chosen in ((0.0004, ["A", "B"]), (0.0006, ["A"])):
        areas = {"A": {"internal": 0.9, "far": 0.7, "near": 0.5 + lead}, "B": {"internal": 0.9, "far": 0.7, "near": 0.5}}
        means = [{"method": method, "set": name, "auroc": {"value": area}} for method, of in areas.items() for name, area in of.items()]
        means.append({"method": "B", "set": "internal (validation)", "auroc": {"value": 0.8}})
        by_validation, at_near, oracle = selections("all", means, "near")
        assert (by_validation["chosen"], by_validation["all"]) == (["B"], {"B": 0.8})
        assert (at_near["chosen"], at_near["value"]) == (chosen, 0.5 + lead)
        # The set that chooses is no result, and in no average.
        assert oracle["all"] == pytest.approx({"A": 0.8, "B": 0.8})
        *_, of_both = selections("all", means, "")
        assert of_both["all"] == pytest.approx({"A": (0.9 + (1.2 + lead) / 2) / 2, "B": (0.9 + 0.6) / 2})


def test_an_average_over_other_sets_chooses_nothing():
    """A method with external sets of its own was ranked by the average over them."""
    areas = {"A": {"internal": 0.9, "far": 0.7, "near": 0.9}, "B": {"internal": 0.9, "far": 0.75}}
    means = [{"method": method, "set": name, "auroc": {"value": area}} for method, of in areas.items() for name, area in of.items()]
    (oracle,) = selections("all", means, "")
    assert (oracle["chosen"], oracle["reason"]) == ([], "the methods were tested on different images or sets")
    # The set that one method lacks may be the one that chooses, which is in no average.
    at_near, oracle = selections("all", means, "near")
    assert (at_near["chosen"], oracle["chosen"]) == (["A"], ["B"])


def test_a_pooled_effect_of_fewer_sets_says_so(fake, tmp_path, monkeypatch):
    _, out = fake
    monkeypatch.setattr("sga_monai.experiments.records.pooled_effect", functools.partial(pooled_effect, n_samples=20))
    settings = TINY | {"external_manifests": ["m/far.csv", "m/one.csv"]}
    plan = read_plan(
        write_plan(tmp_path / "fewer.json", seeds=[0, 1, 2], settings=settings, pooled_sets=["far", "one"], pooled_against=["NT"])
    )
    for cell in plan.cells:
        path = out / cell.folder / "predictions.csv"
        table = pd.read_csv(path)
        pd.concat([table, table[(table["set"] == "far") & (table["label"] == 1)].assign(set="one")]).to_csv(path, index=False)
    records = experiment_records(plan, {cell: out / cell.folder for cell in plan.cells})
    (effect,) = (record for record in records if record["kind"] == "effect")
    mean = next(r for r in records if r["kind"] == "mean" and (r["method"], r["set"]) == ("SGA", "far"))
    assert effect["sets"] == ["far"]
    assert effect["effect"]["value"] == pytest.approx(mean["against_baseline"]["value"])
    text = tables.markdown(records)
    assert "Effect pooled over far, one" in text
    assert "(1 of 2 sets)" in text
    # Of the seeds that both methods have.
    runs = {cell: out / cell.folder for cell in plan.cells if (cell.method, cell.seed) != ("NT", 0)}
    some = experiment_records(plan, runs)
    each = {r["method"]: r["each_seed"] for r in some if r["kind"] == "mean" and r["set"] == "far"}
    (effect,) = (record["effect"] for record in some if record["kind"] == "effect")
    assert effect["value"] == pytest.approx(np.mean([each["SGA"][seed] - each["NT"][seed] for seed in ("1", "2")]))
    assert effect["n_seeds"] == 2
    runs = {cell: folder for cell, folder in runs.items() if (cell.method, cell.seed) not in (("SGA", 1), ("SGA", 2))}
    assert not [record for record in experiment_records(plan, runs) if record["kind"] == "effect"]


def test_pooled_effects_calibration_steps_and_curves_are_in_the_records(fake, tmp_path):
    _, out = fake
    settings = TINY | {"external_manifests": ["m/far.csv"]}
    more = {"pooled_sets": ["far"], "pooled_against": ["NT"], "published": {"NT": {"internal": 0.82}}}
    plan = read_plan(write_plan(tmp_path / "pooled.json", seeds=[0, 1, 2], settings=settings, **more))
    for cell in plan.cells:
        folder = out / cell.folder
        lines = [
            {
                "epoch": e,
                "optimizer_steps": 10 * e,
                "set": name,
                "n_positive": 4,
                "n_negative": 4,
                "auroc": 0.5 + 0.1 * e,
                "mean_score": 0.0,
            }
            for e in (1, 2)
            for name in ("internal", "far")
        ]
        pd.DataFrame(lines).to_csv(folder / "curves.csv", index=False)
        card = json.loads((folder / "run.json").read_text()) | {"optimizer_steps": 20}
        (folder / "run.json").write_text(json.dumps(card))
    records = collect.collect_experiment(plan, out)
    (effect,) = (record for record in records if record["kind"] == "effect")
    mean = next(r for r in records if r["kind"] == "mean" and (r["method"], r["set"]) == ("SGA", "far"))
    assert (effect["method"], effect["against"]) == ("SGA", "NT")
    assert effect["effect"]["value"] == pytest.approx(mean["against_baseline"]["value"])
    assert effect["effect"]["low"] == pytest.approx(mean["against_baseline"]["low"], abs=0.03)
    cell = next(record for record in records if record["kind"] == "cell")
    assert cell["optimizer_steps"] == 20
    assert {"slope", "intercept", "mean_score"} <= set(cell["sets"]["far"])
    text = (out / "results.md").read_text()
    assert "Effect pooled over far" in text
    assert "| NT, the paper | - |" in text
    assert "Optimizer steps of a training: 20 (the paper: about 1,700); with fewer than 500 results are preliminary." in text
    assert "Machine: Linux, cpu, AMD EPYC, 1 threads." in text
    assert "Learning curves" in (out / "results.html").read_text()
    collect.write_page([out], tmp_path / "docs")
    assert "(pooled_curves.svg)" in (tmp_path / "docs/README.md").read_text()
    assert (tmp_path / "docs/pooled_curves.svg").is_file()
    with pytest.raises(InputError, match="two of these are experiments of the plan pooled"):
        collect.write_page([out, out / "records.jsonl"], tmp_path / "both")
    with pytest.raises(InputError, match="pooled_against names a method"):
        read_plan(write_plan(tmp_path / "bad.json", settings=settings, pooled_against=["none"]))


def test_a_mean_of_calibration_says_of_how_many_seeds_it_is():
    """Intercepts of both signs cancel, the expected calibration error does not; a slope is not always estimable."""
    figures = [{"slope": 1.0, "intercept": -2.0, "ece": 0.2}, {"slope": None, "intercept": 2.0, "ece": 0.1}]
    cells = [{"kind": "cell", "method": "NT", "condition": "all", "sets": {"far": one}} for one in figures]
    ((_, columns, rows),) = tables._calibration_table(cells, conditions=False)
    assert columns == ["method", "far"]
    assert rows == [["NT", "+1.00 (1 of 2 seeds) / +0.00 / 0.150"]]


def test_what_a_condition_sets_is_not_overridden_by_the_machine(tmp_path):
    """A condition may be a folder of images of its own, which ``--dataset-dir`` must not replace."""
    plan = {"conditions": {"near": {}, "far": {"dataset_dir": "far"}}, "settings": TINY | {"dataset_dir": "near"}}
    cells = read_plan(write_plan(tmp_path / "plan.json", **plan), dataset_dir="given").cells
    assert {(cell.condition, cell.settings["dataset_dir"]) for cell in cells} == {("near", "given"), ("far", "far")}


def test_names_with_bars_and_spaces_are_cells_and_links():
    assert tables._line(["a|b", "c"]) == "| a\\|b | c |"
    head = {"kind": "experiment", "title": "T", "question": "Q", "name": "my plan", "condition": ["all"], "selection_set": ""}
    text = tables.markdown([head | {"n_finished": 0, "n_cells": 1}], ["my plan.svg"])
    assert "![T](my%20plan.svg)" in text


def test_the_command_to_repeat_names_the_bundles_folder_for_its_plans_alone(tmp_path, monkeypatch):
    # From any folder: the plans are in the installation.
    monkeypatch.chdir(tmp_path)
    head = {"kind": "experiment", "condition": ["all"], "selection_set": "", "n_finished": 0, "n_cells": 1}
    for name, path in (("mine", "mine.json"), (PLANS[0].stem, f"bundles/sga/experiments/{PLANS[0].name}")):
        assert f"Repeat: `sga-monai experiment {path}`" in tables.rows_of([head | {"name": name}])[-1]


def test_a_set_of_other_images_in_another_condition_is_named_with_both_numbers():
    means = [{"set": "internal", "n_positive": n, "n_negative": n - 1} for n in (67, 67, 57)]
    assert tables.set_title(means, "internal") == "internal (67+, 66- or 57+, 56-)"


def test_a_learning_curve_is_of_one_condition(monkeypatch):
    curve = [{"set": "far", "optimizer_steps": steps, "auroc": steps / 100} for steps in (50, 90)]
    cells = [{"kind": "cell", "method": "NT", "condition": condition, "curves": curve} for condition in ("a", "b")]
    cells[1]["curves"] = [line | {"auroc": 0.0} for line in curve] + [{"set": "of b", "optimizer_steps": 50, "auroc": 0.5}]
    lines, plot = {}, matplotlib.axes.Axes.plot

    def remember(self, x, y, *arguments, label, **options):
        lines.setdefault(label, []).append(y)
        return plot(self, x, y, *arguments, label=label, **options)

    monkeypatch.setattr("matplotlib.axes.Axes.plot", remember)
    picture = learning_curves([{"kind": "experiment", "method": ["NT"], "condition": ["a", "b"]}, *cells])
    assert lines == {"NT, a": [[0.5, 0.9], []], "NT, b": [[0.0, 0.0], [0.5]]}
    assert "of b" in picture


def test_thirteen_learning_curves_are_told_apart_and_none_is_cut_off(monkeypatch):
    """Colors come round after eight methods: natural training and the ninth were one black line."""
    looks, limits, plot, limit = [], [], matplotlib.axes.Axes.plot, matplotlib.axes.Axes.set_ylim
    monkeypatch.setattr(
        matplotlib.axes.Axes, "plot", lambda self, *given, **k: looks.append((given[2], k["color"])) or plot(self, *given, **k)
    )
    monkeypatch.setattr(matplotlib.axes.Axes, "set_ylim", lambda self, *given, **k: limits.append(given) or limit(self, *given, **k))
    methods = [f"m{i}" for i in range(13)]
    curves = [{"set": "far", "optimizer_steps": 10, "auroc": 0.1}, {"set": "far", "optimizer_steps": 20, "auroc": 0.9}]
    cells = [{"kind": "cell", "method": method, "condition": "all", "curves": curves} for method in methods]
    learning_curves([{"kind": "experiment", "method": methods, "condition": ["all"]}, *cells])
    assert len(set(looks)) == 13
    assert limits[-1] == (pytest.approx(0.08), 1.02)


def test_a_held_out_source_chooses_and_is_no_result(fake, tmp_path):
    _, out = fake
    settings = TINY | {"external_manifests": ["m/near.csv", "m/far.csv"]}
    plan = read_plan(write_plan(tmp_path / "held.json", seeds=[0, 1, 2], settings=settings, selection_set="near"))
    for cell in plan.cells:
        path = out / cell.folder / "predictions.csv"
        table = pd.read_csv(path)
        near = table[table["set"] == "far"].assign(set="near")
        # Where it chooses, the baseline is better than SGA, which is better on the reported set.
        near["score"] = near["label"] * (1 if cell.method == "NT" else -1)
        pd.concat([table, near]).to_csv(path, index=False)
    records = collect.collect_experiment(plan, out)
    rules = {r["rule"].split()[0]: r for r in records if r["kind"] == "selection"}
    assert rules["AUROC"]["chosen"] == ["NT"]
    assert rules["AUROC"]["all"] == {"NT": 1.0, "SGA": 0.0}
    assert rules["average"]["chosen"] == ["SGA"]
    against = {(r["method"], r["set"]): r["against_baseline"] for r in records if r["kind"] == "mean" and r["method"] == "SGA"}
    assert against["SGA", "far"]["p_holm"] == against["SGA", "far"]["p"]
    assert "p_holm" not in against["SGA", "near"]
    text = (out / "results.md").read_text()
    far = next(r["auroc"]["value"] for r in records if r["kind"] == "mean" and (r["method"], r["set"]) == ("NT", "far"))
    assert f"Chosen by AUROC at near, a source held out for selection: NT, 1.000; far {far:.3f} [" in text
    assert re.search(r"oracle: it looks at the test\): SGA, [\d.]+\.\n", text)
    assert "near is used only to choose a method" in text
    assert "difference near" not in text


def test_tables_page_and_picture_come_from_the_records_alone(fake, tmp_path):
    plan, out = fake
    records = collect.collect_experiment(plan, out)
    text = (out / "results.md").read_text()
    assert "| NT | 3 | " in text
    assert "far (40+, 40-)" in text
    assert "oracle: it looks at the test" in text
    shown = {path.parent.relative_to(out).as_posix() for path in (out / "tensorboard").rglob("events.*")}
    assert shown == {f"tensorboard/{cell.folder}" for cell in plan.cells} | {"tensorboard/summary"}
    page = (out / "results.html").read_text()
    assert "<script" not in page
    assert "<svg" in page
    docs = tmp_path / "docs"
    assert collect.write_page([out], docs) == ["fake"]
    assert read_records(docs / "fake.jsonl") == records
    first = (docs / "README.md").read_bytes(), (docs / "fake.svg").read_bytes()
    collect.write_page([docs], docs)
    assert first == ((docs / "README.md").read_bytes(), (docs / "fake.svg").read_bytes())
    assert "SGA" in render_text(records)
    with pytest.raises(InputError, match="no records"):
        collect.write_page([], tmp_path / "empty")
    (docs / "README.md").write_text("# Mine\n")
    with pytest.raises(InputError, match="did not write"):
        collect.write_page([out], docs)
    assert (docs / "README.md").read_text() == "# Mine\n"


def test_an_archive_without_models_goes_on_at_another_machine(fake, tmp_path):
    """Two of six cells are missing; unpacked elsewhere the other four are finished, and their figures the same."""
    plan, out = fake
    for cell in plan.cells[4:]:
        shutil.rmtree(out / cell.folder)
    (out / plan.cells[0].folder / "model.pt").write_text("weights")
    records = collect.collect_experiment(plan, out)
    docs, other = tmp_path / "docs", tmp_path / "other"
    collect.write_page([out], docs)
    archive = docs / "fake_runs.tar.xz"
    assert "Predictions of 4 cells, without models: [fake_runs.tar.xz](fake_runs.tar.xz)." in (docs / "README.md").read_text()
    before = archive.read_bytes()
    collect.write_page([out], docs)
    assert archive.read_bytes() == before
    with tarfile.open(archive) as packed:
        packed.extractall(other, filter="data")
    assert not list(other.rglob("model.pt"))
    assert [is_finished(other / cell.folder) for cell in plan.cells] == [True] * 4 + [False] * 2
    # A score in the archive has nine digits.
    again = collect.collect_experiment(plan, other)
    assert rounded(again) == rounded(records)


def test_an_archive_has_the_runs_that_its_records_are_of(fake, tmp_path):
    plan, out = fake
    docs, cell = tmp_path / "docs", out / plan.cells[0].folder
    collect.collect_experiment(plan, out)
    # Moved aside when its command was given by hand, and a method that the plan had before.
    shutil.copytree(cell, cell.with_name("seed_0.1"))
    shutil.copytree(cell, out / "earlier/all/seed_0")
    collect.write_page([out], docs)
    archive = docs / "fake_runs.tar.xz"
    with tarfile.open(archive) as packed:
        assert {name.rpartition("/")[0] for name in packed.getnames() if name.endswith(".csv")} == {cell.folder for cell in plan.cells}
    card = json.loads((cell / "run.json").read_text())
    for finished in ("later", None):
        (cell / "run.json").write_text(json.dumps(card | {"finished": finished}))
        with pytest.raises(
            InputError, match=r"the run nt/all/seed_0 is not the one that records\.jsonl is of; give sga-monai experiment again"
        ):
            collect.write_page([out], docs)
    # A folder that was removed after it was archived stays archived; the archive was its only copy, and was replaced.
    before = archive.read_bytes()
    shutil.rmtree(cell)
    collect.write_page([out], docs)
    assert archive.read_bytes() == before
    collect.write_page([out], tmp_path / "first")
    assert "Predictions of 5 cells" in (tmp_path / "first/README.md").read_text()
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(InputError, match=r"fake_runs\.tar\.xz is damaged, and may have runs whose folders are gone"):
        collect.write_page([out], docs)
    with pytest.raises(InputError, match=r"fake_runs\.tar\.xz is damaged; restore it, or give the folder of its experiment"):
        collect.write_page([docs], docs)


def test_an_archive_of_other_runs_does_not_stand_beside_records(fake, tmp_path):
    """Records alone were put on the page, and an archive that was there before was linked as if it were of their runs."""
    plan, out = fake
    docs = tmp_path / "docs"
    collect.collect_experiment(plan, out)
    collect.write_page([out], docs)
    before = {path.name: path.read_bytes() for path in docs.iterdir()}
    collect.write_page([out / "records.jsonl"], docs)
    assert {path.name: path.read_bytes() for path in docs.iterdir()} == before
    # The archive may have fewer runs than the records, as before they went on, and not others.
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    newer = [line | {"finished": "later"} if line["kind"] == "cell" and line["seed"] == 2 else line for line in lines]
    (tmp_path / "newer.jsonl").write_text("".join(json.dumps(line) + "\n" for line in newer))
    with pytest.raises(
        InputError, match=r"fake_runs\.tar\.xz beside the page has runs that the records of fake are not of, such as nt/all/seed_2"
    ):
        collect.write_page([tmp_path / "newer.jsonl"], docs)
    assert {path.name: path.read_bytes() for path in docs.iterdir()} == before
    shutil.copy(tmp_path / "newer.jsonl", docs / "fake.jsonl")
    with pytest.raises(InputError, match="has runs that the records of fake are not of"):
        collect.write_page([docs], docs)
    (docs / "fake_runs.tar.xz").unlink()
    assert collect.write_page([docs], docs) == ["fake"]
    assert "Predictions of" not in (docs / "README.md").read_text()


def rounded(value):
    """Records with numbers of six digits."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def test_a_set_of_one_class_and_a_set_that_is_missing_are_dashes(fake):
    plan, out = fake
    for cell in plan.cells:
        path = out / cell.folder / "predictions.csv"
        table = pd.read_csv(path)
        one = table[(table["set"] == "far") & (table["label"] == 1)].assign(set="one class")
        kept = table if cell.method == "SGA" else table[table["set"] != "far"]
        pd.concat([kept, one]).to_csv(path, index=False)
    records = collect.collect_experiment(plan, out)
    rules = [record for record in records if record["kind"] == "selection"]
    assert [record["rule"] for record in rules] == ["internal validation AUROC"]
    assert "| - |" in (out / "results.md").read_text()
    assert (out / "results.html").stat().st_size > 10_000


def test_runs_of_other_manifests_are_not_mixed(fake):
    plan, out = fake
    path = out / plan.cells[0].folder / "predictions.csv"
    table = pd.read_csv(path)
    table["label"] = 1 - table["label"]
    table.to_csv(path, index=False)
    with pytest.raises(InputError, match="their manifests differ"):
        collect.collect_experiment(plan, out)


def test_methods_with_training_manifests_of_their_own_are_compared_outside(fake):
    """Their internal images are others; the experiment ended without a table when all was trained."""
    plan, out = fake
    before = experiment_records(plan, {cell: out / cell.folder for cell in plan.cells})
    for cell in plan.cells[1::2]:
        path = out / cell.folder / "predictions.csv"
        table = pd.read_csv(path)
        table.loc[table["set"] != "far", "patient"] += 1
        table.to_csv(path, index=False)
    records = collect.collect_experiment(plan, out)
    against = ({r["set"]: r["against_baseline"] for r in of if r["kind"] == "mean" and r["method"] == "SGA"} for of in (before, records))
    inside = {"internal (validation)": None, "internal": None}
    assert next(against)["internal"]
    assert next(against) == {"far": next(r for r in before if r.get("set") == "far" and r["method"] == "SGA")["against_baseline"]} | inside
    text = (out / "results.md").read_text()
    assert "| SGA | far |" in text
    # Nor is a method chosen by AUROCs of different images.
    assert "Chosen by internal validation AUROC: none, since the methods were validated on different images." in text
    assert re.search(r"Chosen by average .*: none, since the methods were tested on different images or sets\.", text)
    assert [(r["value"], r["chosen"]) for r in records if r["kind"] == "selection"] == [(None, [])] * 2
    assert "reason" not in next(r for r in before if r["kind"] == "selection")


def test_a_folder_that_is_not_this_experiments_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/model.pt").write_text("weights")
    with pytest.raises(InputError, match="holds a run, an evaluation, an audit or saliency maps, not an experiment"):
        run_experiment(read_plan(write_plan(tmp_path / "p.json")), tmp_path / "run")
    (tmp_path / "drawn").mkdir()
    (tmp_path / f"drawn/{SOURCE}.csv").write_text("")
    # An option that the plan does not name has its default.
    (tmp_path / "drawn/phantom.json").write_text('{"seed": 7, "external_images": 60, "confounding": 0.75, "scale": 1}')
    plan = read_plan(write_plan(tmp_path / "q.json", phantoms={str(tmp_path / "drawn"): {"confounding": 0.75}}))
    with pytest.raises(InputError, match=r"drawn with other options \(seed: was 7, is 0\)"):
        run_experiment(plan, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("results.csv", "mine\n", r"has a results\.csv that is of no experiment, and would be replaced"),
        ("audit.json", "{}", "an audit or saliency maps, not an experiment"),
        ("records.jsonl", '{"kind": "experiment", "name": "other"}\n', "holds the experiment of the plan other, .* --reuse to take over"),
    ],
)
def test_tables_of_something_else_are_not_replaced(tmp_path, name, content, message):
    """Another plan's tables, and the TensorBoard folder of an audit, were replaced in silence."""
    plan = read_plan(write_plan(tmp_path / "p.json"))
    (tmp_path / "out/tensorboard").mkdir(parents=True)
    (tmp_path / "out" / name).write_text(content)
    with pytest.raises(InputError, match=message):
        run_experiment(plan, tmp_path / "out")
    assert {path.name: path.is_file() and path.read_text() for path in (tmp_path / "out").iterdir()} == {
        "tensorboard": False,
        name: content,
    }


def test_a_damaged_file_of_a_run_is_named_with_its_cell(fake):
    """Which of sixty cells it was stood nowhere, and an empty results.csv ended in a traceback."""
    plan, out = fake
    folder = out / plan.cells[3].folder
    for name in ("predictions.csv", "results.csv", "run.json"):
        before = (folder / name).read_bytes()
        (folder / name).write_text("{}" if name == "run.json" else "")
        with pytest.raises(InputError, match=r"run of SGA, seed 1 has a damaged .*; move sga/all/seed_1 out of output_dir"):
            experiment_records(plan, {cell: out / cell.folder for cell in plan.cells})
        (folder / name).write_bytes(before)


def test_the_page_in_a_browser(fake, browser, phone):
    plan, out = fake
    collect.collect_experiment(plan, out)
    picture = np.asarray(browser(out / "results.html").convert("RGB")).astype(int)
    assert 0.005 < (picture.sum(axis=2) < 300).mean() < 0.5
    # The second method's color in the figure.
    assert (np.abs(picture - (0x00, 0x72, 0xB2)).sum(axis=2) < 30).any()
    assert phone(out / "results.html") == []


def test_a_comparison_of_few_common_seeds_says_so(fake):
    """Of three seeds each method lacks another one: the difference is of one seed, and its interval over patients alone."""
    plan, out = fake
    runs = {cell: out / cell.folder for cell in plan.cells if (cell.method, cell.seed) not in (("NT", 0), ("SGA", 2))}
    ((_, _, _), (_, _, (row,))) = tables.tables(experiment_records(plan, runs))[:2]
    assert row[2].endswith("] (1 of 2 seeds)")


def test_an_unfinished_experiment_says_so(fake):
    plan, out = fake
    (out / plan.cells[-1].folder / "predictions.csv").unlink()
    records = collect.collect_experiment(plan, out)
    assert records[0]["n_finished"] == 5
    page = (out / "results.html").read_text()
    assert "5 of 6 cells, seeds 0, 1, 2." in page
    assert "One seed" not in page
    for cell in plan.cells[2:-1]:
        (out / cell.folder / "predictions.csv").unlink()
    collect.collect_experiment(plan, out)
    page = (out / "results.html").read_text()
    assert "2 of 6 cells, seeds 0." in page
    assert "One seed: intervals" in page


def test_an_external_set_may_be_called_like_the_internal_one(fake):
    plan, out = fake
    for cell in plan.cells:
        path = out / cell.folder / "predictions.csv"
        path.write_text(path.read_text().replace("far,", "internal_2022,"))
    records = collect.collect_experiment(plan, out)
    compared = {record["set"] for record in records if "p_holm" in (record.get("against_baseline") or {})}
    assert compared == {"internal_2022"}
    assert "difference internal_2022" in (out / "results.md").read_text()


def test_one_seed_is_the_clustered_interval_of_statistics():
    rng = np.random.default_rng(0)
    label, patient = np.arange(60) % 2, np.arange(60) // 3
    first, second = rng.normal(size=60) + label, rng.normal(size=60) + 0.5 * label
    mean, expected = mean_auroc([first], label, patient), auroc(first, label, patient)
    assert mean.sd_patients**2 == pytest.approx(expected.variance)
    assert math.isnan(mean.sd_seeds)
    assert mean.value == pytest.approx(expected.auroc)
    pair, oracle = mean_difference([first], [second], label, patient), paired_difference(first, second, label, patient)
    assert (pair.value, pair.low, pair.high, pair.p) == pytest.approx((oracle.value, oracle.low, oracle.high, oracle.p))


def test_equal_seeds_add_nothing_and_unequal_ones_widen():
    rng = np.random.default_rng(1)
    label, patient = np.arange(80) % 2, np.arange(80)
    score = rng.normal(size=80) + label
    one, three = mean_auroc([score], label, patient), mean_auroc([score] * 3, label, patient)
    assert (three.low, three.high) == pytest.approx((one.low, one.high))
    varied = mean_auroc([score, score + rng.normal(size=80), score - label], label, patient)
    assert varied.high - varied.low > three.high - three.low
    # With the seeds' part alone it is Student's interval of a mean.
    areas = np.array([0.6, 0.7, 0.65])
    mean = combine(areas.mean(), 1e-18, areas.var(ddof=1) / 3, 3)
    assert mean.high - mean.value == pytest.approx(4.302653 * areas.std(ddof=1) / math.sqrt(3), rel=1e-6)


def test_interval_over_seeds_and_patients_covers():
    """New seeds and new patients each time: 95 % intervals of a mean over three seeds hold the expected AUROC."""
    rng = np.random.default_rng(2)
    n, label = 120, np.arange(120) % 2
    held, means = [], []
    for _ in range(300):
        common = rng.normal(size=n)
        scores = [common + rng.normal(0.8, 0.3) * label + 0.6 * rng.normal(size=n) for _ in range(3)]
        mean = mean_auroc(scores, label, np.arange(n))
        means.append(mean.value)
        held.append((mean.low, mean.high))
    truth = float(np.mean(means))
    share = np.mean([low <= truth <= high for low, high in held])
    assert 0.92 <= share <= 0.99


def test_holm_is_statsmodels():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    # With one that exceeds 1, and one that is no lower than the one before it.
    p = [0.01, 0.04, 0.03, 0.7, 0.6]
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])
    assert math.isnan(holm([0.01, math.nan])[1])
    assert holm([0.01, math.nan])[0] == 0.01


def test_results_page_is_current():
    folder = ROOT / "docs/results"
    found = [read_records(path) for path in sorted(folder.glob("*.jsonl"))]
    assert found
    assert (folder / "README.md").read_text() == collect.page(found, analyzed=True, archived=collect.archives_in(folder))
    assert all((folder / f"{records[0]['name']}.svg").is_file() for records in found)


def test_every_auroc_of_the_analysis_is_in_a_record():
    """Figures with three decimals are AUROCs or differences of them; those with two are calibration, costs or the paper's."""
    folder, known = ROOT / "docs/results", set()

    def collect_numbers(value):
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for one in value:
                collect_numbers(one)
        elif isinstance(value, float):
            known.add(f"{abs(value):.3f}")

    for path in folder.glob("*.jsonl"):
        collect_numbers(read_records(path))
    for path in folder.glob("*.csv"):
        collect_numbers(pd.read_csv(path).to_dict("records"))
    named = set(re.findall(r"\d\.\d{3}(?!\d)", (folder / "analysis.md").read_text()))
    assert len(named) > 20
    assert named <= known, sorted(named - known)
