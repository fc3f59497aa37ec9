"""A wheelhouse holds what was installed here, and installs without network."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256
from sga_monai.hospital import wheelhouse


def test_all_that_the_package_needs_is_pinned() -> None:
    pins = dict(wheelhouse.pinned_dependencies())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {canonicalize_name(Requirement(line).name) for line in project["dependencies"]} <= set(pins)
    # What these need in turn, with and without extras, and nothing of the tests or of an extra.
    assert {"filelock", "markupsafe", "rpds-py", "pydantic-core"} <= set(pins)
    assert not {"pytest", "ruff", "model-signing"} & set(pins)
    assert all(version and "+" not in version for version in pins.values())


def fake_pip(names: list[str]):
    """``pip`` that puts empty wheels where it is told to."""

    def pip(action: str, *arguments: str) -> None:
        folder = Path(arguments[arguments.index("--dest" if "--dest" in arguments else "--wheel-dir") + 1])
        for name in ["sga_monai-0.1.0-py3-none-any.whl"] if action == "wheel" else names:
            (folder / name).write_bytes(name.encode())

    return pip


def test_every_wheel_has_its_hash_and_another_folder_is_left_alone(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(wheelhouse, "_pip", fake_pip(["torch-2.13.0+cpu-cp311-cp311-linux_x86_64.whl", "absl_py-2.5.1-py3-none-any.whl"]))
    out = wheelhouse.write_wheelhouse(tmp_path / "w")
    wheels = sorted((out / "wheels").iterdir())
    pins = ("absl-py==2.5.1", "sga-monai==0.1.0", "torch==2.13.0+cpu")
    assert (out / "requirements.txt").read_text().splitlines() == [
        f"{pin} --hash=sha256:{file_sha256(wheel)}" for pin, wheel in zip(pins, wheels, strict=True)
    ]
    sums = dict(reversed(line.split("  ", 1)) for line in (out / "SHA256SUMS").read_text().splitlines())
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file() and path.name != "SHA256SUMS"}
    assert sums == {name: file_sha256(path) for name, path in files.items()}
    assert {"install.sh", "install.ps1", "requirements.txt"} <= set(sums)
    assert subprocess.run(["sh", "-n", str(out / "install.sh")], check=False).returncode == 0
    wheelhouse.write_wheelhouse(out)
    (tmp_path / "mine").mkdir()
    for name in ("requirements.txt", "model.py"):
        with pytest.raises(InputError, match="holds something else"):
            wheelhouse.write_wheelhouse(tmp_path / "mine")
        (tmp_path / "mine" / name).write_text("mine")
    with pytest.raises(InputError, match="holds something else"):
        wheelhouse.write_wheelhouse(tmp_path / "mine")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["model.py", "requirements.txt"]


def test_an_earlier_wheelhouse_that_cannot_be_removed_is_not_filled_with_the_new_one(tmp_path, monkeypatch) -> None:
    """As where another program holds a wheel open: the new one was put inside of the old, and was said to be written."""
    remove = shutil.rmtree

    def held(path: Path, *arguments: object, **options: object) -> None:
        if Path(path) != tmp_path / "w":
            remove(path, *arguments, **options)

    for name in ("absl_py-2.5.1-py3-none-any.whl", "absl_py-2.5.2-py3-none-any.whl"):
        monkeypatch.setattr(wheelhouse, "_pip", fake_pip([name]))
        wheelhouse.write_wheelhouse(tmp_path / "w")
        monkeypatch.setattr(shutil, "rmtree", held)
    assert {path.name for path in (tmp_path / "w").iterdir()} == {"wheels", "requirements.txt", "install.sh", "install.ps1", "SHA256SUMS"}
    assert (tmp_path / "w/wheels" / name).is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_a_changed_wheel_is_not_installed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(wheelhouse, "_pip", fake_pip(["absl_py-2.5.1-py3-none-any.whl"]))
    out = wheelhouse.write_wheelhouse(tmp_path / "w")
    (out / "wheels/absl_py-2.5.1-py3-none-any.whl").write_bytes(b"another")
    result = subprocess.run(["sh", str(out / "install.sh"), str(tmp_path / "venv")], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert "absl_py" in result.stdout + result.stderr
    assert not (tmp_path / "venv").exists()


def test_the_cuda_build_is_refused(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(wheelhouse, "_pip", fake_pip(["nvidia_cudnn_cu12-9.1-py3-none-any.whl"]))
    with pytest.raises(InputError, match="built for CUDA"):
        wheelhouse.write_wheelhouse(tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_what_pip_says_of_its_index_is_not_repeated(tmp_path, monkeypatch) -> None:
    said = "Looking in indexes: https://user:secret@index\nERROR: No matching distribution found for absl-py==2.5.1\n"
    failed = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(wheelhouse.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(InputError, match=r"pip cannot get absl-py==2.5.1 as a wheel") as caught:
        wheelhouse.write_wheelhouse(tmp_path / "w")
    assert "secret" not in str(caught.value)


@pytest.mark.slow
def test_a_site_without_network_installs_and_validates(bundle, phantom_dir, tmp_path) -> None:
    """The real wheels: some 350 MB are fetched, installed into a new environment without network, and a site is validated there."""
    alone = ["unshare", "--net"]
    if shutil.which("unshare") is None or subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("a network of one's own needs unshare and its rights")
    out = wheelhouse.write_wheelhouse(tmp_path / "wheelhouse")
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHON": sys.executable}
    subprocess.run([*alone, "sh", str(out / "install.sh"), str(tmp_path / "venv")], env=environment, check=True, timeout=600)
    lines = ["image,label", *(f"{path.name},{i % 2}" for i, path in enumerate(sorted((phantom_dir / "images/harbor").iterdir())))]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    given = ["--images", str(phantom_dir / "images/harbor"), "--labels", "labels.csv", "--site", "Harbor", "--out", "out"]
    program = str(tmp_path / "venv/bin/sga-monai")
    result = subprocess.run(
        [*alone, program, "validate", str(bundle), *given],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    assert (tmp_path / "out/index.html").is_file()
