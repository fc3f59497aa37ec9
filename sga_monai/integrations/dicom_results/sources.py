"""The rows of an evaluation whose images have a study that results can be added to."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import pydicom
from pydicom.dataset import Dataset

from sga_monai.core.errors import ReadError
from sga_monai.imaging.dicom import is_dicom
from sga_monai.imaging.head import read_head
from sga_monai.imaging.header import quiet
from sga_monai.imaging.limits import refused_as
from sga_monai.integrations.dicom_results.case import Case, as_source

COPIES = "several rows"


def read_cases(scored: pd.DataFrame, paths: Mapping[int, Path], threshold: float) -> tuple[list[Case], Counter[str]]:
    """The rows that results can be written of, and how many others there are, by reason.

    A result is of one object. Where several rows have its identifier, nobody knows which of their files the archive has: none of
    them gets a result.

    Args:
        scored: rows with score and probability.
        paths: of the rows' images.
        threshold: score from which a row is called positive.
    """
    cases: list[Case] = []
    reasons: Counter[str] = Counter()
    number: Counter[str] = Counter()
    sources = [_source(paths[int(row)]) for row in scored["row"]]
    rows = Counter(source.SOPInstanceUID for source in sources if isinstance(source, Dataset))
    for row, score, probability, source in zip(scored["row"], scored["score"], scored["probability"], sources, strict=True):
        if isinstance(source, str):
            reasons[source] += 1
        elif rows[source.SOPInstanceUID] > 1:
            reasons[COPIES] += 1
        else:
            number[source.StudyInstanceUID] += 1
            cases.append(Case(int(row), source, float(probability), bool(score >= threshold), number[source.StudyInstanceUID]))
    return cases, reasons


def _source(path: Path) -> Dataset | str:
    """An image's header, or why it has none that results could belong to."""
    try:
        with refused_as("unreadable"), quiet():
            head = read_head(path)
            if not is_dicom(head):
                return "not a DICOM file"
            return as_source(pydicom.dcmread(io.BytesIO(head), force=True, stop_before_pixels=True)) or "no study"
    except ReadError as error:
        return error.code
