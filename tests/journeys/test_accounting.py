"""Every row is scored or counted, whatever the batches, the processes and the order."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, TinyNet
from fixtures import warm
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from PIL import Image

from sga_monai.core.errors import InputError
from sga_monai.data.datalist import load_manifest
from sga_monai.data.dataset import CXRDataset
from sga_monai.data.transforms import preprocessing
from sga_monai.evaluation.saver import PredictionSaver
from sga_monai.model.network import CXRResNet18
from sga_monai.model.preparation import Preparation


def our_chain(image_size: int):
    return preprocessing(Preparation(image_size))


def evaluate(dataset: CXRDataset, out: Path, network: torch.nn.Module, batch_size: int = 64, **options: object) -> pd.DataFrame:
    loader = DataLoader(dataset, batch_size=batch_size, **options)
    handlers = [PredictionSaver(str(out), dataset)]
    SupervisedEvaluator(device=torch.device("cpu"), val_data_loader=loader, network=network, val_handlers=handlers, decollate=False).run()
    return pd.read_csv(out / "predictions.csv")


@pytest.mark.parametrize("count", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_one_bad_image_in_ten_thousand(tmp_path, count):
    bad, rng = count // 8, np.random.default_rng(0)
    lines = ["image,label,patient_id,site,split"]
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (12, 12), dtype=np.uint8)).save(tmp_path / f"{i}.png", compress_level=0)
        lines.append(f"{i}.png,{i % 2},{i},x,test")
    (tmp_path / f"{bad}.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (tmp_path / "site.csv").write_text("\n".join(lines) + "\n")
    data = load_manifest(tmp_path / "site.csv", tmp_path)
    dataset = CXRDataset(data, our_chain(16), skip_failed=True, num_workers=2)
    predictions = evaluate(dataset, tmp_path / "out", TinyNet().eval(), 500)
    assert len(predictions) == count
    assert predictions["score"].notna().sum() == count - 1
    failed = predictions[predictions["score"].isna()]
    assert failed[["row", "label", "error"]].to_numpy().tolist() == [[bad + 2, bad % 2, "truncated"]]
    results = pd.read_csv(tmp_path / "out/results.csv")
    labels = [count // 2 - bad % 2, count // 2 - 1 + bad % 2]
    assert results.loc[0, ["n_rows", "n_positive", "n_negative", "n_failed"]].tolist() == [count, *labels, 1]
    assert results.loc[0, "reportable"]
    assert results.loc[0, "auroc_worst_case"] < results.loc[0, "auroc"]


@pytest.fixture(scope="module")
def site(phantom_dir: Path) -> list[dict]:
    return load_manifest(phantom_dir / "harbor.csv", phantom_dir)[:16]


def test_scores_do_not_depend_on_batches_processes_or_order(site, tmp_path):
    torch.manual_seed(0)
    network = CXRResNet18().eval()
    first = evaluate(CXRDataset(site, our_chain(64)), tmp_path / "first", network).set_index("row")
    for i, (batch_size, num_workers, cached) in enumerate(((1, 0, False), (7, 2, False), (64, 2, True), (5, 0, True))):
        order = list(site)
        random.Random(i).shuffle(order)
        cache_dir = str(tmp_path / "cache") if cached else None
        dataset = CXRDataset(order, our_chain(64), cache_dir=cache_dir, num_workers=num_workers)
        other = evaluate(dataset, tmp_path / f"{i}", network, batch_size).set_index("row")
        assert (other["score"] - first["score"]).abs().max() < 1e-5
        assert list(other.index) == list(first.index)
        results = [pd.read_csv(tmp_path / name / "results.csv").loc[0, "auroc"] for name in ("first", f"{i}")]
        assert results[0] == pytest.approx(results[1], abs=1e-9)


def test_a_loader_that_drops_rows_is_an_error(site, tmp_path):
    with pytest.raises(InputError, match="neither scored nor failed"):
        evaluate(CXRDataset(site, our_chain(32)), tmp_path, TinyNet().eval(), 5, drop_last=True)
    assert not (tmp_path / "predictions.csv").exists()


def sga_monai(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sga_monai", *arguments]
    return warm.run(command, cwd, os.environ | {"COLUMNS": "120"})


def test_check_prints_the_flow_and_counts_what_fails(phantom_dir, tmp_path):
    lines = (phantom_dir / "summit.csv").read_text().splitlines()
    given = ("--dataset-dir", str(phantom_dir), "--contact-sheet", f"{tmp_path}/s.png")
    result = sga_monai("manifest", "check", str(phantom_dir / "summit.csv"), *given)
    assert result.returncode == 0, result.stderr
    for text in ("listed", "labeled", "TransferSyntaxUID", "PhotometricInterpretation", "ViewPosition", "BurnedInAnnotation"):
        assert text in result.stdout
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.width == 8 * 148

    columns = lines[0].split(",")
    rows = [dict(zip(columns, line.split(","), strict=True)) for line in lines[1:7]]
    for i, row in enumerate(rows):
        data = (phantom_dir / row["image"]).read_bytes()
        row["image"] = f"{i}.dcm"
        if i != 4:
            (tmp_path / row["image"]).write_bytes(data[:-999] if i == 2 else data)
    rows[5]["view"] = "LL"
    (tmp_path / "5.dcm").unlink()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20), dtype=np.uint8)).save(tmp_path / "5.dcm", format="PNG")
    pd.DataFrame(rows).to_csv(tmp_path / "site.csv", index=False)
    result = sga_monai("manifest", "check", str(tmp_path / "site.csv"), "--dataset-dir", str(tmp_path))
    assert result.returncode == 2, result.stderr
    flow = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if line.startswith("│")][:5]
    assert [(line[0], line[1]) for line in flow] == [("listed", "6"), ("found", "5"), ("readable", "4"), ("frontal", "3"), ("labeled", "3")]
    assert all(int(line[2]) + int(line[3]) == int(line[1]) for line in flow)
    assert "truncated: the pixel data are cut short" in result.stdout
    assert "missing: the file does not exist" in result.stdout

    (tmp_path / "1.dcm").write_bytes((tmp_path / "0.dcm").read_bytes())
    result = sga_monai("manifest", "check", str(tmp_path / "site.csv"), "--dataset-dir", str(tmp_path))
    assert result.returncode == 3
    assert "rows 2 and 3 are the same file" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("version",), 0, "."),
        (("manifest", "check", "none.csv", "--dataset-dir", "."), 3, "no manifest none.csv"),
        (("manifest", "check"), 3, "Missing argument"),
        (("manifest", "nothing"), 3, "No such command"),
        (("benchmark", "read", "."), 3, "no readable image"),
    ],
)
def test_exit_codes_of_the_command(tmp_path, arguments, code, text):
    result = sga_monai(*arguments, cwd=tmp_path)
    assert result.returncode == code, result.stderr
    assert text in result.stdout + result.stderr
    assert "Traceback" not in result.stderr


def test_a_disk_that_will_not_take_it_is_exit_code_4(tmp_path):
    program = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
sys.argv = ["sga-monai", "phantom", "out"]
from sga_monai.cli.main import main
main()
"""
    result = warm.run([sys.executable, "-c", program], tmp_path)
    assert result.returncode == 4, result.stderr
    assert "cannot read or write a file: the file would be larger than allowed" in result.stderr
    assert "Traceback" not in result.stderr


def test_benchmark_prints_both_chains(phantom_dir):
    folder = phantom_dir / "images/harbor"
    result = sga_monai("benchmark", "read", str(folder), "--limit", "4", "--rounds", "1", "--image-size", "64")
    assert result.returncode == 0, result.stderr
    assert "images/s" in result.stdout
    assert "reading and decoding take" in result.stdout
    assert "times as long" in result.stdout
