"""The model beside readers who rated the same cases: operating points, AUROCs, and differences for a population of readers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from sga_monai.core.errors import InputError
from sga_monai.core.files import write_utf8
from sga_monai.hospital.reference import FPR_GRID, roc_on_grid
from sga_monai.hospital.score_table import reader_columns, reader_name
from sga_monai.statistics.discrimination import auroc
from sga_monai.statistics.estimates import share
from sga_monai.statistics.readers import auroc_covariances, compare_with_readers, share_covariances

# Names of the two modalities in the export.
READERS, MODEL = "readers", "model"
# First line of the export, by which it is known.
TITLE = "sga_monai: readers' ratings, and the model's score repeated for each reader"


def reader_study(scored: pd.DataFrame, threshold: float | None, cutoff: float | None) -> dict[str, Any] | None:
    """The model against the readers of a table of scores.

    Only cases that every reader rated are compared, so that all figures are of the same cases.

    Args:
        scored: of ``read_scores``, the rows with a score.
        threshold: of the model; without one its sensitivity and specificity are not compared.
        cutoff: rating from which on a reader calls a case positive; 1 where every rating is 0 or 1.

    Returns:
        ``None`` without readers. Else ``cutoff``, ``cases, patients, positive, negative, left_out``, ``model`` and each of
        ``readers`` with ``auroc, sensitivity, specificity``, and in ``comparison`` for each of these three what
        ``compare_with_readers`` found, ``None`` where it cannot be had.

    Raises:
        InputError: when readers rated no case of a class together, or ``cutoff`` would call all cases of all readers alike.
    """
    columns = reader_columns(scored)
    if not columns:
        if cutoff is not None:
            raise InputError("--cutoff is for readers' ratings; the table has no column reader_<name>")
        return None
    rated = scored[scored[columns].notna().all(axis=1)]
    if rated["label"].nunique() < 2:
        raise InputError("no positive, or no negative case was rated by every reader; leave out the readers who rated few")
    ratings = rated[columns].to_numpy(dtype=np.float64).T
    cutoff = _cutoff(ratings, cutoff)
    label, patient = rated["label"].to_numpy(), rated["patient"].to_numpy()
    model = rated["score"].to_numpy(dtype=np.float64)
    calls = None if cutoff is None else ratings >= cutoff
    own = None if threshold is None else model >= threshold
    observers = [_observer(model, own, label, patient)]
    observers += [_observer(one, None if calls is None else calls[i], label, patient) for i, one in enumerate(ratings)]
    comparison: dict[str, Any] = {"auroc": _compare(observers, "auroc", auroc_covariances([model, *ratings], label, patient))}
    for name, value in (("sensitivity", 1), ("specificity", 0)):
        comparison[name] = None
        if calls is not None and own is not None:
            hits = np.stack([own, *calls])[:, label == value] == bool(value)
            comparison[name] = _compare(observers, name, share_covariances(hits, patient[label == value]))
    return {
        "cutoff": cutoff,
        "cases": len(rated),
        "patients": int(rated["patient"].nunique()),
        "positive": int((label == 1).sum()),
        "negative": int((label == 0).sum()),
        "left_out": len(scored) - len(rated),
        "model": observers[0] | {"roc": [list(pair) for pair in zip(FPR_GRID, roc_on_grid(model, label), strict=True)]},
        "readers": [{"name": reader_name(name), **one} for name, one in zip(columns, observers[1:], strict=True)],
        "comparison": comparison,
    }


def write_imrmc(scored: pd.DataFrame, path: str | Path) -> int:
    """Write ratings and scores for iMRMC, the FDA's program for such studies: ``readerID,caseID,modalityID,score``.

    The model's score stands once for each reader, as a second modality that all readers share: iMRMC then compares readers and
    model case by case. Cases are numbered; no key of a patient is written. The file stays at the site.

    Args:
        scored: of ``read_scores``, the rows with a score.
        path: the new file.

    Returns:
        The number of lines of ratings.

    Raises:
        InputError: when there are no readers, or ``path`` is a file that is no such export.
    """
    refuse_no_export(path)
    columns = reader_columns(scored)
    if not columns:
        raise InputError("--imrmc needs readers' ratings; the table has no column reader_<name>")
    label = scored["label"]
    lines = [TITLE]
    lines += [f"NR: {len(columns)}", f"N0: {(label == 0).sum()}", f"N1: {(label == 1).sum()}", "NM: 2", "BEGIN DATA:"]
    lines += [f"-1,{case},truth,{value}" for case, value in enumerate(label, 1)]
    before = len(lines)
    for column in columns:
        for case, (rating, score) in enumerate(zip(scored[column], scored["score"], strict=True), 1):
            if not math.isnan(rating):
                lines += [f"{reader_name(column)},{case},{READERS},{rating!r}", f"{reader_name(column)},{case},{MODEL},{score!r}"]
    write_utf8(Path(path), "\n".join(lines) + "\n")
    return len(lines) - before


def refuse_no_export(path: str | Path) -> None:
    """Refuse to replace a file that ``write_imrmc`` did not write: a slip of the keyboard must not cost a site its key.

    Raises:
        InputError: naming the file.
    """
    path = Path(path)
    if not path.is_file():
        return
    with path.open("rb") as stream:
        if stream.readline(len(TITLE) + 2).strip() != TITLE.encode("ascii"):
            raise InputError(f"--imrmc would replace {path.name}, which is no file of ratings for iMRMC; give another path")


def _cutoff(ratings: NDArray[np.float64], cutoff: float | None) -> float | None:
    if cutoff is None:
        return 1.0 if set(np.unique(ratings)) <= {0.0, 1.0} else None
    if not ratings.min() < cutoff <= ratings.max():
        raise InputError(f"--cutoff calls every case alike: the ratings are {ratings.min():g} to {ratings.max():g}")
    return cutoff


def _observer(rating: NDArray[np.float64], called: Any, label: NDArray[Any], patient: NDArray[Any]) -> dict[str, Any]:
    """AUROC of one observer, and sensitivity and specificity of its calls, where there are any."""
    rates: dict[str, Any] = {"sensitivity": None, "specificity": None}
    if called is not None:
        rates["sensitivity"] = asdict(share(called[label == 1], patient[label == 1]))
        rates["specificity"] = asdict(share(~called[label == 0], patient[label == 0]))
    return {"auroc": auroc(rating, label, patient).estimate, **rates}


def _compare(observers: Sequence[dict[str, Any]], figure: str, covariance: NDArray[np.float64]) -> dict[str, Any]:
    values = [one[figure]["value"] for one in observers]
    found = asdict(compare_with_readers(values[0], values[1:], covariance))
    # No rate and no AUROC is outside of 0 to 1, and none is tested against 0.
    average = found["average"]
    del average["p"]
    average["low"], average["high"] = float(np.maximum(average["low"], 0)), float(np.minimum(average["high"], 1))
    return found | {"each": list(found["each"])}
