"""``monitor.json``: a model's figures by period at one site, and control charts that say when something has changed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.files import plain, write_json
from sga_monai.evaluation.predictions import FEATURES
from sga_monai.hospital.formats import MODEL, MONITOR
from sga_monai.hospital.periods import Period, read_periods
from sga_monai.hospital.reference import read_reference
from sga_monai.statistics.calibration import calibration_line, observed_to_expected
from sga_monai.statistics.control_charts import WEIGHT, Summary, chart, ewma_limit, false_alarm_probability, run_length
from sga_monai.statistics.discrimination import auroc
from sga_monai.statistics.estimates import Estimate, share
from sga_monai.statistics.periods import NOT_ESTIMABLE, auroc_summary, change, deviation_within, mean_summary

# A period with fewer patients of a class is shown, and is on no chart.
ENOUGH_PATIENTS = 10
# What is charted, in words. The score and the image are compared within labels, so that a wave of disease is no change.
CHARTS = {
    "auroc": "AUROC",
    "calibration": "observed minus expected",
    "score": "score",
    "image_mean": "image brightness",
    "image_sd": "image contrast",
    "image_dark": "dark share of the image",
}
# Unchanged, charts raise one false alarm in so many periods on average, or fewer.
RUN_LENGTH = 200
NO_ESTIMATE = Estimate(math.nan, math.nan, math.nan)


def make_monitor(evaluations: Sequence[str | Path], out: str | Path, length: float = RUN_LENGTH) -> dict[str, Any]:
    """Compute ``monitor.json`` of several evaluations, or of one whose manifest has a ``period``, and write it to ``out``.

    Args:
        evaluations: folders of ``evaluate_bundle``, the earliest first, all of one bundle; or one folder.
        out: a folder; it holds aggregates only, and stays at the site.
        length: average run length: unchanged, the charts raise a false alarm once in so many periods, or more rarely.

    Returns:
        The content of the file: ``periods`` with counts, figures with intervals, drift against the first charted period and the points
        of the charts; ``alarms``; what the charts' limits mean; ``status`` and ``notes``.

    Raises:
        InputError: when an evaluation is missing, unfinished or of another bundle, when two are of one manifest or have the same
            images, when they overlap or are not in the order of time, or when fewer than two periods have 10 patients of each class.
    """
    check.number("run_length", length, low=2, high=1e6)
    periods, runs, notes = read_periods(evaluations)
    reference = read_reference(Path(evaluations[0]) / "reference.json")["models"][MODEL]
    content = {
        "schema": MONITOR,
        "bundle": runs[0]["bundle"],
        **monitor_periods(periods, reference["threshold"], reference["temperature"], length),
    }
    content["notes"] = notes + content["notes"]
    content = plain(content)
    write_json(Path(out) / "monitor.json", content, sort_keys=True)
    return content


def monitor_periods(periods: Sequence[Period], threshold: float, temperature: float, length: float = RUN_LENGTH) -> dict[str, Any]:
    """The figures and charts of periods in the order of time.

    Args:
        periods: two or more.
        threshold: the locked one; an image with this score or more is an alert.
        temperature: of the probabilities.
        length: see ``make_monitor``.

    Raises:
        InputError: when fewer than two periods have 10 patients of each class.
    """
    usable = [period.fewest_patients() >= ENOUGH_PATIENTS for period in periods]
    if sum(usable) < 2:
        raise InputError(f"fewer than two periods have {ENOUGH_PATIENTS} patients of each class; join periods, or wait for more patients")
    first = usable.index(True)
    summaries, drifts = _summaries(periods, usable, first, temperature)
    limit = ewma_limit(float(length), charts=len(summaries))
    charts = {name: chart(line, limit) for name, line in summaries.items()}
    lines = []
    for i, period in enumerate(periods):
        points = {name: asdict(points[i]) for name, points in charts.items()}
        drift = {name: asdict(line[i]) for name, line in drifts.items()}
        lines.append(
            _figures(period, threshold, temperature) | {"first": i == first, "charted": usable[i], "drift": drift, "chart": points}
        )
    alarms = [
        {"period": period.name, "figure": name, "direction": "higher" if points[i].ewma > 0 else "lower"}
        for i, period in enumerate(periods)
        for name, points in charts.items()
        if points[i].alarm
    ]
    monitored = max(sum(not math.isnan(point.z) for point in points) for points in charts.values())
    return {
        "periods": lines,
        "alarms": alarms,
        "control": {
            "chart": "EWMA",
            "weight": WEIGHT,
            "limit": limit,
            "charts": list(charts),
            "run_length": length,
            "monitored": monitored,
            "false_alarm_probability": false_alarm_probability(limit, monitored, charts=len(charts)),
            "detection": [[shift, run_length(limit, shift=shift)] for shift in (1.0, 2.0, 3.0)],
        },
        "status": _status(periods, alarms, monitored),
        "notes": _notes(periods, usable),
    }


def _summaries(
    periods: Sequence[Period], usable: Sequence[bool], first: int, temperature: float
) -> tuple[dict[str, list[Summary]], dict[str, list[Estimate]]]:
    """What is charted, and the drift of score and image since the first charted period, by name and period."""
    tables = [period.scored() for period in periods]
    prevalence = float((tables[first]["label"] == 1).mean())
    shares = {0: 1 - prevalence, 1: prevalence}
    summaries: dict[str, list[Summary]] = {name: [NOT_ESTIMABLE] * len(periods) for name in ("auroc", "calibration")}
    for i, (period, rows) in enumerate(zip(periods, tables, strict=True)):
        if usable[i]:
            figure = auroc(rows["score"], rows["label"], rows["patient"])
            residual = rows["label"] - expit(rows["score"] / temperature)
            summaries["auroc"][i] = auroc_summary(figure, period.fewest_patients())
            summaries["calibration"][i] = mean_summary(residual, np.zeros(len(rows)), rows["patient"], {0: 1.0})
    drifts = {}
    for name in ("score", *FEATURES):
        if any(name not in rows or rows[name].isna().any() for rows in tables):
            continue
        line = [
            mean_summary(rows[name], rows["label"], rows["patient"], shares) if usable[i] else NOT_ESTIMABLE
            for i, rows in enumerate(tables)
        ]
        spread = deviation_within(tables[first][name], tables[first]["label"], shares)
        drifts[name] = [change(now, line[first], spread) if i != first else NO_ESTIMATE for i, now in enumerate(line)]
        summaries[name] = line
    return summaries, drifts


def _figures(period: Period, threshold: float, temperature: float) -> dict[str, Any]:
    """Counts and figures of a period; figures are NaN where they are not estimable or too many images failed."""
    rows = period.scored()
    score, label, patient = rows["score"], rows["label"], rows["patient"]
    counts = {
        "period": period.name,
        "images": len(rows),
        "positive_images": int((label == 1).sum()),
        "negative_images": int((label == 0).sum()),
        "patients": int(patient.nunique()),
        "failed": int(period.rows["score"].isna().sum()),
        "reportable": period.reportable(),
    }
    if not len(rows):
        return counts | dict.fromkeys(("auroc", "alert_rate", "slope", "intercept", "observed_to_expected"), asdict(NO_ESTIMATE))
    probability = expit(score.to_numpy() / temperature)
    slope, intercept = calibration_line(probability, label, patient)
    return counts | {
        "auroc": auroc(score, label, patient).estimate,
        "alert_rate": asdict(share(score >= threshold, patient)),
        "slope": asdict(slope),
        "intercept": asdict(intercept),
        "observed_to_expected": asdict(observed_to_expected(probability, label, patient)),
    }


def _status(periods: Sequence[Period], alarms: Sequence[Mapping[str, Any]], monitored: int) -> dict[str, str]:
    names = list(dict.fromkeys(alarm["period"] for alarm in alarms))
    failed = [period.name for period in periods if not period.reportable()]
    if names:
        what = ", ".join(f"{CHARTS[alarm['figure']]} ({alarm['direction']})" for alarm in alarms if alarm["period"] == names[0])
        more = f"; alarms also in {len(names) - 1} later period{'s' if len(names) > 2 else ''}" if len(names) > 1 else ""
        return {"code": "alarm", "text": f"In {names[0]}: {what}{more}. Something has changed since the earlier periods."}
    if failed:
        return {
            "code": "not reportable",
            "text": f"Too many images failed in {', '.join(failed)}; no change was found in the other periods.",
        }
    return {"code": "no alarm", "text": f"No change was found in {monitored} monitored period{'s' if monitored != 1 else ''}."}


def _notes(periods: Sequence[Period], usable: Sequence[bool]) -> list[str]:
    notes = []
    for period, charted in zip(periods, usable, strict=True):
        if not period.reportable():
            notes.append(f"{period.name}: {period.rows['score'].isna().mean():.1%} of the images failed, more than the limit; not charted.")
        elif not charted:
            notes.append(f"{period.name}: fewer than {ENOUGH_PATIENTS} patients of a class; not charted.")
    return notes
