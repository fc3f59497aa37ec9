"""Whether a bundle is what was packaged: every file, before anything of it is parsed. Standard library alone."""

from __future__ import annotations

import configparser
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, read_json

SUMS, SIGNATURE = "SHA256SUMS", "model.sig"
# The list of files that are elsewhere, in a folder for the model zoo, and all that a line of it may be.
LARGE_FILES = "large_files.yml"
LARGE_LINE = re.compile(r'large_files:|  (- path|  url|  hash_val|  hash_type): "[A-Za-z0-9][^"\\]*"')
LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_./-]*)")
MAX_SUMS_BYTES = 1 << 20
# What Hugging Face's tools leave in a download: regular files that nothing of ours opens.
LEFT_BY_DOWNLOADS = re.compile(r"\.gitattributes|\.cache/huggingface/.+")
OURS = ("monai.", "torch.", "ignite.", "sga_monai.")
CODE = (".py", ".pyc", ".pth", ".so", ".sh", ".pkl", ".pickle", ".yaml", ".yml")
# What a file of logging may tell Python to evaluate: that of the packaged configurations.
LOGGED = {"class": "StreamHandler", "args": "(sys.stdout,)"}


def verify_bundle(folder: str | Path) -> int:
    """Compare a bundle with its ``SHA256SUMS``; nothing is parsed, imported or followed.

    Returns:
        The number of files that are as listed.

    Raises:
        InputError: naming the first files that were changed, added, removed, renamed or linked, or the list itself when
            it is missing or malformed.
    """
    root = Path(folder)
    found = _files(root)
    if SUMS not in found:
        raise InputError(f"the bundle has no {SUMS}; give the folder that sga-monai package wrote, unpacked")
    listed = _read_sums(root / SUMS)
    present = {name for name in found if not LEFT_BY_DOWNLOADS.fullmatch(name)} - {SUMS, SIGNATURE}
    problems = [f"{name} is not in {SUMS}" for name in sorted(present - set(listed))]
    problems += [f"{name} is missing" for name in sorted(set(listed) - present)]
    problems += [f"{name} was changed" for name in sorted(present & set(listed)) if file_sha256(root / name) != listed[name]]
    if problems:
        raise InputError("the bundle is not what was packaged: " + "; ".join(problems[:5]) + "; ask for it again")
    return len(listed)


def verify_signature(folder: str | Path, public_key: str | Path) -> None:
    """Compare a bundle with its OpenSSF model signature ``model.sig``, for a key that came by another way.

    Raises:
        InputError: when the package model-signing is not installed, there is no signature, or it is not of this key and
            these files.
    """
    try:
        import model_signing
    except ImportError:
        raise InputError("signatures need the extra: pip install 'sga_monai[sign]'") from None
    signature = Path(folder) / SIGNATURE
    if not signature.is_file():
        raise InputError(f"the bundle has no signature ({SIGNATURE}); ask its sender")
    try:
        # SHA256SUMS is signed with the rest; only the signature itself is left out.
        model_signing.verifying.Config().use_elliptic_key_verifier(public_key=Path(public_key)).verify(Path(folder), signature)
    except Exception:  # noqa: BLE001
        # Whatever keeps it from being verified: it is not verified.
        raise InputError("the signature is not of this key and these files; do not use the bundle") from None


@dataclass
class Lint:
    """What in a bundle's configurations is more than data.

    Attributes:
        foreign: ``_target_`` outside monai, torch, ignite and sga_monai, each as "file: target".
        expressions: values that begin with "$", which MONAI evaluates as Python, each as "file: id: expression".
        code: files that Python or a logger could run.
    """

    foreign: list[str] = field(default_factory=list)
    expressions: list[str] = field(default_factory=list)
    code: list[str] = field(default_factory=list)


def lint_bundle(folder: str | Path) -> Lint:
    """Look through the JSON files of a bundle, without evaluating any; to be done after ``verify_bundle``.

    Raises:
        InputError: when a configuration is not JSON.
    """
    lint = Lint()
    for name in _files(Path(folder)):
        if LEFT_BY_DOWNLOADS.fullmatch(name):
            continue
        if _is_code(Path(folder), name):
            lint.code.append(name)
        # A configuration may include any of them.
        if not name.lower().endswith(".json"):
            continue
        try:
            content = read_json(Path(folder) / name)
        except (ValueError, RecursionError):
            raise InputError(f"{name} is not JSON; do not use the bundle") from None
        _look(content, name, "", lint)
    return lint


def _is_code(folder: Path, name: str) -> bool:
    """Whether a file is one that Python or a logger could run, or MONAI take for a configuration in YAML."""
    ending = Path(name).suffix.lower()
    if name == LARGE_FILES:
        lines = (folder / name).read_text(encoding="ascii", errors="replace").splitlines()
        return not all(LARGE_LINE.fullmatch(line) for line in lines)
    if ending in (".conf", ".cfg", ".ini"):
        return not _only_logs(folder / name)
    return ending in CODE or name.startswith("scripts/")


def _only_logs(path: Path) -> bool:
    """Whether a file of logging, in which Python evaluates classes and arguments of handlers, has none but those of ``LOGGED``."""
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (ValueError, configparser.Error):
        return False
    values = [pair for section in parser.sections() for pair in parser.items(section)]
    return all(value == LOGGED.get(key) for key, value in values if key in ("class", "args", "kwargs"))


def _look(value: Any, file: str, place: str, lint: Lint) -> None:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        here = f"{place}#{key}" if place else str(key)
        if key == "_target_" and isinstance(inner, str) and "." in inner and not inner.startswith(OURS):
            lint.foreign.append(f"{file}: {inner}")
        elif isinstance(inner, str) and inner.lstrip().startswith("$"):
            lint.expressions.append(f"{file}: {here}: {inner}")
        else:
            _look(inner, file, here, lint)


def _files(root: Path) -> list[str]:
    """Names of all regular files, hidden ones too; links and special files are refused."""
    if root.is_symlink() or not root.is_dir():
        raise InputError("the bundle is not a folder; unpack it first")
    found = []
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = Path(folder) / name
            mode = path.lstat().st_mode
            relative = path.relative_to(root).as_posix()
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise InputError(f"{relative} is a link or a special file; do not use the bundle")
            if stat.S_ISREG(mode):
                found.append(relative)
    return sorted(found)


def _read_sums(path: Path) -> dict[str, str]:
    if path.stat().st_size > MAX_SUMS_BYTES:
        raise InputError(f"{SUMS} is too large; do not use the bundle")
    listed: dict[str, str] = {}
    for line in path.read_text(encoding="ascii", errors="replace").splitlines():
        match = LINE.fullmatch(line)
        if not match or ".." in match[2].split("/") or match[2] in listed:
            raise InputError(f"{SUMS} is malformed; do not use the bundle")
        listed[match[2]] = match[1]
    return listed
