"""The file of an experiment's plan: its keys and types, and the ids of the configuration that it overrides."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import jsonschema

from sga_monai.cohorts.phantom import external_of
from sga_monai.core.errors import InputError
from sga_monai.core.files import read_json
from sga_monai.core.schema import validate
from sga_monai.core.source import PATHS, find_file, refuse_no_path, top_id

SETTINGS = {"type": "object", "additionalProperties": {"type": ["number", "string", "boolean", "null", "array"]}}
SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["title", "question", "settings", "methods", "seeds"],
    "properties": {
        "title": {"type": "string", "minLength": 1},
        "question": {"type": "string", "minLength": 1},
        "config_file": {"type": "string"},
        "settings": SETTINGS,
        "methods": {"type": "object", "minProperties": 1, "additionalProperties": SETTINGS},
        "conditions": {"type": "object", "minProperties": 1, "additionalProperties": SETTINGS},
        "axis": {"type": "string"},
        "seeds": {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "integer", "minimum": 0}},
        "baseline": {"type": "string"},
        "selection_set": {"type": "string", "minLength": 1},
        "pooled_sets": {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "string", "minLength": 1}},
        "pooled_against": {"type": "array", "minItems": 1, "uniqueItems": True, "items": {"type": "string", "minLength": 1}},
        "published": {
            "type": "object",
            "additionalProperties": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}},
        },
        "phantoms": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "confounding": {"type": "number", "minimum": 0, "maximum": 1},
                    "seed": {"type": "integer", "minimum": 0},
                    "external_images": {"type": "integer", "minimum": 2, "multipleOf": 2},
                    "scale": {"type": "integer", "minimum": 1},
                },
            },
        },
    },
}
# Options of `monai.bundle run` itself that a cell may have.
RUN_OPTIONS = ("tracking", "logging_file", "meta_file")


def read_content(path: str | Path) -> dict[str, Any]:
    """The JSON of a plan.

    Args:
        path: of the file, as it is given.

    Raises:
        InputError: when it is missing, not JSON, names something twice, or has other keys or types than ``SCHEMA``.
    """
    name, file = Path(path).name, find_file(path)
    if file.is_dir():
        raise InputError(f"{name or path} is a folder, and a plan is a JSON file; give one")
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=_each_once)
        validate(content, SCHEMA)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except FileNotFoundError:
        raise InputError(f"no plan {name}; `sga-monai bundle DIR` writes those of this installation to DIR/experiments") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{name} is not JSON ({error})") from None
    except jsonschema.ValidationError as error:
        place = ".".join(map(str, error.absolute_path)) or "the plan"
        raise InputError(f"{name}: {place}: {error.message}") from None
    return content


def _each_once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, in which a name that is there twice would stand for the second alone: a method would be lost."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name!r} is there twice in one place, and the first would be ignored; rename or remove one")
    return dict(pairs)


def refuse_unknown(name: str, content: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse an option that names nothing in the configuration, which its cells would do one by one, the last when all others are trained.

    Ids are compared as the bundle does it: at the top level, and one that another option refers to is known too.

    Args:
        name: of the plan's file.
        content: of ``read_content``.
        defaults: of ``read_defaults``.

    Raises:
        InputError: naming the option and the nearest id.
    """
    given = {"settings": content["settings"]}
    given |= {f"{part}.{key}": options for part in ("methods", "conditions") for key, options in content.get(part, {}).items()}
    known = {*map(top_id, defaults), *RUN_OPTIONS}
    texts = [value for options in given.values() for value in options.values() if isinstance(value, str)]
    for place, options in given.items():
        for key in options:
            top = key.replace("::", "#").split("#")[0]
            if top not in known and not any(re.search(rf"@{re.escape(key)}\b", text) for text in texts):
                near = get_close_matches(top, known, n=1)
                meant = f"is {near[0]} meant?" if near else "remove it"
                raise InputError(f"{name}: {place}: {key} names nothing in the configuration; {meant}")


def read_defaults(name: str, config_file: str) -> dict[str, Any]:
    """The ids of a plan's configuration with their defaults.

    Args:
        name: of the plan's file.
        config_file: path of the configuration.

    Raises:
        InputError: when it is no configuration of a training.
    """
    try:
        defaults = read_json(config_file)
    except (OSError, ValueError):
        raise InputError(f"{name}: config_file {config_file} is no JSON file here; start in the folder that it is relative to") from None
    if not isinstance(defaults, dict) or not {"manifest", "dataset_dir", "output_dir"} <= defaults.keys():
        raise InputError(f"{name}: config_file {config_file} is no configuration of a training; give one like bundles/sga/train.json")
    return defaults


def external_manifests(name: str, given: Mapping[str, Any]) -> list[str]:
    """The external manifests of a cell, of the phantom where it names none.

    Args:
        name: of the plan's file.
        given: all ids of the cell: its settings, and the defaults of the others.

    Raises:
        InputError: on a path that is no text, or one that stands for none.
    """
    for key in PATHS:
        value = given.get(key, "")
        if not isinstance(value, str) and (value is not None or key in ("manifest", "dataset_dir")):
            raise InputError(f"{name}: {key} must be a path in quotes, got {json.dumps(value)}")
        if key in given:
            refuse_no_path(f"{name}: {key}", value)
    external = given.get("external_manifests")
    external = external_of(given["manifest"], given["dataset_dir"]) if external is None else external
    external = [external] if isinstance(external, str) else external
    if not isinstance(external, list) or not all(isinstance(manifest, str) for manifest in external):
        raise InputError(f"{name}: external_manifests must be a list of paths in quotes, got {json.dumps(external)}")
    refuse_no_path(f"{name}: external_manifests", external)
    return external
