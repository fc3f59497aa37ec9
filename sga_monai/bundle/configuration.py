"""The configuration of a run: the overrides of its command line, and what of it decides the result."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser
from monai.bundle.scripts import run as bundle_run

from sga_monai.core.command_line import override_value, read_overrides
from sga_monai.core.errors import InputError
from sga_monai.core.files import read_json
from sga_monai.core.process import is_program
from sga_monai.core.source import top_id
from sga_monai.sga.iteration import SGAIteration

# Ids of train.json on which no weight depends, or that run.json holds as hashes or as the machine's.
UNDECISIVE = (
    "bundle_root", "output_dir", "dataset_dir", "manifest", "external_manifests", "accepted_pairs", "cache_dir", "num_workers", "resume",
    "force_resume", "save_execute_config", "run_name",
    "max_epochs", "review_interval", "device", "imports", "hyper_parameters", "initialize", "rank",
    "training", "run", "test", "summary_writer",
)  # fmt: skip


def command_line() -> Sequence[str]:
    """That of ``python -m monai.bundle``; no options where another program opens the bundle."""
    return sys.argv if is_program() else ()


def check_overrides(arguments: Sequence[str]) -> None:
    """Refuse a ``--name`` that is neither an argument of ``monai.bundle run`` nor an id of its config files.

    MONAI accepts and ignores such an override. Ids are compared at the top level (``a`` of ``--a#b``); an override
    that another one refers to (``--x @y --y 1``) is known too.

    Args:
        arguments: a command line; anything but one with ``--config_file`` passes.

    Raises:
        InputError: naming the override and the nearest id.
    """
    given, files = read_overrides(arguments)
    if "config_file" not in given:
        return
    known = set(inspect.signature(bundle_run).parameters)
    for file in files:
        known |= set(map(top_id, read_json(file)))
    known |= {name for name in given if any(re.search(rf"@{re.escape(name)}\b", value) for value in given.values())}
    _check_run_id(arguments, given, known, files)
    for name in given:
        top = name.split("#")[0]
        if top not in known:
            near = get_close_matches(top, known, n=1)
            raise InputError(f"--{name} names nothing in the configuration" + (f"; is --{near[0]} meant?" if near else ""))


def _check_run_id(arguments: Sequence[str], given: Mapping[str, str], known: Collection[str], files: Sequence[str]) -> None:
    """Refuse a run id that is none of the configuration, which MONAI finds out after ``initialize`` has moved an earlier run aside."""
    typed = given.get("run_id", next(iter(arguments[2:3]), "")) if list(arguments[1:2]) == ["run"] else ""
    name = typed.split("#")[0]
    if files and name and not name.startswith("-") and name not in known:
        near = get_close_matches(name, known, n=1)
        listed = ", ".join(Path(file).name for file in files)
        raise InputError(
            f"run {typed}: {listed} has no such id" + (f"; is {near[0]} meant?" if near else "; give the id that is to be run")
        )


def resolved_config(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """The configuration of this command line with its overrides, without what does not decide the result.

    Args:
        arguments: the command line; that of ``python -m monai.bundle`` when ``None``, and no options where that is not the program.

    Returns:
        Sections by id; empty where the program was not started by ``monai.bundle run``.
    """
    given, files = read_overrides(command_line() if arguments is None else arguments)
    if not files:
        return {}
    parser = ConfigParser()
    parser.read_config(files)
    known = set(inspect.signature(bundle_run).parameters)
    parser.update({name: override_value(value) for name, value in given.items() if name not in known})
    content: dict[str, Any] = parser.get()
    return {key: value for key, value in content.items() if key not in UNDECISIVE}


def hyper_parameters(iteration: SGAIteration, **run: Any) -> dict[str, Any]:
    """All hyper-parameters of a training by their ids, for ``run.json`` and TensorBoard.

    Args:
        iteration: the training step, whose options are flat ids too.
        run: those of the run itself, as ``max_epochs``.
    """
    return run | {key: value for key, value in iteration.settings.items() if key != "value_range"}
