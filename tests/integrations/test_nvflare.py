"""Federations of several processes, as docs/federated.md tells it: in NVFlare's simulator, and provisioned with certificates."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from fixtures.federation import NAMES, split_manifest, write_hospital, write_site

from sga_monai.cohorts.phantom import SOURCE, write_phantom
from sga_monai.core.files import file_sha256, write_json
from sga_monai.hospital.package import package_bundle
from sga_monai.hospital.pool import pool_releases
from sga_monai.integrations.federated.aggregation import average
from sga_monai.integrations.federated.jobs import evaluation_job, training_job, write_job
from sga_monai.integrations.federated.local_training import LocalTraining, first_network, shared_weights
from sga_monai.integrations.federated.plan import TrainingPlan, plan_content
from sga_monai.integrations.federated.runs import SIMULATED, prepare_simulation, simulator_command
from sga_monai.integrations.federated.site import read_site_file, site_content

pytest.importorskip("nvflare", reason="NVFlare is absent")
pytestmark = pytest.mark.nvflare
PAGE = ROOT / "docs/federated.md"
BUNDLE = "sga_cxr-0.1.0"
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1", "COLUMNS": "160"}
PROJECT = """
api_version: 3
name: consortium
participants:
  - {{name: localhost, type: server, org: consortium, fed_learn_port: {port}}}
  - {{name: harbor, type: client, org: harbor}}
  - {{name: lakeside, type: client, org: lakeside}}
  - {{name: summit, type: client, org: summit}}
  - {{name: lead@consortium.org, type: admin, org: consortium, role: lead}}
builders:
  - path: nvflare.lighter.impl.workspace.WorkspaceBuilder
    args: {{template_file: [master_template.yml]}}
  - path: nvflare.lighter.impl.static_file.StaticFileBuilder
    args: {{config_folder: config}}
  - path: nvflare.lighter.impl.cert.CertBuilder
  - path: nvflare.lighter.impl.signature.SignatureBuilder
"""


def commands(word: str, contains: str = "") -> list[list[str]]:
    """The page's commands that begin with ``word``."""
    lines = [line.strip() for line in PAGE.read_text().splitlines() if re.match(rf"    {word} ", line)]
    return [line.split() for line in lines if contains in line]


def run(folder: Path, *arguments: str, code: int = 0) -> str:
    result = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=900
    )
    assert result.returncode == code, result.stdout[-3000:] + result.stderr[-3000:]
    assert "Traceback" not in result.stderr
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle, three hospitals and their files, from which all commands of the page are given.

    SGA_CONSORTIUM keeps it in a folder for the next run of the tests, which then does not draw and train again.
    """
    folder = Path(os.environ.get("SGA_CONSORTIUM") or tmp_path_factory.mktemp("consortium"))
    if (folder / BUNDLE).is_dir():
        return folder
    write_phantom(folder / "phantom", external_images=64)
    options = {"image_size": 32, "batch_size": 32, "max_epochs": 2, "review_interval": 0, "output_dir": folder / "run"}
    options |= {"manifest": folder / f"phantom/{SOURCE}.csv", "dataset_dir": folder / "phantom"}
    given = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    run(ROOT, "monai.bundle", "run", "training", "--config_file", "bundles/sga/train.json", *given)
    package_bundle(folder / "run/model.pt", folder, ROOT / "bundles/sga")
    for name in NAMES:
        write_hospital(folder / "phantom", name, folder / name)
        split_manifest(folder / "phantom", name, folder / name / "train.csv")
        write_site(folder / f"{name}.json", name.title(), *sections(name, "none"))
    return folder


def sections(name: str, approval: str) -> tuple[dict[str, str], dict[str, str]]:
    """What a hospital writes into its file."""
    evaluate = {"bundle": BUNDLE, "images": f"{name}/images", "labels": f"{name}/labels.csv", "out": f"{name}/validation"}
    return evaluate | {"approval": approval}, {"manifest": f"{name}/train.csv", "dataset_dir": "phantom", "out": f"{name}/training"}


def by_hand(consortium: Path, names: tuple[str, ...], folder: Path) -> Path:
    """What pooling the files gives that lie at the hospitals."""
    pool_releases([consortium / name / "validation/release.json" for name in sorted(names)], folder)
    return folder


def assert_equal_pool(folder: Path, other: Path) -> None:
    for name in ("pooled.json", "pooled.html"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


def status(lines: list[dict[str, str]]) -> dict[str, str]:
    return {line["name"]: line["status"] for line in lines}


@pytest.fixture(scope="module")
def evaluated(consortium: Path) -> Path:
    """After the page's first command of the simulator."""
    (command,) = commands("sga-monai federated evaluate", "--simulate")
    run(consortium, "sga_monai", *command[1:])
    return consortium


def test_three_hospitals_as_processes_give_what_pooling_their_files_gives(evaluated, tmp_path):
    content = json.loads((evaluated / "pooled/sites.json").read_text())
    assert status(content["sites"]) == dict.fromkeys(NAMES, "valid")
    for name in NAMES:
        left = evaluated / f"pooled/releases/{name}.json"
        assert left.read_bytes() == (evaluated / name / "validation/release.json").read_bytes()
    assert_equal_pool(evaluated / "pooled", by_hand(evaluated, NAMES, tmp_path))
    at_server = [path for path in (evaluated / "pooled/simulation/server").rglob("*") if path.is_file()]
    assert at_server
    assert not any(b"SECRET" in path.read_bytes() or b"A0001" in path.read_bytes() for path in at_server)
    # Nothing of a table, an image or a score is at the server.
    assert not [path for path in at_server if path.suffix in (".csv", ".dcm", ".png")]


def spoil(folder: Path, job: Path, rogue: str, names: list[str]) -> None:
    """Let one site of a job be the one that sends NaN, and let the simulation allow it."""
    shutil.copytree(job / "app", job / "rogue")
    client = json.loads((job / "rogue/config/config_fed_client.json").read_text())
    client["executors"][0]["executor"]["path"] = "fixtures.rogue.NanExecutor"
    write_json(job / "rogue/config/config_fed_client.json", client)
    meta = json.loads((job / "meta.json").read_text())
    meta["deploy_map"] = {"app": ["server", *(name for name in names if name != rogue)], "rogue": [rogue]}
    write_json(job / "meta.json", meta)
    path = folder / "local/resources.json.default"
    resources = json.loads(path.read_text())
    resources["class_allow_list"].append("fixtures.rogue.NanExecutor")
    write_json(path, resources)


def kill_site(workspace: Path, name: str, when: Path, text: str, process: subprocess.Popen) -> None:
    """Kill a site's process as soon as a file holds a text."""
    while process.poll() is None:
        if when.is_file() and text in when.read_text(errors="replace"):
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    line = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                except OSError:
                    continue
                if "nvflare.private.fed.app.simulator.simulator_worker" in line and str(workspace / name) in line:
                    os.kill(int(entry.name), signal.SIGKILL)
                    return
        time.sleep(0.2)
    raise AssertionError(f"{name} was not killed")


def simulate(workspace: Path, job: Path, names: list[str], killed: str, when: Path, text: str) -> Path:
    """Run a job in the simulator, kill one site, and return the folder of the results."""
    with (workspace.parent / "log").open("w") as log:
        command = simulator_command(job, workspace, names)
        with subprocess.Popen(command, stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True) as process:
            try:
                kill_site(workspace, killed, when, text, process)
                process.wait(900)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
    return workspace / SIMULATED / "sga_monai"


def processes_of(folder: Path) -> list[str]:
    """Command lines of the simulator's processes whose workspace is in ``folder``."""
    lines = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if str(folder) in " ".join(line) and any("simulator" in word for word in line):
            lines.append(" ".join(line))
    return lines


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_simulation_that_is_stopped_leaves_no_server_and_no_site(tmp_path, number):
    given = [part for name in ("harbor", "lakeside") for part in ("--simulate", write_site(tmp_path / f"{name}.json", name.title()))]
    command = [sys.executable, "-m", "sga_monai", "federated", "train", *given, "--out", tmp_path / "trained"]
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL) as process:
        while sum("simulator_worker" in line for line in processes_of(tmp_path)) < 2:
            assert process.poll() is None
            time.sleep(0.2)
        process.send_signal(number)
    deadline = time.monotonic() + 30
    while left := processes_of(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_a_site_that_refuses_is_gone_or_sends_nan_does_not_spoil_the_evaluation(evaluated, tmp_path):
    waiting = write_site(evaluated / "waiting.json", "Waiting", *sections("summit", "each"))
    contents = {name: site_content(read_site_file(evaluated / f"{name}.json")) for name in ("harbor", "lakeside")}
    contents |= {"waiting": site_content(read_site_file(waiting)), "gone": contents["harbor"], "rogue": contents["harbor"]}
    workspace = tmp_path / "simulation"
    prepare_simulation(workspace, contents)
    job = write_job(evaluation_job(file_sha256(evaluated / BUNDLE / "SHA256SUMS"), 2, 120, ["absent"]), tmp_path / "job")
    spoil(workspace, job, "rogue", list(contents))
    # Its process ends before it can answer.
    started = workspace / "gone/log.txt"
    results = simulate(workspace, job, list(contents), "gone", started, "ClientRunner")
    content = json.loads((results / "sites.json").read_text())
    expected = {"absent": "not connected", "gone": "no answer", "rogue": "not finite", "waiting": "approval"}
    assert status(content["sites"]) == {"harbor": "valid", "lakeside": "valid", **expected}
    assert_equal_pool(results, by_hand(evaluated, ("harbor", "lakeside"), tmp_path / "hand"))


@pytest.fixture(scope="module")
def trained(consortium: Path) -> Path:
    """After the page's command of a simulated training."""
    (command,) = commands("sga-monai federated train")
    run(consortium, "sga_monai", *command[1:])
    return consortium


def loop(consortium: Path, names: tuple[str, ...], plan: TrainingPlan, folder: Path) -> dict[str, np.ndarray]:
    """The weights of the same training without NVFlare, by one thread as in ``ENVIRONMENT``: more would add in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _loop(consortium, names, plan, folder)
    finally:
        torch.set_num_threads(threads)


def _loop(consortium: Path, names: tuple[str, ...], plan: TrainingPlan, folder: Path) -> dict[str, np.ndarray]:
    sites = []
    for name in names:
        train = sections(name, "none")[1]
        absolute = {key: str(consortium / value) for key, value in train.items()} | {"out": name}
        sites.append(LocalTraining(read_site_file(write_site(folder / f"{name}.json", name, None, absolute)), plan))
    weights = shared_weights(first_network(plan), plan.fed_bn)
    for number in range(plan.rounds):
        weights = average([site.round(weights, number) for site in sites])
    return weights


def test_training_through_the_network_is_the_same_as_without_it_to_the_bit(trained, tmp_path):
    record = json.loads((trained / "trained/rounds.json").read_text())
    assert [status(line["sites"]) for line in record["rounds"]] == [dict.fromkeys(NAMES, "valid")] * 2
    assert all(line["images"] == 38 for part in record["rounds"] for line in part["sites"])
    expected = loop(trained, NAMES, TrainingPlan(**record["plan"]), tmp_path)
    for path in (trained / "trained/model.pt", *(trained / name / "training/model.pt" for name in NAMES)):
        state = torch.load(path, weights_only=True)
        assert all(np.array_equal(state[key].numpy(), value) for key, value in expected.items()), path.parent.name
    assert state.keys() == expected.keys()


def test_a_site_that_sends_nan_or_is_gone_does_not_spoil_the_training(consortium, tmp_path):
    contents = {name: site_content(read_site_file(consortium / f"{name}.json")) for name in NAMES}
    contents |= {
        "gone": contents["harbor"] | {"train": contents["harbor"]["train"] | {"out": str(tmp_path / "gone")}},
        "rogue": contents["harbor"],
    }
    contents["shy"] = {"alias": "Shy"}
    workspace = tmp_path / "simulation"
    prepare_simulation(workspace, contents)
    plan = TrainingPlan(rounds=2, image_size=32, batch_size=32, fed_bn=True)
    job = write_job(training_job(plan_content(plan), 2, 60), tmp_path / "job")
    spoil(workspace, job, "rogue", list(contents))
    results = workspace / SIMULATED / "sga_monai"
    # It takes part in the first round.
    simulate(workspace, job, list(contents), "gone", results / "rounds.json", '"averaged": true')
    record = json.loads((results / "rounds.json").read_text())
    expected = dict.fromkeys(NAMES, "valid") | {"rogue": "not finite", "shy": "no part"}
    first, second = (status(line["sites"]) for line in record["rounds"])
    assert first == expected | {"gone": "valid"}
    assert second == expected | {"gone": "no answer"}
    assert status(record["final"]) == second
    assert all(line["averaged"] for line in record["rounds"])
    # BatchNorm stayed where it was.
    assert not (results / "model.pt").exists()
    states = [torch.load(consortium / name / "training/model.pt", weights_only=True) for name in NAMES]
    assert all(torch.isfinite(value).all() for state in states for value in state.values())
    assert torch.equal(states[0]["fc.weight"], states[1]["fc.weight"])
    assert not torch.equal(states[0]["bn1.running_mean"], states[1]["bn1.running_mean"])


@pytest.fixture
def federation(evaluated: Path, request) -> Iterator[Path]:
    """Kits of a server, two sites that run and one that does not, on loopback with mutual TLS."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (evaluated / "project.yml").write_text(PROJECT.format(port=port))
    shutil.rmtree(evaluated / "federation", ignore_errors=True)
    ((_, *provision),) = commands("nvflare provision")
    run(evaluated, "nvflare.cli", *provision)
    for _, *command in commands("sga-monai federated prepare"):
        run(evaluated, "sga_monai", *command)
    kits = evaluated / "federation/consortium/prod_00"
    processes = []
    try:
        for name in ("localhost", "harbor", "lakeside"):
            with (evaluated / f"{name}.log").open("w") as log:
                start = ["bash", str(kits / name / "startup/sub_start.sh"), "--once"]
                environment = ENVIRONMENT | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
                processes.append(subprocess.Popen(start, stdout=log, stderr=log, env=environment, start_new_session=True))
            time.sleep(5)
        yield kits
    finally:
        for process in processes:
            os.killpg(process.pid, signal.SIGTERM)
        for process in processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for_sites(kits: Path, number: int) -> None:
    """Until so many sites are connected to the server."""
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        try:
            session = new_secure_session("lead@consortium.org", str(kits / "lead@consortium.org"))
            try:
                if len(session.get_system_info().client_info) == number:
                    return
            finally:
                session.close()
        except Exception:  # noqa: BLE001
            pass
        time.sleep(2)
    raise AssertionError("the sites did not connect")


def test_a_provisioned_federation_with_certificates_gives_the_same(federation, evaluated, tmp_path):
    wait_for_sites(federation, 2)
    (command,) = commands("sga-monai federated evaluate", "--kit")
    command[command.index("pooled")] = str(tmp_path / "pooled")
    said = run(evaluated, "sga_monai", *command[1:], "--expect", "summit", code=2)
    assert "not connected" in said
    content = json.loads((tmp_path / "pooled/sites.json").read_text())
    assert status(content["sites"]) == {"harbor": "valid", "lakeside": "valid", "summit": "not connected"}
    assert_equal_pool(tmp_path / "pooled", by_hand(evaluated, ("harbor", "lakeside"), tmp_path / "hand"))
    # Mutual TLS: who has no certificate of the federation gets no answer.
    assert json.loads((federation / "harbor/startup/fed_client.json").read_text())["client"]["connection_security"] == "mtls"
    # No log of a site is at the server.
    assert not [path for path in (federation / "localhost").rglob("*") if path.is_file() and {"harbor", "lakeside"} & set(path.parts[-3:])]
    assert not any(b"SECRET" in path.read_bytes() for path in federation.rglob("*") if path.is_file())
    # A job that brings code is refused, though its classes are allowed.
    job = write_job(evaluation_job("0" * 64, 1, 60), tmp_path / "job")
    (job / "app/custom").mkdir()
    (job / "app/custom/code.py").write_text("")
    from nvflare.fuel.flare_api.flare_api import new_secure_session

    session = new_secure_session("lead@consortium.org", str(federation / "lead@consortium.org"))
    try:
        number = session.submit_job(str(job))
        session.monitor_job(number, timeout=180)
        assert session.get_job_meta(number)["status"] not in ("RUNNING", "FINISHED:COMPLETED")
    finally:
        session.close()
    assert "BYOC not permitted" in "".join((evaluated / f"{name}.log").read_text() for name in ("localhost", "harbor", "lakeside"))
