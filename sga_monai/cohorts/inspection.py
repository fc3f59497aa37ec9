"""What a manifest and its images are, before anything is trained or evaluated on them: a flow, counts, pairs of the same picture."""

from __future__ import annotations

import csv
import io
import itertools
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sga_monai.cohorts.contact_sheet import EvenSample, Thumbnail, as_thumbnail
from sga_monai.core.errors import InputError, ReadError
from sga_monai.core.files import write_utf8
from sga_monai.data.datalist import data_rows
from sga_monai.data.duplicates import COLUMNS as PAIR_COLUMNS
from sga_monai.data.duplicates import TOO_MANY, Accepted, find_pairs, is_accepted, read_accepted
from sga_monai.data.identity import same_id
from sga_monai.data.listed_files import file_states
from sga_monai.data.manifest import MOST_ERRORS, REQUIRED, Row, read_manifest, several_sites
from sga_monai.data.parallel import read_rows
from sga_monai.imaging.decoded import ReadOptions
from sga_monai.imaging.examination import LATERAL_VIEWS, OBLIQUE_VIEWS
from sga_monai.imaging.fingerprint import fingerprint
from sga_monai.imaging.read import decode, read_bytes, sha256_of
from sga_monai.statistics.shortcuts import SHORTCUTS, pixel_auroc

STEPS = ("listed", "found", "readable", "frontal", "labeled")
FACTS = {
    "transfer_syntax": "TransferSyntaxUID",
    "photometric": "PhotometricInterpretation",
    "presentation": "PresentationLUTShape",
    "modality": "Modality",
    "body_part": "BodyPartExamined",
    "view": "ViewPosition",
    "orientation": "PatientOrientation",
    "burned_in": "BurnedInAnnotation",
}


@dataclass
class Inspection:
    """What was found.

    Attributes:
        flow: for each of ``STEPS`` the number of rows that passed it and all before: all, label 0, label 1.
        facts: for each of ``FACTS`` how many images have which value.
        failures: ``row`` and reason ``code`` of each row that cannot be read.
        thumbnails: ``row``, ``label`` and picture of images that may be drawn, those with BurnedInAnnotation YES left out, and
            of more than 96 of a label some, evenly spaced.
        shortcuts: for each of ``SHORTCUTS``, when asked for, the figures of ``pixel_auroc`` over all frontal images.
        pairs: rows that show the same picture and are not accepted, in the columns of ``data.duplicates.COLUMNS``.
        warnings: what of the manifest was changed in reading, or may be wrong.
    """

    flow: dict[str, list[int]] = field(default_factory=lambda: {step: [0, 0, 0] for step in STEPS})
    facts: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in FACTS})
    failures: list[tuple[int, str]] = field(default_factory=list)
    thumbnails: list[Thumbnail] = field(default_factory=list)
    shortcuts: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    pairs: list[dict[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def inspect_manifest(
    path: str | Path,
    dataset_dir: str | Path,
    labels: bool = True,
    voi: str = "dicom",
    num_workers: int = 0,
    thumbnails: bool = False,
    shortcuts: bool = False,
    accepted_pairs: str | Path | None = None,
    orientation: str = "header",
) -> Inspection:
    """Read every image of a manifest as an evaluation would, and count.

    Args:
        path: the manifest.
        dataset_dir: see ``load_manifest``.
        labels: whether the manifest must have labels, patients and splits.
        voi: see ``read_cxr``.
        num_workers: see ``read_rows``.
        thumbnails: keep small pictures for ``write_contact_sheet``.
        shortcuts: read the label from the frame and from a thumbnail of each frontal image.
        accepted_pairs: see ``read_accepted``.
        orientation: see ``read_cxr``.

    Raises:
        InputError: see ``read_manifest`` and ``file_states``; when two rows are the same file, ``shortcuts`` has no labels, or pairs
            of two splits are too many to be accepted.
    """
    if shortcuts and not labels:
        raise InputError("shortcuts reads the label from the images; give a manifest with labels, or leave shortcuts out")
    require = REQUIRED if labels else ("image",)
    result = Inspection()
    listed = read_manifest(path, require, result.warnings)
    result.warnings += several_sites(listed)
    accepted = Accepted() if accepted_pairs is None else read_accepted(accepted_pairs)
    missing = {row for row, state in file_states(listed, dataset_dir, Path(path).name).items() if state is None}
    # A missing file needs no reading process, of which a million would take their time.
    there = [row for row in listed if row["row"] not in missing]
    items = data_rows(listed, there, path, dataset_dir, None, require)
    # What an evaluation would leave out for its examination or view is counted and drawn all the same.
    options = ReadOptions(voi, lateral=True, orientation=orientation, other_examinations=True)
    looks = read_rows(items, partial(_look, options=options, thumbnail=thumbnails, shortcuts=shortcuts), num_workers)
    first_rows: dict[str, int] = {}
    copies: list[str] = []
    used: list[tuple[int, int, dict[str, Any]]] = []
    # By their numbers, since the folds depend on the order of the keys.
    numbers = {item["row"]: item["patient"] for item in items} if shortcuts else {}
    prints: list[tuple[Row, str, bytes]] = []
    samples: dict[int, EvenSample] = {}
    for row in listed:
        number, label = int(row["row"]), int(row["label"]) if labels else -1
        found: dict[str, Any] = {"code": "missing"} if row["row"] in missing else next(looks)
        if "code" not in found:
            first = first_rows.setdefault(found["sha256"], number)
            if first != number:
                copies.append(f"rows {first} and {number}")
            prints.append((row, found["sha256"], found["fingerprint"]))
        _take(result, number, found)
        if found.get("thumbnail") is not None:
            samples.setdefault(label, EvenSample()).add((number, label, found["thumbnail"]))
        passed = _passed(row, label, found)
        _count(result, passed, label)
        if shortcuts and all(passed):
            used.append((label, numbers[number], found["pixels"]))
    result.thumbnails = [thumbnail for sample in samples.values() for thumbnail in sample.kept]
    if copies:
        named = ", ".join(copies[:MOST_ERRORS]) + (f" (and {len(copies) - MOST_ERRORS} more)" if len(copies) > MOST_ERRORS else "")
        raise InputError(f"{named} are the same file, byte for byte; remove one{' of each' if len(copies) > 1 else ''}")
    if shortcuts:
        label_of, patient_of = [label for label, _, _ in used], [patient for _, patient, _ in used]
        result.shortcuts = {name: pixel_auroc([pixels[name] for _, _, pixels in used], label_of, patient_of) for name in SHORTCUTS}
    pairs, notes = _pairs(prints, Path(path).stem)
    result.pairs = [pair for pair in pairs if not _accepts(accepted, pair)]
    result.warnings += notes
    if TOO_MANY in notes and not any(" and " in pair["splits"] for pair in result.pairs):
        raise InputError(TOO_MANY)
    return result


def _take(result: Inspection, number: int, found: Mapping[str, Any]) -> None:
    """Put what was found of one row among the failures and the facts."""
    if "code" in found:
        result.failures.append((number, found["code"]))
        return
    for name, value in found["facts"].items():
        if name in FACTS:
            result.facts[name][value or "(absent)"] += 1
    if found["refusal"]:
        # The flow counts it out one step later than the evaluation, which would refuse to read it.
        result.failures.append((number, found["refusal"]))


def _passed(row: Row, label: int, found: Mapping[str, Any]) -> tuple[bool, ...]:
    """Whether a row passes each of ``STEPS``."""
    refusal = found.get("refusal")
    # A PNG has no header to ask: the manifest's own column counts.
    view = found.get("facts", {}).get("view") or row.get("view", "").upper()
    frontal = view not in LATERAL_VIEWS + OBLIQUE_VIEWS and not refusal
    return True, found.get("code") not in ("missing", "not_a_file"), "code" not in found, frontal, label >= 0


def _count(result: Inspection, passed: Sequence[bool], label: int) -> None:
    """Count a row in every step of the flow up to the first that it does not pass."""
    for step in itertools.compress(STEPS, itertools.accumulate(passed, operator.and_)):
        result.flow[step][0] += 1
        if label >= 0:
            result.flow[step][1 + label] += 1


def _pairs(prints: Sequence[tuple[Row, str, bytes]], name: str) -> tuple[list[dict[str, str]], list[str]]:
    """Rows that show the same picture, with what helps a person to judge them, and whether that is all."""
    table = []
    pairs, notes = find_pairs([code for _, _, code in prints], [row["split"] for row, _, _ in prints])
    for pair in pairs:
        (a, sha256, _), (b, other, _) = prints[pair.first], prints[pair.second]
        table.append(
            {
                "set": name,
                "row": a["row"],
                "other_set": name,
                "other_row": b["row"],
                "sha256": sha256,
                "other_sha256": other,
                "bits": str(pair.distance),
                "mirrored": "yes" if pair.mirrored else "no",
                "patients": _compared(same_id(a["patient_id"]), same_id(b["patient_id"])),
                "labels": _compared(a["label"], b["label"]),
                "splits": a["split"] if a["split"] == b["split"] else f"{a['split']} and {b['split']}",
            }
        )
    return table, notes


def _compared(first: str, second: str) -> str:
    """Whether two cells are the same; a manifest without labels has neither labels nor patients."""
    return "unknown" if not (first and second) else "same" if first == second else "different"


def _accepts(accepted: Accepted, pair: dict[str, str]) -> bool:
    places = [(pair["set"], pair["row"]), (pair["other_set"], pair["other_row"])]
    return is_accepted(accepted, places, (pair["sha256"], pair["other_sha256"]))


def write_pairs(path: str | Path, pairs: Sequence[dict[str, str]]) -> None:
    """Write pairs as a CSV; the lines that a person leaves in it are the accepted pairs."""
    text = io.StringIO()
    writer = csv.DictWriter(text, PAIR_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(pairs)
    write_utf8(Path(path), text.getvalue())


def is_table_of_pairs(path: Path) -> bool:
    """Whether a file is one of ``write_pairs``, whatever lines a person left in it."""
    try:
        read_accepted(path)
    except InputError:
        return False
    return True


def _look(row: dict[str, Any], options: ReadOptions, thumbnail: bool, shortcuts: bool) -> dict[str, Any]:
    data = read_bytes(row["image"])
    sha256 = sha256_of(data)
    if row["sha256"] and row["sha256"] != sha256:
        raise ReadError("hash")
    decoded = decode(data, options)
    image, facts = decoded.image, decoded.facts
    small = as_thumbnail(image) if thumbnail and facts.get("burned_in") != "YES" else None
    return {
        "sha256": sha256,
        "facts": facts,
        "thumbnail": small,
        "refusal": decoded.refusal,
        "pixels": {name: take(image) for name, take in SHORTCUTS.items()} if shortcuts else {},
        "fingerprint": fingerprint(image),
    }
