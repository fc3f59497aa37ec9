"""Two processes against one, on the CPU with gloo. Forks of the warm parent get what ``torchrun`` would set; one test starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT, equal, iteration
from fixtures import warm
from fixtures.two_processes import IMAGES, MODES, train_small

from sga_monai.core.errors import InputError
from sga_monai.training.checkpoint import load_checkpoint
from sga_monai.training.distributed import RankSampler, data_parallel, join_group

TRAIN = "['bundles/sga/train.json','bundles/sga/multi_gpu_train.json']"
EVALUATE = "['bundles/sga/evaluate.json','bundles/sga/multi_gpu_evaluate.json']"


def start_two(command: list[str], cwd: Path = ROOT) -> list[warm.Process]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    return [warm.Process(command, cwd, os.environ | group | {"RANK": rank, "LOCAL_RANK": rank}) for rank in "01"]


def run_two(command: list[str], cwd: Path = ROOT) -> list[str]:
    """Run to the end; what each has said."""
    processes = start_two(command, cwd)
    outputs = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], [output[1][-2000:] for output in outputs]
    return ["".join(output) for output in outputs]


def bundle(run_id: str, config: str, few: Path, out: Path, **options: object) -> list[str]:
    given = {"image_size": 32, "batch_size": 4, "manifest": few, "dataset_dir": few.parent, "output_dir": out} | options
    if run_id == "training":
        given |= {"review_interval": 0, "external_manifests": "[]"}
    base = [sys.executable, "-m", "monai.bundle", "run", run_id, "--config_file", config]
    return base + [part for key, value in given.items() for part in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> list[dict[str, list[dict]]]:
    """Of each process, by attack_mode: the small trainings without and with BatchNorm."""
    folder = tmp_path_factory.mktemp("small")
    run_two([sys.executable, "-m", "fixtures.two_processes", str(folder)], ROOT / "tests")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def trained(few, tmp_path_factory) -> tuple[Path, list[str]]:
    out = tmp_path_factory.mktemp("two") / "sga"
    return out, run_two(bundle("training", TRAIN, few, out, max_epochs=1))


@pytest.mark.parametrize("attack_mode", MODES)
def test_gradients_are_those_of_one_process_with_the_same_global_batch(small, attack_mode):
    one = train_small(batch_norm=False)
    small = [process[attack_mode] for process in small]
    for rank in (0, 1):
        for ours, theirs in zip(small[rank][0]["gradients"], one["gradients"], strict=True):
            for a, b in zip(ours, theirs, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    for a, b, both in zip(small[0][0]["rows"], small[1][0]["rows"], one["rows"], strict=True):
        assert sorted(a + b) == sorted(both)
    assert sorted(row for rank in (0, 1) for batch in small[rank][0]["rows"] for row in batch) == list(range(IMAGES))


@pytest.mark.parametrize("attack_mode", MODES)
def test_parameters_and_statistics_are_equal_after_each_step_and_draws_are_not(small, attack_mode):
    first, second = small[0][attack_mode][1], small[1][attack_mode][1]
    assert all(equal(a, b) for a, b in zip(first["states"], second["states"], strict=True))
    assert not equal(first["states"][0], first["states"][1])
    assert not set(first["epsilon"]) & set(second["epsilon"])


def test_rank_0_alone_writes(trained):
    out, (first, second) = trained
    card = json.loads((out / "run.json").read_text())
    assert card["finished"]
    assert card["identity"]["settings"]["processes"] == 2
    assert len(list((out / "tensorboard").iterdir())) == 1
    assert "epoch 1/1" in first
    assert "INFO" not in second
    assert not list(out.rglob("*.tmp"))
    assert not out.with_name("sga.1").exists()


def test_evaluation_scores_each_row_once_and_as_one_process_does(trained, few, tmp_path):
    # The six rows are the same two mini-batches of three, in one process or in two.
    given = {"checkpoint": trained[0] / "model.pt", "batch_size": 3}
    result = warm.run(bundle("evaluating", "bundles/sga/evaluate.json", few, tmp_path / "one", **given))
    assert result.returncode == 0, result.stderr[-2000:]
    run_two(bundle("evaluating", EVALUATE, few, tmp_path / "two", **given))
    one, two = (pd.read_csv(tmp_path / name / "predictions.csv") for name in ("one", "two"))
    assert list(one["row"]) == list(two["row"])
    assert np.abs(one["score"] - two["score"]).max() < 1e-9
    assert (tmp_path / "one/results.csv").read_text() == (tmp_path / "two/results.csv").read_text()
    table = pd.read_csv(trained[0] / "predictions.csv")
    assert not table.duplicated(["set", "row"]).any()
    assert len(table) == 12
    validation = pd.read_csv(trained[0] / "results.csv").set_index("set").loc["internal (validation)", "auroc"]
    assert validation == pytest.approx(json.loads((trained[0] / "model.json").read_text())["val_auroc"], abs=1e-9)


def test_rows_are_divided_without_rest(monkeypatch):
    for rows, processes in ((7, 2), (9, 4), (4, 4)):
        monkeypatch.setattr("ignite.distributed.get_world_size", lambda processes=processes: processes)
        assert [i for rank in range(processes) for i in RankSampler(range(rows), rank)] == list(range(rows))
    with pytest.raises(InputError, match="3 rows cannot be divided among 4 processes"):
        RankSampler(range(3), 0)


def test_weights_of_groups_are_not_learned_by_each_process_for_itself():
    with pytest.raises(InputError, match="group_dro_step learns its weights in one process"):
        data_parallel(torch.nn.Linear(1, 1), torch.device("cpu"), iteration(kl_weight=0, group_dro_step=0.1))


def test_one_process_without_torchrun_is_told_so(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(InputError, match="start it with torchrun"):
        join_group(torch.device("cpu"))


@pytest.mark.faults
def test_a_killed_rank_ends_all_and_the_run_goes_on(few, tmp_path):
    out = tmp_path / "sga"
    command = bundle("training", TRAIN, few, out, max_epochs=3)
    straight = tmp_path / "straight"
    run_two(bundle("training", TRAIN, few, straight, max_epochs=3))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *command[1:]]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(torchrun, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            while process.poll() is None and not list(out.glob("checkpoints/epoch_*.pt")):
                time.sleep(0.05)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            ranks = [pid for pid in children if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes().replace(b"LOCAL_RANK=1", b"")]
            began = time.monotonic()
            os.kill(int(ranks[0]), signal.SIGKILL)
            assert process.wait(timeout=60) != 0
            assert time.monotonic() - began < 60
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    said = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("sga-monai:")]
    assert len(said) == 1
    assert "--resume true" in said[0]
    load_checkpoint(out / "checkpoints")
    run_two([*command, "--resume", "true"])
    states = [load_checkpoint(folder / "checkpoints") for folder in (straight, out)]
    assert all(equal(states[0][part], states[1][part]) for part in ("network", "optimizer", "trainer", "best_model"))
    assert (straight / "predictions.csv").read_text() == (out / "predictions.csv").read_text()


@pytest.mark.parametrize(("config", "overlay"), [("train.json", "multi_gpu_train.json"), ("evaluate.json", "multi_gpu_evaluate.json")])
def test_an_overlay_names_what_is_in_its_configuration(config, overlay):
    """Steps of ``initialize`` have numbers for ids, so that a new one must move them in the overlay."""
    base, changes = (json.loads((ROOT / "bundles/sga" / name).read_text()) for name in (config, overlay))
    targets = {}
    for key in changes:
        part, *path = key.split("#")
        if part != "initialize":
            continue
        targets[key] = base[part][int(path[0])]["_target_"]
    assert {key.split("#")[-1]: target for key, target in targets.items()} == {
        "rank": "sga_monai.bundle.prepare",
        "_disabled_": "sga_monai.core.archive_previous_run",
    }
