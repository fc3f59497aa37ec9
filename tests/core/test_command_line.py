"""What a person types after --name is what the run gets, whatever Fire and MONAI would make of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import fire
import pytest
from conftest import ROOT
from monai.bundle import ConfigWorkflow
from monai.bundle.scripts import run as bundle_run

from sga_monai.bundle import check_overrides, prepare, refuse_batch_of_one, resolved_config
from sga_monai.core.command_line import given_texts, read_overrides
from sga_monai.core.errors import InputError, input_error

BUNDLE = ROOT / "bundles/sga"
CONFIG = {
    "imports": ["$import json", "$from pathlib import Path"],
    "output_dir": "runs/x",
    "dataset_dir": "data",
    "manifest": None,
    "external_manifests": None,
    "initialize": [{"_target_": "sga_monai.bundle.prepare", "output_dir": "@output_dir"}],
    "facts": {
        "folder": "@output_dir",
        "joined": "$@output_dir + '/tensorboard'",
        "data": "@dataset_dir",
        "external": "@external_manifests",
    },
    "run": ["$Path('facts.json').write_text(json.dumps(@facts))"],
}


@pytest.fixture
def start(tmp_path, monkeypatch):
    """A function that runs a small bundle as its command line would, and returns what its ids became."""
    for name in ("install_plain_errors", "end_on_sigterm"):
        monkeypatch.setattr(f"sga_monai.bundle.preparation.{name}", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    # MONAI puts the bundle's folder on the path.
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*overrides: str, folder: str = "bundle") -> dict:
        path = Path(folder) / "train.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(CONFIG))
        command = ["run", "--config_file", str(path), *overrides]
        monkeypatch.setattr(sys, "argv", ["monai/bundle/__main__.py", *command])
        fire.Fire({"run": bundle_run}, command)
        return json.loads(Path("facts.json").read_text())

    return run


@pytest.mark.parametrize(
    "folder",
    [
        "run#2", "runs/case #3", "trial#1/", "2024_01_01", "20240101", "1e5", "007", "a,b", "a, b", "o'brien", "[a]", "x::y", "True",
        "a@b", "runs/50%",
    ],
)  # fmt: skip
def test_a_folder_is_the_one_that_was_given(start, tmp_path, folder):
    facts = start("--output_dir", folder, "--dataset_dir=" + folder)
    assert facts["folder"] == facts["data"] == folder
    assert facts["joined"] == folder + "/tensorboard"
    # The lock beside it is of this folder, too.
    assert (tmp_path / folder).with_name(f".{Path(folder).name}.lock").is_file()


def test_lists_and_ordinary_overrides_stay(start):
    assert start("--external_manifests", "[a#1.csv, 'b.csv']")["external"] == ["a#1.csv", "b.csv"]
    assert start("--external_manifests", "['a.csv','b.csv']")["external"] == ["a.csv", "b.csv"]
    assert start("--output_dir", "@other", "--other", "runs/y")["folder"] == "runs/y"
    assert start("--output_dir", "$'a' + 'b'")["folder"] == "ab"
    assert start()["folder"] == "runs/x"


@pytest.mark.parametrize("folder", ["o'brien", "a, b", "c,d", "[e]", "f g"])
def test_a_configuration_in_a_folder_of_any_name(start, folder):
    assert start("--output_dir", "y", folder=folder)["folder"] == "y"
    # MONAI wraps what its components raise; a program shows the innermost sentence.
    with pytest.raises(RuntimeError) as caught:
        start("--outputdir", "y", folder=folder)
    assert "--outputdir names nothing in the configuration; is --output_dir meant" in str(input_error(caught.value))


def test_several_configurations(tmp_path):
    for name in ("a, b.json", "c.json"):
        (tmp_path / name).write_text("{}")
    names = [str(tmp_path / name) for name in ("a, b.json", "c.json")]
    assert read_overrides(["--config_file", repr(names)])[1] == names
    assert read_overrides([f"--config_file=[{names[1]},{names[1]}]"])[1] == [names[1]] * 2
    # The quotes in which Fire leaves a # alone.
    (tmp_path / "o'b #1.json").write_text("{}")
    assert read_overrides(["--config_file", repr(str(tmp_path / "o'b #1.json"))])[1] == [str(tmp_path / "o'b #1.json")]
    # As Notepad saves it.
    (tmp_path / "c.json").write_bytes(b'\xef\xbb\xbf{"x": 1}')
    check_overrides(["--config_file", names[1], "--x", "2"])


def test_a_file_of_arguments_is_the_command_line_too(tmp_path):
    """Its misspelled options were ignored without a word, and a resume did not see what had changed in it."""
    config, file = tmp_path / "train.json", tmp_path / "args.json"
    config.write_text(json.dumps({"max_epochs": 3, "rate": 1, "folder": "x", "norm": "inf", "part": {"a": 1}, "training": []}))
    content = {"config_file": str(config), "rate": 0.5, "folder": "2024_01_01", "norm": 2, "part": {"a": [None, True]}, "part::b": "1"}
    command = ["monai.bundle", "run", "training", "--args_file", str(file), "--norm", "1"]
    file.write_text(json.dumps(content))
    check_overrides(command)
    expected = {"rate": 0.5, "folder": "2024_01_01", "norm": 1, "part": {"a": [None, True], "b": "1"}, "_meta_": {}}
    assert resolved_config(command) == expected
    file.write_text(json.dumps(content | {"max_epoch": 1}))
    with pytest.raises(InputError, match=r"--max_epoch names nothing in the configuration; is --max_epochs meant\?"):
        check_overrides(command)
    file.write_text(json.dumps(content | {"run_id": "trainin"}))
    with pytest.raises(InputError, match=r"no such id; is training meant\?"):
        check_overrides(["monai.bundle", "run", "--args_file", str(file)])


def test_what_is_no_path_is_left_to_fire():
    assert given_texts({"seed": "2024_01_01", "norm": "inf", "cache_dir": "None", "manifest": "'m.csv'", "output_dir": "--resume"}) == {}


@pytest.mark.parametrize("text", ["null", "none", " NULL", ""])
def test_a_path_that_is_none_is_refused_and_makes_no_folder(start, tmp_path, text):
    """``--cache_dir null`` made a folder of that name, and an empty ``--pretrained_weights`` began with random weights in silence."""
    command = ["run", "--config_file", str(BUNDLE / "train.json"), f"--cache_dir={text}"]
    with pytest.raises(InputError, match=r"cache_dir is .*, which is no path"):
        prepare(arguments=command)
    with pytest.raises(InputError, match=r"pretrained_weights is .*, which is no path"):
        prepare(arguments=["pytest"], pretrained_weights=text)
    with pytest.raises(RuntimeError) as caught:
        start("--external_manifests", f"['a.csv', '{text}']")
    assert "external_manifests is " in str(input_error(caught.value))
    assert start("--dataset_dir", "None", "--output_dir", "./null")["data"] == "data"


def test_a_workflow_of_another_program_is_refused_in_a_sentence(tmp_path, monkeypatch):
    for name in ("install_plain_errors", "end_on_sigterm"):
        monkeypatch.setattr(f"sga_monai.bundle.preparation.{name}", lambda *_: None)
    (tmp_path / "train.json").write_text(json.dumps(CONFIG))
    for value, message in (("run#2", "output_dir must hold neither # nor ::"), (20240101, "output_dir must be a text, got 20240101")):
        workflow = ConfigWorkflow(str(tmp_path / "train.json"), meta_file=None, workflow_type=None, output_dir=value)
        with pytest.raises(RuntimeError) as caught:
            workflow.initialize()
        assert message in str(input_error(caught.value))


def test_the_options_of_another_program_are_its_own(tmp_path, monkeypatch):
    """A script with a ``--config_file`` that opens the bundle itself was refused for its other options."""
    (tmp_path / "train.json").write_text(json.dumps({"max_epochs": 1}))
    given = ["--config_file", str(tmp_path / "train.json"), "--fold", "3"]
    monkeypatch.setattr(sys, "argv", ["my_study.py", *given])
    prepare()
    assert resolved_config() == {}
    for name in ("install_plain_errors", "end_on_sigterm"):
        monkeypatch.setattr(f"sga_monai.bundle.preparation.{name}", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["monai/bundle/__main__.py", "run", *given])
    with pytest.raises(InputError, match="--fold names nothing in the configuration"):
        prepare()


def test_a_batch_of_one_is_refused_before_training(tmp_path, monkeypatch):
    for rows, batch_size, image_size in ((96, 5, 32), (33, 32, 16), (10, 1, 32), (1, 64, 32)):
        with pytest.raises(InputError, match=f"{rows} training images in mini-batches of {batch_size} leave one of a single image"):
            refuse_batch_of_one(rows, batch_size, image_size, 32)
    for rows, batch_size, image_size in ((96, 5, 33), (95, 5, 32), (96, 6, 32), (97, 5, 32), (0, 5, 32)):
        refuse_batch_of_one(rows, batch_size, image_size, 32)
    for name in ("install_plain_errors", "end_on_sigterm"):
        monkeypatch.setattr(f"sga_monai.bundle.preparation.{name}", lambda *_: None)
    lines = "".join(f"{i}.png,{i % 2},P{i},x,{'train' if i < 96 else 'val'}\n" for i in range(100))
    (tmp_path / "m.csv").write_text("image,label,patient_id,site,split\n" + lines)
    positive = {"max_epochs": 1, "batch_size": 5, "image_size": 32, "learning_rate": 0.1, "val_interval": 1}
    with pytest.raises(InputError, match="96 training images in mini-batches of 5"):
        prepare(arguments=["pytest"], manifest=str(tmp_path / "m.csv"), dataset_dir=str(tmp_path), positive=positive)
    prepare(arguments=["pytest"], manifest=str(tmp_path / "m.csv"), dataset_dir=str(tmp_path), positive=positive | {"batch_size": 6})
    prepare(arguments=["pytest"], manifest=str(tmp_path / "m.csv"), architecture="resnet18_group_norm", positive=positive)
    with pytest.raises(InputError, match="cannot take at an image_size of 60 or less"):
        prepare(arguments=["pytest"], manifest=str(tmp_path / "m.csv"), architecture="densenet121", positive=positive | {"image_size": 60})
    with pytest.raises(InputError, match="image_size must be a whole number, 29 or more"):
        prepare(arguments=["pytest"], architecture="densenet121", positive=positive | {"image_size": 28})
