"""A site's manifest from its files' headers and a table of labels. Identifiers are read, joined and forgotten."""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from datetime import date, datetime
from pathlib import Path
from typing import Any

from rich.progress import track

from sga_monai.core.errors import InputError, ReadError
from sga_monai.core.files import FORMULA
from sga_monai.data.manifest import age_band, write_manifest
from sga_monai.data.pseudonyms import patient_key, read_site_key
from sga_monai.imaging.dicom import is_dicom, read_header
from sga_monai.imaging.nifti import is_nifti
from sga_monai.imaging.raster import is_picture
from sga_monai.imaging.read import read_bytes

# Nothing else of a header is read; the last four are used and forgotten.
TAGS = (
    "Modality",
    "ViewPosition",
    "PatientSex",
    "PatientAge",
    "Manufacturer",
    "PatientID",
    "AccessionNumber",
    "PatientBirthDate",
    "StudyDate",
)
KEYS = ("image", "accession", "patient_id")
COLUMNS = (*KEYS, "label", "label_date", "negative_type")
MODALITIES = ("CR", "DX")


def manifest_from_dicom(folder: str | Path, labels: str | Path, site: str, site_key: str | Path, out: str | Path) -> Counter[str]:
    """Write a site's manifest: every row with split "test", patients and studies under the site's key.

    Args:
        folder: searched with its subfolders; later the ``dataset_dir``.
        labels: CSV with ``label`` (0 or 1) and at least one of ``accession``, ``patient_id`` and ``image`` (a path below
            ``folder``, the only way to label a PNG or JPEG, which then needs ``patient_id`` too); optional ``label_date``
            (YYYY-MM-DD) and ``negative_type``.
        site: the site's name in the manifest.
        site_key: file of ``new_site_key``.
        out: the manifest.

    Returns:
        How many files were listed, and how many were left out for which reason.

    Raises:
        InputError: when ``labels`` is malformed or gives one key two labels, or no file has a label.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError("the folder of images does not exist; check its path")
    key = read_site_key(site_key)
    table = _read_labels(Path(labels))
    counts: Counter[str] = Counter()
    rows: list[dict[str, str]] = []
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    for path in track(files, description="reading headers", transient=True, disable=not sys.stdout.isatty()):
        image = path.relative_to(root).as_posix()
        try:
            data = read_bytes(path)
            if not (is_dicom(data) or is_picture(data) or is_nifti(data)):
                counts["left out: not an image"] += 1
                continue
            header = read_header(data, TAGS) if is_dicom(data) else {}
        except ReadError as error:
            counts[f"left out: {error.code}"] += 1
            continue
        if header.get("Modality") and header["Modality"] not in MODALITIES:
            counts["left out: not CR or DX"] += 1
            continue
        found = [table[kind, value] for kind, value in _keys(image, header) if (kind, value) in table]
        patient = header.get("PatientID") or (found[0]["patient_id"] if found else "")
        if not found or not patient:
            counts["left out: no label" if not found else "left out: no patient"] += 1
            continue
        rows.append(_row(image, header, found[0], patient, site, key))
        counts["listed"] += 1
    if not rows:
        raise InputError("no image has a label; labels need a column accession, patient_id or image that fits the files")
    write_manifest(out, rows)
    return counts


def _keys(image: str, header: dict[str, str]) -> list[tuple[str, str]]:
    """What a label may be filed under, most particular first."""
    named = (("image", image), ("accession", header.get("AccessionNumber", "")), ("patient_id", header.get("PatientID", "")))
    return [(kind, value if kind == "image" else value.strip().casefold()) for kind, value in named if value]


def _row(image: str, header: dict[str, str], label: dict[str, str], patient: str, site: str, key: bytes) -> dict[str, str]:
    study = _date(header.get("StudyDate", ""))
    given = _date(label["label_date"].replace("-", ""))
    manufacturer = header.get("Manufacturer", "")
    return {
        "image": image,
        "label": label["label"],
        "patient_id": patient_key(patient, key),
        "site": site,
        "split": "test",
        "study_id": patient_key(header["AccessionNumber"], key) if header.get("AccessionNumber") else "",
        "view": header.get("ViewPosition", "").upper(),
        "sex": header.get("PatientSex", "") if header.get("PatientSex") in ("M", "F", "O") else "",
        "age": _age(header, study),
        "manufacturer": manufacturer if re.fullmatch(r"[\w .,&()/-]{1,48}", manufacturer) and not manufacturer.startswith(FORMULA) else "",
        "negative_type": label["negative_type"],
        "period": f"{study.year}H{1 if study.month < 7 else 2}" if study else "",
        "label_delta_days": str((given - study).days) if given and study else "",
    }


def _age(header: dict[str, str], study: date | None) -> str:
    """Years, 90+ from 90 on, from PatientAge or else from the dates."""
    match = re.fullmatch(r"0*(\d{1,3})Y", header.get("PatientAge", ""))
    birth = _date(header.get("PatientBirthDate", ""))
    if match:
        years = int(match[1])
    elif birth and study:
        years = study.year - birth.year - ((study.month, study.day) < (birth.month, birth.day))
    else:
        return ""
    return age_band(years)


def _date(text: str) -> date | None:
    try:
        return datetime.strptime(text.strip(), "%Y%m%d").date()
    except ValueError:
        return None


def _read_labels(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Labels by each of their keys; cells are never quoted in messages."""
    table: dict[tuple[str, str], dict[str, Any]] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            header = [name.strip() for name in reader.fieldnames or []]
            if "label" not in header or not set(KEYS) & set(header) or set(header) - set(COLUMNS):
                raise InputError(f"{path.name}: the columns must be label, one of {', '.join(KEYS)}, and may be label_date, negative_type")
            reader.fieldnames = header
            for number, cells in enumerate(reader, 2):
                row = {name: (cells.get(name) or "").strip() for name in COLUMNS}
                if None in cells or row["label"] not in ("0", "1"):
                    raise InputError(
                        f"{path.name}: row {number}: label must be 0 or 1, and every row must have as many cells as the header"
                    )
                if row["label_date"] and _date(row["label_date"].replace("-", "")) is None:
                    raise InputError(f"{path.name}: row {number}: label_date must be YYYY-MM-DD")
                # The most particular key that the row has; a patient's label is not that of each of the accessions.
                kind = next((kind for kind in KEYS if row[kind]), None)
                if kind is None:
                    raise InputError(f"{path.name}: row {number} has no {', '.join(KEYS)}")
                value = row[kind] if kind == "image" else row[kind].casefold()
                if table.setdefault((kind, value), row)["label"] != row["label"]:
                    raise InputError(f"{path.name}: row {number} gives another label than an earlier row of the same {kind}; keep one")
    except FileNotFoundError:
        raise InputError(f"no labels {path.name}; check the path") from None
    except (OSError, UnicodeDecodeError, csv.Error):
        raise InputError(f"{path.name} is not CSV in UTF-8; save it again") from None
    return table
