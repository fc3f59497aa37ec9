"""A hospital's journey, as docs/hospital.md tells it: package, move, verify, evaluate, report, release, pool."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict
from pathlib import Path

import monai.bundle
import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from conftest import ROOT
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from fixtures import warm
from fixtures.artifacts import BUNDLE
from fixtures.evaluations import rewrite
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
from PIL import Image
from scipy.special import expit

from sga_monai.cohorts.from_dicom import manifest_from_dicom
from sga_monai.cohorts.phantom import SOURCE
from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, plain
from sga_monai.data.manifest import read_manifest
from sga_monai.data.manifest_writer import write_manifest
from sga_monai.data.pseudonyms import new_site_key
from sga_monai.evaluation.predictions import GROUPS, VALIDATION
from sga_monai.hospital import torchscript
from sga_monai.hospital.checksums import write_sums
from sga_monai.hospital.evaluate import evaluate_bundle
from sga_monai.hospital.html import write_html
from sga_monai.hospital.model_card import method_name
from sga_monai.hospital.package import package_bundle
from sga_monai.hospital.pool import pool_releases
from sga_monai.hospital.protocol import Plan, write_protocol
from sga_monai.hospital.reference import read_reference
from sga_monai.hospital.release import check_release, make_release, numbers
from sga_monai.hospital.report import make_report
from sga_monai.hospital.suppression import suppress
from sga_monai.hospital.verify import lint_bundle, verify_bundle, verify_signature
from sga_monai.model.networks import build_network
from sga_monai.statistics.calibration import fit_temperature
from sga_monai.statistics.discrimination import paired_difference
from sga_monai.statistics.feature_shift import frechet_distance
from sga_monai.statistics.separability import site_auroc

# Of `sga-monai validate --out validation`.
EVALUATION = Path("validation/evaluation")


# A process on a network of its own, which leads nowhere.
UNSHARE = "import ctypes\nassert ctypes.CDLL(None).unshare(0x40000000) == 0"


def run(*arguments: str, cwd: Path, isolated: bool = False, code: int = 0) -> str:
    environment = os.environ | {"COLUMNS": "120", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *arguments]
    result = warm.run(warm.before(UNSHARE, command) if isolated else command, cwd, environment)
    assert result.returncode == code, result.stdout[-2000:] + result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    assert "nvImageCodec" not in result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="session")
def hospital(phantom_dir: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zip, a folder of harbor's images and a table of labels: all that a hospital begins with."""
    folder = tmp_path_factory.mktemp("hospital")
    shutil.copy(bundle.with_name(f"{BUNDLE}.zip"), folder)
    (folder / "images").mkdir()
    lines = ["accession,label,label_date,negative_type"]
    for i, row in enumerate(read_manifest(phantom_dir / "harbor.csv")):
        dataset = pydicom.dcmread(phantom_dir / row["image"])
        dataset.AccessionNumber, dataset.StudyDate = f"A{i:04d}", f"2021{1 + i % 12:02d}05"
        dataset.save_as(folder / "images" / f"{i:04d}.dcm")
        lines.append(f"A{i:04d},{row['label']},2021-{1 + i % 12:02d}-06,{'' if row['label'] == '1' else 'other_pneumonia'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def commands(page: Path) -> list[str]:
    """The commands of a page: indented lines that begin like one."""
    return [line.strip() for line in page.read_text().splitlines() if re.match(r"    (sga-monai|unzip) ", line)]


def contents(folder: Path) -> dict[Path, tuple[int, int]]:
    """Size and time of the last change of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


@pytest.fixture(scope="session")
def evaluated(hospital: Path) -> Path:
    """The folder after every command of docs/hospital.md, without network where the system lets us cut it."""
    isolated = warm.run([sys.executable, "-c", UNSHARE]).returncode == 0
    done = []
    for command in commands(ROOT / "docs/hospital.md"):
        name, *arguments = command.split()
        if "--baseline-checkpoint" in arguments:
            continue
        if arguments[0] == "pool":
            for approved_by in (None, "IRB"):
                make_release(hospital / EVALUATION, hospital / "release_b.json", "site-B", approved_by=approved_by)
        if name == "unzip":
            with zipfile.ZipFile(hospital / arguments[-1]) as archive:
                assert all(not info.filename.startswith(("/", "..")) for info in archive.infolist())
            shutil.unpack_archive(hospital / arguments[-1], hospital)
        else:
            done.append(arguments[0])
            before = contents(hospital)
            run("sga_monai", *arguments, cwd=hospital, isolated=isolated)
            if arguments[0] == "validate":
                # Nothing is written outside of --out and its lock, nor into an input.
                written = ("validation", ".validation.lock")
                others = [
                    {path: facts for path, facts in files.items() if path.parts[0] not in written} for files in (contents(hospital), before)
                ]
                assert others[0] == others[1]
    assert done == [
        "verify",
        "selftest",
        "validate",
        "validate",
        "release",
        "release",
        "pool",
    ]
    return hospital / EVALUATION


def test_docs_lead_from_the_zip_to_the_pooled_page(evaluated, hospital):
    assert len((ROOT / "docs/hospital.md").read_text().splitlines()) < 120
    html = (hospital / EVALUATION / "report.html").read_text()
    assert len(html) < 1_000_000
    assert "<script" not in html
    # Nothing is fetched: no address in a link, a source or a style.
    assert not re.search(r'(src|href)="(?!data:|#|errors\.html")', html)
    assert "@import" not in html
    # Pictures are letters too.
    html = re.sub(r"base64,[^\"]*", "", html)
    report = json.loads((hospital / EVALUATION / "report.json").read_text())
    assert report["prevalence"] == 0.12
    assert f"{report['models']['model']['auroc']['value']:.3f}" in html
    assert {line["by"] for line in report["subgroups"]} >= {"sex", "age", "view", "period", "negative_type"}
    # No lung mask at a hospital as a rule: the ellipse and the planted tag remain.
    audit = report["shortcut_audit"]
    assert audit["lungs_blank"] is audit["only_lungs"] is None
    assert audit["tag"]["low"] < audit["tag"]["value"] < audit["tag"]["high"]
    assert "lungs blanked (ellipse)" in html
    assert "lungs blanked (mask)" not in html
    internal, here = (json.loads((hospital / EVALUATION / name).read_text()) for name in ("reference.json", "embedding.json"))
    assert report["embedding"]["distance"] == pytest.approx(frechet_distance(here, internal["embedding"]))
    assert report["embedding"]["n"] == report["cohort"]["images"]
    assert report["embedding"]["n_internal"] == 80
    assert f"{report['embedding']['distance']:.2f} times the internal spread" in html
    probe, scored = report["site_auroc"], pd.read_csv(hospital / EVALUATION / "predictions.csv").dropna(subset="score")
    profile = internal["embedding"]["profile"]
    assert probe == pytest.approx(site_auroc(scored["site_score"], scored["label"], scored["patient"], profile))
    # Halves are drawn by the patients' keys, which are new each time: of 13 patients of each label, a half may have too few.
    if probe is not None:
        assert probe["n"] == report["cohort"]["images"]
        assert f"by a linear probe of the main directions of these features: {probe['value']:.3f} [" in html
    assert "SGA" not in html
    # The bundle says who the model was developed on, and the site's errors stay there.
    development, here = report["development"]["development"], report["development"]["site"]
    assert development == internal["development"]
    assert development["images"] > 100
    assert all(share > 0 for levels in development["columns"].values() for share in levels.values())
    assert set(development["columns"]) == set(here["columns"]) == {"age", "sex", "view", "manufacturer"}
    assert "The bundle does not say" not in html
    wrong = sum(report["models"]["model"]["operating_point"]["counts"][1:3])
    assert f"{wrong} " in (hospital / EVALUATION / "errors.html").read_text()
    assert len(list((hospital / EVALUATION / "heatmaps").glob("row_*.jpg"))) >= wrong
    assert [sorted(line) for line in report["drift"]] == [["chance", "feature", "flag", "ks", "psi"]] * 3
    assert not re.search("embedding|distance|probe|axes|site_score|tag|only_lungs|lungs_blank", (hospital / "release.json").read_text())
    assert "data-protection-officer" in (hospital / "pooled/pooled.html").read_text()
    # Again with the same inputs: the same predictions; a third time the second is set aside.
    for _ in range(2):
        again = (
            "--manifest",
            "validation/site.csv",
            "--dataset-dir",
            "images",
            "--site-key",
            "validation/site.key",
            "--output-dir",
            "again",
        )
        run("sga_monai", "evaluate", BUNDLE, *again, cwd=hospital)
        assert (hospital / EVALUATION / "predictions.csv").read_bytes() == (hospital / "again/predictions.csv").read_bytes()
    assert (hospital / "again.1/predictions.csv").is_file()


def test_monais_own_checks_accept_the_package(bundle, phantom_dir, tmp_path):
    run("monai.bundle", "run", "evaluating", "--config_file", "configs/evaluate.json", "--manifest", f"{phantom_dir}/harbor.csv",
        "--dataset_dir", str(phantom_dir), "--output_dir", f"{tmp_path}/out", cwd=bundle)  # fmt: skip
    assert len(pd.read_csv(tmp_path / "out/predictions.csv")) == len(read_manifest(phantom_dir / "harbor.csv"))
    # The card is of this model: none of the source bundle's figures, and commands that write nothing into the bundle.
    card = (bundle / "docs/README.md").read_text()
    assert card.startswith(f"# {BUNDLE}\n\n## Description\n")
    assert "Expected" not in card
    assert f"sga-monai evaluate {BUNDLE} --manifest site.csv" in card
    assert "--output_dir ../out_monai" in card
    network = torch.jit.load(bundle / "models/model.ts")
    state = torch.load(bundle / "models/model.pt", weights_only=True)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    schema = ROOT.parent / "shared/data/monai/meta_schema_20240725.json"
    if schema.is_file():
        target = tmp_path / "metadata.json"
        target.write_text(json.dumps(json.loads((bundle / "configs/metadata.json").read_text()) | {"schema": schema.as_uri()}))
        verify_metadata(meta_file=str(target), filepath=str(tmp_path / "schema.json"))
    files = {"config_file": str(bundle / "configs/inference.json"), "meta_file": str(bundle / "configs/metadata.json")}
    verify_net_in_out(net_id="network_def", device="cpu", **files)
    hook = sys.excepthook
    workflow = ConfigWorkflow(
        config_file=str(bundle / "configs/evaluate.json"), meta_file=files["meta_file"], workflow_type="infer",
        manifest=str(phantom_dir / "harbor.csv"), dataset_dir=str(phantom_dir), output_dir=str(tmp_path / "w"),
        checkpoint=str(bundle / "models/model.pt"),
    )  # fmt: skip
    workflow.initialize()
    assert workflow.check_properties() == []
    assert sys.excepthook is hook


def test_metadata_says_what_comes_out_and_how_well(bundle):
    metadata, reference = (json.loads((bundle / name).read_text()) for name in ("configs/metadata.json", "reference.json"))
    output = metadata["network_data_format"]["outputs"]["pred"]
    assert output["type"] == output["format"] == "logits"
    assert output["modality"] == metadata["network_data_format"]["inputs"]["image"]["modality"] == "CR/DX"
    assert output["num_channels"] == len(output["channel_def"]) == 2
    image = torch.rand(3, 1, *metadata["network_data_format"]["inputs"]["image"]["spatial_shape"])
    assert torch.jit.load(bundle / "models/model.ts")(image).shape == (3, 2)
    metrics, model = metadata["eval_metrics"]["internal_test"], reference["models"]["model"]
    assert metrics["auroc"] == model["auroc"]
    assert metrics["brier"] == model["brier"]["value"]
    counts = ("n_positive", "n_negative", "n_patients")
    assert [metrics[key] for key in counts] == [model[key] for key in counts]


def test_the_documents_of_a_bundle_name_its_network_and_how_it_was_trained(runs, bundle, tmp_path):
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    assert metadata["description"].startswith("ResNet-18 trained by saliency guided adversarial training")
    copy = tmp_path / "run"
    shutil.copytree(runs / "nt", copy, ignore=shutil.ignore_patterns("checkpoints", "tensorboard", "embedding.json"))
    torch.save(build_network("densenet121").state_dict(), copy / "model.pt")
    record = json.loads((copy / "run.json").read_text())
    record["identity"]["network"] = record["identity"]["settings"]["architecture"] = "densenet121"
    (copy / "run.json").write_text(json.dumps(record | {"model_sha256": file_sha256(copy / "model.pt")}))
    other = package_bundle(copy / "model.pt", tmp_path / "dist", ROOT / "bundles/sga")
    metadata = json.loads((other / "configs/metadata.json").read_text())
    assert metadata["description"].startswith("DenseNet-121 trained with cross-entropy alone;")
    # Neither the method of the source bundle nor its data: the phantom was named as the source of any training.
    assert metadata["name"] == "Natural training for chest radiographs"
    card = (other / "docs/README.md").read_text()
    assert "ResNet-18" not in card
    data = f"the training manifest with SHA-256 {record['identity']['data']['manifest_sha256']}"
    assert data in metadata["data_source"]
    assert data in card
    assert "phantom" not in metadata["data_source"] + card


@pytest.mark.parametrize(
    ("changed", "method"),
    [({}, "saliency guided adversarial training"), ({"mask_fraction": 0.0}, "adversarial training"), ({"kl_weight": 0}, "natural training"),
     ({"epsilon_range": [0, 0.0]}, "saliency guided training"), ({"objective": "adversarial_ce"}, "adversarial training"),
     ({"kl_weight": 0, "augmentation": "standard"}, "natural training with augmentation standard")],
)  # fmt: skip
def test_a_bundle_is_called_by_the_method_of_its_training(changed, method):
    settings = {"kl_weight": 1.0, "mask_fraction": 0.1, "epsilon_range": [0.01, 0.05], "objective": "kl", "augmentation": None}
    assert method_name(settings | changed) == method


def test_a_fitted_temperature_travels_and_gives_the_same_probabilities_in_both_ways(runs, bundle, phantom_dir, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(runs / "sga", copy, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
    # Scores that are right more often than not, and not always.
    table, rng = pd.read_csv(copy / "predictions.csv"), np.random.default_rng(0)
    table["score"] = 5 * (table["label"] - 0.5) + 5 * rng.normal(size=len(table))
    table.to_csv(copy / "predictions.csv", index=False)
    other = package_bundle(copy / "model.pt", tmp_path / "dist", ROOT / "bundles/sga", fit_temperature=True)
    validation = table[table["set"] == VALIDATION]
    facts = read_reference(other / "reference.json")["models"]["model"]
    assert facts["temperature"] == fit_temperature(validation["score"], validation["label"])
    assert read_reference(bundle / "reference.json")["models"]["model"]["temperature"] == 1
    for name in ("evaluate", "inference"):
        configs = [json.loads((folder / f"configs/{name}.json").read_text()) for folder in (other, bundle)]
        assert [config["temperature"] for config in configs] == [facts["temperature"], 1]
    rows = read_manifest(phantom_dir / "harbor.csv")[:12]
    write_manifest(tmp_path / "site.csv", rows)
    ours = evaluate_bundle(other, tmp_path / "site.csv", phantom_dir, tmp_path / "out")
    plain = evaluate_bundle(bundle, tmp_path / "site.csv", phantom_dir, tmp_path / "plain")
    assert ours["score"].tolist() == plain["score"].tolist()
    assert ours["probability"].to_numpy() == pytest.approx(expit(ours["score"].to_numpy() / facts["temperature"]), abs=1e-12)
    run("monai.bundle", "run", "evaluating", "--config_file", "configs/evaluate.json", "--manifest", f"{tmp_path}/site.csv",
        "--dataset_dir", str(phantom_dir), "--output_dir", f"{tmp_path}/monai", cwd=other)  # fmt: skip
    theirs = pd.read_csv(tmp_path / "monai/predictions.csv").sort_values("row")
    assert theirs["probability"].to_numpy() == pytest.approx(ours["probability"].to_numpy(), abs=1e-5)


def test_monai_loads_exports_and_evaluates_the_package(bundle, phantom_dir, prepared, tmp_path, monkeypatch):
    hook = sys.excepthook
    # MONAI initializes the whole training for its network: where the user is, a finished run must stay what it is.
    (tmp_path / "here/runs/sga").mkdir(parents=True)
    (tmp_path / "here/runs/sga/model.pt").write_text("kept")
    (tmp_path / "here/phantom").symlink_to(phantom_dir)
    with monkeypatch.context() as context:
        context.chdir(tmp_path / "here")
        network = monai.bundle.load(name=BUNDLE, bundle_dir=str(bundle.parent))
    assert [path.relative_to(tmp_path / "here").as_posix() for path in (tmp_path / "here/runs").rglob("*")] == [
        "runs/sga",
        "runs/sga/model.pt",
    ]
    state = torch.load(bundle / "models/model.pt", weights_only=True)
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())
    monai.bundle.ckpt_export(
        net_id="network_def", filepath=str(tmp_path / "exported.ts"), ckpt_file=str(bundle / "models/model.pt"), use_trace=True,
        meta_file=str(bundle / "configs/metadata.json"), config_file=str(bundle / "configs/inference.json"), input_shape=[1, 1, 32, 32],
    )  # fmt: skip
    image = torch.rand(1, 1, 32, 32)
    assert torch.allclose(torch.jit.load(tmp_path / "exported.ts")(image), network.eval()(image), atol=1e-6)
    options = {"manifest": str(phantom_dir / "northgate.csv"), "dataset_dir": str(phantom_dir), "external_manifests": []}
    options["cache_dir"] = str(prepared)
    algo = MonaiAlgo(
        bundle_root=str(bundle), config_train_filename="configs/train.json", config_evaluate_filename="configs/train.json",
        train_kwargs=options | {"output_dir": str(tmp_path / "a")}, eval_kwargs=options | {"output_dir": str(tmp_path / "b")},
    )  # fmt: skip
    algo.initialize(extra={ExtraItems.CLIENT_NAME: "site"})
    assert 0 <= algo.evaluate(ExchangeObject(weights=state)).metrics["val_auroc"] <= 1
    assert sys.excepthook is hook


def test_a_signature_is_of_one_key_and_these_files(bundle, tmp_path):
    for name in ("ours", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        (tmp_path / f"{name}.pem").write_bytes(key.private_bytes(*form))
        public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pub").write_bytes(public)
    copy = tmp_path / BUNDLE
    shutil.copytree(bundle, copy)
    with pytest.raises(InputError, match="no signature"):
        verify_signature(copy, tmp_path / "ours.pub")
    command = [sys.executable, "-m", "model_signing", "sign", "key", str(copy), "--private_key", str(tmp_path / "ours.pem")]
    subprocess.run([*command, "--signature", str(copy / "model.sig")], check=True, capture_output=True)
    verify_bundle(copy)
    verify_signature(copy, tmp_path / "ours.pub")
    with pytest.raises(InputError, match="not of this key"):
        verify_signature(copy, tmp_path / "other.pub")
    # Somebody changes a file and mends the checksums: only the signature tells.
    (copy / "LICENSE").write_text("other")
    sums = (copy / "SHA256SUMS").read_text().splitlines()
    sums[0] = f"{hashlib.sha256(b'other').hexdigest()}  LICENSE"
    (copy / "SHA256SUMS").write_text("\n".join(sums) + "\n")
    verify_bundle(copy)
    with pytest.raises(InputError, match="not of this key and these files"):
        verify_signature(copy, tmp_path / "ours.pub")


def test_a_killed_evaluation_goes_on_to_the_same_predictions(bundle, phantom_dir, tmp_path):
    given = ("--manifest", f"{phantom_dir}/lakeside.csv", "--dataset-dir", str(phantom_dir))
    # Parts of 4 rows instead of 256, and a note of every file that is read.
    program = """
import sys
from sga_monai.cli.main import main
from sga_monai.data import cxr_reader
from sga_monai.evaluation import stream

decode = cxr_reader.decode
def noted(*arguments, **options):
    with open("read.txt", "a") as notes:
        notes.write("image\\n")
    return decode(*arguments, **options)

stream.PART, cxr_reader.decode = 4, noted
main()
"""
    command = [sys.executable, "-c", program, "evaluate", str(bundle), *given, "--output-dir"]
    assert warm.Process([*command, "straight"], tmp_path).wait() == 0
    command.append("killed")
    parts = tmp_path / "killed/parts"
    for count in (1, 6):
        process = warm.Process(command, tmp_path)
        while process.poll() is None and len(list(parts.glob("part_*.json"))) < count:
            time.sleep(0.01)
        process.kill()
        process.communicate()
    kept = len(list(parts.glob("part_*.json")))
    assert kept >= 6
    (tmp_path / "read.txt").unlink()
    process = warm.Process(command, tmp_path)
    assert process.wait() == 0
    # What was not kept, and the images that are drawn; what was scored before the stop was not read again.
    drawn = len(list((tmp_path / "killed/heatmaps").iterdir()))
    assert len((tmp_path / "read.txt").read_text().splitlines()) <= 60 - 4 * kept + drawn
    assert not parts.exists()
    assert (tmp_path / "killed/predictions.csv").read_bytes() == (tmp_path / "straight/predictions.csv").read_bytes()
    assert not (tmp_path / "killed.1").exists()
    reports = []
    for name in ("straight", "killed"):
        run("sga_monai", "report", name, cwd=tmp_path)
        reports.append(json.loads((tmp_path / name / "report.json").read_text()))
        # When the scoring began is a fact of each evaluation.
        assert reports[-1]["protocol"].pop("began")
    assert reports[0] == reports[1]


def test_a_protocol_is_recorded_when_scoring_begins(bundle, phantom_dir, tmp_path):
    write_manifest(tmp_path / "site.csv", read_manifest(phantom_dir / "summit.csv")[:6])
    plan = write_protocol(Plan("Does it work?", "1: disease", "drawn", limits=["auroc>=0.99"]), tmp_path / "plan.json")
    out, inputs = tmp_path / "out", (bundle, tmp_path / "site.csv", phantom_dir)
    evaluate_bundle(*inputs, out, protocol=tmp_path / "plan.json")
    run = json.loads((out / "run.json").read_text())
    assert run["protocol"] == plan.sha256
    assert (out / "protocol.json").read_bytes() == plan.data
    report = make_report(out)
    assert (report["protocol"]["status"], report["protocol"]["began"]) == ("before", run["started"])
    # One that was stopped and goes on began when it first began; with another protocol it is another evaluation.
    (out / "run.json").write_text(json.dumps(run | {"finished": None, "started": "2021-03-04T05:06:07+00:00"}))
    evaluate_bundle(*inputs, out, protocol=tmp_path / "plan.json")
    assert json.loads((out / "run.json").read_text())["started"] == "2021-03-04T05:06:07+00:00"
    assert not (tmp_path / "out.1").exists()
    evaluate_bundle(*inputs, out)
    assert json.loads((out / "run.json").read_text())["protocol"] is None
    assert not (out / "protocol.json").exists()
    assert make_report(out)["protocol"]["status"] == "none"


def test_the_report_in_a_browser(bundle, phantom_dir, tmp_path, browser):
    rows = read_manifest(phantom_dir / "summit.csv")[:16]
    write_manifest(tmp_path / "site.csv", rows)
    evaluate_bundle(bundle, tmp_path / "site.csv", phantom_dir, tmp_path / "out")
    picture = browser(write_html(make_report(tmp_path / "out"), tmp_path / "out"))
    assert picture.size == (1000, 2400)
    # Text, curves and heat maps down to the lower half, on white.
    dark = np.asarray(picture.convert("L")) < 128
    assert 0.01 < dark[:1200].mean() < 0.5
    assert 0.01 < dark[1200:].mean() < 0.5
    assert (np.abs(np.asarray(picture.convert("RGB")).astype(int) - (0x1F, 0x5A, 0x99)).sum(axis=2) < 30).any()


@pytest.mark.usefixtures("few_samples")
def test_a_site_with_lung_masks_gets_the_controls_of_the_lungs(bundle, phantom_dir, tmp_path):
    rows = read_manifest(phantom_dir / "harbor.csv")
    for row in rows[:6]:
        row["lung_mask"] = ""
    write_manifest(tmp_path / "site.csv", rows)
    predictions = evaluate_bundle(bundle, tmp_path / "site.csv", phantom_dir, tmp_path / "out")
    for column in ("score_lungs_blank", "score_only_lungs"):
        assert predictions[column].isna().tolist() == [True] * 6 + [False] * (len(rows) - 6)
    # The mask is the better control where there is one, so the verdict goes by it.
    columns, noise = pd.read_csv(tmp_path / "out/predictions.csv"), np.random.default_rng(0).normal(0, 0.5, len(rows))
    # An AUROC of 1 or 0 has no interval and is the strongest sign of all.
    for masked, center, suspected in ((1, 0, True), (9, 0, True), (-9, 0, True), (0, 1, False)):
        known = columns["score_lungs_blank"].notna()
        changed = columns.assign(score_center_blank=center * columns["label"] + noise)
        changed.loc[known, "score_lungs_blank"] = (masked * columns["label"] + noise)[known]
        rewrite(tmp_path / "out", changed)
        report = make_report(tmp_path / "out")
        assert any("Shortcut suspected" in note for note in report["verdict"]["notes"]) is suspected
    audit = report["shortcut_audit"]
    assert audit["lungs_blank"]["n"] == audit["only_lungs"]["n"] == len(rows) - 6
    assert audit["center_blank"]["n"] == audit["tag"]["n"] == len(rows)
    shift = predictions["score_tag"] - predictions["score"]
    assert audit["tag"]["value"] == pytest.approx(shift.mean())
    assert audit["tag"]["score_sd"] == pytest.approx(predictions["score"].std(ddof=0))
    assert "lungs blanked (mask)" in write_html(report, tmp_path / "out").read_text()
    make_release(tmp_path / "out", tmp_path / "release.json", "site-A")
    (tmp_path / "out/embedding.json").write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        make_report(tmp_path / "out")
    rows[9]["lung_mask"] = "masks/none.png"
    write_manifest(tmp_path / "site.csv", rows)
    with pytest.raises(InputError, match="the lung_mask of row 11 is no file"):
        evaluate_bundle(bundle, tmp_path / "site.csv", phantom_dir, tmp_path / "again")


@pytest.mark.usefixtures("few_samples")
def test_a_perfect_internal_auroc_has_no_interval_and_still_a_verdict(bundle, phantom_dir, tmp_path):
    evaluate_bundle(bundle, phantom_dir / "harbor.csv", phantom_dir, tmp_path / "out")
    columns, reference = pd.read_csv(tmp_path / "out/predictions.csv"), json.loads((tmp_path / "out/reference.json").read_text())
    reference["models"]["model"] |= {"auroc": 1.0, "variance": None, "n_positive": 60, "n_negative": 60, "n_patients": 100}
    (tmp_path / "out/reference.json").write_text(json.dumps(reference))
    # Without the columns of subgroups, whose intervals take their time.
    columns = columns.drop(columns=list(GROUPS))
    many = pd.concat([columns.assign(row=columns["row"] + 100 * i, patient=columns["patient"] + 100 * i) for i in range(12)])
    noise = np.random.default_rng(0).normal(size=len(many))
    # 0.025^(1/50) is 0.929: an AUROC of about 0.92 may be as good as inside, one of 0.76 is not, one of 0.999 is.
    for shift, code in ((2.0, "inconclusive"), (1.0, "worse"), (5.0, "holds")):
        rewrite(tmp_path / "out", many.assign(score=shift * many["label"] + noise))
        verdict = make_report(tmp_path / "out")["verdict"]
        assert verdict["code"] == code
        assert "against 1.00." in verdict["text"] or code == "inconclusive"


@pytest.mark.real
@pytest.mark.slow
def test_the_journey_on_real_radiographs(real_data, tmp_path):
    """Hannover and NIH inside, Cohen's collection outside: the whole way with a model of one epoch at 32 pixels."""
    manifests = [ROOT / f"data_manifests/{name}.csv" for name in ("hannover_nih", "cohen_nih", "cohen")]
    run(
        "monai.bundle", "run", "training", "--config_file", "bundles/sga/train.json", "--image_size", "32", "--max_epochs", "1",
        "--review_interval", "0", "--manifest", str(manifests[0]), "--dataset_dir", str(real_data), "--output_dir", str(tmp_path / "run"),
        "--num_workers", "2", cwd=ROOT,
    )  # fmt: skip
    out = package_bundle(tmp_path / "run/model.pt", tmp_path / "dist", ROOT / "bundles/sga", None, manifests[1:])
    elsewhere = tmp_path / "elsewhere" / out.name
    shutil.move(out, elsewhere)
    run("sga_monai", "verify", str(elsewhere), cwd=tmp_path)
    releases = []
    for manifest in manifests[1:]:
        name = manifest.stem
        given = ("--manifest", str(elsewhere / "manifests" / manifest.name), "--dataset-dir", str(real_data), "--output-dir", name)
        run("sga_monai", "evaluate", str(elsewhere), *given, cwd=tmp_path)
        run("sga_monai", "report", name, "--prevalence", "0.2", cwd=tmp_path)
        run("sga_monai", "release", name, "--out", f"{name}.json", "--site", name, cwd=tmp_path)
        releases.append(f"{name}.json")
        assert (tmp_path / name / "report.html").stat().st_size < 1_000_000
    assert "0." in run("sga_monai", "pool", *releases, "--out", "pooled", cwd=tmp_path)


def test_the_same_run_gives_the_same_bytes(runs, bundle, phantom_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(torchscript, "subprocess", subprocess)
    given = (runs / "sga/model.pt", tmp_path, ROOT / "bundles/sga", runs / "nt/model.pt", [phantom_dir / "harbor.csv"])
    again = package_bundle(*given, manifest=phantom_dir / f"{SOURCE}.csv")
    assert again.with_name(f"{BUNDLE}.zip").read_bytes() == bundle.with_name(f"{BUNDLE}.zip").read_bytes()
    with pytest.raises(InputError, match="is there already"):
        package_bundle(runs / "sga/model.pt", tmp_path, ROOT / "bundles/sga")


def test_only_a_finished_finite_run_is_packaged(runs, tmp_path):
    def attempt(change) -> None:
        copy = tmp_path / "run"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(runs / "sga", copy, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
        change(copy)
        package_bundle(copy / "model.pt", tmp_path / "dist", ROOT / "bundles/sga")

    def unfinished(copy: Path) -> None:
        card = json.loads((copy / "run.json").read_text())
        (copy / "run.json").write_text(json.dumps(card | {"finished": None}))

    def poisoned(copy: Path) -> None:
        state = torch.load(copy / "model.pt", weights_only=True)
        state["fc.bias"][0] = float("nan")
        torch.save(state, copy / "model.pt")
        card = json.loads((copy / "run.json").read_text())
        (copy / "run.json").write_text(json.dumps(card | {"model_sha256": hashlib.sha256((copy / "model.pt").read_bytes()).hexdigest()}))

    def with_baseline(key: str, value: object) -> None:
        copy = tmp_path / "baseline"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(runs / "nt", copy, ignore=shutil.ignore_patterns("checkpoints", "tensorboard"))
        card = json.loads((copy / "run.json").read_text())
        part = card["identity"] if key == "data" else card["identity"]["settings"]
        part[key] = value
        (copy / "run.json").write_text(json.dumps(card))
        package_bundle(runs / "sga/model.pt", tmp_path / "dist", ROOT / "bundles/sga", copy / "model.pt")

    for key, value, message in (
        ("image_size", 64, "another way; train both with image_size 32, voi dicom, orientation header"),
        ("voi", "none", "another way; train both with image_size 32, voi dicom"),
        ("data", {}, "trained on other data"),
    ):
        with pytest.raises(InputError, match=message):
            with_baseline(key, value)
    for change, message in (
        (unfinished, "not finished"),
        (lambda copy: (copy / "model.pt").write_bytes(b"other"), "not those of run.json"),
        (poisoned, "not finite"),
        (lambda copy: (copy / "predictions.csv").unlink(), "no run.json and predictions.csv"),
    ):
        with pytest.raises(InputError, match=message):
            attempt(change)
    assert not list((tmp_path / "dist").glob("*"))


def mutations(folder: Path, rng: random.Random):
    """Forty ways to change a bundle by one thing, each as a name and a function."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def flip(root: Path, name: str) -> None:
        data = bytearray((root / name).read_bytes())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        (root / name).write_bytes(bytes(data))

    def add(root: Path, name: str) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x")

    def link(root: Path, name: str) -> None:
        content = (root / name).read_bytes()
        (root.parent / "elsewhere").write_bytes(content)
        (root / name).unlink()
        (root / name).symlink_to(root.parent / "elsewhere")

    for name in files:
        yield f"flip {name}", lambda root, n=name: flip(root, n)
    for name in ("configs/extra.json", "scripts/__init__.py", "sitecustomize.py", ".hidden", "models/model.pt.bak", "a\nb", "docs/é.md"):
        yield f"add {name!r}", lambda root, n=name: add(root, n)
    for name in files[:6]:
        yield f"remove {name}", lambda root, n=name: (root / n).unlink()
    for name in ("LICENSE", "configs/evaluate.json", "models/model.pt"):
        yield f"rename {name}", lambda root, n=name: (root / n).rename((root / n).with_name(Path(n).name.swapcase()))
        yield f"link {name}", lambda root, n=name: link(root, n)
    yield "empty", lambda root: (root / "models/model.pt").write_bytes(b"")
    yield "append", lambda root: (root / "models/model.pt").open("ab").write(b"\0")
    yield "pipe", lambda root: os.mkfifo(root / "pipe")
    yield "linked folder", lambda root: (root / "more").symlink_to(root / "docs")
    yield "two lines for one", lambda root: (root / "SHA256SUMS").write_text((root / "SHA256SUMS").read_text() * 2)
    yield "climbing", lambda root: (root / "SHA256SUMS").open("a").write(f"{'0' * 64}  ../x\n")


def test_every_single_change_is_found_before_anything_is_parsed(bundle, tmp_path, monkeypatch):
    verify_bundle(bundle)
    # The first megabyte of each file: what is copied forty times.
    small = tmp_path / "small" / BUNDLE
    shutil.copytree(bundle, small)
    for path in small.rglob("*"):
        if path.is_file() and path.stat().st_size > 1_000_000:
            os.truncate(path, 1_000_000)
    write_sums(small)
    verify_bundle(small)
    cases = list(mutations(small, random.Random(0)))
    assert len(cases) >= 40
    monkeypatch.setattr(json, "loads", lambda *_: pytest.fail("parsed"))
    monkeypatch.setattr(torch, "load", lambda *_: pytest.fail("loaded"))
    for i, (name, change) in enumerate(cases):
        copy = tmp_path / f"{i}" / BUNDLE
        shutil.copytree(small, copy)
        change(copy)
        try:
            verify_bundle(copy)
        except InputError:
            shutil.rmtree(copy.parent)
        else:
            pytest.fail(f"unnoticed: {name}")


class Evil:
    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def hostile(copy: Path, canary: Path):
    """Twelve bundles whose sender made the checksums himself."""
    touch = f"$__import__('os').system('touch {canary}')"

    def config(change) -> None:
        path = copy / "configs/evaluate.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def reference(change) -> None:
        path = copy / "reference.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    def write(name: str, text: str) -> None:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_text(text)

    code = f"import os; os.system('touch {canary}')"
    yield "pickled weights", lambda: torch.save({"fc.bias": Evil(canary)}, copy / "models/model.pt")
    yield "pickle instead of weights", lambda: (copy / "models/model.pt").write_bytes(__import__("pickle").dumps(Evil(canary)))
    yield "expression", lambda: config(lambda c: c.update(image_size=touch))
    yield "initialize", lambda: config(lambda c: c["initialize"].insert(0, touch))
    yield "imports", lambda: config(lambda c: c.update(imports=[touch]))
    yield "target", lambda: config(lambda c: c.update(x={"_target_": "subprocess.getoutput", "cmd": f"touch {canary}"}))
    handler = f"[handlers]\nkeys=x\n[handler_x]\nclass=__import__('os').system('touch {canary}')\n"
    yield "logging", lambda: write("configs/logging.conf", handler)
    yield "scripts", lambda: write("scripts/__init__.py", code)
    yield "sitecustomize", lambda: write("sitecustomize.py", code)
    yield "package", lambda: write("sga_monai/__init__.py", code)
    yield "reference name", lambda: reference(lambda r: r.update(name=touch))
    yield "reference field", lambda: reference(lambda r: r.update(extra={"_target_": "os.system"}))


ATTEMPT = """
import json, os, sys
from pathlib import Path
from sga_monai.core.errors import InputError
from sga_monai.evaluation.predictions import GROUPS
from sga_monai.hospital import torchscript
from sga_monai.hospital.evaluate import evaluate_bundle
from sga_monai.data.pseudonyms import new_site_key
from sga_monai.hospital.verify import lint_bundle, verify_bundle, verify_signature
outcomes = {}
for copy in sys.argv[3:]:
    os.chdir(copy)
    outcome = []
    for attempt in (verify_bundle, lint_bundle, lambda b: evaluate_bundle(b, sys.argv[1], sys.argv[2], Path(b).parent / "out")):
        try:
            attempt(copy)
            outcome.append(0)
        except InputError as error:
            outcome.append(error.exit_code)
    outcomes[copy] = outcome
print(json.dumps(outcomes))
"""


def test_hostile_bundles_run_nothing(bundle, phantom_dir, tmp_path):
    canary = tmp_path / "canary"
    copies = {}
    for i, name in enumerate(name for name, _ in hostile(Path(), canary)):
        copies[name] = copy = tmp_path / f"{i}" / BUNDLE
        shutil.copytree(bundle, copy)
        dict(hostile(copy, canary))[name]()
        # Whoever wrote the bundle also wrote its checksums, and its reference.
        if name.startswith("pickle"):
            content = json.loads((copy / "reference.json").read_text())
            content["models"]["model"]["sha256"] = hashlib.sha256((copy / "models/model.pt").read_bytes()).hexdigest()
            (copy / "reference.json").write_text(json.dumps(content))
        write_sums(copy)
    assert len(copies) == 12
    write_manifest(tmp_path / "site.csv", read_manifest(phantom_dir / "harbor.csv")[:2])
    command = [sys.executable, "-c", ATTEMPT, str(tmp_path / "site.csv"), str(phantom_dir), *map(str, copies.values())]
    result = warm.run(command, tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    outcomes = json.loads(result.stdout.splitlines()[-1])
    assert not canary.exists()
    for name, copy in copies.items():
        integrity, _, evaluated = outcomes[str(copy)]
        assert integrity == 0
        assert evaluated == (3 if name.startswith(("pickle", "reference")) else 0), name
        if name in ("target", "logging", "scripts", "sitecustomize", "package"):
            lint = lint_bundle(copy)
            assert lint.foreign or lint.code, name
    # The command itself, started in the folder of the bundle that holds a package of our name.
    script = Path(sys.executable).with_name("sga-monai")
    if script.exists():
        result = subprocess.run([script, "verify", "."], cwd=copies["package"], capture_output=True, text=True, check=False, timeout=100)
        assert result.returncode == 3
        assert not canary.exists()


def test_lint_lists_expressions_and_foreign_targets(bundle):
    lint = lint_bundle(bundle)
    assert lint.foreign == []
    assert lint.code == []
    assert any("configs/evaluate.json: device: $torch.device" in line for line in lint.expressions)


def level(by: str, name: str, positive: int, negative: int) -> dict:
    return {"by": by, "level": name, "patients": positive + negative, "positive_patients": positive, "negative_patients": negative,
            "auroc": {"value": 0.8, "low": 0.7, "high": 0.9}}  # fmt: skip


def test_suppression_cannot_be_undone_by_subtraction():
    cohort = {"patients": 300, "positive_patients": 100, "negative_patients": 200}
    rng = random.Random(0)
    for _ in range(300):
        cuts = [sorted(rng.randrange(total + 1) for _ in range(rng.choice((1, 2, 4)))) for total in (100, 200)]
        parts = [np.diff([0, *cut[: min(map(len, cuts))], total]) for cut, total in zip(cuts, (100, 200), strict=True)]
        levels = [level("sex", f"L{i}", int(p), int(n)) for i, (p, n) in enumerate(zip(*parts, strict=True))]
        result = suppress(levels, cohort, 10)
        shown = [line for line in result if not line["suppressed"]]
        assert all(min(line["patients"], line["positive_patients"], line["negative_patients"]) >= 10 for line in shown)
        hidden = [line for line in result if line["suppressed"]]
        assert hidden == ([{"by": "sex", "level": "(suppressed)", "suppressed": True}] if hidden else [])
        assert len(levels) - len(shown) != 1
        if hidden and shown:
            for key, total in cohort.items():
                assert total - sum(line[key] for line in shown) >= 10
    # Six patients have both views: 26 + 28 is 54, and the cohort 48.
    both = suppress(
        [level("view", "AP", 16, 10), level("view", "PA", 12, 16)], {"patients": 48, "positive_patients": 24, "negative_patients": 24}, 10
    )
    assert both == [{"by": "view", "level": "(suppressed)", "suppressed": True}]
    # Four are of unknown sex.
    unknown = [level("sex", "F", 60, 98), level("sex", "M", 40, 98)]
    assert [line["suppressed"] for line in suppress(unknown, cohort, 10)] == [True]
    four = suppress([level("sex", "F", 60, 100), level("sex", "M", 38, 97), level("sex", "O", 2, 3)], cohort, 10)
    assert [(line["level"], line["suppressed"]) for line in four] == [("F", False), ("(suppressed)", True)]


def test_release_fails_closed(evaluated, tmp_path):
    release = make_release(evaluated, tmp_path / "r.json", "site-A")
    check_release(release)
    text = (tmp_path / "r.json").read_text()
    assert not re.search(r'"(counts|bins|cases|row|rows|predictions|min|max|threshold|images)"', text)
    assert len(list(numbers(release))) > 100
    assert all(value is None or not isinstance(value, float) or round(value, 3) == value for _, value in numbers(release))
    for min_cell in (9, 0, True, 5.0):
        with pytest.raises(InputError, match="min_cell must be a whole number, 10 or more"):
            make_release(evaluated, tmp_path / "n.json", min_cell=min_cell)
    with pytest.raises(InputError, match="nothing may leave"):
        make_release(evaluated, tmp_path / "n.json", min_cell=1000)
    for change in (
        {"cases": [1]}, {"cohort": release["cohort"] | {"patients": 4}}, {"site": "DOE^SECRET"}, {"min_cell": 5},
        {"subgroups": [{"by": "sex", "level": "F", "suppressed": False, "patients": 4}]},
    ):  # fmt: skip
        with pytest.raises(InputError, match="is not what may leave a site"):
            check_release(release | change)
    for earlier in (release | {"schema": "sga_monai release 1"}, {"schema": "sga_monai release 1", "models": {"sga": {}}}):
        with pytest.raises(InputError, match=r"schema 1.*package the model and evaluate again"):
            check_release(earlier)
    report = json.loads((evaluated / "report.json").read_text())
    report["models"]["model"]["scores"] = [1, 2, 3]
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "report.json").write_text(json.dumps(report))
    assert "scores" not in json.dumps(make_release(copy, tmp_path / "again.json", "site-A"))
    (copy / "report.json").write_text(json.dumps(report | {"schema": "sga_monai report 1"}))
    with pytest.raises(InputError, match="another version; run sga-monai report again"):
        make_release(copy, tmp_path / "n.json", "site-A")
    assert not (tmp_path / "n.json").exists()


def test_pooling_refuses_what_does_not_belong(evaluated, hospital, tmp_path):
    release = json.loads((hospital / "release.json").read_text())
    assert release.pop("approval")["approved_by"] == "data-protection-officer"
    paths = []
    other_bundle = release["bundle"] | {"sha256sums": "0" * 64}
    for i, change in enumerate(({}, {"site": "site-B"}, {"site": "site-C", "bundle": other_bundle}, {"x": 1})):
        paths.append(tmp_path / f"{i}.json")
        paths[-1].write_text(json.dumps(release | change))
    pooled = pool_releases(paths[:2], tmp_path / "out")
    assert pooled["cohort"]["patients"] == 2 * release["cohort"]["patients"]
    for group, message in (((0, 0), "same site"), ((0, 2), "different bundles"), ((0, 3), "not what may leave"), ((0,), "at least two")):
        with pytest.raises(InputError, match=message):
            pool_releases([paths[i] for i in group], tmp_path / "out")


def test_manifest_from_headers(tmp_path, phantom_dir):
    images = tmp_path / "images"
    images.mkdir()
    new_site_key(tmp_path / "site.key")
    base = pydicom.dcmread(phantom_dir / read_manifest(phantom_dir / "harbor.csv")[0]["image"])
    for i, (age, birth) in enumerate((("067Y", ""), ("", "19300601"), ("", ""), ("015Y", ""))):
        base.PatientID, base.AccessionNumber, base.StudyDate = f"MRN-{i}", f"ACC-{i}", "20210830"
        base.PatientName, base.PatientAge, base.PatientBirthDate = "DOE^SECRET", age, birth
        base.Manufacturer = "=cmd()" if i == 2 else "Birch"
        base.save_as(images / f"{i}.dcm")
    base.Modality = "CT"
    base.save_as(images / "ct.dcm")
    Image.fromarray(np.arange(400, dtype=np.uint8).reshape(20, 20)).save(images / "a.png")
    (images / "notes.txt").write_text("x")
    (tmp_path / "labels.csv").write_text(
        "patient_id,accession,image,label,label_date,negative_type\n"
        "mrn-0,,,1,2021-09-01,\n,acc-1,,0,2021-08-29,healthy\nMRN-2,,,0,,\nPNG-1,,a.png,1,,\nMRN-9,,,1,,\n"
    )
    listing = manifest_from_dicom(images, tmp_path / "labels.csv", "our_hospital", tmp_path / "site.key", tmp_path / "site.csv")
    counts = {name: line[0] for name, line in listing.files.items()}
    assert counts == {"listed": 4, "left out: no label": 1, "left out: examination": 1, "left out: not an image": 1}
    assert listing.labels == {"labels without an image": [1, 1, 0]}
    text = (tmp_path / "site.csv").read_text()
    assert not re.search("MRN|ACC-|DOE|SECRET|1930|20210830|PNG-1|=", text, re.IGNORECASE)
    rows = {row["image"]: row for row in read_manifest(tmp_path / "site.csv")}
    assert [rows[f"{i}.dcm"]["age"] for i in range(3)] == ["65-79", "90+", ""]
    assert rows["0.dcm"]["label_delta_days"] == "2"
    assert rows["1.dcm"]["label_delta_days"] == "-1"
    assert rows["1.dcm"]["negative_type"] == "healthy"
    assert {row["period"] for row in rows.values()} == {"2021H2", ""}
    # No formula, and in the alphabet of a release.
    assert rows["2.dcm"]["manufacturer"] == "cmd()"
    for content, message in (
        ("patient_id,label\nMRN-0,1\nmrn-0 ,0\n", "row 3 gives another label"),
        ("patient_id,label\nMRN-0,yes\n", "row 2: label must be 0 or 1"),
        ("name,label\nx,1\n", "the header of column 1 is unknown; known are"),
        ("patient_id,label\nnobody,1\n", "no image has a label"),
    ):
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(InputError, match=message) as caught:
            manifest_from_dicom(images, tmp_path / "bad.csv", "x", tmp_path / "site.key", tmp_path / "x.csv")
        assert "MRN" not in str(caught.value)


def test_reference_holds_the_paired_comparison_of_the_two_runs(runs, bundle):
    reference = read_reference(bundle / "reference.json")
    tests = [pd.read_csv(runs / name / "predictions.csv").query("set == 'internal'") for name in ("sga", "nt")]
    first, second = (rows.set_index("row") for rows in tests)
    expected = paired_difference(first["score"], second["score"], first["label"], first["patient"])
    assert reference["model_minus_baseline"] == pytest.approx(plain(asdict(expected)))
    assert [reference["models"][role]["network"] for role in ("model", "baseline")] == ["resnet18"] * 2


def test_reference_and_report_refuse_what_is_not_theirs(bundle, evaluated, tmp_path):
    reference = json.loads((bundle / "reference.json").read_text())
    changes = [{"name": "$x"}, {"image_size": 10**6}, {"extra": 1}, {"models": {}}]
    for values in ({"n": 9}, {"mean": [0.0] * 511}, {"variance": [-1.0] * 512}, {"mean": [float("nan")] * 512}, {"mean": [1e300] * 512}):
        changes.append({"embedding": reference["embedding"] | values})
    half = reference["embedding"]["profile"][0]
    gaussian = half["judge"]["0"]
    for values in (
        {"axes": half["axes"][:1]}, {"axes": []}, {"axes": [[float("nan")] * 512] * 3}, {"rest": [0.0] * 512}, {"center": [0.0] * 511},
        {"judge": half["judge"] | {"0": gaussian | {"n_patients": 9}}}, {"judge": {"0": gaussian}},
    ):  # fmt: skip
        changes.append({"embedding": reference["embedding"] | {"profile": [half | values, half]}})
    changes.append({"embedding": reference["embedding"] | {"profile": [half]}})
    for change in changes:
        (tmp_path / "reference.json").write_text(json.dumps(reference | change))
        with pytest.raises(InputError, match=r"reference\.json is missing or not as"):
            read_reference(tmp_path / "reference.json")
    changes = [{"models": {"model": reference["models"]["model"] | {"network": "vgg16"}}}]
    changes += [{"schema": "sga_monai reference 1", "models": {"sga": {}}, "covariance": 0.1}]
    messages = ("architecture must be one of resnet18", r"schema 1.*packaged again with this version")
    for change, message in zip(changes, messages, strict=True):
        (tmp_path / "reference.json").write_text(json.dumps(reference | change))
        with pytest.raises(InputError, match=message):
            read_reference(tmp_path / "reference.json")
    # A bundle of a training without it has none.
    del reference["embedding"]
    (tmp_path / "reference.json").write_text(json.dumps(reference))
    assert read_reference(tmp_path / "reference.json") == reference
    (tmp_path / "reference.json").unlink()
    with pytest.raises(InputError, match="this folder holds no evaluation"):
        make_report(tmp_path)
    with pytest.raises(InputError, match="prevalence"):
        make_report(evaluated, 1.5)
