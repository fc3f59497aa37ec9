"""What the bundle's JSON names besides the parts themselves: checks before training, data lists, plain errors."""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import ignite.distributed as idist
from monai.bundle import ConfigParser
from monai.bundle.scripts import run as bundle_run
from monai.utils import set_determinism

from sga_monai.cohorts import phantom
from sga_monai.core import checks as check
from sga_monai.core.command_line import given_texts, keep_texts, override_value, read_overrides, refuse_no_paths
from sga_monai.core.errors import EXIT_SOME_ROWS_FAILED, InputError
from sga_monai.core.files import read_json
from sga_monai.core.folders import lock_output_dir
from sga_monai.core.process import end_on_sigterm, install_plain_errors, is_program, keep_freed_memory, loads_a_network, quiet_monai
from sga_monai.core.source import refuse_no_path, top_id
from sga_monai.data.datalist import load_manifest, other_splits
from sga_monai.data.manifest import check_external, read_manifest
from sga_monai.data.sets import INTERNAL, VALIDATION
from sga_monai.model.architectures import DEFAULT_NETWORK, find_architecture
from sga_monai.sga.iteration import SGAIteration
from sga_monai.training.distributed import say_when_a_process_is_lost
from sga_monai.training.options import check_options

logger = logging.getLogger(__name__)
# Ids of train.json on which no weight depends, or that run.json holds as hashes or as the machine's.
UNDECISIVE = (
    "bundle_root", "output_dir", "dataset_dir", "manifest", "external_manifests", "accepted_pairs", "cache_dir", "num_workers", "resume",
    "force_resume", "save_execute_config", "run_name",
    "max_epochs", "review_interval", "device", "imports", "hyper_parameters", "initialize", "rank",
    "training", "run", "test", "summary_writer",
)  # fmt: skip


def prepare(
    seed: int = 0,
    arguments: Sequence[str] | None = None,
    manifest: str | None = None,
    dataset_dir: str | None = None,
    pretrained_weights: str | None = None,
    architecture: str = DEFAULT_NETWORK,
    positive: Mapping[str, float] | None = None,
    output_dir: str | None = None,
    num_workers: int = 0,
    rank: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """First step of every run: a check of the command line, the lock, seeds, the phantom.

    Where the process is ``python -m monai.bundle``, errors become one sentence with an exit code and SIGTERM ends with 143; a
    program that opens the bundle itself, as a ``ConfigWorkflow``, keeps its own hooks, signals, filters and log levels.

    Args:
        seed: of Python, NumPy and torch.
        arguments: the command line; that of ``python -m monai.bundle`` when ``None``, and no options where that is not the program.
        manifest: the phantom is written when this is its manifest and absent.
        dataset_dir: the folder that the manifest's images are relative to.
        pretrained_weights: without it, one line says that training starts from random weights.
        architecture: of ``NETWORKS``, which decides how small an image can be.
        positive: named numbers that must be greater than zero.
        output_dir: locked until the process ends.
        num_workers: checked to be zero or more.
        rank: of ``join_group``, in a run of several processes: the first one locks and writes.
        options: of a training, see ``check_options``.

    Raises:
        InputError: on an override that names nothing, a number that is not positive, an option that would be refused later, or
            an ``output_dir`` in use.
    """
    if is_program():
        install_plain_errors()
        end_on_sigterm()
        quiet_monai()
        keep_freed_memory()
    if rank is not None:
        say_when_a_process_is_lost()
    arguments = _command_line() if arguments is None else arguments
    check_overrides(arguments)
    paths: dict[str, Any] = {"manifest": manifest, "dataset_dir": dataset_dir, "pretrained_weights": pretrained_weights}
    paths = _check_paths(paths | {"output_dir": output_dir}, arguments)
    for name, value in (positive or {}).items():
        if name == "learning_rate":
            check.number(name, value, above=0)
        else:
            check.whole(name, value, low=find_architecture(architecture).smallest if name == "image_size" else 1)
    check.whole("num_workers", num_workers, low=0)
    if positive and positive.get("val_interval", 1) > positive.get("max_epochs", 1):
        raise InputError("val_interval must not be greater than max_epochs, or no model is ever chosen")
    check.whole("seed", seed, low=0)
    if options is not None:
        check_options(**options)
    if paths["output_dir"] and not rank and not loads_a_network():
        lock_output_dir(paths["output_dir"])
    set_determinism(seed=seed)
    if paths["manifest"] and paths["dataset_dir"] and not rank:
        phantom.ensure_phantom(paths["manifest"], paths["dataset_dir"])
    if rank is not None:
        idist.barrier()
    if paths["manifest"] and positive and {"max_epochs", "batch_size", "image_size"} <= set(positive):
        rows = sum(row["split"] == "train" for row in read_manifest(paths["manifest"]))
        rows = -(-rows // int(idist.get_world_size()))
        refuse_batch_of_one(rows, int(positive["batch_size"]), int(positive["image_size"]), find_architecture(architecture).one_pixel)
    if positive and "max_epochs" in positive and not pretrained_weights:
        logger.info("no pretrained_weights: training starts from random weights")


def _command_line() -> Sequence[str]:
    return sys.argv if is_program() else ()


def _check_paths(paths: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """The paths as they were typed, which the whole configuration gets too.

    Raises:
        InputError: when a path is a text that stands for none, or came by another way than the command line, and is none any more.
    """
    given, files = read_overrides(arguments)
    if files:
        refuse_no_paths(given)
    texts = given_texts(given) if files else {}
    keep_texts(texts)
    for name, path in paths.items():
        refuse_no_path(name, path)
        if name not in texts and path is not None and not isinstance(path, str):
            raise InputError(f"{name} must be a text, got {path!r}; put it in quotes")
        if name not in texts and "::" in (path or ""):
            raise InputError(f"{name} must hold neither # nor ::, which MONAI takes for a part of a configuration; rename the folder")
    return {**paths, **{name: text for name, text in texts.items() if name in paths}}


def refuse_batch_of_one(rows: int, batch_size: int, image_size: int, one_pixel: int) -> None:
    """Refuse a last mini-batch of one image whose last feature map is one pixel, of which BatchNorm has no variance.

    Args:
        rows: of the training data.
        batch_size: images of a mini-batch.
        image_size: pixels of a side.
        one_pixel: see ``Architecture``.

    Raises:
        InputError: before anything is trained.
    """
    if image_size <= one_pixel and rows and (batch_size == 1 or rows % batch_size == 1):
        raise InputError(
            f"{rows} training images in mini-batches of {batch_size} leave one of a single image, which BatchNorm cannot take at an "
            f"image_size of {one_pixel} or less; change batch_size"
        )


def hyper_parameters(iteration: SGAIteration, **run: Any) -> dict[str, Any]:
    """All hyper-parameters of a training by their ids, for ``run.json`` and TensorBoard.

    Args:
        iteration: the training step, whose options are flat ids too.
        run: those of the run itself, as ``max_epochs``.
    """
    return run | {key: value for key, value in iteration.settings.items() if key != "value_range"}


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
    given, files = read_overrides(_command_line() if arguments is None else arguments)
    if not files:
        return {}
    parser = ConfigParser()
    parser.read_config(files)
    known = set(inspect.signature(bundle_run).parameters)
    parser.update({name: override_value(value) for name, value in given.items() if name not in known})
    content: dict[str, Any] = parser.get()
    return {key: value for key, value in content.items() if key not in UNDECISIVE}


def load_test_sets(manifest: str, dataset_dir: str, external_manifests: Sequence[str] | None) -> list[dict[str, Any]]:
    """Rows of the final table: validation, internal test, each external site.

    Args:
        manifest: the training manifest.
        dataset_dir: the folder that all images are relative to.
        external_manifests: manifests of external sites, whose rows with split "test" are taken; ``None`` means the
            phantom's three when ``manifest`` is the phantom's, and none otherwise.

    Raises:
        InputError: see ``load_manifest`` and ``check_external``.
    """
    if external_manifests is None:
        external_manifests = phantom.external_of(manifest, dataset_dir)
        if not external_manifests:
            logger.info("no external_manifests: the final table will have no external site")
    if isinstance(external_manifests, str):
        external_manifests = [external_manifests]
    training = read_manifest(manifest)
    for split in ("train", "val", "test"):
        if len({row["label"] for row in training if row["split"] == split}) < 2:
            what = "teaches nothing" if split == "train" else "has no AUROC"
            raise InputError(f"{Path(manifest).name}: split {split} needs rows of both labels, or it {what}")
    sets = [("val", VALIDATION), ("test", INTERNAL)]
    rows = [row | {"set": name} for split, name in sets for row in load_manifest(manifest, dataset_dir, split)]
    names = [Path(path).stem for path in external_manifests]
    # A pair of rows that was accepted within the training manifest must not let an external one of its name in.
    if len(set(names)) < len(names) or {INTERNAL, VALIDATION, Path(manifest).stem} & set(names):
        others = f"{INTERNAL} and the training manifest's"
        raise InputError(f"two sets have the same name; give every external manifest its own file name, other than {others}")
    for path in external_manifests:
        external = read_manifest(path)
        check_external(training, external, Path(path).name)
        tested = load_manifest(path, dataset_dir, "test")
        for sentence in other_splits(len(tested), len(external), "test"):
            logger.warning("%s: %s", Path(path).name, sentence)
        rows += tested
    return rows


def exit_by_failures(failures: Sequence[Mapping[str, Any]]) -> None:
    """End the program with code 2 when some rows failed, so that scripts can tell; return otherwise."""
    if failures:
        listed = ", ".join(f"row {failure['row']} ({failure['code']})" for failure in failures[:5])
        logger.warning("%d rows failed: %s", len(failures), listed)
        raise SystemExit(EXIT_SOME_ROWS_FAILED)
