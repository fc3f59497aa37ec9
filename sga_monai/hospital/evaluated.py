"""A finished evaluation as it lies in its folder: what ran, and each row's prediction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, read_json
from sga_monai.evaluation.predictions import FILE, read_predictions
from sga_monai.hospital.formats import EVALUATION

RUN = "run.json"
# In run.json: SHA-256 of the predictions, and of the bundle's reference with its threshold, as they were written. Evaluations of
# before have none.
FILES = {"predictions_sha256": FILE, "reference_sha256": "reference.json"}


def read_evaluation(folder: str | Path, called: str = "this folder") -> tuple[dict[str, Any], pd.DataFrame]:
    """The ``run.json`` and the predictions of ``evaluate_bundle``.

    Args:
        folder: its ``output_dir``.
        called: what messages call the folder, since its name may name a person.

    Raises:
        InputError: when it holds no evaluation, one that is unfinished or damaged, or predictions or a reference that were changed
            since: a row that is gone, a score that a spreadsheet has rounded, or another threshold is in every figure.
    """
    folder = Path(folder)
    try:
        run = read_json(folder / RUN)
        predictions = read_predictions(folder / FILE)
    except (OSError, ValueError):
        remedy = f"give its folder {EVALUATION}" if (folder / EVALUATION / RUN).is_file() else "run sga-monai evaluate first"
        raise InputError(f"{called} holds no evaluation; {remedy}") from None
    if "bundle" not in run:
        raise InputError(f"{called} holds a training, and no evaluation of a bundle; run sga-monai evaluate first")
    if run.get("finished") is None:
        raise InputError(f"the evaluation in {called} is not finished; give its command again")
    if changed := changed_files(folder, run):
        remedy = "and leave rows out in the manifest" if changed[0] == FILE else "and leave threshold and reference as they came"
        raise InputError(f"{changed[0]} in {called} was changed after the evaluation; evaluate again, {remedy}")
    return run, predictions


def changed_files(folder: Path, run: Mapping[str, Any]) -> list[str]:
    """Names of predictions and reference that are not there as the evaluation wrote them, where it recorded that.

    Args:
        folder: of the evaluation, with ``predictions.csv``.
        run: its ``run.json``.
    """
    paths = {key: folder / name for key, name in FILES.items()}
    return [path.name for key, path in paths.items() if not path.is_file() or run.get(key) not in (None, file_sha256(path))]
