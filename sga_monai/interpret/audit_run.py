"""The shortcut audit of a training's weights on manifests: files, settings and the table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from rich import box
from rich.table import Table
from torch.utils.tensorboard import SummaryWriter

from sga_monai.core import checks as check
from sga_monai.core.display import figure_text, interval_text, table_text
from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, write_csv, write_json
from sga_monai.core.folders import lock_output_dir, move_results_aside, refuse_other_results
from sga_monai.core.provenance import code_digest, versions
from sga_monai.evaluation.cohort import list_cohort, read_cohorts
from sga_monai.interpret.audit import COLUMNS, AuditSet, audit_model
from sga_monai.model.modes import default_device
from sga_monai.model.weights import load_trained_models

WRITTEN = ("audit.json", "audit.csv", "tensorboard")


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
    cannot be read are counted there and left out.

    Args:
        checkpoint: ``model.pt``.
        manifests: one set each, named after the file.
        dataset_dir: the folder that images and lung masks are relative to.
        output_dir: an earlier audit there is moved to ``output_dir.1``.
        image_size: pixels of a side; ``None`` takes that of ``run.json`` beside the checkpoint, or 224 where there is none.
        voi: see ``read_cxr``; ``None`` as for ``image_size``, or "dicom".
        split: the rows that are taken.
        num_workers: processes that read.

    Returns:
        The table of ``audit_model``.

    Raises:
        InputError: when the checkpoint, a manifest, or a lung mask (naming its row) is refused, a file is in two sets, or
            ``output_dir`` holds the results of another command.
    """
    out = Path(output_dir)
    refuse_other_results(out, WRITTEN[0])
    check.whole("num_workers", num_workers, low=0)
    models = load_trained_models({"model": checkpoint}, image_size=image_size, voi=voi)
    paths = _named(manifests)
    lock_output_dir(out)
    cohorts = [list_cohort(path, dataset_dir, models.preparation, split) for path in paths.values()]
    move_results_aside(out, WRITTEN)
    datasets = read_cohorts(cohorts, num_workers=num_workers)
    sets = {cohort.name: AuditSet(dataset, cohort.lung, cohort.cells) for cohort, dataset in zip(cohorts, datasets, strict=True)}
    table = audit_model(models.networks["model"].to(default_device()), sets)
    facts = {
        "schema": "sga_monai audit 1",
        "checkpoint_sha256": file_sha256(checkpoint),
        "manifests_sha256": {name: file_sha256(path) for name, path in paths.items()},
        **asdict(models.preparation),
        "split": split,
        "failed": {cohort.name: len(dataset.failures) for cohort, dataset in zip(cohorts, datasets, strict=True)},
        "software": versions() | {"code": code_digest()},
    }
    _write(out, table, facts)
    return table


def _named(manifests: Sequence[str | Path]) -> dict[str, Path]:
    """The manifests by the names of their sets."""
    paths = {Path(path).stem: Path(path) for path in manifests}
    if len(paths) < len(manifests):
        raise InputError("two manifests have the same name; give every one its own file name")
    if not paths:
        raise InputError("no manifest; give at least one")
    return paths


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
    write_json(out / WRITTEN[0], {**facts, "table": list(table)}, sort_keys=True)
    write_csv(out / WRITTEN[1], pd.DataFrame(table, columns=list(COLUMNS)))
    writer = SummaryWriter(str(out / WRITTEN[2]))
    for line in table:
        if not math.isnan(line["auroc"]):
            writer.add_scalar(f"audit/{line['control']}/{line['set']}", line["auroc"])
        if not math.isnan(line["shift"]):
            writer.add_scalar(f"audit/{line['control']}_shift/{line['set']}", line["shift"])
    writer.close()
