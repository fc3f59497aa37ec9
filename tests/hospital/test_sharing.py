"""A bundle where models are shared: loaded in one call, accepted by the model zoo's CI, the same after a download."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from fixtures.artifacts import BUNDLE
from monai.apps.utils import download_url
from monai.bundle import ConfigParser, verify_metadata, verify_net_in_out
from scipy.special import expit
from typer.testing import CliRunner

import sga_monai
from sga_monai.cli.main import app
from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256
from sga_monai.data.manifest import read_manifest
from sga_monai.data.manifest_writer import write_manifest
from sga_monai.hospital.checksums import write_sums
from sga_monai.hospital.evaluate import evaluate_bundle
from sga_monai.hospital.loaded_model import LoadedModel
from sga_monai.hospital.sharing import LARGEST_BYTES, write_hugging_face, write_model_zoo
from sga_monai.hospital.verify import verify_bundle

NAME = "chest_xray_classification"


@pytest.fixture(scope="module")
def zoo(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout for the model zoo; what is to be uploaded lies where ``large_files.yml`` says."""
    out = tmp_path_factory.mktemp("zoo") / "out"
    write_model_zoo(bundle, out, NAME, (out / "upload").as_uri())
    return out


@pytest.fixture(scope="module")
def downloaded(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with its large files, as the zoo's CI downloads them."""
    folder = tmp_path_factory.mktemp("ci") / "models" / NAME
    shutil.copytree(zoo / "models" / NAME, folder)
    parser = ConfigParser()
    parser.read_config(folder / "large_files.yml")
    for line in parser.get()["large_files"]:
        place = folder / line.pop("path")
        download_url(**line, filepath=place, progress=False)
    return folder


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> LoadedModel:
    """The model of the bundle's folder."""
    return sga_monai.load(bundle)


@pytest.fixture(scope="module")
def small(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle without its networks, for what does not look at them."""
    folder = tmp_path_factory.mktemp("small") / BUNDLE
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("models"))
    write_sums(folder)
    return folder


def schema_of(real_data: Path) -> Path:
    found = real_data / "monai/meta_schema_20240725.json"
    if not found.is_file():
        pytest.skip("MONAI's schema of metadata.json is absent")
    return found


def test_a_loaded_model_scores_as_the_evaluation(bundle, loaded, phantom_dir, tmp_path):
    rows = read_manifest(phantom_dir / "harbor.csv")[:2]
    write_manifest(tmp_path / "site.csv", rows)
    expected = evaluate_bundle(bundle, tmp_path / "site.csv", phantom_dir, tmp_path / "out")
    facts = json.loads((bundle / "reference.json").read_text())
    for model in (loaded, sga_monai.load(str(bundle.with_name(f"{BUNDLE}.zip")))):
        assert (model.name, model.version) == (facts["name"], facts["version"])
        assert (model.threshold, model.temperature) == tuple(facts["models"]["model"][key] for key in ("threshold", "temperature"))
        scores = [model.score(phantom_dir / row["image"]) for row in rows]
        assert scores == pytest.approx(expected["score"].tolist(), abs=1e-5)
        assert model.probability(phantom_dir / rows[0]["image"]) == pytest.approx(expected["probability"][0], abs=1e-5)
        image = model.preprocess(phantom_dir / rows[0]["image"])
        assert (image.shape, image.dtype, float(image.min()), float(image.max())) == ((1, 32, 32), torch.float32, 0.0, 1.0)
        assert not model.network.training
    with pytest.raises(FrozenInstanceError):
        model.threshold = 0.0


def test_probabilities_use_the_temperature_and_never_overflow():
    for score in (-5000.0, -1.0, 0.0, 2.0, 5000.0):
        fixed = LoadedModel(
            "a", "1", lambda _image, score=score: torch.tensor([[0.0, score]]), lambda _path: torch.zeros(1, 1, 1), 0.0, 2.5
        )
        assert fixed.probability("x") == pytest.approx(expit(score / 2.5), abs=1e-15)


def test_what_is_not_the_packaged_model_is_not_loaded(bundle, tmp_path):
    copy = tmp_path / BUNDLE
    shutil.copytree(bundle, copy)
    (copy / "reference.json").write_text((copy / "reference.json").read_text().replace('"threshold"', '"threshold" '))
    with pytest.raises(InputError, match=r"reference\.json was changed"):
        sga_monai.load(copy)
    with pytest.raises(InputError, match="no signature"):
        sga_monai.load(bundle, public_key=tmp_path / "key.pub")
    (tmp_path / "no.zip").write_text("no zip")
    with zipfile.ZipFile(tmp_path / "out.zip", "w") as archive:
        archive.writestr("a/../../b.txt", "x")
    with zipfile.ZipFile(tmp_path / "root.zip", "w") as archive:
        archive.writestr("/etc/b.txt", "x")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a/b.txt", "x")
        archive.writestr("c/b.txt", "x")
    with zipfile.ZipFile(tmp_path / "cut.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/b.txt", bytes(range(256)) * 9)
    damaged = bytearray((tmp_path / "cut.zip").read_bytes())
    damaged[40:80] = bytes(40)
    (tmp_path / "cut.zip").write_bytes(damaged)
    for name, message in (
        ("cut.zip", "missing, damaged or no zip"),
        ("no.zip", "missing, damaged or no zip"),
        ("absent.zip", "missing, damaged or no zip"),
        ("out.zip", "is not the zip"),
        ("two.zip", "is not the zip"),
        ("root.zip", "is not the zip"),
    ):
        with pytest.raises(InputError, match=message):
            sga_monai.load(tmp_path / name)
    assert not (tmp_path / "b.txt").exists()


def test_an_image_that_cannot_be_read_is_refused_without_its_path(loaded, tmp_path):
    (tmp_path / "DOE_JOHN.dcm").write_bytes(b"not an image")
    with pytest.raises(InputError) as caught:
        loaded.probability(tmp_path / "DOE_JOHN.dcm")
    assert "DOE" not in str(caught.value)


def test_the_zoo_gets_no_large_file_and_the_rest_as_it_was(bundle, zoo):
    folder, upload = zoo / "models" / NAME, zoo / "upload"
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert max(path.stat().st_size for path in files.values()) <= LARGEST_BYTES
    large = yaml.safe_load((folder / "large_files.yml").read_text())["large_files"]
    assert {line["path"] for line in large} == {"models/model.pt", "models/model.ts", "models/baseline.pt"}
    for line in large:
        assert file_sha256(upload / line["path"]) == line["hash_val"] == file_sha256(bundle / line["path"])
        assert (line["hash_type"], line["url"]) == ("sha256", f"{upload.as_uri()}/{line['path']}")
    for name in files.keys() - {"SHA256SUMS", "large_files.yml"}:
        assert files[name].read_bytes() == (bundle / name).read_bytes(), name
    metadata = json.loads((folder / "configs/metadata.json").read_text())
    assert metadata["version"] in metadata["changelog"]
    for name in ("LICENSE", "configs/inference.json", "docs/README.md", "docs/data_license.txt"):
        assert name in files
    config = json.loads((folder / "configs/inference.json").read_text())
    assert {"bundle_root", "device", "network_def", "inferer", "output_dir"} <= {*config}


def test_the_downloaded_model_is_whole_and_as_its_metadata_say(bundle, loaded, downloaded):
    """What the zoo's CI checks of data shape; its own program is run by the slow test below."""
    assert verify_bundle(downloaded) == verify_bundle(bundle) + 1
    files = {"config_file": str(downloaded / "configs/inference.json"), "meta_file": str(downloaded / "configs/metadata.json")}
    verify_net_in_out(net_id="network_def", device="cpu", bundle_root=str(downloaded), **files)
    image = torch.rand(2, 1, 32, 32)
    assert torch.equal(sga_monai.load(downloaded).network(image), loaded.network(image))


@pytest.mark.real
def test_the_metadata_are_of_monais_schema(real_data, downloaded, tmp_path):
    shutil.copy(schema_of(real_data), tmp_path / "schema.json")
    verify_metadata(meta_file=str(downloaded / "configs/metadata.json"), filepath=str(tmp_path / "schema.json"))


@pytest.mark.slow
@pytest.mark.real
def test_the_zoos_own_program_accepts_the_model(real_data, zoo, tmp_path):
    """``SGA_MODEL_ZOO`` is a working copy of github.com/Project-MONAI/model-zoo."""
    if "SGA_MODEL_ZOO" not in os.environ:
        pytest.skip("SGA_MODEL_ZOO is not set")
    shutil.copytree(Path(os.environ["SGA_MODEL_ZOO"]) / "ci", tmp_path / "ci")
    shutil.copytree(zoo / "models", tmp_path / "models")
    shutil.copy(Path(os.environ["SGA_MODEL_ZOO"]) / "models/model_info.json", tmp_path / "models")
    # What prepare_schema.py of the zoo downloads.
    (tmp_path / "models" / NAME / "eval").mkdir()
    shutil.copy(schema_of(real_data), tmp_path / "models" / NAME / "eval/schema.json")
    # A pull request names models without scripted TorchScript here; ours is traced.
    custom = tmp_path / "ci/bundle_custom_data.py"
    custom.write_text(custom.read_text() + f'\nexclude_verify_torchscript_list.append("{NAME}")\n')
    for mode, last in (("min", "metadata format is verified correctly."), ("full", "does not support torchscript, skip verifying.")):
        command = [sys.executable, "ci/verify_bundle.py", "-b", NAME, "-m", mode]
        result = subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-3000:]
        assert last in result.stdout
    assert "data shape is verified correctly." in result.stdout


def test_a_model_without_attacks_is_not_tagged_as_adversarial(bundle, tmp_path):
    copy = shutil.copytree(bundle, tmp_path / "bundle")
    path = copy / "configs/metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"description": "ResNet-18 trained with cross-entropy alone"}))
    write_sums(copy)
    front = (write_hugging_face(copy, tmp_path / "repository") / "README.md").read_text().split("---\n")[1]
    assert yaml.safe_load(front)["tags"][-2:] == ["image-classification", "domain-generalization"]


def test_a_hugging_face_repository_is_the_bundle_and_its_card(bundle, loaded, tmp_path):
    repository = write_hugging_face(bundle, tmp_path / "repository")
    card = (repository / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "license": "apache-2.0", "library_name": "monai", "pipeline_tag": "image-classification",
        "tags": ["monai", "medical", "radiology", "chest-x-ray", "image-classification", "domain-generalization", "adversarial-training"],
    }  # fmt: skip
    assert body.startswith("\n" + (bundle / "docs/README.md").read_text())
    # A download leaves files of its own beside those of the repository.
    shutil.copytree(repository, tmp_path / "download")
    (tmp_path / "download/.gitattributes").write_text("*.pt filter=lfs\n")
    (tmp_path / "download/.cache/huggingface/download").mkdir(parents=True)
    (tmp_path / "download/.cache/huggingface/download/README.md.metadata").write_text("x")
    theirs = sga_monai.load(tmp_path / "download")
    image = torch.rand(2, 1, 32, 32)
    assert torch.equal(theirs.network(image), loaded.network(image))
    assert (theirs.threshold, theirs.temperature) == (loaded.threshold, loaded.temperature)


def test_of_hidden_files_only_those_of_a_download_are_passed_over(small, tmp_path):
    folder = write_hugging_face(small, tmp_path / "repository")
    (folder / ".cache/huggingface").mkdir(parents=True)
    for name in (".gitattributes", ".cache/huggingface/x"):
        (folder / name).write_text("x")
    count = verify_bundle(folder)
    for name in (".cache/other.py", ".gitattributes.py", "docs/.gitattributes"):
        (folder / name).write_text("x")
        with pytest.raises(InputError, match="is not in SHA256SUMS"):
            verify_bundle(folder)
        (folder / name).unlink()
    (folder / ".cache/huggingface/link").symlink_to("x")
    with pytest.raises(InputError, match="is a link"):
        verify_bundle(folder)
    (folder / ".cache/huggingface/link").unlink()
    # From one place to the other: nothing of the download goes along, and no file is large.
    other = write_model_zoo(folder, tmp_path / "zoo", NAME)
    assert verify_bundle(other) == count
    assert not (other / ".cache").exists()
    assert not (other / "large_files.yml").exists()


def test_refusals_say_what_to_give(bundle, tmp_path):
    for name in ("Chest", "chest", "chest_v2", "chest_xray_v1_net", "chest-xray"):
        with pytest.raises(InputError, match="lower-case words with underscores"):
            write_model_zoo(bundle, tmp_path / "a", name, "https://example.org")
    for url in ("http://example.org", "example.org", "https://example.org/a b"):
        with pytest.raises(InputError, match="must begin with https"):
            write_model_zoo(bundle, tmp_path / "a", NAME, url)
    with pytest.raises(InputError, match="3 files are larger than 25 MB; say with --url"):
        write_model_zoo(bundle, tmp_path / "a", NAME)
    (tmp_path / "zoo/upload/models").mkdir(parents=True)
    (tmp_path / "zoo/upload/models/model.pt").write_text("of another model, not uploaded yet")
    with pytest.raises(InputError, match="with files of another model; give a new folder as out"):
        write_model_zoo(bundle, tmp_path / "zoo", NAME, "https://example.org")
    with pytest.raises(InputError, match="must be an identifier"):
        write_hugging_face(bundle, tmp_path / "a", "Apache License")
    with pytest.raises(InputError, match="is there already"):
        write_hugging_face(bundle, tmp_path)
    assert not (tmp_path / "a").exists()


def test_the_commands(small, tmp_path):
    given = ["share", str(small), "--out", str(tmp_path / "hf"), "--to", "hugging-face"]
    assert "upload its content" in CliRunner().invoke(app, given).output
    given = ["share", str(small), "--out", str(tmp_path / "zoo"), "--to", "model-zoo", "--name", NAME, "--url", "https://example.org"]
    assert CliRunner().invoke(app, given).output == f"wrote zoo/models/{NAME}/: copy it to models/ of the zoo's repository\n"
    for wrong, message in (
        (["--to", "zoo"], "to must be one of model-zoo, hugging-face"),
        (["--to", "model-zoo"], "needs --name"),
        (["--to", "hugging-face", "--name", NAME], "belong to --to model-zoo"),
    ):
        error = CliRunner().invoke(app, ["share", str(small), "--out", str(tmp_path / "x"), *wrong]).exception
        assert isinstance(error, InputError)
        assert message in str(error)
