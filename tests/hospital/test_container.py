"""The container recipes: what of them needs no container engine, which the machines of the tests do not have."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest
import typer
import yaml
from conftest import ROOT

from sga_monai.cli.main import app
from sga_monai.data.manifest import read_manifest
from sga_monai.hospital.release import check_release

RECIPES = ROOT / "containers"
TASKS = RECIPES / "medperf/tasks.sh"
CONFIG = yaml.safe_load((RECIPES / "medperf/container_config.yaml").read_text())
NOBODY = 65534
WITHOUT_RIGHTS = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"] if os.geteuid() == 0 else []
PACKAGES = sysconfig.get_paths()["purelib"]


def test_medperf_would_take_the_configuration():
    """The rules of MedPerf's SimpleContainerParser and check_allowed_run_args."""
    assert {"container_type", "image", "tasks"} == {*CONFIG}
    assert CONFIG["container_type"] == "DockerImage"
    assert [*CONFIG["tasks"]] == ["prepare", "sanity_check", "statistics"]
    for task in CONFIG["tasks"].values():
        assert {*task["run_args"]} <= {"shm_size", "gpus", "command", "entrypoint", "environment"}
        for volume in (task["input_volumes"] | task.get("output_volumes", {})).values():
            assert {*volume} == {"mount_path", "type"}
            assert volume["type"] in ("file", "directory")


def test_the_tasks_use_what_is_mounted():
    text = TASKS.read_text()
    for name, task in CONFIG["tasks"].items():
        section = text[text.index(f"\n{name})") :].split(";;")[0]
        mounted = {volume["mount_path"].removeprefix("/mlcommons/volumes/").split("/")[0] for key in ("input_volumes", "output_volumes")
                   for volume in task.get(key, {}).values()}  # fmt: skip
        assert set(re.findall(r"\$volumes/(\w+)", section)) == mounted, name
    assert subprocess.run(["sh", "-n", TASKS], check=False).returncode == 0
    unknown = subprocess.run(["sh", TASKS, "infer"], capture_output=True, text=True, check=False)
    assert (unknown.returncode, unknown.stderr) == (3, "give one of prepare, sanity_check, statistics\n")


@pytest.mark.parametrize("task", CONFIG["tasks"])
@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (2, 0), (3, 3), (4, 4)])
def test_a_task_ends_with_an_error_only_where_its_command_did_not_finish(tmp_path, task, code, expected):
    """Exit code 2 is "finished": failed files are counted in the report, and MedPerf stops at a task that fails."""
    for name in ("bin", "raw_data", "statistics"):
        (tmp_path / name).mkdir()
    command = tmp_path / "bin/sga-monai"
    # The commands that make a file succeed; those that go through the images end with the code.
    command.write_text(f'#!/bin/sh\ncase "$1 $2" in "manifest key" | report*) exit 0 ;; release*) : >"$4"; exit 0 ;; esac\nexit {code}\n')
    command.chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:{os.defpath}", "VOLUMES": str(tmp_path)}
    assert subprocess.run(["sh", TASKS, task], env=environment, check=False).returncode == expected


@pytest.mark.parametrize("path", [TASKS, ROOT / "docs/sharing.md"], ids=lambda path: path.name)
def test_every_command_and_option_is_there(path):
    text = path.read_text().replace("\\\n", " ")
    lines = re.findall(
        r"^\s+(?:podman run .* sga_monai:[\d.]+ |apptainer run .* sga_monai\.sif |(?:finish )?sga-monai )(.+)$", text, re.MULTILINE
    )
    assert len(lines) >= 4
    for line in lines:
        command, words = typer.main.get_command(app), [word for word in shlex.split(line) if word != ""]
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, line


def test_the_image_is_not_root_and_starts_the_command():
    recipe = (RECIPES / "Containerfile").read_text()
    assert re.findall(r"^USER (.+)$", recipe, re.MULTILINE) == ["10001:10001"]
    assert 'ENTRYPOINT ["sga-monai"]' in recipe
    copied = " ".join(re.findall(r"^COPY (?:--\S+ )?(.+) \S+$", recipe, re.MULTILINE)).split()
    assert {name for name in copied if "*" not in name} == {"constraints.txt", "containers/medperf/tasks.sh"}
    assert all((ROOT / name).is_file() for name in copied if "*" not in name)


@pytest.fixture(scope="module")
def mounted(bundle: Path, phantom_dir: Path) -> Iterator[Path]:
    """A folder that anyone may read, with images, labels and bundle that nobody but root may write, and the command on a path."""
    folder = Path(tempfile.mkdtemp(prefix="sga"))
    folder.chmod(0o755)
    (folder / "raw_data").mkdir()
    (folder / "raw_labels").mkdir()
    lines = ["accession,label"]
    for i, row in enumerate(read_manifest(phantom_dir / "harbor.csv")):
        dataset = pydicom.dcmread(phantom_dir / row["image"])
        dataset.AccessionNumber = f"A{i}"
        dataset.save_as(folder / f"raw_data/{i}.dcm")
        lines.append(f"A{i},{row['label']}")
    # One file without a label: commands end with exit code 2, and go on.
    dataset.AccessionNumber, dataset.SOPInstanceUID = "A999", pydicom.uid.generate_uid()
    dataset.save_as(folder / "raw_data/unlabeled.dcm")
    (folder / "raw_labels/labels.csv").write_text("\n".join(lines) + "\n")
    shutil.copytree(bundle, folder / "bundle")
    (folder / "bin").mkdir()
    (folder / "bin/sga-monai").write_text(f'#!/bin/sh\nexec {interpreter()} -m sga_monai "$@"\n')
    for path in folder.rglob("*"):
        path.chmod(0o555 if path.is_dir() or path.parent.name == "bin" else 0o444)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def interpreter() -> str:
    """A Python of this version that a user without rights may start; that of the tests may lie in root's home folder."""
    for path in (sys.executable, f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"):
        command = [*WITHOUT_RIGHTS, "sh", "-c", f'exec {path} -c "import torch"']
        if subprocess.run(command, capture_output=True, check=False, cwd="/", env={"PYTHONPATH": PACKAGES}).returncode == 0:
            return path
    pytest.skip("no Python that a user without rights may start")


def as_nobody(folder: Path, *command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command as a user without rights, without a home folder, and without network where the system lets us cut it."""
    prefix = WITHOUT_RIGHTS
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode == 0:
        prefix = ["unshare", "-n", *prefix]
    scratch = folder / "scratch"
    clean = {"PATH": f"{folder / 'bin'}:{os.defpath}", "PYTHONPATH": f"{ROOT}:{PACKAGES}", "HOME": "/nonexistent", "TMPDIR": str(scratch)}
    clean |= {"PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(scratch / "matplotlib"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*prefix, *map(str, command)], capture_output=True, text=True, check=False, cwd="/", env=clean | environment)


def writable(folder: Path, *names: str) -> None:
    """Empty folders of the user who runs the commands."""
    folder.chmod(0o755)
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            os.chown(folder / name, NOBODY, NOBODY)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_user_without_rights_validates_and_writes_only_the_output(mounted):
    inputs = {name: contents(mounted / name) for name in ("raw_data", "raw_labels", "bundle")}
    writable(mounted, "out", "scratch")
    before = {path.relative_to(mounted) for path in mounted.rglob("*")}
    given = ("--images", mounted / "raw_data", "--labels", mounted / "raw_labels/labels.csv", "--site", "our_hospital")
    result = as_nobody(mounted, "sga-monai", "validate", mounted / "bundle", *given, "--out", mounted / "out")
    assert result.returncode == 2, result.stdout[-2000:] + result.stderr[-3000:]
    assert (mounted / "out/evaluation/report.html").is_file()
    assert {name: contents(mounted / name) for name in inputs} == inputs
    new = {path.relative_to(mounted) for path in mounted.rglob("*")} - before
    assert {path.parts[0] for path in new} <= {"out", "scratch"}
    # Nothing of a patient is left where temporary files go.
    assert [path.name for path in (mounted / "scratch").iterdir()] in ([], ["matplotlib"])


@pytest.mark.slow
def test_medperfs_three_tasks_lead_to_a_release(mounted):
    writable(mounted, "data", "labels", "statistics", "scratch")
    (mounted / "statistics/statistics.yaml").touch()
    if os.geteuid() == 0:
        os.chown(mounted / "statistics/statistics.yaml", NOBODY, NOBODY)
    inputs = {name: contents(mounted / name) for name in ("raw_data", "raw_labels", "bundle")}
    for task in CONFIG["tasks"]:
        prepared = {name: contents(mounted / name) for name in ("data", "labels")}
        result = as_nobody(mounted, "sh", TASKS, task, VOLUMES=str(mounted), BUNDLE=str(mounted / "bundle"), SITE="site-A")
        assert result.returncode == 0, task + result.stdout[-2000:] + result.stderr[-3000:]
        # The later tasks have what was prepared read-only.
        assert task == "prepare" or {name: contents(mounted / name) for name in prepared} == prepared
    assert {name: contents(mounted / name) for name in inputs} == inputs
    release = yaml.safe_load((mounted / "statistics/statistics.yaml").read_text())
    check_release(release)
    assert release == json.loads((mounted / "statistics/statistics.yaml").read_text())
    assert release["site"] == "site-A"
