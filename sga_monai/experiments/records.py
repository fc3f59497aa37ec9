"""From an experiment's runs to records: one JSON line a cell, one a mean over seeds, one a selection.

Every figure of the tables, pages and pictures is in the records, so that they can be drawn again without the runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sga_monai.core.errors import InputError
from sga_monai.core.files import plain, read_json
from sga_monai.evaluation.predictions import FILE, INTERNAL, VALIDATION, is_internal, read_predictions, read_sets
from sga_monai.experiments.plan import Cell, Plan
from sga_monai.experiments.selection import Record, is_reported, selections
from sga_monai.statistics.calibration import assess_calibration
from sga_monai.statistics.discrimination import auroc
from sga_monai.statistics.effects import PairedScores, pooled_effect
from sga_monai.statistics.seeds import SeedMean, holm, mean_auroc, mean_difference, mean_of


def experiment_records(plan: Plan, runs: Mapping[Cell, Path]) -> list[Record]:
    """All records of an experiment.

    Args:
        plan: of ``read_plan``.
        runs: the folder of each finished cell.

    Returns:
        One of kind "experiment", then one of kind "cell" for each run, "mean" for each method, condition and set (AUROC
        over seeds and patients, difference from internal, difference from the baseline with Holm's p over all of the
        experiment's comparisons on reported sets), "effect" for each method and condition (difference pooled over the plan's
        ``pooled_sets``, seeds and patients), and "selection" for each condition and rule.

    Raises:
        InputError: when a file of a run is damaged, or two runs of one set were tested on other rows.
    """
    cells = [cell for cell in plan.cells if cell in runs]
    head: Record = {
        "kind": "experiment",
        "name": plan.name,
        "title": plan.title,
        "question": plan.question,
        "baseline": plan.baseline,
        "selection_set": plan.selection_set,
        "axis": plan.axis,
        "pooled_sets": list(plan.pooled_sets),
        "published": plan.published,
        "n_cells": len(plan.cells),
        "n_finished": len(cells),
        **{key: list(dict.fromkeys(getattr(cell, key) for cell in plan.cells)) for key in ("method", "condition", "seed")},
    }
    read = {cell: _read_run(cell, runs[cell]) for cell in cells}
    scores = {cell: predictions for cell, (_, predictions) in read.items()}
    records = [head, *(record for record, _ in read.values())]
    means, effects, uneven = list[Record](), list[Record](), dict[str, list[str]]()
    for condition in head["condition"]:
        by_method: dict[str, dict[int, pd.DataFrame]] = {}
        for cell in cells:
            if cell.condition == condition:
                by_method.setdefault(cell.method, {})[cell.seed] = scores[cell]
        means += _means(condition, by_method, plan.baseline)
        effects += _effects(condition, by_method, plan)
        uneven[condition] = _uneven(by_method)
    compared = [mean for mean in means if mean["against_baseline"] and is_reported(mean["set"], plan.selection_set)]
    for mean, p in zip(compared, holm([mean["against_baseline"]["p"] for mean in compared]), strict=True):
        mean["against_baseline"]["p_holm"] = p
    records += [*means, *effects]
    for condition in head["condition"]:
        given = [mean for mean in means if mean["condition"] == condition]
        records += selections(condition, given, plan.selection_set, uneven[condition])
    result: list[Record] = [plain(record) for record in records]
    return result


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write records, one JSON object a line."""
    path.write_text("".join(json.dumps(record, allow_nan=False) + "\n" for record in records), encoding="utf-8")


def read_records(path: Path) -> list[Record]:
    """The inverse of ``write_records``.

    Raises:
        InputError: when the file is missing or no records file.
    """
    try:
        records: list[Record] = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").splitlines()]
        if records[0]["kind"] == "experiment":
            return records
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        pass
    raise InputError(f"{path.name} holds no records; run sga-monai experiment first")


def _read_run(cell: Cell, folder: Path) -> tuple[Record, pd.DataFrame]:
    """The record of a finished run, and its predictions.

    Raises:
        InputError: naming the cell, which counts as finished and is not run again as long as it is there.
    """
    try:
        predictions = read_predictions(folder / FILE)
        return _cell(cell, folder, predictions), predictions
    except (ValueError, KeyError):
        text = f"the run of {cell.name} has a damaged run.json, {FILE}, results.csv or curves.csv"
        raise InputError(f"{text}; move {cell.folder} out of output_dir, and the same command runs it again") from None


def _cell(cell: Cell, folder: Path, predictions: pd.DataFrame) -> Record:
    card = read_json(folder / "run.json")
    results = read_sets(folder / "results.csv")
    identity = card["identity"]
    calibrated = {str(name): _calibration(rows) for name, rows in predictions[predictions["score"].notna()].groupby("set")}
    calibrated = {name: calibrated.get(name, {}) for name in results["set"]}
    figures = ["n_positive", "n_negative", "n_patients", "n_failed", "auroc", "ci_low", "ci_high"]
    return {
        "kind": "cell",
        "method": cell.method,
        "condition": cell.condition,
        "seed": cell.seed,
        "settings": identity["settings"],
        "epochs": card["epoch"],
        "optimizer_steps": card.get("optimizer_steps"),
        "best_epoch": (card["best"] or {}).get("epoch"),
        "sets": {line["set"]: {key: line[key] for key in figures} | calibrated[line["set"]] for line in results.to_dict("records")},
        "curves": read_sets(folder / "curves.csv").to_dict("records") if (folder / "curves.csv").is_file() else [],
        "model_sha256": card["model_sha256"],
        "data": identity["data"],
        "code": identity["code"],
        "git_revision": card["git_revision"],
        "machine": identity["machine"],
        "duration_s": card["duration_s"],
        "finished": card["finished"],
    }


def _calibration(rows: pd.DataFrame) -> dict[str, float]:
    """Mean score, slope and intercept of the probabilities of one set, without intervals: those are for a site's report."""
    fit = assess_calibration(rows["probability"], rows["label"], rows["patient"], n_samples=1)
    return {"mean_score": float(rows["score"].mean()), "slope": fit.slope.value, "intercept": fit.intercept.value, "ece": fit.ece.value}


def _effects(condition: str, by_method: Mapping[str, Mapping[int, pd.DataFrame]], plan: Plan) -> list[Record]:
    """Differences pooled over the plan's sets, for every method against each of ``pooled_against``."""
    lines: list[Record] = []
    for against in plan.pooled_against if plan.pooled_sets else ():
        for method, frames in by_method.items():
            common = [seed for seed in frames if seed in by_method.get(against, {})]
            if method == against or not common:
                continue
            sets = []
            for name in plan.pooled_sets:
                tables = {(kind, s): _scores(f[s], name) for kind, f in enumerate((frames, by_method[against])) for s in common}
                joined, rows = _join(tables)
                half, label, patient = len(common), rows["label"].to_numpy(), rows["patient"].to_numpy()
                sets.append(PairedScores(joined[:half], joined[half:], label, patient))
            used = [name for name, given in zip(plan.pooled_sets, sets, strict=True) if given.has_both_classes]
            line = {"kind": "effect", "method": method, "against": against, "condition": condition, "sets": used}
            lines.append(line | {"effect": asdict(pooled_effect(sets))})
    return lines


def _means(condition: str, by_method: Mapping[str, Mapping[int, pd.DataFrame]], baseline: str) -> list[Record]:
    lines: list[Record] = []
    for method, frames in by_method.items():
        inside: tuple[SeedMean, list[float]] | None = None
        first = next(iter(frames.values()))
        # Internal before the others, which are compared with it.
        names = sorted(first["set"].unique(), key=lambda name: (name != VALIDATION, name != INTERNAL))
        for name in names:
            tables = {seed: _scores(frame, name) for seed, frame in frames.items()}
            joined, rows = _join(tables)
            mean = mean_auroc(joined, rows["label"], rows["patient"])
            each = [auroc(scores, rows["label"], rows["patient"]).auroc for scores in joined]
            difference = None
            if name == INTERNAL:
                inside = (mean, each)
            elif inside and name != VALIDATION:
                difference = asdict(_drop(mean, each, *inside))
            line = {
                "kind": "mean",
                "method": method,
                "condition": condition,
                "set": name,
                "n_positive": int((rows["label"] == 1).sum()),
                "n_negative": int((rows["label"] == 0).sum()),
                "n_patients": int(rows["patient"].nunique()),
                "auroc": asdict(mean),
                "each_seed": dict(zip(map(str, frames), each, strict=True)),
                "auroc_difference": difference,
                "against_baseline": None,
            }
            if method != baseline and baseline in by_method:
                others = {s: _scores(f, name) for s, f in by_method[baseline].items()}
                # A method may have a training manifest of its own, and then other internal images.
                line["against_baseline"] = _against(tables, others) if not is_internal(name) or _same_rows(tables, others) else None
            lines.append(line)
    return lines


def _scores(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    chosen = frame[(frame["set"] == name) & frame["score"].notna()]
    return chosen.set_index("row")[["score", "label", "patient"]].sort_index()


def _join(tables: Mapping[Any, pd.DataFrame]) -> tuple[np.ndarray, pd.DataFrame]:
    """Scores ``[S, N]`` on the rows that every table has, and those rows' label and patient.

    Raises:
        InputError: when a row has another label or patient in another table: the runs had other manifests.
    """
    rows = next(iter(tables.values()))
    for table in tables.values():
        rows = rows.loc[rows.index.intersection(table.index)]
    for table in tables.values():
        if not table.loc[rows.index, ["label", "patient"]].equals(rows[["label", "patient"]]):
            raise InputError("two runs of one set were tested on other rows: their manifests differ; run them again in a new output_dir")
    return np.stack([table.loc[rows.index, "score"].to_numpy() for table in tables.values()]), rows[["label", "patient"]]


def _same_rows(tables: Mapping[int, pd.DataFrame], others: Mapping[int, pd.DataFrame]) -> bool:
    """Whether two methods were tested on the same images of a set, by row, label and patient."""
    first, second = (next(iter(given.values()))[["label", "patient"]] for given in (tables, others))
    return first.equals(second)


def _uneven(by_method: Mapping[str, Mapping[int, pd.DataFrame]]) -> list[str]:
    """The internal sets whose images are not the same for all methods."""
    first = [next(iter(frames.values())) for frames in by_method.values()]
    tables = {name: [{0: _scores(frame, name)} for frame in first] for name in (VALIDATION, INTERNAL)}
    return [name for name, of in tables.items() if not all(_same_rows(one, of[0]) for one in of)]


def _drop(outside: SeedMean, each_outside: Sequence[float], inside: SeedMean, each_inside: Sequence[float]) -> SeedMean:
    """External minus internal AUROC (the paper's sign): other patients, the same seeds."""
    # An internal AUROC of 1 has no estimable variance, and then neither has the difference.
    known = not math.isnan(inside.low) and not math.isnan(outside.low)
    patients = inside.sd_patients**2 + outside.sd_patients**2 if known else math.nan
    return mean_of(np.subtract(each_outside, each_inside), patients)


def _against(tables: Mapping[int, pd.DataFrame], baseline: Mapping[int, pd.DataFrame]) -> Record | None:
    common = [seed for seed in tables if seed in baseline]
    if not common:
        return None
    joined, rows = _join({(kind, s): t[s] for kind, t in enumerate((tables, baseline)) for s in common})
    return asdict(mean_difference(joined[: len(common)], joined[len(common) :], rows["label"], rows["patient"]))
