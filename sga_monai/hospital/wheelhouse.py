"""Everything that a site without network installs from: the wheels that ran here, with their hashes, and a script for each system."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256
from sga_monai.hospital.checksums import write_sums
from sga_monai.hospital.verify import SUMS

OURS = "sga_monai"
WHEELS, REQUIREMENTS, SCRIPTS = "wheels", "requirements.txt", ("install.sh", "install.ps1")

INSTALL_SH = """\
#!/bin/sh
# Install sga-monai into a new virtual environment, from the files of this folder alone: sh install.sh [FOLDER]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
venv=${1:-sga-monai}
(cd "$here" && sha256sum --check --quiet --strict SHA256SUMS)
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --no-index --find-links "$here/wheels" --require-hashes --requirement "$here/requirements.txt"
"$venv/bin/sga-monai" version
echo "installed; next: $venv/bin/sga-monai validate --help"
"""

INSTALL_PS1 = """\
# Install sga-monai into a new virtual environment, from the files of this folder alone: powershell -File install.ps1 [FOLDER]
param([string]$venv = "sga-monai")
$ErrorActionPreference = "Stop"
foreach ($line in Get-Content (Join-Path $PSScriptRoot "SHA256SUMS")) {
    $sum, $name = $line -split "  ", 2
    $found = (Get-FileHash -Algorithm SHA256 (Join-Path $PSScriptRoot $name)).Hash.ToLower()
    if ($found -ne $sum) { throw "$name is not the file that was packaged" }
}
python -m venv $venv
$python = Join-Path $venv "Scripts/python.exe"
& $python -m pip install --quiet --no-index --find-links (Join-Path $PSScriptRoot "wheels") --require-hashes `
    --requirement (Join-Path $PSScriptRoot "requirements.txt")
if ($LASTEXITCODE -ne 0) { throw "pip could not install" }
& (Join-Path $venv "Scripts/sga-monai.exe") version
"""


def write_wheelhouse(out: str | Path) -> Path:
    """Write ``out``: ``wheels/``, ``requirements.txt`` with a hash for each, ``install.sh``, ``install.ps1`` and ``SHA256SUMS``.

    The versions are those installed here, of this package and all that it needs, and the wheels fit this system and this
    version of Python. pip fetches them from where it is set to fetch; nothing else is asked.

    Args:
        out: a new folder, or one of an earlier call, which is replaced.

    Raises:
        InputError: when a wheel cannot be had, or torch's build for CUDA would be (several GB that a CPU does not need).
    """
    out = Path(out)
    # Whatever else is in it would be gone: many a folder of a project has a requirements.txt.
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} == {WHEELS, REQUIREMENTS, *SCRIPTS, SUMS}):
        raise InputError("the folder of the wheelhouse holds something else; name a new one")
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside the folder, so that it is replaced by a whole one, or not at all.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".") as name:
        draft = Path(name) / "draft"
        (draft / WHEELS).mkdir(parents=True)
        _own_wheel(draft / WHEELS)
        pins = [f"{name}=={version}" for name, version in pinned_dependencies()]
        _pip("download", "--only-binary=:all:", "--no-deps", "--dest", str(draft / WHEELS), *pins)
        wheels = sorted((draft / WHEELS).glob("*.whl"))
        if any(wheel.name.startswith(("nvidia_", "nvidia-")) for wheel in wheels):
            raise InputError("the torch installed here is built for CUDA; package where its CPU build is installed")
        lines = [f"{_pin(wheel)} --hash=sha256:{file_sha256(wheel)}\n" for wheel in wheels]
        (draft / REQUIREMENTS).write_text("".join(lines), encoding="utf-8")
        (draft / SCRIPTS[0]).write_text(INSTALL_SH, encoding="utf-8")
        (draft / SCRIPTS[1]).write_text(INSTALL_PS1, encoding="utf-8", newline="\r\n")
        write_sums(draft)
        if out.exists():
            out.replace(Path(name) / "earlier")
        draft.replace(out)
    return out


def pinned_dependencies() -> list[tuple[str, str]]:
    """Name and installed version of all that this package needs, itself left out, by name.

    Example:
        >>> dict(pinned_dependencies())["monai"]
        '1.6.1'
    """
    found: dict[str, str] = {}
    done: set[tuple[str, frozenset[str]]] = set()
    todo = list(_needs(OURS, frozenset()))
    while todo:
        name, extras = todo.pop()
        if (name, extras) in done or name == canonicalize_name(OURS):
            continue
        done.add((name, extras))
        try:
            # The build, as in 2.13.0+cpu, is the index's to choose.
            found[name] = distribution(name).version.split("+")[0]
        except PackageNotFoundError:
            raise InputError(f"{name}, which this package needs, is not installed; install it and package again") from None
        todo += _needs(name, extras)
    return sorted(found.items())


def _needs(name: str, extras: frozenset[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """What a distribution with these extras requires on this system: names, each with the extras that are asked for."""
    for line in distribution(name).requires or ():
        requirement = Requirement(line)
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def _own_wheel(folder: Path) -> None:
    """This package as a wheel: built from the folder that it is installed from, or fetched as it was."""
    ours = distribution(OURS)
    # PEP 610: where it was installed from, unless that was an index.
    record = next((Path(str(file.locate())) for file in ours.files or () if file.name == "direct_url.json"), None)
    url = "" if record is None else json.loads(record.read_text(encoding="utf-8")).get("url", "")
    source = Path(unquote(urlsplit(url).path)) if url.startswith("file:") else None
    if source is not None and source.exists():
        _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(source))
    else:
        _pip("download", "--only-binary=:all:", "--no-deps", "--dest", str(folder), f"{OURS}=={ours.version}")


def _pip(*arguments: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"], capture_output=True, text=True, check=False
    )
    if result.returncode:
        # pip names the requirement; what else it prints may hold an address with a password.
        named = re.search(r"(?:requirement|distribution found for) ([A-Za-z0-9_.-]+==\S+)", result.stderr)
        what = f"pip cannot get {named[1]} as a wheel" if named else f"pip {arguments[0]} failed"
        raise InputError(f"{what}; package where pip reaches an index that has it, for torch one with the CPU build")


def _pin(wheel: Path) -> str:
    name, version, _, _ = parse_wheel_filename(wheel.name)
    return f"{name}=={version}"
