"""First step of every run of the bundle: what can be refused is refused before an image is read or an earlier run moved."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
from monai.utils import set_determinism

from sga_monai.bundle.configuration import check_overrides, command_line
from sga_monai.cohorts import phantom
from sga_monai.core import checks as check
from sga_monai.core.command_line import given_texts, keep_texts, read_overrides, refuse_no_paths
from sga_monai.core.errors import InputError
from sga_monai.core.folders import lock_output_dir
from sga_monai.core.process import end_on_sigterm, install_plain_errors, is_program, keep_freed_memory, loads_a_network, quiet_monai
from sga_monai.core.source import refuse_no_path
from sga_monai.data.manifest import read_manifest
from sga_monai.model.architectures import DEFAULT_NETWORK, find_architecture
from sga_monai.training.distributed import say_when_a_process_is_lost
from sga_monai.training.options import check_options

logger = logging.getLogger(__name__)


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
    arguments = command_line() if arguments is None else arguments
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
