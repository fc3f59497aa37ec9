"""A finished evaluation as it lies in its folder: what ran, and each row's prediction."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, read_json
from sga_monai.evaluation.predictions import FILE, read_predictions

RUN = "run.json"
# Where a validation has its evaluation.
EVALUATION = "evaluation"
# In run.json: SHA-256 of the predictions as they were written. Evaluations of before have none.
WRITTEN = "predictions_sha256"


def read_evaluation(folder: str | Path, called: str = "this folder") -> tuple[dict[str, Any], pd.DataFrame]:
    """The ``run.json`` and the predictions of ``evaluate_bundle``.

    Args:
        folder: its ``output_dir``.
        called: what messages call the folder, since its name may name a person.

    Raises:
        InputError: when it holds no evaluation, one that is unfinished or damaged, or predictions that were changed since: a row
            that is gone, or a score that a spreadsheet has rounded, is in every figure.
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
    if not is_as_written(folder, run):
        raise InputError(f"{FILE} in {called} was changed after the evaluation; evaluate again, and leave rows out in the manifest")
    return run, predictions


def is_as_written(folder: Path, run: Mapping[str, Any]) -> bool:
    """Whether the predictions are there as the evaluation wrote them; one of before did not record that.

    Args:
        folder: of the evaluation, with ``predictions.csv``.
        run: its ``run.json``.
    """
    path = folder / FILE
    return path.is_file() and run.get(WRITTEN) in (None, file_sha256(path))
