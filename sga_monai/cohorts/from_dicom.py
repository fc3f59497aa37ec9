"""A site's manifest from its files' headers and a table of labels. Identifiers are read, joined and forgotten."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from sga_monai.cohorts.header_values import age_from_dates, is_possible, parse_age, parse_date, parse_sex
from sga_monai.cohorts.labels import Label, read_labels
from sga_monai.cohorts.listing import COPY, COPY_OF_ANOTHER_PATIENT, COPY_OF_THE_OTHER_LABEL, Listing, nothing_listed, too_equal
from sga_monai.cohorts.tables import find_copies
from sga_monai.core.display import track
from sga_monai.core.errors import InputError, ReadError
from sga_monai.core.files import FORMULA
from sga_monai.core.text import ALPHABET_IN_WORDS, plain_text
from sga_monai.data.identity import damaged_ids, same_id, same_name
from sga_monai.data.manifest import age_band
from sga_monai.data.manifest_writer import replace_manifest
from sga_monai.data.pseudonyms import patient_key, read_site_key
from sga_monai.imaging.dicom import is_dicom, read_facts, read_header
from sga_monai.imaging.head import read_head
from sga_monai.imaging.nifti import is_nifti
from sga_monai.imaging.raster import is_picture

# Nothing else of a header is read, beside what tells a frontal chest radiograph; identifiers are used and forgotten.
TAGS = (
    "PatientSex", "PatientAge", "Manufacturer", "PatientID", "AccessionNumber", "PatientBirthDate", "StudyDate", "PresentationIntentType",
    "SOPClassUID", "SOPInstanceUID", "NumberOfFrames", "Rows",
)  # fmt: skip
# Computed radiography and, below it, digital X-ray.
RADIOGRAPH_STORAGE = "1.2.840.10008.5.1.4.1.1.1."
FOR_PROCESSING_STORAGE = "1.2.840.10008.5.1.4.1.1.1.1.1"
NO_DAY = "StudyDate is no possible day: period, label_delta_days and an age from the birth date stay empty"
NO_DELTA = "more than 9999 days from StudyDate to label_date: label_delta_days stays empty"
NO_AGE = "PatientAge is no possible age, and the dates give none: age stays empty"
RESPELLED = f"Manufacturer has other characters than {ALPHABET_IN_WORDS}: they are spelled out or left out"
MOST_DAYS = 9999


@dataclass(frozen=True)
class _Found:
    """A file that can be listed: its path as the manifest has it, what of it is known, and its label."""

    image: str
    size: int
    header: dict[str, str]
    keys: dict[str, str]
    label: Label
    patient: str


def manifest_from_dicom(folder: str | Path, labels: str | Path, site: str, site_key: str | Path, out: str | Path) -> Listing:
    """Write a site's manifest: every row with split "test", patients and studies under the site's key.

    Of DICOM files the headers alone are read, but for those that look like copies of each other. What a header says is no
    frontal chest radiograph for presentation is left out and counted, as is a copy, byte for byte. Texts are in the alphabet
    of a release, and the manifest is read back before it is written.

    Args:
        folder: searched with its subfolders, links left out; later the ``dataset_dir``.
        labels: CSV with ``label`` (0 or 1) and at least one of ``accession``, ``patient_id`` and ``image`` (a path below
            ``folder``, the only way to label a PNG or JPEG, which then needs ``patient_id`` too); optional ``label_date``
            (YYYY-MM-DD) and ``negative_type``. A ``patient_id`` beside another key is taken instead of PatientID.
        site: the site's name in the manifest.
        site_key: file of ``new_site_key``.
        out: the manifest.

    Returns:
        What became of every file and every label.

    Raises:
        InputError: when ``labels`` is malformed or gives one key two labels or two patients, or no file can be listed.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError("the folder of images does not exist; check its path")
    name = plain_text(site)
    if not name:
        raise InputError(f"site must be written in {ALPHABET_IN_WORDS}")
    key = read_site_key(site_key)
    table = read_labels(Path(labels))
    listing = Listing(warnings=list(table.warnings))
    if name != site:
        listing.warnings.append(f"site is written as {name}, in {ALPHABET_IN_WORDS}")
    keys: list[dict[str, str]] = []
    found: list[_Found] = []
    for path in track(list(_walk(root, listing)), "reading headers"):
        image = Path(path).relative_to(root).as_posix()
        header, size, reason = _read(path)
        of_file = _keys(image, header)
        label = table.of(of_file)
        if reason == "not an image":
            listing.add(f"left out: {reason}", label)
            continue
        keys.append(of_file)
        patient = (label.patient_id if label else "") or header.get("PatientID", "")
        patient = patient if same_id(patient).strip("-") else ""
        reason = reason or ("file name" if _cell(image) is None else "no label" if label is None else "" if patient else "no patient")
        if reason or label is None:
            listing.add(f"left out: {reason}", label)
        else:
            found.append(_Found(_cell(image) or "", size, header, of_file, label, patient))
    listed = []
    for one, reason in zip(found, _copies(root, found), strict=True):
        listing.add(f"left out: {reason}" if reason else "listed", one.label)
        listed += [] if reason else [one]
        if reason in ("", COPY):
            table.list_file(one.keys)
    listing.labels = table.count()
    listing.warnings += table.disagreements()
    if listing.one_sided or not listed:
        listing.warnings += table.explain(keys)
    if not listed:
        raise nothing_listed(listing)
    listing.warnings += _suspicions(listed)
    replace_manifest(Path(out), [_row(one, name, key, listing.cells) for one in listed])
    return listing


def _copies(root: Path, found: Sequence[_Found]) -> list[str]:
    """Why each file is left out as a copy, or "". Only files of one size and header are read as a whole."""
    marks = [(one.size, tuple(one.header.items())) for one in found]
    often = Counter(marks)
    alike = [i for i, mark in enumerate(marks) if often[mark] > 1]
    reasons = [""] * len(found)
    for i in alike:
        # It was there when its header was read.
        reasons[i] = "" if (root / found[i].image).is_file() else "missing"
    for group in find_copies(root, [{"image": found[i].image, "dropped": ""} for i in alike]):
        places = [alike[i] for i in group]
        one_label = len({found[i].label.label for i in places}) == 1
        one_patient = len({same_id(found[i].patient) for i in places}) == 1
        differ = COPY_OF_THE_OTHER_LABEL if not one_label else "" if one_patient else COPY_OF_ANOTHER_PATIENT
        for i in places if differ else places[1:]:
            reasons[i] = differ or COPY
    return reasons


def _suspicions(listed: Sequence[_Found]) -> list[str]:
    """What of the patients and days may be wrong."""
    sentences = []
    others = [one for one in listed if one.keys["patient_id"] and one.label.patient_id]
    others = [one for one in others if same_id(one.label.patient_id) != one.keys["patient_id"]]
    # A placeholder for all is mended by the table.
    if len({one.keys["patient_id"] for one in others}) > 1:
        # Right where an export was pseudonymized, wrong where a column of the table was sorted on its own.
        sentences.append(
            f"{len(others)} of {len(listed)} images have another PatientID than the patient_id of their label, which is taken; "
            "check that the table's columns belong together"
        )
    sentences += damaged_ids([(number, one.patient) for number, one in enumerate(listed, 2)], "PatientID")
    return sentences + too_equal([same_id(one.patient) for one in listed], [one.header.get("StudyDate", "") for one in listed])


def _walk(root: Path, listing: Listing) -> Iterator[str]:
    """The files below a folder, by name; links and closed folders are counted instead."""
    for folder, folders, names in os.walk(root, onerror=lambda _: listing.add("left out: folder")):
        folders.sort()
        for name in folders:
            if os.path.islink(os.path.join(folder, name)):
                listing.add("left out: link")
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                listing.add("left out: link")
            else:
                yield path


def _read(path: str) -> tuple[dict[str, str], int, str]:
    """A file's header (empty for what has none), its size, and why it is left out, or ""."""
    try:
        size = os.stat(path).st_size
        head = read_head(path)
        if not is_dicom(head):
            return {}, size, "" if is_picture(head) or is_nifti(head) else "not an image"
        header, reason = examine_header(head)
        return header, size, reason
    except ReadError as error:
        return {}, 0, error.code
    except OSError:
        return {}, 0, "missing"


def examine_header(data: bytes, keywords: Sequence[str] = TAGS) -> tuple[dict[str, str], str]:
    """The header of a DICOM file with its ``view``, and why it is no frontal chest radiograph for presentation, or "".

    Args:
        data: the file, at least to its pixels.
        keywords: the elements of the header; ``TAGS`` must be among them.

    Raises:
        ReadError: "unreadable", when the header cannot be parsed.
    """
    header, facts = read_header(data, keywords), read_facts(data)
    raw = "FOR PROCESSING" in header.get("PresentationIntentType", "").upper() or header.get("SOPClassUID") == FOR_PROCESSING_STORAGE
    several = header.get("NumberOfFrames", "").isdecimal() and int(header["NumberOfFrames"]) > 1
    reason = facts["refusal"] or _without_image(header) or ("for_processing" if raw else "multi_frame" if several else "")
    return header | {"view": facts["view"]}, reason


def _without_image(header: dict[str, str]) -> str:
    """The reason against an object without Rows, which every image has (PS3.3 C.7.6.3): a report, or a vendor's raw data."""
    if "Rows" in header:
        return ""
    # A radiograph's own class without them was cut in its header.
    return "truncated" if f"{header.get('SOPClassUID', '')}.".startswith(RADIOGRAPH_STORAGE) else "no_pixels"


def _keys(image: str, header: dict[str, str]) -> dict[str, str]:
    """What a label may be filed under. A name that is not UTF-8 is most often in a code page of Windows."""
    readable = image if image.isascii() else os.fsencode(image).decode("utf-8", "surrogateescape")
    if any("\udc80" <= character <= "\udcff" for character in readable):
        readable = os.fsencode(image).decode("cp1252", "replace")
    return {
        "image": same_name(readable),
        "accession": same_id(header.get("AccessionNumber", "")),
        "patient_id": same_id(header.get("PatientID", "")),
    }


def _cell(image: str) -> str | None:
    """A path as a manifest can hold it, or ``None``."""
    if "\\" in image or ":" in image or not image.isprintable() or image != image.rstrip():
        return None
    # What begins like a formula, a home folder or a space does not with ./ in front.
    return f"./{image}" if image.startswith((*FORMULA, "~", " ")) else image


def _row(one: _Found, site: str, key: bytes, cells: Counter[str]) -> dict[str, str]:
    header, label = one.header, one.label
    study = _study_date(header, cells)
    delta = (label.label_date - study).days if label.label_date and study else None
    if delta is not None and abs(delta) > MOST_DAYS:
        cells[NO_DELTA] += 1
        delta = None
    manufacturer = plain_text(header.get("Manufacturer", ""))
    cells[RESPELLED] += manufacturer != header.get("Manufacturer", "")
    return {
        "image": one.image,
        "label": str(label.label),
        "patient_id": patient_key(one.patient, key),
        "site": site,
        "split": "test",
        "study_id": patient_key(header["AccessionNumber"], key) if same_id(header.get("AccessionNumber", "")) else "",
        "view": header.get("view", ""),
        "sex": parse_sex(header.get("PatientSex", "")),
        "age": _age(header, study, cells),
        "manufacturer": manufacturer,
        "negative_type": label.negative_type,
        "period": f"{study.year}H{1 if study.month < 7 else 2}" if study else "",
        "label_delta_days": "" if delta is None else str(delta),
    }


def _study_date(header: dict[str, str], cells: Counter[str]) -> date | None:
    text = header.get("StudyDate", "")
    study = parse_date(text)
    if study is not None and is_possible(study):
        return study
    cells[NO_DAY] += bool(text)
    return None


def _age(header: dict[str, str], study: date | None, cells: Counter[str]) -> str:
    """An age's band, from PatientAge or else from the dates."""
    years = parse_age(header.get("PatientAge", ""))
    if years is None:
        years = age_from_dates(parse_date(header.get("PatientBirthDate", "")), study)
    if years is None:
        cells[NO_AGE] += bool(header.get("PatientAge"))
        return ""
    return age_band(years)
