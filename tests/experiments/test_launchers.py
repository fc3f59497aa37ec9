"""Where cells run: what each gets of cores, GPUs and arguments, and that a cluster gives the table of this machine."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from fixtures import warm
from hypothesis import given
from hypothesis import strategies as st

from sga_monai.core.errors import InputError
from sga_monai.core.folders import is_in_use
from sga_monai.experiments import launch_slurm
from sga_monai.experiments.cell import CellRun, arguments_of, environment_of, wait_until_free
from sga_monai.experiments.launch_local import LocalLauncher, least_used, listed_gpus, visible_gpus
from sga_monai.experiments.launch_ray import RayLauncher
from sga_monai.experiments.launch_slurm import SlurmLauncher, has_gpus, script
from sga_monai.experiments.launchers import launcher_of

SHOW = "import json, os; print(json.dumps({k: os.environ.get(k) for k in ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS')}))"
TINY = {"image_size": 32, "max_epochs": 2, "batch_size": 8, "review_interval": 0}
DIVIDED = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-aaaa)
  MIG 3g.40gb     Device  0: (UUID: MIG-bbbb)
  MIG 3g.40gb     Device  1: (UUID: MIG-cccc)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-dddd)
"""


class Lines:
    """A watch that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def running(self, runs) -> None:
        pass

    def say(self, text: str) -> None:
        self.lines.append(text)


def shown(folder: Path, names: str = "abcd", code: str = SHOW) -> list[CellRun]:
    folder.mkdir(exist_ok=True)
    return [CellRun(name, ("-c", code), folder / name) for name in names]


def got(runs: list[CellRun]) -> list[tuple[str | None, str | None]]:
    return [tuple(json.loads(run.log.read_text().splitlines()[-1]).values()) for run in runs]


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """A machine with two GPUs, one of them in two parts, as far as ``nvidia-smi`` tells."""
    program(tmp_path / "bin", "nvidia-smi", f"#!/bin/sh\n[ \"$*\" = -L ] && cat <<'END'\n{DIVIDED}END\n")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_each_local_cell_gets_its_own_gpu_and_its_share_of_the_cores(tmp_path, gpus, monkeypatch):
    # Of however many: what a scheduler leaves to this process.
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    runs = shown(tmp_path / "cells", "abc", f"import time; {SHOW}; time.sleep(2)")
    ended = list(LocalLauncher(3).launch(runs, tmp_path, Lines()))
    assert [end.code for end in ended] == [0, 0, 0]
    assert got(runs) == [("MIG-bbbb", "2"), ("MIG-cccc", "2"), ("GPU-dddd", "2")]
    runs = shown(tmp_path / "without", "ab")
    list(LocalLauncher(2, cpus=1, gpu=False).launch(runs, tmp_path, Lines()))
    assert got(runs) == [("", "1"), ("", "1")]


def test_one_cell_at_a_time_is_left_alone_and_a_gpu_that_is_asked_for_must_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    runs = shown(tmp_path / "cells", "a")
    list(LocalLauncher().launch(runs, tmp_path, Lines()))
    assert got(runs) == [("1,0", "7")]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(InputError, match="there is no GPU here"):
        list(LocalLauncher(gpu=True).launch(runs, tmp_path, Lines()))


@pytest.mark.parametrize(
    ("named", "expected"),
    [("0,1", ["0", "1"]), (" 3 , 2", ["3", "2"]), ("", []), ("-1", []), ("0,-1,1", ["0"]), ("MIG-x,GPU-y", ["MIG-x", "GPU-y"])],
)
def test_gpus_are_those_that_cuda_would_see(named, expected):
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": named}) == expected


def test_gpus_of_a_listing():
    assert listed_gpus(DIVIDED) == ["MIG-bbbb", "MIG-cccc", "GPU-dddd"]
    assert listed_gpus("No devices were found\n") == []


@given(st.lists(st.sampled_from("start end".split()), max_size=40), st.integers(1, 5))
def test_gpus_are_dealt_out_evenly(events, n):
    """Whatever starts and ends: a cell never gets a GPU that more cells have than another."""
    names, taken = [f"GPU-{i}" for i in range(n)], []
    for event in events:
        if event == "start":
            gpu = least_used(names, taken)
            assert taken.count(gpu) == min(map(taken.count, names))
            taken.append(gpu)
        elif taken:
            taken.pop(len(taken) // 2)
    assert least_used([], taken) is None


def test_what_is_installed_tells_nobody_of_the_cells():
    assert environment_of({})["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment_of({"MLFLOW_DISABLE_TELEMETRY": "false"})["MLFLOW_DISABLE_TELEMETRY"] == "false"


def test_a_folder_that_another_process_writes_is_waited_for(tmp_path):
    folder = tmp_path / "cell"
    assert not is_in_use(folder)
    code = f"import time; from sga_monai.core.folders import lock_output_dir; lock_output_dir({str(folder)!r}); print('held', flush=True); "
    holder = subprocess.Popen([sys.executable, "-c", code + "time.sleep(60)"], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        assert is_in_use(folder)
        began = time.monotonic()
        wait_until_free(folder, 0.1)
        assert time.monotonic() - began < 30
        assert is_in_use(folder)
    finally:
        holder.kill()
        holder.wait()
    wait_until_free(folder)
    assert not is_in_use(folder)


def test_a_local_cell_whose_process_of_before_has_not_yet_ended_is_waited_for(tmp_path, monkeypatch):
    """A killed experiment that is started again at once: its cells end when their step does, and until then hold their folders."""
    monkeypatch.setattr("sga_monai.experiments.cell.LOCK_POLL_S", 0.05)
    (run,) = shown(tmp_path, "a", f"from sga_monai.core.folders import lock_output_dir; lock_output_dir({str(tmp_path / 'a')!r})")
    code = f"import time; {run.arguments[1]}; print('held', flush=True); time.sleep(3)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert [end.code for end in LocalLauncher().launch([run], tmp_path, Lines())] == [0], run.log.read_text()


def test_the_program_of_a_cell_resumes_appends_to_its_log_and_leaves_a_finished_one(tmp_path):
    run = CellRun("", ("-c", "import sys; print(sys.argv)"), tmp_path / "seed 0")
    command = [sys.executable, "-m", "sga_monai.experiments.cell", str(run.folder), *run.arguments]
    assert arguments_of(run) == list(run.arguments)
    (run.folder / "checkpoints").mkdir(parents=True)
    for _ in range(2):
        subprocess.run(command, check=True, timeout=60)
        (run.folder / "checkpoints/epoch_0001.pt").touch()
    assert run.log.read_text() == "['-c']\n['-c', '--resume=True']\n"
    (run.folder / "run.json").write_text('{"finished": "now"}')
    for name in ("predictions.csv", "results.csv"):
        (run.folder / name).touch()
    subprocess.run(command, check=True, timeout=60)
    assert len(run.log.read_text().splitlines()) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "pbs"}, "launcher must be one of local, ray, slurm, got 'pbs'"),
        ({"name": "ray", "dry_run": True}, "--dry-run is for --launcher slurm"),
        ({"sbatch": ["--time=1"]}, "--sbatch is for --launcher slurm"),
        ({"name": "slurm", "sbatch": ["gpu"]}, "'gpu' is no option of sbatch"),
        ({"name": "slurm", "sbatch": ["--time=1\nrm -r /"]}, "is no option of sbatch"),
        ({"name": "slurm", "sbatch": ["--array=0-3"]}, "is set by the experiment"),
        ({"name": "slurm", "jobs": 0}, "jobs"),
        ({"name": "ray", "cpus": 0}, "cpus"),
        ({"cpus": 0}, "cpus"),
    ],
)
def test_what_a_launcher_does_not_take_is_refused(options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        launcher_of(**options)


def test_launchers_by_name():
    assert launcher_of() == LocalLauncher(1, None, None)
    assert launcher_of("ray", gpu=False) == RayLauncher(None, 1, False)
    assert launcher_of("slurm", 4, 2, True, ["-p gpu"], True) == SlurmLauncher(4, 2, True, ("-p gpu",), True)


def test_help_needs_no_torch_and_no_ray():
    code = (
        "import sys; from typer.testing import CliRunner; from sga_monai.cli.main import app; r = CliRunner().invoke(app, sys.argv[1:]); "
    )
    code += "assert '--launcher' in r.output; assert not {'torch', 'monai', 'ray', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code, "experiment", "--help"], check=True, timeout=60, env=os.environ | {"TERM": "dumb"})


# Slurm


HARD = 'it\'s #1 $HOME `date` "x" \\ ;*'


def options_of(text: str) -> dict[str, str]:
    return dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", text, re.MULTILINE))


def test_the_script_is_one_command_for_each_cell_whatever_its_words_hold(tmp_path):
    cwd = tmp_path / HARD
    cwd.mkdir()
    code = "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd(), os.environ['OMP_NUM_THREADS']]))"
    runs = [CellRun("", ("-c", code, f"--x={HARD}", f"--n={i}"), cwd / f"seed_{i}") for i in range(3)]
    text = script(runs, HARD, cwd, cpus=3, gpu=True, jobs=2, options=["--partition=gpu", "--time=08:00:00"])
    assert options_of(text) == {
        "job-name": "it_s_1_HOME_date_x_", "array": "0-2%2", "output": "/dev/null", "cpus-per-task": "3", "requeue": "",
        "gres": "gpu:1", "partition": "gpu", "time": "08:00:00",
    }  # fmt: skip
    path = tmp_path / "cells.sbatch"
    path.write_text(text)
    subprocess.run(["bash", "-n", path], check=True)
    for i, run in enumerate(runs):
        subprocess.run(["bash", path], check=True, env=os.environ | {"SLURM_ARRAY_TASK_ID": str(i)}, cwd="/", timeout=60)
        assert json.loads(run.log.read_text()) == [[f"--x={HARD}", f"--n={i}"], str(cwd), "3"]
    beyond = subprocess.run(["bash", path], env=os.environ | {"SLURM_ARRAY_TASK_ID": "3"}, check=False)
    assert beyond.returncode == 64


def test_a_cell_without_gpu_sees_none_and_slurm_decides_otherwise(tmp_path):
    runs = shown(tmp_path / "cells", "a")
    for gpu, expected in ((False, ""), (True, "5"), (None, "5")):
        text = script(runs, "x", tmp_path, gpu=gpu)
        assert ("gres" in options_of(text)) is (gpu is True)
        subprocess.run(["bash", "-c", text], check=True, env=os.environ | {"SLURM_ARRAY_TASK_ID": "0", "CUDA_VISIBLE_DEVICES": "5"})
        assert got(runs) == [(expected, "1")]


def test_gpus_of_a_partition():
    listing = "cpu* (null)\ngpu gpu:a100:4(S:0-1)\nbig craynetwork:4,gpu:2\n"
    assert not has_gpus(listing, None)
    assert has_gpus(listing, "gpu")
    assert has_gpus(listing, "cpu,big")
    assert has_gpus("main* gpu:1\n", None)
    assert not has_gpus(None, "gpu")


SBATCH = r"""#!/bin/bash
# Runs the tasks of an array one after the other, in the background, as Slurm would.
[ "$1" = --parsable ] || exit 1
echo "$2" >> "$FAKE_SLURM/submitted"
last=$(sed -n 's/^#SBATCH --array=0-\([0-9]*\).*/\1/p' "$2")
cp "$2" "$FAKE_SLURM/script"
touch "$FAKE_SLURM/alive"
(
    for i in $(seq 0 "$last"); do
        SLURM_ARRAY_TASK_ID=$i bash "$FAKE_SLURM/script"
    done > "$FAKE_SLURM/tasks.log" 2>&1
    rm "$FAKE_SLURM/alive"
) > /dev/null 2>&1 &
echo "42;cluster"
"""
SQUEUE = r"""#!/bin/bash
[ -e "$FAKE_SLURM/alive" ] && { echo 42_1; exit 0; }
echo "slurm_load_jobs error: Invalid job id specified" >&2
exit 1
"""


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> Path:
    """A scheduler of one machine: ``sbatch`` and ``squeue`` as far as the launcher uses them."""
    program(tmp_path / "bin", "sbatch", SBATCH)
    program(tmp_path / "bin", "squeue", SQUEUE)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(tmp_path))
    monkeypatch.setattr(launch_slurm, "POLL_S", 0.1)
    return tmp_path


FINISH = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1]); folder.mkdir(); print("begun")
if sys.argv[2] == "bad": sys.exit("no such manifest")
(folder / "run.json").write_text('{"finished": "now"}')
for name in ("predictions.csv", "results.csv"): (folder / name).touch()
"""


def test_an_array_is_submitted_once_waited_for_and_what_failed_is_told(slurm, tmp_path, monkeypatch):
    out, watch = tmp_path / "out", Lines()
    out.mkdir()
    monkeypatch.chdir(tmp_path)
    runs = [CellRun(name, ("-c", FINISH, str(out / name), name), out / name) for name in ("good", "bad")]
    ended = {end.run.name: end for end in SlurmLauncher().launch(runs, out, watch)}
    assert (ended["good"].code, ended["bad"].code, ended["bad"].reason) == (0, 1, "")
    assert ended["bad"].run.log.read_text().endswith("no such manifest\n")
    assert "Slurm job 42: 2 cells" in watch.lines[0]
    assert not (out / launch_slurm.JOB).exists()
    # Slurm has forgotten the job of an earlier call.
    (out / launch_slurm.JOB).write_text('{"job": "41", "log_bytes": {}}')
    never = CellRun("never", ("-c", ""), out / "never")
    monkeypatch.setattr(launch_slurm, "_submit", lambda path: "42")
    (end,) = SlurmLauncher().launch([never], out, watch)
    assert "Slurm job 42 ended without having started it" in end.reason
    for text in ("", "42", "[]", '{"job": "42"}'):
        (out / launch_slurm.JOB).write_text(text)
        with pytest.raises(InputError, match="slurm_job is no record of a job; remove it"):
            list(SlurmLauncher().launch([never], out, watch))


def test_a_caller_that_was_stopped_waits_again_and_tells_what_failed_meanwhile(slurm, tmp_path, monkeypatch):
    out, watch = tmp_path / "out", Lines()
    out.mkdir()
    monkeypatch.chdir(tmp_path)
    runs = [CellRun(name, ("-c", FINISH, str(out / name), name), out / name) for name in ("good", "bad", "never")]
    for run in runs:
        # Of an earlier job.
        run.log.write_text("begun\n")
    caller = SlurmLauncher().launch(runs[:2], out, watch)
    assert next(caller).run is runs[0]
    caller.close()
    deadline = time.monotonic() + 60
    while (tmp_path / "alive").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert runs[1].log.read_text().endswith("no such manifest\n")
    # Other tasks of the job are not at their end.
    (tmp_path / "alive").touch()
    again = SlurmLauncher().launch(runs, out, watch)
    assert next(again).code == 0
    assert "Slurm job 42 of an earlier call is still there" in watch.lines[-1]
    (tmp_path / "alive").unlink()
    assert {end.run.name: end.reason for end in again} == {
        "bad": "",
        "never": "Slurm job 42 ended without having started it; give the command again",
    }
    assert len((tmp_path / "submitted").read_text().splitlines()) == 1
    assert not (out / launch_slurm.JOB).exists()


def test_a_scheduler_that_refuses_or_is_absent(slurm, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    program(tmp_path / "bin", "sbatch", "#!/bin/sh\necho 'sbatch: error: invalid partition specified: x' >&2\nexit 1\n")
    with pytest.raises(InputError, match=r"sbatch refused the job .*invalid partition"):
        list(SlurmLauncher().launch(shown(out, "a"), out, Lines()))
    program(tmp_path / "bin", "squeue", "#!/bin/sh\necho 'Unable to contact slurm controller' >&2\nexit 1\n")
    assert launch_slurm.is_in_queue("42")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match="there is no sbatch on this machine"):
        list(SlurmLauncher().launch(shown(out, "a"), out, Lines()))


# The table


def write_plan(folder: Path, few: Path, phantom_dir: Path, **settings: object) -> Path:
    path = folder / "plan.json"
    given = TINY | {"manifest": str(few), "dataset_dir": str(phantom_dir), "external_manifests": [str(phantom_dir / "summit.csv")]}
    content = {"title": "Two", "question": "The same?", "settings": given | settings, "methods": {"NT": {"kl_weight": 0}, "SGA": {}}}
    path.write_text(json.dumps(content | {"seeds": [0]}))
    return path


def experiment(plan: Path, out: Path, *more: str) -> warm.Process:
    command = [sys.executable, "-m", "sga_monai", "experiment", str(plan), "--output-dir", str(out), "--cpus", "1", *more]
    process = warm.Process(command, forks=True)
    process.output = "".join(process.communicate(timeout=600))
    assert process.returncode == 0, process.output
    return process


def records(out: Path) -> list[dict]:
    """All but the machine and the times."""
    lines = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ("machine", "duration_s", "finished")} for line in lines]


def same_table(first: Path, second: Path) -> None:
    for name in ("results.csv", "results.md"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert records(first) == records(second)


@pytest.mark.slow
def test_a_slurm_array_gives_the_table_of_this_machine(slurm, tmp_path, few, phantom_dir):
    plan = write_plan(tmp_path, few, phantom_dir)
    experiment(plan, tmp_path / "local")
    array = tmp_path / "an array's"
    dry = experiment(plan, array, "--launcher", "slurm", "--dry-run", "--sbatch=--partition=x")
    assert "wrote cells.sbatch, an array of 2 cells: submit it with sbatch" in dry.output
    assert not (tmp_path / "submitted").exists()
    text = (array / "cells.sbatch").read_text()
    assert options_of(text)["array"] == "0-1"
    words = [shlex.split(line) for line in text.splitlines() if re.match(r"\d+\) exec ", line)]
    assert [Path(line[3]) for line in words] == [array / "nt/all/seed_0", array / "sga/all/seed_0"]
    assert all(line[4:8] == ["-m", "monai.bundle", "run", "training"] for line in words)
    subprocess.run(["bash", "-n", array / "cells.sbatch"], check=True)
    whole = experiment(plan, array, "--launcher", "slurm")
    assert "2/2 SGA, seed 0: finished" in whole.output
    same_table(tmp_path / "local", array)
    assert not list(array.glob("*/*/*/checkpoints"))


# Ray


@pytest.fixture
def cluster(monkeypatch, tmp_path) -> Iterator:
    """A Ray cluster of three nodes on this machine: one without cores, and two that run one cell each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    found.workers = [found.add_node(num_cpus=1, num_gpus=1) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", found.address)
    yield found
    found.shutdown()


@pytest.mark.ray
def test_a_ray_cell_gets_what_it_asked_for(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = shown(tmp_path / "cells", "ab", f"import time; {SHOW}; time.sleep(3)")
    assert sorted(end.code for end in RayLauncher().launch(runs, tmp_path, Lines())) == [0, 0]
    assert [gpu for gpu, _ in got(runs)] == ["0", "0"]
    assert [threads for _, threads in got(runs)] == ["1", "1"]
    list(RayLauncher(gpu=False).launch(runs, tmp_path, Lines()))
    assert [gpu for gpu, _ in got(runs)] == ["", ""]
    with pytest.raises(InputError, match="no node of the Ray cluster has 3 cores and a GPU; give a smaller --cpus, or --no-gpu"):
        list(RayLauncher(cpus=3).launch(runs, tmp_path, Lines()))
    lost = CellRun("lost", ("-c", ""), tmp_path / "elsewhere/seed_0")
    (end,) = RayLauncher().launch([lost], tmp_path, Lines())
    assert (end.code, end.reason[:35]) == (1, "a node does not see output_dir or t")


def node_of(cluster, folder: Path):
    """The node whose worker is the parent of the process that writes ``folder``."""
    (cell,) = (path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if f"--output_dir={folder}".encode() in path.read_bytes())
    worker = (cell / "stat").read_text().rpartition(")")[2].split()[1]
    raylet = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    (node,) = (node for node in cluster.workers if raylet in [info.process.pid for info in node.all_processes["raylet"]])
    return node


@pytest.mark.ray
def test_a_lost_node_changes_nothing_in_the_table(cluster, tmp_path, few, phantom_dir):
    plan = write_plan(tmp_path, few, phantom_dir, max_epochs=6)
    experiment(plan, tmp_path / "local")
    out = tmp_path / "ray"
    command = [sys.executable, "-m", "sga_monai", "experiment", str(plan), "--output-dir", str(out), "--launcher", "ray", "--no-gpu"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 240
        while not (saved := list(out.glob("*/all/seed_0/checkpoints/epoch_*.pt"))):
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)
        folder = saved[0].parents[1]
        cluster.remove_node(node_of(cluster, folder), allow_graceful=False)
        assert process.wait(timeout=400) == 0, (tmp_path / "log").read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
    assert "resumed after epoch" in folder.with_name("seed_0.log").read_text()
    same_table(tmp_path / "local", out)
