from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import fire
import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, iteration
from fixtures import warm
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sga_monai.bundle import check_overrides, load_test_sets, prepare
from sga_monai.core.command_line import override_value
from sga_monai.core.errors import InputError
from sga_monai.core.folders import archive_previous_run
from sga_monai.imaging.read import read_cxr
from sga_monai.model.network import CXRResNet18

BUNDLE = ROOT / "bundles/sga"
CONFIGS = ("train.json", "evaluate.json", "inference.json")


def run(run_id: str, config: str, *overrides: str, literal: bool = False) -> subprocess.CompletedProcess[str]:
    """The command as a fork of the warm parent, or ``literal``-ly."""
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", f"bundles/sga/{config}", *overrides]
    environment = os.environ | {"COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    if literal:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600, env=environment)
    return warm.run(command, env=environment)


@pytest.fixture(scope="module")
def trained(phantom_dir: Path, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """One run on the phantom, small and short; tests/golden starts the command of README from nothing."""
    out = tmp_path_factory.mktemp("runs") / "sga"
    result = run(
        "training", "train.json", "--max_epochs", "2", "--image_size", "32", "--dataset_dir", str(phantom_dir),
        "--manifest", f"{phantom_dir}/northgate.csv", "--output_dir", str(out), "--review_interval", "1",
        "--cache_dir", str(prepared),
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    return out, result.stdout


def test_training_writes_a_plain_state_dict_and_a_table(trained):
    out, stdout = trained
    CXRResNet18().load_state_dict(torch.load(out / "model.pt", weights_only=True))
    facts = json.loads((out / "model.json").read_text())
    results = pd.read_csv(out / "results.csv").set_index("set")
    assert facts["epoch"] in (1, 2)
    assert results.loc["internal (validation)", "auroc"] == pytest.approx(facts["val_auroc"])
    assert list(results.index) == ["internal (validation)", "internal", "harbor", "lakeside", "summit"]
    assert results.loc["harbor", "auroc_difference"] == pytest.approx(results.loc["harbor", "auroc"] - results.loc["internal", "auroc"])
    assert "auroc_difference" in stdout
    assert "random weights" in stdout


def test_tensorboard_holds_what_a_reviewer_needs(trained):
    events = EventAccumulator(str(trained[0] / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    wanted = {"train_loss", "train_ce_loss", "train_kl_loss", "train_epsilon", "train_adversarial_accuracy", "learning_rate", "val_auroc"}
    assert wanted <= set(tags["scalars"])
    assert tags["images"] == ["review/validation_cases"]
    assert len(events.Images("review/validation_cases")) == 2
    assert "hyper_parameters/text_summary" in tags["tensors"]
    assert not any("northgate-" in tag for kind in tags.values() if isinstance(kind, list) for tag in kind)


def test_no_patient_or_file_name_is_written(trained):
    out, stdout = trained
    assert not re.search(r"(northgate|harbor|lakeside|summit)-\d{3}", stdout)
    for path in out.rglob("*"):
        if path.is_file():
            assert not re.search(rb"(northgate|harbor|lakeside|summit)-\d{3}", path.read_bytes()), path.name


def test_evaluation_repeats_the_table_and_counts_failures(trained, phantom_dir, tmp_path):
    lines = (phantom_dir / "harbor.csv").read_text().splitlines()
    options = ["--checkpoint", f"{trained[0]}/model.pt", "--image_size", "32", "--output_dir", f"{tmp_path}/out"]
    site = ("--manifest", f"{phantom_dir}/harbor.csv", "--dataset_dir", str(phantom_dir))
    result = run("evaluating", "evaluate.json", *options, *site, literal=True)
    assert result.returncode == 0, result.stderr[-3000:]
    ours, theirs = (pd.read_csv(folder / "predictions.csv") for folder in (tmp_path / "out", trained[0]))
    theirs = theirs[theirs["set"] == "harbor"]
    assert abs(ours["score"].to_numpy() - theirs["score"].to_numpy()).max() < 1e-5
    # One image that is cut short is counted, and the exit code says so.
    copy = tmp_path / "copy"
    copy.mkdir()
    rows = [line.split(",") for line in lines[1:7]]
    for i, row in enumerate(rows):
        data = (phantom_dir / row[0]).read_bytes()
        (copy / f"{i}.dcm").write_bytes(data[: len(data) // 2] if i == 2 else data)
        row[0] = f"{i}.dcm"
    header = "image,label,patient_id,site,split\n"
    (tmp_path / "site.csv").write_text(header + "".join(",".join(row[:5]) + "\n" for row in rows))
    result = run("evaluating", "evaluate.json", *options, "--manifest", f"{tmp_path}/site.csv", "--dataset_dir", str(copy))
    assert result.returncode == 2, result.stderr[-3000:]
    predictions = pd.read_csv(tmp_path / "out/predictions.csv")
    assert len(predictions) == 6
    assert predictions["error"].notna().sum() == 1
    assert (tmp_path / "out.1").is_dir()


def test_a_training_refuses_the_same_picture_in_a_test_set(few, phantom_dir, tmp_path):
    """One radiograph, exported again in another size as that of another patient."""
    data = tmp_path / "data"
    rows = few.read_text().splitlines()
    for row in rows[1:]:
        (data / row.split(",")[0]).parent.mkdir(parents=True, exist_ok=True)
        os.link(phantom_dir / row.split(",")[0], data / row.split(",")[0])
    image, label, _, site, split, *rest = rows[1].split(",")
    assert split == "train"
    pixels = np.clip(read_cxr(phantom_dir / image)[::2, ::2], 0, None)
    Image.fromarray(np.rint(255 * pixels / pixels.max()).astype(np.uint8)).save(data / "again.png")
    rows.append(",".join(["again.png", label, "another", site, "test", *[""] * len(rest)]))
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    options = [
        "--manifest",
        f"{tmp_path}/m.csv",
        "--dataset_dir",
        str(data),
        "--image_size",
        "32",
        "--batch_size",
        "4",
        "--max_epochs",
        "1",
    ]
    result = run("training", "train.json", *options, "--output_dir", f"{tmp_path}/out")
    assert result.returncode == 3
    assert f"the same picture is in two sets: m row 2 and internal row {len(rows)}" in result.stderr
    assert not (tmp_path / "out/model.pt").exists()
    (tmp_path / "pairs.csv").write_text(f"set,row,other_set,other_row\nm,2,m,{len(rows)}\n")
    result = run("training", "train.json", *options, "--output_dir", f"{tmp_path}/out", "--accepted_pairs", f"{tmp_path}/pairs.csv")
    assert result.returncode == 0, result.stderr[-3000:]


def write_site(path: Path, rows: list[tuple[str, int]]) -> str:
    """A manifest of these splits and labels; the images are empty files beside it."""
    path.parent.mkdir()
    site = path.parent.name
    for i in range(len(rows)):
        (path.parent / f"{i}.png").touch()
    lines = [f"{site}/{i}.png,{label},{site}{i},{site},{split}" for i, (split, label) in enumerate(rows)]
    path.write_text("\n".join(["image,label,patient_id,site,split", *lines]) + "\n")
    return str(path)


@pytest.mark.parametrize(("split", "reason"), [("train", "teaches nothing"), ("val", "has no AUROC"), ("test", "has no AUROC")])
def test_a_split_of_one_class_is_refused(tmp_path, split, reason):
    rows = [(name, label) for name in ("train", "val", "test") for label in ((1, 1) if name == split else (0, 1))]
    manifest = write_site(tmp_path / "a/site.csv", rows)
    with pytest.raises(InputError, match=f"split {split} needs rows of both labels, or it {reason}"):
        load_test_sets(manifest, str(tmp_path), [])


@pytest.mark.parametrize(("name", "fits"), [("site", False), ("internal", False), ("other", True)])
def test_an_external_set_with_the_name_of_the_training_manifest_is_refused(tmp_path, name, fits):
    """Pairs of rows that were accepted within the training manifest would let copies in it pass."""
    splits = ("train", "val", "test")
    manifest = write_site(tmp_path / "a/site.csv", [(split, label) for split in splits for label in (0, 1)])
    external = [write_site(tmp_path / f"b/{name}.csv", [("test", 0), ("test", 1)])]
    if fits:
        assert [row["set"] for row in load_test_sets(manifest, str(tmp_path), external)][-2:] == [name, name]
    else:
        with pytest.raises(InputError, match="two sets have the same name"):
            load_test_sets(manifest, str(tmp_path), external)


def test_external_rows_of_another_split_are_left_out_with_a_warning(tmp_path, caplog):
    """The training manifest of another hospital was tested in part, and nothing said so; an evaluation does."""
    manifest = write_site(tmp_path / "a/site.csv", [(split, label) for split in ("train", "val", "test") for label in (0, 1)])
    external = [write_site(tmp_path / f"{name}/{name}.csv", [("train", 0), ("test", 0), ("test", 1)][i:]) for i, name in enumerate("bc")]
    found = load_test_sets(manifest, str(tmp_path), external)
    assert [row["set"] for row in found][-4:] == ["b", "b", "c", "c"]
    said = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert said == ["b.csv: 1 of 3 rows have another split than test and are left out"]


def test_another_network_trains_and_is_evaluated_as_it_was_trained(few, phantom_dir, tmp_path):
    out = tmp_path / "out"
    options = ["--manifest", str(few), "--dataset_dir", str(phantom_dir), "--image_size", "32"]
    training = [*options, "--batch_size", "4", "--max_epochs", "1", "--architecture", "resnet18_group_norm", "--orientation", "stored"]
    result = run("training", "train.json", *training, "--output_dir", str(out))
    assert result.returncode == 0, result.stderr[-3000:]
    settings = json.loads((out / "run.json").read_text())["identity"]["settings"]
    assert (settings["architecture"], settings["orientation"]) == ("resnet18_group_norm", "stored")
    evaluation = [*options, "--checkpoint", f"{out}/model.pt", "--output_dir", f"{tmp_path}/evaluation"]
    right = ["--architecture", "resnet18_group_norm", "--orientation", "stored"]
    for wrong, remedy in ((right[:2], right[2:]), (right[2:], right[:2])):
        result = run("evaluating", "evaluate.json", *evaluation, *wrong)
        assert result.returncode == 3
        assert f"give {' '.join(remedy)}" in result.stderr
    result = run("evaluating", "evaluate.json", *evaluation, *right)
    assert result.returncode == 0, result.stderr[-3000:]
    ours, theirs = (pd.read_csv(folder / "predictions.csv") for folder in (tmp_path / "evaluation", out))
    assert ours["score"].to_numpy() == pytest.approx(theirs.loc[theirs["set"] == "internal", "score"].to_numpy(), abs=1e-5)


def test_inference_needs_no_labels(trained, phantom_dir, tmp_path):
    images = sorted((phantom_dir / "images/summit").glob("*.dcm"))[:3]
    (tmp_path / "images.csv").write_text("image\n" + "".join(f"images/summit/{path.name}\n" for path in images))
    result = run(
        "inferring", "inference.json", "--checkpoint", f"{trained[0]}/model.pt", "--image_size", "32",
        "--manifest", f"{tmp_path}/images.csv", "--dataset_dir", str(phantom_dir), "--output_dir", f"{tmp_path}/out",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-3000:]
    assert pd.read_csv(tmp_path / "out/predictions.csv")["probability"].between(0, 1).all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--max_epoch", "3"], "--max_epoch names nothing in the configuration; is --max_epochs meant?"),
        (["--mask_fraction", "1.5"], "mask_fraction must be in"),
        (["--batch_size", "2.5"], "batch_size must be a whole number"),
        (["--review_interval", "none"], "review_interval must be a whole number, zero or more, got 'none'"),
        (["--manifest", "none.csv"], "no manifest none.csv"),
        (["--pretrained_weights", "none.pth"], "no such file"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_3(few, tmp_path, overrides, message):
    given = ["--dataset_dir", str(few.parent), "--output_dir", str(tmp_path / "o"), "--image_size", "32"]
    if "--manifest" not in overrides:
        given += ["--manifest", str(few)]
    result = run("training", "train.json", *given, *overrides)
    assert result.returncode == 3, result.stderr[-2000:]
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"positive": {"max_epochs": 0}}, "max_epochs must be a whole number, 1 or more"),
        ({"positive": {"max_epochs": 2, "val_interval": 9}}, "val_interval must not be greater"),
        ({"positive": {"image_size": 15}}, "image_size must be a whole number, 16 or more, got 15"),
        ({"num_workers": -1}, "num_workers must be a whole number, zero or more"),
        ({"seed": 1.5}, "seed must be a whole number, zero or more"),
    ],
)
def test_bad_numbers_are_refused_first(given, message):
    with pytest.raises(InputError, match=message):
        prepare(arguments=["pytest"], **given)


def test_overrides():
    base = ["run", "training", "--config_file", str(BUNDLE / "train.json")]
    check_overrides([*base, "--train#trainer#max_epochs", "2", "--optimizer::lr", "@mine", "--mine", "0.1", "--final_id=x"])
    check_overrides(["pytest", "--nothing", "1"])
    with pytest.raises(InputError, match="--max_epoch names"):
        check_overrides([*base, "-max_epoch", "1"])
    with pytest.raises(InputError, match="--klweight names nothing"):
        check_overrides([*base, "--klweight", "1"])


@pytest.mark.parametrize(
    "text", ["0.2", "2", "[0,0]", "[0.01,0.05]", "inf", "true", "True", "none", "None", "a/b.csv", "{'a': 1}", "1e-3", "@x"]
)
def test_overrides_have_the_values_that_the_command_gives_them(text):
    value = fire.Fire(lambda **given: given["x"], command=[f"--x={text}"], serialize=lambda _: None)
    assert (override_value(text), type(override_value(text))) == (value, type(value))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["--norm", "0.5"], "norm must be"),
        (["--lr_schedule", "cosin"], "lr_schedule must be one of constant, cosine"),
        (["--robust_drop", "0.5"], "robust_drop needs a robust_interval of 1 or more"),
        (["--external_manifests", "none.csv"], "no manifest none.csv"),
    ],
)
def test_bad_input_leaves_an_earlier_run_where_it_is(few, tmp_path, overrides, message):
    (tmp_path / "o").mkdir()
    (tmp_path / "o/model.pt").write_text("kept")
    result = run(
        "training", "train.json", "--dataset_dir", str(few.parent), "--manifest", str(few), "--output_dir", f"{tmp_path}/o",
        "--image_size", "32", "--cache_dir", f"{tmp_path}/cache", *overrides,
    )  # fmt: skip
    assert result.returncode == 3
    assert message in result.stderr
    assert (tmp_path / "o/model.pt").read_text() == "kept"
    # Nor has an image been read before a path that is wrong is told.
    assert overrides[0] == "--norm" or not list((tmp_path / "cache").glob("*/*"))


def test_bad_options_are_refused_before_an_earlier_run_is_moved(trained, phantom_dir, tmp_path):
    given = {"max_epochs": 2, "lr_schedule": "constant", "warmup_epochs": 0, "batch_norm": "running", "early_stopping_patience": 0}
    given |= {"robust_interval": 1, "robust_drop": 0.5, "review_interval": 0, "curve_images": 0, "force_resume": False}
    prepare(arguments=["pytest"], options=given)
    bad = {"warmup_epochs": 3, "batch_norm": "none", "early_stopping_patience": 1.5, "robust_drop": 2, "curve_images": -1}
    for name, value in (bad | {"review_interval": "none", "force_resume": "maybe"}).items():
        with pytest.raises(InputError, match=f"{name} must"):
            prepare(arguments=["pytest"], options=given | {name: value})
    with pytest.raises(InputError, match="robust_interval 3 is more than max_epochs 2: nothing would be measured"):
        prepare(arguments=["pytest"], options=given | {"robust_interval": 3})
    (tmp_path / "o").mkdir()
    (tmp_path / "o/predictions.csv").write_text("kept")
    result = run(
        "evaluating", "evaluate.json", "--checkpoint", f"{trained[0]}/model.pt", "--image_size", "32", "--failure_limit", "7",
        "--manifest", f"{phantom_dir}/harbor.csv", "--dataset_dir", str(phantom_dir), "--output_dir", f"{tmp_path}/o",
    )  # fmt: skip
    assert result.returncode == 3
    assert "failure_limit must be in [0, 1]" in result.stderr
    assert (tmp_path / "o/predictions.csv").read_text() == "kept"


def test_an_earlier_run_is_set_aside(tmp_path):
    for content in ("one", "two"):
        archive_previous_run(str(tmp_path / "run"))
        (tmp_path / "run/model.pt").write_text(content)
    with pytest.raises(InputError, match="the checkpoint is in"):
        archive_previous_run(str(tmp_path / "run"), str(tmp_path / "run/model.pt"))
    with pytest.raises(InputError, match="holds no run"):
        archive_previous_run(str(tmp_path))
    (tmp_path / "experiment/tensorboard").mkdir(parents=True)
    (tmp_path / "experiment/records.jsonl").write_text("")
    with pytest.raises(InputError, match="output_dir holds an experiment"):
        archive_previous_run(str(tmp_path / "experiment"))
    archive_previous_run(str(tmp_path / "run"))
    assert not list((tmp_path / "run").iterdir())
    assert [(tmp_path / f"run.{n}/model.pt").read_text() for n in (1, 2)] == ["one", "two"]


@pytest.mark.parametrize(("files", "kind"), [(["train.json"], "train"), (["evaluate.json"], "infer"), (["inference.json"], "infer")])
def test_properties(files, kind, phantom_dir, tmp_path, trained):
    overrides = {"dataset_dir": str(phantom_dir), "image_size": 32, "output_dir": str(tmp_path / "o")}
    overrides["manifest"] = str(phantom_dir / {"train": "few.csv"}.get(kind, "harbor.csv"))
    if kind == "infer":
        overrides["checkpoint"] = str(trained[0] / "model.pt")
    files = [str(BUNDLE / name) for name in files]
    meta = str(BUNDLE / "metadata.json")
    workflow = ConfigWorkflow(config_file=files, workflow_type=kind, meta_file=meta, logging_file=False, **overrides)
    before = process_state()
    workflow.initialize()
    assert process_state() == before
    assert workflow.check_properties() == []


def process_state() -> tuple[object, ...]:
    """What belongs to the program and not to what it embeds."""
    loggers = {name: log.level for name, log in logging.root.manager.loggerDict.items() if isinstance(log, logging.Logger) and log.level}
    return sys.excepthook, signal.getsignal(signal.SIGTERM), list(warnings.filters), logging.root.level, loggers


def test_shared_sections_are_equal_and_expressions_few():
    configs = {name: json.loads((BUNDLE / name).read_text()) for name in CONFIGS}
    train = configs["train.json"]
    for name in CONFIGS[1:]:
        other = configs[name]
        assert other["preprocessing"] == train["train"]["preprocessing"]
        assert other["network_def"] == {key: train["network_def"][key] for key in ("_target_", "architecture", "num_classes")}
        assert other["image_size"] == train["image_size"]
    for name, config in configs.items():
        assert len(re.findall(r'"\$', json.dumps(config))) <= 12, name
        assert {"run", {"train.json": "training", "evaluate.json": "evaluating", "inference.json": "inferring"}[name]} <= set(config)


def test_papers_numbers_are_the_defaults():
    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "train.json"))
    expected = {"max_epochs": 30, "batch_size": 64, "image_size": 224, "mask_fraction": 0.1, "kl_weight": 1.0}
    assert {key: parser.get(key) for key in expected} == expected
    assert parser.get("epsilon_range") == [0.01, 0.05]
    flat = set(re.findall(r'"@(\w+)"', json.dumps(parser.get("train")["iteration"])))
    assert flat == set(iteration().settings) - {"value_range"}
    assert flat <= set(parser.get())


def test_metadata():
    metadata = json.loads((BUNDLE / "metadata.json").read_text())
    required = {"schema", "version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version", "task",
                "description", "authors", "copyright", "network_data_format"}  # fmt: skip
    assert required <= set(metadata)
    assert metadata["version"] in metadata["changelog"]
    schema = ROOT.parent / "shared/data/monai/meta_schema_20240725.json"
    if schema.is_file():
        jsonschema.validate(metadata, json.loads(schema.read_text()))


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (["trainin"], r"run trainin: train\.json has no such id; is train"),
        (["--run_id", "evalutaing"], r"run evalutaing: train\.json has no such id"),
        (["inferring"], r"run inferring: train\.json has no such id"),
    ],
)
def test_a_run_id_that_is_none_is_refused_before_anything_is_moved(typed, text):
    with pytest.raises(InputError, match=text):
        check_overrides(["monai.bundle", "run", *typed, "--config_file", "bundles/sga/train.json"])
    check_overrides(["monai.bundle", "run", "training", "--config_file", "bundles/sga/train.json"])
    check_overrides(["monai.bundle", "run", "--config_file", "bundles/sga/train.json"])
