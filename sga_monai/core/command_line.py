"""The command line of ``python -m monai.bundle run``: overrides as they were typed, which Fire and MONAI read as something else."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fire.parser import DefaultParseValue
from monai.bundle import ConfigParser, ConfigWorkflow

from sga_monai.core.source import LISTS_OF_PATHS, PATHS, refuse_no_path

# How an expression, a reference and a macro of MONAI begin.
SPECIAL = ("$", "@", "%")


def read_overrides(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Overrides by name, as text, and the JSON files of ``--config_file``; those of ``--args_file`` where they are not given twice."""
    given: dict[str, str] = {}
    for i, argument in enumerate(arguments):
        if re.match("--?[A-Za-z_]", argument):
            name, equals, value = argument.lstrip("-").partition("=")
            given[name.replace("::", "#")] = value if equals else (arguments[i + 1] if i + 1 < len(arguments) else "")
    if Path(given.get("args_file", "")).is_file():
        file = ConfigParser.load_config_file(given["args_file"])
        given = {name.replace("::", "#"): _typed(value) for name, value in file.items()} | given
    return given, [file for file in _config_files(given.get("config_file", "")) if Path(file).suffix == ".json" and Path(file).is_file()]


def override_value(text: str) -> Any:
    """The value of an override as MONAI gets it, whose command line is Fire's: "0.2" is a number, "[0,0]" a list, "inf" a text."""
    return DefaultParseValue(text)


def _typed(value: Any) -> str:
    """What one would type for a value of ``--args_file``."""
    return value if isinstance(value, str) and override_value(value) == value else repr(value)


def _config_files(text: str) -> list[str]:
    """What MONAI makes of ``--config_file``: a path, whatever is in it, else a list in Python's or in plain writing."""
    if Path(text).is_file():
        return [text]
    parsed = override_value(text)
    if isinstance(parsed, (list, tuple)) and all(isinstance(file, str) for file in parsed):
        return list(parsed)
    if isinstance(parsed, str) and Path(parsed).is_file():
        # In quotes of its own, the only way in which Fire leaves a # of a path alone.
        return [parsed]
    return [file.strip().strip("'\"") for file in text.strip("[]()").split(",")]


def given_texts(given: Mapping[str, str]) -> dict[str, str | list[str]]:
    """Paths among overrides that Fire or MONAI would not leave as they were typed.

    Args:
        given: of ``read_overrides``.

    Example:
        >>> given_texts({"output_dir": "2024_01_01", "dataset_dir": "case #3/", "manifest": "m.csv", "seed": "1"})
        {'output_dir': '2024_01_01', 'dataset_dir': 'case #3/'}
    """
    texts: dict[str, str | list[str]] = {}
    for name, raw in given.items():
        if name not in PATHS + LISTS_OF_PATHS or raw in ("", "None") or raw.startswith((*SPECIAL, "--")):
            continue
        parsed = override_value(raw)
        if name in LISTS_OF_PATHS and raw[0] in "[(":
            if "#" in raw or not isinstance(parsed, (list, tuple)):
                texts[name] = [path.strip().strip("'\"") for path in raw.strip("[]()").split(",")]
            continue
        text = parsed if raw[0] in "'\"" and isinstance(parsed, str) else raw
        if text != parsed or "#" in text or "::" in text:
            texts[name] = text
    return texts


def refuse_no_paths(given: Mapping[str, str]) -> None:
    """Refuse a path among overrides that is none; see ``refuse_no_path``.

    Args:
        given: of ``read_overrides``.
    """
    for name in (name for name in PATHS + LISTS_OF_PATHS if name in given):
        # What MONAI takes for an option that was not given.
        if given[name] != "None":
            refuse_no_path(name, override_value(given[name]))


def keep_texts(texts: Mapping[str, Any]) -> None:
    """Let the running bundle's ids have these values, whatever they were parsed to.

    To be called by the first step of ``initialize``, before anything but numbers and texts was resolved. MONAI has no hook
    for it, so the workflow that is running is found among the callers; outside one nothing happens.
    """
    frame = inspect.currentframe()
    while frame is not None:
        workflow = frame.f_locals.get("self")
        if isinstance(workflow, ConfigWorkflow):
            workflow.parser.ref_resolver.resolved_content.update(texts)
            return
        frame = frame.f_back
