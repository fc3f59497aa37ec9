"""The results of an evaluation as DICOM objects, two for each image, in files of their own."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from scipy.special import expit
from torch import nn

from sga_monai.core.display import track
from sga_monai.core.errors import REASONS, InputError, ReadError
from sga_monai.core.files import file_sha256, read_earlier, write_bytes, write_json
from sga_monai.core.folders import lock_output_dir
from sga_monai.data.dataset import CXRDataset
from sga_monai.evaluation.cohort import list_cohort, read_cohorts
from sga_monai.evaluation.predictions import FILE
from sga_monai.hospital.evaluate import load_models
from sga_monai.hospital.evaluated import read_evaluation
from sga_monai.hospital.formats import MODEL
from sga_monai.hospital.heatmaps import heat_map
from sga_monai.hospital.reference import read_reference, reference_preparation
from sga_monai.hospital.verify import SUMS, verify_bundle
from sga_monai.imaging.decoded import ReadOptions
from sga_monai.imaging.read import decode, read_bytes
from sga_monai.integrations.dicom_results.case import Case, Model, statement
from sga_monai.integrations.dicom_results.picture import draw_result
from sga_monai.integrations.dicom_results.sources import COPIES, read_cases
from sga_monai.integrations.pacs.server import EXTRA, silenced
from sga_monai.model.scores import logit_difference

RECORD = "results.json"
REMEDIES = {
    "not a DICOM file": "a PNG, JPEG or NIfTI image belongs to no study",
    "no study": "its header names no study, series or object",
    COPIES: "they have one SOPInstanceUID and are different files; keep the row of the one that the archive has",
    "header": "its elements of patient or study are not valid; have them corrected in the archive",
}
# Heat maps at once.
BATCH = 16
# Another device or batch moves a probability by far less, another image by more.
SAME_PROBABILITY = 0.001


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        rows: of the manifest, two files each.
        left_out: numbers of rows by reason.
    """

    rows: Sequence[int]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def remedy(reason: str) -> str:
        """What a reason means."""
        return REMEDIES.get(reason) or REASONS.get(reason, "")


def write_results(output_dir: Path, bundle: Path, manifest: Path, dataset_dir: Path, out: Path) -> Written:
    """Write ``row_<row>_picture.dcm`` and ``row_<row>_report.dcm`` of every scored image, and ``results.json``.

    The objects name the patient and the study that they belong to; file names and ``results.json`` do not. What an earlier call
    wrote of the same evaluation is not written again.

    Args:
        output_dir: of ``evaluate_bundle``, finished.
        bundle: that it was evaluated with.
        manifest: that it was evaluated with.
        dataset_dir: the folder that its images are relative to.
        out: a new folder.

    Returns:
        The rows that have objects, and why the others have none.

    Raises:
        InputError: when the extra is not installed, the evaluation is not finished, was changed, or is of another bundle or manifest, or
            ``out`` holds something else.
    """
    if find_spec("highdicom") is None:
        raise InputError(EXTRA)
    model, reference, predictions = _model(output_dir, bundle, manifest)
    lock_output_dir(out)
    _check_folder(out, model)
    out.mkdir(parents=True, exist_ok=True)
    out.chmod(0o700)
    write_json(out / RECORD, {"evaluation": model.evaluation, "finished": False})
    preparation = reference_preparation(reference)
    cohort = list_cohort(manifest, dataset_dir, preparation)
    paths = {int(item["row"]): Path(item["image"]) for item in cohort.items}
    scored = predictions[predictions["score"].notna()]
    left_out = Counter(predictions.loc[predictions["score"].isna(), "error"].astype(str))
    cases, reasons = read_cases(scored, paths, reference["models"][MODEL]["threshold"])
    waiting = [case for case in cases if not all(path.exists() for path in _files(out, case.row))]
    failed: dict[int, str] = {}
    if waiting:
        rest = {case.row for case in waiting}
        (dataset,) = read_cohorts([replace(cohort, items=[item for item in cohort.items if int(item["row"]) in rest])])
        # What could be read for the evaluation and no longer can.
        failed = {int(failure["row"]): str(failure["code"]) for failure in dataset.failures}
        options = ReadOptions(preparation.voi, orientation=preparation.orientation)
        waiting = [case for case in waiting if case.row not in failed]
        for case, heat in _heat_maps(load_models(bundle, reference)[MODEL], dataset, waiting, model.temperature):
            reason = write_case(out, case, model, paths[case.row], options, heat)
            failed |= {case.row: reason} if reason else {}
    rows = [case.row for case in cases if case.row not in failed]
    left_out += reasons + Counter(failed[case.row] for case in cases if case.row in failed)
    write_json(out / RECORD, {"evaluation": model.evaluation, "finished": True, "rows": rows, "left_out": left_out})
    return Written(rows, left_out)


def result_files(out: Path) -> list[Path]:
    """The objects of a folder of ``write_results``.

    Raises:
        InputError: when it is not finished.
    """
    record = read_earlier(out / RECORD)
    if not record.get("finished"):
        raise InputError("the folder holds no finished results; write them with sga-monai dicom-result")
    return [path for row in record["rows"] for path in _files(out, row)]


def _model(output_dir: Path, bundle: Path, manifest: Path) -> tuple[Model, dict[str, Any], pd.DataFrame]:
    """Model, reference and predictions of a finished evaluation, after the bundle was verified."""
    verify_bundle(bundle)
    run, predictions = read_evaluation(output_dir, "the folder")
    made = run["bundle"]
    if made["sha256sums"] != file_sha256(bundle / SUMS):
        raise InputError("the evaluation was made with another bundle; give that one")
    if run.get("manifest_sha256") != file_sha256(manifest):
        raise InputError("the evaluation was made with another manifest; give that one")
    reference = read_reference(bundle / "reference.json")
    figures = reference["models"][MODEL]
    threshold, temperature = float(figures["threshold"]), float(figures["temperature"])
    model = Model(
        name=made["name"],
        version=made["version"],
        digest=made["sha256sums"],
        threshold=float(expit(threshold / temperature)),
        temperature=temperature,
        evaluation=hashlib.sha256(json.dumps(run, sort_keys=True).encode() + file_sha256(output_dir / FILE).encode()).hexdigest(),
        when=datetime.fromisoformat(run["finished"]),
    )
    return model, reference, predictions


def _check_folder(out: Path, model: Model) -> None:
    if out.is_dir() and any(out.iterdir()) and read_earlier(out / RECORD).get("evaluation") != model.evaluation:
        raise InputError("out is not empty and holds no results of this evaluation; give a new folder")


def _heat_maps(
    network: nn.Module, dataset: CXRDataset, cases: Sequence[Case], temperature: float
) -> Iterator[tuple[Case, NDArray[np.float32]]]:
    """The cases with their heat maps, ``[H, W]``.

    Raises:
        InputError: when an image is not the one that was scored; its file may be another patient's now.
    """
    index = {int(item["row"]): i for i, item in enumerate(dataset.data)}
    for batch in track([cases[i : i + BATCH] for i in range(0, len(cases), BATCH)], "writing results"):
        images = torch.stack([dataset[index[case.row]]["image"] for case in batch])
        with torch.no_grad():
            again = torch.sigmoid(logit_difference(network(images)).double() / temperature).numpy()
        for case, probability in zip(batch, again, strict=True):
            if abs(case.probability - probability) > SAME_PROBABILITY:
                raise InputError(f"row {case.row}: its image is not the one that was scored; run sga-monai evaluate again")
        heat = heat_map(network, images).numpy()
        yield from zip(batch, heat[:, 0], strict=True)


def _files(out: Path, row: int) -> Iterator[Path]:
    for kind in ("picture", "report"):
        yield out / f"row_{row:06d}_{kind}.dcm"


def write_case(out: Path, case: Case, model: Model, path: Path, options: ReadOptions, heat: NDArray[np.float32]) -> str:
    """Write both objects of a case; the reason why there are none, or "".

    Args:
        out: the folder.
        case: the case.
        model: the model.
        path: the image.
        options: with which it was read for the evaluation.
        heat: its heat map.
    """
    from sga_monai.integrations.dicom_results.secondary_capture import secondary_capture
    from sga_monai.integrations.dicom_results.structured_report import structured_report

    try:
        picture = draw_result(decode(read_bytes(path), options).image, heat, statement(case, model))
        with silenced():
            contents = [_encoded(made) for made in (secondary_capture(case, model, picture), structured_report(case, model))]
    except ReadError as error:
        return error.code
    except MemoryError:
        raise
    except Exception:
        # Of highdicom and pydicom, about a value that the source's header should not have; they quote it.
        return "header"
    for target, content in zip(_files(out, case.row), contents, strict=True):
        write_bytes(target, content)
    return ""


def _encoded(made: Dataset) -> bytes:
    buffer = io.BytesIO()
    made.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
