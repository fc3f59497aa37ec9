"""``--tracking mlflow``: the run is in the store on disk, TensorBoard and results are what they are without it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from monai.handlers import MLFlowHandler

from sga_monai.training.tracking import tracked_name, tracking_handlers


def test_a_run_is_named_by_its_last_folders():
    assert tracked_name("runs/four_methods/sga/all/seed_0") == "four_methods/sga/all/seed_0"
    assert tracked_name("/out") == "out"
    assert tracked_name("runs/sga") == "runs/sga"


def test_without_tracking_nothing_is_added():
    assert tracking_handlers([], {"kl_weight": 1.0}) == []


def test_a_forced_resume_keeps_the_parameters_of_the_run():
    """MLflow takes no other value of a parameter."""
    handlers = [object.__new__(MLFlowHandler) for _ in range(3)]
    tracking_handlers(handlers[:1], {"learning_rate": 0.1, "max_epochs": 3})
    tracking_handlers(handlers[1:2], {"learning_rate": 0.1}, resume=True)
    tracking_handlers(handlers[2:], {"learning_rate": 0.1}, resume="true", force_resume="true")
    assert [handler.experiment_param for handler in handlers] == [{"learning_rate": 0.1}, {"learning_rate": 0.1}, {}]


def arguments(few: Path, phantom_dir: Path, out: Path, *more: str) -> list[str]:
    options = {"image_size": 32, "batch_size": 8, "max_epochs": 3, "review_interval": 0, "manifest": few, "dataset_dir": phantom_dir}
    options |= {"external_manifests": f"['{phantom_dir / 'summit.csv'}']", "output_dir": out}
    given = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", "bundles/sga/train.json", *given, *more]


@pytest.mark.mlflow
def test_a_tracked_training_that_was_killed_is_one_run_with_its_metrics_and_parameters(few, phantom_dir, tmp_path):
    for name in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(name)
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    plain, out = tmp_path / "plain", tmp_path / "tracked"
    subprocess.run(arguments(few, phantom_dir, plain), cwd=ROOT, env=environment, check=True, timeout=600)
    command = arguments(few, phantom_dir, out, "--tracking", "mlflow")
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        deadline = time.monotonic() + 300
        while not list((out / "checkpoints").glob("epoch_*.pt")) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    subprocess.run([*command, "--resume", "True"], cwd=ROOT, env=environment, check=True, timeout=600)
    assert (plain / "predictions.csv").read_bytes() == (out / "predictions.csv").read_bytes()
    assert list((out / "tensorboard").rglob("events.*"))
    assert not list(out.glob("config_*.json"))

    store = sqlite3.connect(out / "mlruns.db")
    ((name, status),) = store.execute("select name, status from runs").fetchall()
    assert (name, status) == ("/".join(out.parts[-4:]), "FINISHED")
    parameters = dict(store.execute("select key, value from params").fetchall())
    settings = json.loads((out / "run.json").read_text())["identity"]["settings"]
    assert parameters.pop("epoch_length") == "2"
    assert parameters.pop("max_epochs") == "3"
    assert {key for key in parameters if key not in settings} == set()
    assert parameters["kl_weight"] == "1.0"
    metrics = pd.read_sql("select key, value, step from metrics", store)
    assert set(metrics[metrics["key"] == "train_loss"]["step"]) == set(range(1, 7))
    validation = metrics[metrics["key"] == "val_auroc"].drop_duplicates("step").set_index("step")["value"]
    assert set(validation.index) == {1, 2, 3}
    assert max(validation) == pytest.approx(json.loads((out / "run.json").read_text())["best"]["val_auroc"])
    # What was read is nobody's but the hospital's.
    text = (out / "mlruns.db").read_bytes()
    rows = pd.read_csv(few, dtype=str)
    private = [str(phantom_dir), few.name, *rows["image"], *rows["patient_id"]]
    assert [word for word in private if len(word) > 3 and word.encode() in text] == []
