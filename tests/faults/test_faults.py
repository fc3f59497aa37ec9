"""The real command, killed, stopped, starved and started twice. A short set runs by default, the whole one with ``-m faults``.

The processes are forks of a warm parent (``fixtures.warm``), with 24 rows: three mini-batches an epoch.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import ROOT, equal
from fixtures import warm

from sga_monai.core.errors import InputError
from sga_monai.core.folders import lock_output_dir
from sga_monai.training.checkpoint import load_checkpoint

EPOCHS = 3
whole = pytest.mark.faults


def times(short: int, full: int) -> list:
    return [pytest.param(short, id="short"), pytest.param(full, id="whole", marks=whole)]


@pytest.fixture
def command(few: Path):
    """The documented command on a few rows of the phantom with small images, as a list."""

    def make(out: Path, *options: str, epochs: int = EPOCHS) -> list[str]:
        given = {"max_epochs": epochs, "image_size": 32, "batch_size": 4, "review_interval": 0, "external_manifests": "[]"}
        given |= {"output_dir": out, "manifest": few, "dataset_dir": few.parent}
        base = [sys.executable, "-m", "monai.bundle", "run", "training", "--config_file", "bundles/sga/train.json"]
        return base + [part for key, value in given.items() for part in (f"--{key}", str(value))] + list(options)

    return make


def run(command: list[str]) -> tuple[int, str, str, float]:
    began = time.monotonic()
    result = warm.run(command, timeout=300)
    return result.returncode, result.stdout, result.stderr, time.monotonic() - began


def kill(process: warm.Process | subprocess.Popen[str]) -> None:
    """Kill the process and the ones that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def assert_same_result(first: Path, second: Path) -> None:
    states = [load_checkpoint(folder / "checkpoints") for folder in (first, second)]
    for part in ("network", "optimizer", "best_model", "early_stopping", "robust_overfitting", "trainer", "evaluator"):
        assert equal(states[0][part], states[1][part]), part
    assert equal(*(torch.load(folder / "model.pt", weights_only=True) for folder in (first, second)))
    for name in ("model.json", "predictions.csv", "results.csv"):
        assert (first / name).read_text() == (second / name).read_text(), name


def resume_if_there(out: Path) -> tuple[str, ...]:
    return ("--resume", "true") if any((out / "checkpoints").glob("epoch_*.pt")) else ()


def wait_for_epoch(process: warm.Process, out: Path, epoch: int) -> None:
    """Until the checkpoint of ``epoch`` is there, or the process has ended."""
    while process.poll() is None and not any(int(path.name[6:12]) >= epoch for path in out.glob("checkpoints/epoch_*.pt")):
        time.sleep(0.05)


@pytest.fixture(scope="session")
def references() -> dict[str, tuple[Path, float]]:
    return {}


@pytest.fixture
def straight(command, references, tmp_path_factory):
    """An uninterrupted run with these options, and how long it took."""

    def make(*options: str, epochs: int = EPOCHS) -> tuple[Path, float]:
        key = " ".join((*options, str(epochs)))
        if key not in references:
            out = tmp_path_factory.mktemp("straight") / "sga"
            # The time counts without the start of the warm parent.
            warm.run([sys.executable, "-c", ""])
            code, _, stderr, seconds = run(command(out, *options, epochs=epochs))
            assert code == 0, stderr[-3000:]
            references[key] = out, seconds
        return references[key]

    return make


@pytest.mark.parametrize(("kills", "num_workers"), [(1, "0"), pytest.param(20, "0", marks=whole), pytest.param(20, "2", marks=whole)])
def test_killed_at_any_time_and_resumed_to_the_bit(command, straight, tmp_path, kills, num_workers):
    options = () if num_workers == "0" else ("--num_workers", num_workers)
    epochs = EPOCHS if kills == 1 else 6
    reference, seconds = straight(*options, epochs=epochs)
    rng = random.Random(f"{kills}{num_workers}")
    out = tmp_path / "sga"
    resumed = 0
    for number in range(kills):
        given = resume_if_there(out)
        resumed += bool(given)
        process = warm.Process(command(out, *options, *given, epochs=epochs))
        if number == kills - 1 and not resumed:
            wait_for_epoch(process, out, 1)
        time.sleep(rng.uniform(0.3, 1.0) * seconds if resumed or number < kills - 1 else rng.uniform(0, 1))
        kill(process)
    code, _, stderr, _ = run(command(out, *options, *resume_if_there(out), epochs=epochs))
    assert code == 0, stderr[-3000:]
    assert any(path.name.startswith("epoch_") for path in (out / "checkpoints").iterdir())
    assert json.loads((out / "run.json").read_text())["resumed_after_epoch"]
    assert_same_result(reference, out)
    assert not list(out.rglob("*.tmp")) + [path for path in out.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("stops", times(1, 10))
def test_sigterm_ends_in_time_and_the_run_goes_on_to_the_bit(command, straight, tmp_path, stops):
    epochs = stops + 2
    reference, _ = straight(epochs=epochs)
    rng = random.Random(stops)
    out = tmp_path / "sga"
    stopped = 0
    for number in range(stops):
        process = warm.Process(command(out, *resume_if_there(out), epochs=epochs))
        wait_for_epoch(process, out, number + 1)
        time.sleep(rng.uniform(0, 0.3))
        began = time.monotonic()
        process.terminate()
        _, stderr = process.communicate(timeout=60)
        assert time.monotonic() - began < 30
        assert process.returncode in (143, 0), stderr[-2000:]
        stopped += process.returncode == 143
        assert process.returncode == 0 or "stopped by SIGTERM" in stderr
        assert "Traceback" not in stderr
        assert not list(out.rglob(".*.tmp"))
    assert stopped > stops // 2
    code, _, stderr, _ = run(command(out, *resume_if_there(out), epochs=epochs))
    assert code == 0, stderr[-3000:]
    assert_same_result(reference, out)


@pytest.mark.parametrize("pairs", times(1, 20))
def test_of_two_started_at_once_one_runs(command, tmp_path, pairs):
    for number in range(pairs):
        out = tmp_path / f"{number}"
        both = [warm.Process(command(out, epochs=2)) for _ in range(2)]
        ends = []
        for process in both:
            _, stderr = process.communicate(timeout=300)
            ends.append((process.returncode, stderr))
        assert sorted(code for code, _ in ends) == [0, 3], ends
        assert "another run is writing this output_dir" in next(stderr for code, stderr in ends if code == 3)
        assert json.loads((out / "run.json").read_text())["finished"]
        assert not list(out.parent.glob(f"{number}.*"))


def test_the_lock_of_a_dead_run_is_taken_over(command, tmp_path):
    process = warm.Process(command(tmp_path / "sga", "--num_workers", "2"))
    deadline = time.monotonic() + 60
    while not list((tmp_path / "sga").glob("checkpoints/epoch_*.pt")) and time.monotonic() < deadline:
        time.sleep(0.1)
    second = run(command(tmp_path / "sga"))
    assert second[0] == 3
    assert "another run" in second[2]
    kill(process)
    code, stdout, stderr, _ = run(command(tmp_path / "sga", "--num_workers", "2", "--resume", "true"))
    assert code == 0, stderr[-2000:]
    assert "resumed after epoch" in stdout


def test_links_and_other_names_of_a_folder_do_not_get_past_the_lock(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(InputError, match="output_dir is a link"):
        lock_output_dir(tmp_path / "link")
    program = """
import sys, time
from sga_monai.core.errors import InputError
from sga_monai.core.folders import lock_output_dir
try:
    lock_output_dir(sys.argv[1])
except InputError:
    print("refused", flush=True)
else:
    print("held", flush=True)
    time.sleep(60)
"""

    def attempt(name: str) -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-c", program, str(tmp_path / name)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
        return process, process.stdout.readline().strip()

    owner, outcome = attempt("real")
    assert outcome == "held"
    # A folder that is not there yet is held too.
    first, outcome = attempt("new")
    assert outcome == "held"
    assert attempt("new")[1] == "refused"
    kill(first)
    # Renamed by somebody: the folder's own lock still holds.
    (tmp_path / "real").rename(tmp_path / "renamed")
    assert attempt("renamed")[1] == "refused"
    kill(owner)
    after, outcome = attempt("renamed")
    assert outcome == "held"
    kill(after)


def test_a_child_does_not_keep_the_lock_of_a_dead_parent(tmp_path):
    parent = os.fork()
    if parent == 0:
        lock_output_dir(tmp_path / "out")
        if os.fork() == 0:
            time.sleep(20)
            os._exit(0)
        os._exit(0)
    os.waitpid(parent, 0)
    lock_output_dir(tmp_path / "out")


def limited(command: list[str], size: int) -> list[str]:
    """The command in a process whose files may not grow beyond ``size`` bytes, as on a disk that is nearly full."""
    limit = f"signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    return warm.before(f"import resource, signal; {limit}", command)


def assert_stopped_by_the_disk(code: int, stderr: str, out: Path, epoch: int) -> None:
    assert code == 4, stderr[-3000:]
    assert "sga-monai: cannot write" in stderr
    assert "Traceback" not in stderr
    assert load_checkpoint(out / "checkpoints")["trainer"]["epoch"] == epoch
    assert not list(out.rglob(".*.tmp"))


def test_a_file_that_may_not_grow(command, tmp_path):
    out = tmp_path / "sga"
    assert run(command(out, epochs=2))[0] == 0
    # model.pt (45 MB) fits, a checkpoint (90 MB) does not.
    code, _, stderr, _ = run(limited(command(out, "--resume", "true"), 60_000_000))
    assert_stopped_by_the_disk(code, stderr, out, 2)
    assert "cannot write epoch_000003 (89.5 MB): the file would be larger than allowed" in stderr
    assert run(command(out, "--resume", "true", epochs=3))[0] == 0
    # Nor does model.pt: nothing of the new run is left but its cards.
    code, _, stderr, _ = run(limited(command(tmp_path / "other", epochs=2), 20_000_000))
    assert code == 4, stderr[-3000:]
    assert "cannot write model.pt: the file would be larger than allowed" in stderr
    assert "Traceback" not in stderr
    assert not list((tmp_path / "other").rglob("*.pt")) + list((tmp_path / "other").rglob(".*.tmp"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 200 MB, where the system lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    result = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(folder)], capture_output=True, check=False)
    if result.returncode:
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk(command, small_disk):
    out = small_disk / "sga"
    code, _, stderr, _ = run(command(out))
    # One checkpoint and the model fit; while the second is written, the first must still be there.
    assert_stopped_by_the_disk(code, stderr, out, 1)
    assert "no space is left on the disk" in stderr


def test_a_disk_that_becomes_read_only(command, small_disk):
    out = small_disk / "sga"
    assert run(command(out, epochs=1))[0] == 0
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    code, _, stderr, _ = run(command(out, "--resume", "true"))
    assert_stopped_by_the_disk(code, stderr, out, 1)
    assert "read-only" in stderr


def test_nan_at_step_seven_ends_the_real_command_with_code_5(command, tmp_path):
    poison = (
        "import math\n"
        "import sga_monai.sga.options as sga\n"
        "plain, calls = sga.kl_divergence, [0]\n"
        "def poisoned(*logits):\n"
        "    calls[0] += 1\n"
        "    return plain(*logits) * (math.nan if calls[0] == 7 else 1.0)\n"
        "sga.kl_divergence = poisoned\n"
    )
    out = tmp_path / "sga"
    code, _, stderr, _ = run(warm.before(poison, command(out)))
    assert code == 5, stderr[-3000:]
    assert "sga-monai: epoch 3, iteration 7, rows " in stderr
    assert "the loss is NaN or infinite, and the step was not taken" in stderr
    assert "Traceback" not in stderr
    state = load_checkpoint(out / "checkpoints")
    assert state["trainer"]["epoch"] == 2
    assert all(bool(value.isfinite().all()) for value in state["network"].values())
    assert json.loads((out / "run.json").read_text())["finished"] is None


def test_same_seed_same_bits(command, straight, tmp_path):
    """Whatever PYTHONHASHSEED, the name of the folder and the number of processes that read."""
    reference, _ = straight()
    out = tmp_path / "another name"
    # A process from nothing: the seed of hashes is chosen when an interpreter starts.
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command(out, "--num_workers", "2"), cwd=ROOT, env=environment, check=True, capture_output=True, timeout=300)
    assert_same_result(reference, out)
    cards = [json.loads((folder / "run.json").read_text()) for folder in (reference, out)]
    assert [card["identity"]["machine"].pop("num_workers") for card in cards] == [0, 2]
    assert cards[0]["identity"] == cards[1]["identity"]
    assert cards[0]["model_sha256"] == cards[1]["model_sha256"]
    assert {"seed", "mask_fraction", "kl_weight"} <= set(cards[0]["identity"]["settings"])
    assert cards[0]["identity"]["machine"]["threads"] == torch.get_num_threads()
    assert cards[0]["peak_memory_mb"] > 100
    assert cards[0]["duration_s"] > 0


def test_resume_refuses_what_changed(command, few, tmp_path):
    out = tmp_path / "sga"
    assert run(command(out, epochs=1))[0] == 0
    for options, text in (
        (("--mask_fraction", "0.2"), "settings.mask_fraction: was 0.1, is 0.2"),
        (("--train#iteration#objective#kl_weight", "2.0"), "objects.iteration.objective.kl_weight: was 1.0, is 2.0"),
        (("--optimizer#momentum", "0.5"), "objects.optimizer.momentum: was 0.9, is 0.5"),
        (("--train#trainer#accumulation_steps", "2"), "config.train.trainer.accumulation_steps: was absent, is 2"),
    ):
        code, _, stderr, _ = run(command(out, "--resume", "true", *options))
        assert code == 3, stderr[-2000:]
        assert text in stderr
    assert load_checkpoint(out / "checkpoints")["trainer"]["epoch"] == 1
    manifest = tmp_path / "northgate.csv"
    lines = few.read_text().splitlines()
    manifest.write_text("\n".join(lines[:1] + lines[:0:-1]) + "\n")
    code, _, stderr, _ = run(command(out, "--resume", "true", "--manifest", str(manifest)))
    assert code == 3
    assert "data.manifest_sha256" in stderr
    assert "data.images_sha256.0" in stderr
    code, _, stderr, _ = run(command(tmp_path / "none", "--resume", "true"))
    assert code == 3
    assert "output_dir holds no checkpoint" in stderr
