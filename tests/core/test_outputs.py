"""No output takes the place of an input: refused before anything is read or written, and every file stays as it was."""

from __future__ import annotations

import json
import os
import shlex
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
from fixtures.evaluations import small_report
from typer.testing import CliRunner

from sga_monai.cli.main import app
from sga_monai.core.errors import REASONS, InputError
from sga_monai.core.outputs import refuse_inputs, refuse_inside
from sga_monai.hospital import validate


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every input of the commands, by name; most with content that no command would accept."""
    monkeypatch.chdir(tmp_path)
    for name in ("images", "bundle/models", "v/evaluation"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("labels.csv", "site.key", "scores.csv", "m.csv", "pairs.csv", "protocol.json", "images/a.png", "v/site.key", "v/site.csv"):
        (tmp_path / name).write_text("image\na.png\n")
    (tmp_path / "v/evaluation/report.json").write_text(json.dumps(small_report(0.8)))
    (tmp_path / "link.csv").symlink_to("labels.csv")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refusal(folder: Path, command: str) -> str:
    """The sentence of a refused command, which changes no file."""
    before = contents(folder)
    error = CliRunner().invoke(app, shlex.split(command)).exception
    assert isinstance(error, InputError), error
    assert contents(folder) == before
    return str(error)


FROM_DICOM = "manifest from-dicom images --labels labels.csv --site A --site-key site.key --out"
CHECK = "manifest check m.csv --dataset-dir images --no-labels"
PARTS = "manifest parts m.csv --dataset-dir images --keep interior --folder new --out"
VALIDATE = "validate bundle --images images --site A"


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (f"{FROM_DICOM} labels.csv", "--out would replace labels.csv, which is read; give another path"),
        (f"{FROM_DICOM} images/../labels.csv", "--out would replace labels.csv"),
        (f"{FROM_DICOM} link.csv", "--out would replace labels.csv"),
        (f"{FROM_DICOM} site.key", "--out would replace site.key"),
        (f"{CHECK} --contact-sheet m.csv", "--contact-sheet would replace m.csv"),
        (f"{CHECK} --contact-sheet images/a.png", "--contact-sheet would replace an image of the manifest"),
        (f"{CHECK} --pairs m.csv", "--pairs would replace m.csv"),
        (f"{CHECK} --pairs pairs.csv --accepted-pairs pairs.csv", "--pairs would replace pairs.csv"),
        (f"{CHECK} --pairs new --contact-sheet new", "--pairs and --contact-sheet are one file"),
        (f"{PARTS} m.csv", "--out would replace m.csv"),
        (f"{FROM_DICOM} images/a.png", "--out would replace a file that is no manifest; give another path"),
        (f"{PARTS} images/a.png", "--out would replace a file that is no manifest"),
        ("manifest build cohen images --out protocol.csv", "the record of the build would replace protocol.json, which is none"),
        ("manifest build cohen images --seed -1", "seed must be a whole number, zero or more, got -1"),
        ("manifest build cohen images --out new.json", "--out must not end with .json"),
        ("manifest build cohen images --out scores.csv", "--out would replace a file that is no manifest"),
        ("report out --scores scores.csv --imrmc scores.csv", "--imrmc would replace scores.csv"),
        ("report out --scores scores.csv --protocol protocol.json --imrmc protocol.json", "--imrmc would replace protocol.json"),
        ("release v/evaluation --out v/site.key", "--out would replace site.key, which is no release; give another path"),
        ("release v/evaluation --out protocol.json", "--out would replace protocol.json, which is no release"),
        ("release v/evaluation --out v/evaluation/report.json", "--out would replace report.json, which is no release"),
        (f"{VALIDATE} --labels labels.csv --out bundle", "--out lies inside the bundle, which must stay as it is; give a path elsewhere"),
        (f"{VALIDATE} --labels labels.csv --out bundle/models/new --dry-run", "--out lies inside the bundle"),
        (f"{VALIDATE} --labels labels.csv --out m.csv", "--out is a file; give a folder"),
        (f"{VALIDATE} --labels v/site.csv --out v", "--out with its site.csv would replace site.csv, which is read"),
        ("pool v/pooled.json --out v", "--out would replace pooled.json, which is read"),
    ],
)
def test_an_output_that_is_an_input_is_refused_and_nothing_changes(folder, command, sentence):
    assert refusal(folder, command).startswith(sentence)


def test_a_picture_of_a_manifest_is_spared_whatever_its_accents_are_on_disk(folder):
    (folder / "m.csv").write_text("image,lung_mask\nmüller.png,é.png\n", encoding="utf-8")
    for name, sentence in (("müller.png", "an image"), ("é.png", "a lung_mask")):
        file = folder / "images" / unicodedata.normalize("NFD", name)
        file.write_bytes(b"x")
        assert refusal(folder, f"{CHECK} --contact-sheet {file}").startswith(f"--contact-sheet would replace {sentence} of the manifest")


def test_a_release_may_take_the_place_of_an_earlier_one(folder):
    command = ["release", "v/evaluation", "--out", "v/release.json"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert CliRunner().invoke(app, [*command, "--approved-by", "IRB"]).exit_code == 0
    assert json.loads((folder / "v/release.json").read_text())["approval"]["approved_by"] == "IRB"
    (folder / "v/release.json").write_text('{"schema": "sga_monai release 1"}')
    assert CliRunner().invoke(app, command).exit_code == 0


def test_one_file_under_two_names(tmp_path):
    (tmp_path / "a").touch()
    os.link(tmp_path / "a", tmp_path / "b")
    with pytest.raises(InputError, match="--out would replace a, which is read"):
        refuse_inputs("--out", tmp_path / "b", (None, tmp_path / "a"))
    # Neither exists yet.
    with pytest.raises(InputError):
        refuse_inputs("--out", tmp_path / "c", (tmp_path / "d/../c",))
    refuse_inputs("--out", None, (tmp_path / "a",))
    refuse_inputs("--out", tmp_path / "c", (tmp_path / "a", None))


def test_inside_a_folder_by_way_of_a_link(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "way").symlink_to("in")
    (tmp_path / "in/leads_out").symlink_to(tmp_path / "elsewhere")
    for output in ("in", "in/new/file", "way/file", "in/leads_out"):
        with pytest.raises(InputError, match="--out lies inside the bundle"):
            refuse_inside("--out", tmp_path / output, tmp_path / "in", "the bundle")
    refuse_inside("--out", tmp_path / "inside", tmp_path / "in", "the bundle")


def test_what_validate_says_is_next_can_be_pasted(folder, monkeypatch):
    class Done:
        """A validation that has been."""

        def __init__(self, site: validate.Site) -> None:
            self.page = site.out / "index.html"

        def verify(self) -> int:
            return 1

        def write_manifest(self) -> SimpleNamespace:
            return SimpleNamespace(files={}, labels={}, cells={}, warnings=[])

        def check_images(self) -> dict:
            return {"flow": {step: [1] for step in ("listed", "readable", "frontal")}, "failed": {}}

        def evaluate(self) -> dict[str, int]:
            return {"scored": 1, "failed": 0}

        def report(self, *_: object) -> SimpleNamespace:
            return SimpleNamespace(page=self.page, verdict={"code": "ok", "text": "", "notes": []}, complete=True)

    monkeypatch.setattr(validate, "Validation", Done)
    given = ["validate", "bundle", "--images", "images", "--labels", "labels.csv", "--site", "Klinik Süd", "--out", "Ergebnis für uns"]
    result = CliRunner().invoke(app, given)
    assert result.exit_code == 0, result.output
    pasted = shlex.split(result.stdout.partition("if it may leave: ")[2])
    assert pasted == ["sga-monai", "release", str(Path("Ergebnis für uns/evaluation")), "--out", "release.json", "--site", "ALIAS"]


@pytest.mark.parametrize("code", ["examination", "lateral"])
def test_a_remedy_names_no_option_that_no_command_has(code):
    assert "allow it with" not in REASONS[code]
    assert REASONS[code].endswith("; remove the row, or correct the header where it is wrong")
