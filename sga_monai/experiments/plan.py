"""An experiment's plan: methods x conditions x seeds, each cell one ordinary bundle run in its own folder."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import jsonschema

from sga_monai.cohorts.phantom import external_of
from sga_monai.core.errors import InputError
from sga_monai.core.files import FORMULA, read_json
from sga_monai.core.schema import validate
from sga_monai.core.source import PATHS, find_file, refuse_no_path

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
ALL = "all"
# Options of `monai.bundle run` itself that a cell may have.
RUN_OPTIONS = ("tracking", "logging_file", "meta_file")


@dataclass(frozen=True)
class Cell:
    """One run of a plan.

    Attributes:
        method: its name.
        condition: its name; "all" where the plan has none.
        seed: of the run.
        settings: overrides of the configuration by id, the seed included.
        own: ids that the condition or the method sets, and not the machine.
    """

    method: str
    condition: str
    seed: int
    settings: Mapping[str, Any] = field(hash=False)
    own: frozenset[str] = frozenset()

    @property
    def folder(self) -> str:
        """Path of the run's folder below the experiment's."""
        return f"{slug(self.method)}/{slug(self.condition)}/seed_{self.seed}"

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.method}, {self.condition}, seed {self.seed}" if self.condition != ALL else f"{self.method}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """A plan as read.

    Attributes:
        name: of its file, without ending.
        title: of tables and figures.
        question: what the experiment is to answer.
        config_file: of the bundle.
        cells: in the order in which they run: seed by seed, so that an experiment that was stopped is whole up to a seed.
        baseline: the method that the others are compared with.
        selection_set: the external set that may choose among the methods, and is therefore no result; empty for none.
        axis: name of the numbers that the conditions' names are; empty where they are none.
        phantoms: folders to draw when they are absent, with the options of ``write_phantom``.
        pooled_sets: external sets without common patients, over which effects are pooled; empty for none.
        pooled_against: the methods that others are compared with in pooled effects; the baseline where the plan names none.
        published: AUROC of the paper by method and set, shown beside.
    """

    name: str
    title: str
    question: str
    config_file: str
    cells: tuple[Cell, ...]
    baseline: str
    selection_set: str
    axis: str
    phantoms: Mapping[str, Mapping[str, Any]]
    pooled_sets: tuple[str, ...] = ()
    pooled_against: tuple[str, ...] = ()
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


def read_plan(path: str | Path, **settings: Any) -> Plan:
    """Read and check a plan.

    Args:
        path: JSON with ``title, question, settings, methods, seeds`` and, where wanted, ``config_file, conditions, axis,
            baseline, selection_set, phantoms``. Overrides are merged in the order settings, condition, method.
        settings: overrides that the machine decides, such as ``dataset_dir``; they win over the plan's ``settings``, and not
            over what a condition or a method sets: a condition may be its own folder of images.

    Raises:
        InputError: when the file is missing, not JSON or not a plan, the baseline is no method, the selection set or a pooled set
            no external set, a seed is not in ``seeds``, an option names nothing in the configuration, a name is there twice, two cells
            have one folder, or a table could not show a name.
    """
    name, content = Path(path).name, _read_content(path)
    methods, conditions = content["methods"], content.get("conditions", {ALL: {}})
    baseline, axis = content.get("baseline", next(iter(methods))), content.get("axis", "")
    if baseline not in methods:
        raise InputError(f"{name}: baseline {baseline!r} is none of the methods {', '.join(methods)}")
    if axis and not all(re.fullmatch(r"\d+(\.\d+)?", condition) for condition in conditions):
        raise InputError(f"{name}: with an axis every condition must be a number, zero or more")
    if any("seed" in given for given in (content["settings"], *conditions.values(), *methods.values())):
        raise InputError(f"{name}: a seed in settings, conditions or methods is not used; list all in seeds")
    cells = tuple(
        Cell(
            method,
            condition,
            seed,
            {**content["settings"], **settings, **conditions[condition], **methods[method], "seed": seed},
            frozenset({*conditions[condition], *methods[method]}),
        )
        for seed in content["seeds"]
        for condition in conditions
        for method in methods
    )
    _check_names(name, methods, conditions, cells)
    config_file = str(find_file(content.get("config_file", "bundles/sga/train.json")))
    defaults = _read_defaults(name, config_file)
    _refuse_unknown(name, content, defaults)
    selection_set, pooled_sets = content.get("selection_set", ""), tuple(content.get("pooled_sets", ()))
    if selection_set in pooled_sets:
        raise InputError(f"{name}: pooled_sets names the selection_set {selection_set!r}, which is no result; remove one")
    external = {cell: _external_manifests(name, defaults | dict(cell.settings)) for cell in cells}
    for manifests in external.values():
        _check_sets(name, manifests, selection_set, pooled_sets)
    _refuse_one_name_for_two(name, external)
    pooled_against = tuple(content.get("pooled_against", [baseline]))
    if not set(pooled_against) <= set(methods):
        raise InputError(f"{name}: pooled_against names a method that is none of {', '.join(methods)}")
    return Plan(
        Path(path).stem,
        content["title"],
        content["question"],
        config_file,
        cells,
        baseline,
        selection_set,
        axis,
        content.get("phantoms", {}),
        pooled_sets,
        pooled_against,
        content.get("published", {}),
    )


def _read_content(path: str | Path) -> dict[str, Any]:
    """The JSON of a plan, which has the keys and types of ``SCHEMA``."""
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


def _refuse_unknown(name: str, content: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse an option that names nothing in the configuration, which its cells would do one by one, the last when all others are trained.

    Ids are compared as the bundle does it: at the top level, and one that another option refers to is known too.
    """
    given = {"settings": content["settings"]}
    given |= {f"{part}.{key}": options for part in ("methods", "conditions") for key, options in content.get(part, {}).items()}
    known = {key.lstrip("+").replace("::", "#").split("#")[0] for key in defaults} | set(RUN_OPTIONS)
    texts = [value for options in given.values() for value in options.values() if isinstance(value, str)]
    for place, options in given.items():
        for key in options:
            top = key.replace("::", "#").split("#")[0]
            if top not in known and not any(re.search(rf"@{re.escape(key)}\b", text) for text in texts):
                near = get_close_matches(top, known, n=1)
                meant = f"is {near[0]} meant?" if near else "remove it"
                raise InputError(f"{name}: {place}: {key} names nothing in the configuration; {meant}")


def _read_defaults(name: str, config_file: str) -> dict[str, Any]:
    """The ids of a plan's configuration."""
    try:
        defaults = read_json(config_file)
    except (OSError, ValueError):
        raise InputError(f"{name}: config_file {config_file} is no JSON file here; start in the folder that it is relative to") from None
    if not isinstance(defaults, dict) or not {"manifest", "dataset_dir", "output_dir"} <= defaults.keys():
        raise InputError(f"{name}: config_file {config_file} is no configuration of a training; give one like bundles/sga/train.json")
    return defaults


def _external_manifests(name: str, given: Mapping[str, Any]) -> list[str]:
    """The external manifests of a cell, of the phantom where it names none; refuses a path that is no text."""
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


def _refuse_one_name_for_two(name: str, external: Mapping[Cell, Sequence[str]]) -> None:
    """Methods are compared image by image, which two manifests of one name are not."""
    paths: dict[tuple[str, str], str] = {}
    for cell, manifests in external.items():
        for manifest in manifests:
            if paths.setdefault((cell.condition, Path(manifest).stem), manifest) != manifest:
                text = f"two methods have different external_manifests {Path(manifest).name}"
                raise InputError(f"{name}: {text}; rename one of the files, or make them conditions")


def _check_names(name: str, methods: Collection[str], conditions: Collection[str], cells: Sequence[Cell]) -> None:
    """Refuse names that no table or folder could hold, and settings that are the experiment's own."""
    for named in (*methods, *conditions):
        if named.startswith(FORMULA):
            raise InputError(f"{name}: {named!r} begins with {named[0]!r}, and a spreadsheet would take it for a formula; rename it")
    if any(slug(method) == "tensorboard" for method in methods):
        raise InputError(f"{name}: a method's name must not be tensorboard, which is the dashboards' folder; rename it")
    if len({cell.folder for cell in cells}) < len(cells):
        raise InputError(f"{name}: two methods or two conditions have the same name but for case and punctuation; rename one")
    for cell in cells:
        if "output_dir" in cell.settings or "resume" in cell.settings:
            raise InputError(f"{name}: output_dir and resume are the experiment's to set; remove them")


def _check_sets(name: str, external: Sequence[str], selection_set: str, pooled_sets: Collection[str]) -> None:
    """Refuse sets that are none of a cell's external manifests.

    Raises:
        InputError: when the selection set would be the only one, or is not there, or a pooled one is not.
    """
    names = [Path(manifest).stem for manifest in external]
    listed = ", ".join(names) or "none"
    if selection_set and (selection_set not in names or len(names) < 2):
        raise InputError(f"{name}: selection_set {selection_set!r} must be one of two or more external_manifests; there are {listed}")
    if not set(pooled_sets) <= set(names):
        raise InputError(f"{name}: pooled_sets names a set that is none of the external_manifests, {listed}")


def slug(name: str) -> str:
    """A name as a folder's."""
    return re.sub(r"[^a-z0-9.]+", "_", name.lower()).strip("_.") or "_"
