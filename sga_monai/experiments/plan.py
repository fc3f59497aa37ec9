"""An experiment's plan: methods x conditions x seeds, each cell one ordinary bundle run in its own folder."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sga_monai.core.errors import InputError
from sga_monai.core.files import FORMULA
from sga_monai.core.source import find_file
from sga_monai.experiments.plan_file import external_manifests, read_content, read_defaults, refuse_unknown

ALL = "all"


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
    name, content = Path(path).name, read_content(path)
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
    defaults = read_defaults(name, config_file)
    refuse_unknown(name, content, defaults)
    selection_set, pooled_sets = content.get("selection_set", ""), tuple(content.get("pooled_sets", ()))
    if selection_set in pooled_sets:
        raise InputError(f"{name}: pooled_sets names the selection_set {selection_set!r}, which is no result; remove one")
    external = {cell: external_manifests(name, defaults | dict(cell.settings)) for cell in cells}
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
