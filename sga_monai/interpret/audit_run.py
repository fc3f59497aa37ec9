"""The shortcut audit of a training's weights on manifests: files, settings and the table."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from sga_monai.core.display import figure_text, interval_text, table_text
from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, write_csv, write_json
from sga_monai.core.folders import archive_previous_run, lock_output_dir
from sga_monai.core.provenance import code_digest, versions
from sga_monai.data.dataset import CXRDataset, refuse_same_bytes
from sga_monai.data.manifest import load_manifest, read_manifest
from sga_monai.data.masks import lung_reader
from sga_monai.data.transforms import preprocessing
from sga_monai.interpret.audit import COLUMNS, AuditSet, audit_model
from sga_monai.model.network import CXRResNet18
from sga_monai.model.weights import load_best_model, preparation_settings

logger = logging.getLogger(__name__)


def audit_checkpoint(
    checkpoint: str | Path,
    manifests: Sequence[str | Path],
    dataset_dir: str | Path,
    output_dir: str | Path,
    image_size: int | None = None,
    voi: str | None = None,
    split: str = "test",
    num_workers: int = 0,
) -> list[dict[str, Any]]:
    """Audit a training's ``model.pt`` on one or more manifests.

    Writes ``audit.json``, ``audit.csv`` and TensorBoard scalars ``audit/<control>/<set>`` to ``output_dir``. Images that
    cannot be read are counted there, and no control has them.

    Args:
        checkpoint: ``model.pt``.
        manifests: one set each, named after the file.
        dataset_dir: the folder that images and lung masks are relative to.
        output_dir: an earlier audit there is set aside.
        image_size: pixels of a side; ``None`` takes that of ``run.json`` beside the checkpoint, or 224 where there is none.
        voi: see ``read_cxr``; ``None`` as for ``image_size``, or "dicom".
        split: the rows that are taken.
        num_workers: processes that read.

    Returns:
        The table of ``audit_model``.

    Raises:
        InputError: when the checkpoint, a manifest, or a lung mask (naming its row) is refused, or a file is in two sets.
    """
    out = Path(output_dir)
    network = load_best_model(CXRResNet18(), str(checkpoint))
    image_size, voi = preparation_settings(checkpoint, image_size, voi)
    paths = {Path(path).stem: Path(path) for path in manifests}
    if len(paths) < len(manifests):
        raise InputError("two manifests have the same name; give every one its own file name")
    if not paths:
        raise InputError("no manifest; give at least one")
    lock_output_dir(out)
    plans = {}
    for name, path in paths.items():
        items = load_manifest(path, dataset_dir, split, allow_missing=True)
        taken = {item["row"] for item in items}
        facts = {int(row["row"]): row for row in read_manifest(path) if int(row["row"]) in taken}
        plans[name] = items, facts, lung_reader(facts.values(), dataset_dir, path.name, image_size)
    archive_previous_run(str(out), str(checkpoint))
    sets, datasets = {}, {}
    for name, (items, facts, lung) in plans.items():
        datasets[name] = CXRDataset(items, preprocessing(image_size, voi), skip_failed=True, num_workers=num_workers)
        sets[name] = AuditSet(datasets[name], lung, facts)
    refuse_same_bytes(list(datasets.values()))
    failed = {name: len(dataset.failures) for name, dataset in datasets.items()}
    for name in (name for name, count in failed.items() if count):
        logger.warning("%s: %d images cannot be read and are left out", name, failed[name])
    table = audit_model(network, sets)
    facts_of_run = {
        "schema": "sga_monai audit 1",
        "checkpoint_sha256": file_sha256(checkpoint),
        "manifests_sha256": {name: file_sha256(path) for name, path in paths.items()},
        "image_size": image_size,
        "voi": voi,
        "split": split,
        "failed": failed,
        "software": versions() | {"code": code_digest()},
    }
    _write(out, table, facts_of_run)
    return table


def render(table: Sequence[Mapping[str, Any]]) -> str:
    """The table of ``audit_model`` as text, 95 % intervals in brackets, "-" where not estimable."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("set", "control", "n", "patients", "AUROC", "95 % CI", "minus plain", "95 % CI", "logit shift", "95 % CI", "SD plain"):
        shown.add_column(column, justify="left" if column in ("set", "control") else "right")
    for line in table:
        cells = [str(line[key]) for key in ("set", "control", "n", "n_patients")]
        for value, low, high, digits, signed in (
            ("auroc", "low", "high", 3, False),
            ("difference", "difference_low", "difference_high", 3, True),
            ("shift", "shift_low", "shift_high", 2, True),
        ):
            cells += [figure_text(line[value], digits, signed), interval_text(line[low], line[high], digits, signed)]
        shown.add_row(*cells, figure_text(line["plain_sd"], 2))
    return table_text(shown, 170)


def _write(out: Path, table: Sequence[Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    write_json(out / "audit.json", {**facts, "table": list(table)}, sort_keys=True)
    write_csv(out / "audit.csv", pd.DataFrame(table, columns=list(COLUMNS)))
    writer = SummaryWriter(str(out / "tensorboard"))
    for line in table:
        if not math.isnan(line["auroc"]):
            writer.add_scalar(f"audit/{line['control']}/{line['set']}", line["auroc"])
        if not math.isnan(line["shift"]):
            writer.add_scalar(f"audit/{line['control']}_shift/{line['set']}", line["shift"])
    writer.close()
