"""What became of every file and every label of a site, and what makes one suspicious."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from sga_monai.cohorts.labels import Label
from sga_monai.core.errors import REASONS, InputError

COPY = "copy"
# Copies that are no mere repetition: which of them is right is not known.
COPY_OF_THE_OTHER_LABEL, COPY_OF_ANOTHER_PATIENT = "copy of the other label", "copy of another patient"
# Why a file is left out, beside the codes of ``REASONS``.
LEFT_OUT = {
    "link": "links are not followed; copy the files, or give the folder that they lead to",
    "folder": "the folder cannot be opened; ask for access",
    "file name": "a manifest cannot hold this name (: or \\, other than UTF-8, invisible characters, a space at its end); rename the file",
    "examination": "no chest radiograph by Modality or BodyPartExamined; remove the file",
    "not an image": "not a DICOM, PNG, JPEG or NIfTI-1 file",
    "no label": "no row of the labels fits it",
    COPY: "equal byte for byte to a file that is listed; nothing to do",
    COPY_OF_THE_OTHER_LABEL: "equal byte for byte to a file of the other label; correct the labels",
    COPY_OF_ANOTHER_PATIENT: "equal byte for byte to a file of another patient; correct the labels",
    "no patient": "PatientID is empty; give patient_id in the labels",
}
# So many images of one patient, or of one day, are no chance.
SUSPICIOUS, SHARE = 10, 0.5


@dataclass
class Listing:
    """What became of every file and of every label.

    Attributes:
        files: "listed" and "left out: REASON", each with the number of files, and of those with label 1 and label 0.
        labels: labels that no listed image has, each kind with their number, label 1 and label 0.
        cells: what was changed or left empty, and in how many rows.
        warnings: sentences: how the labels were tried, what may be wrong with ids.
    """

    files: dict[str, list[int]] = field(default_factory=dict)
    labels: dict[str, list[int]] = field(default_factory=dict)
    cells: Counter[str] = field(default_factory=Counter)
    warnings: list[str] = field(default_factory=list)

    @property
    def one_sided(self) -> bool:
        """Whether an image has no label, or a label no listed image."""
        return bool(self.labels) or "left out: no label" in self.files

    def add(self, what: str, label: Label | None = None) -> None:
        """Count a file."""
        line = self.files.setdefault(what, [0, 0, 0])
        line[0] += 1
        if label is not None:
            line[2 - label.label] += 1


def too_equal(patients: Sequence[str], days: Sequence[str]) -> list[str]:
    """Sentences about what an anonymizer that gives everybody the same id or day leaves behind.

    Args:
        patients: of each image, as they are compared.
        days: StudyDate of each image.
    """
    sentences = []
    most = max(Counter(patients).values())
    if most == len(patients) > 1:
        sentences.append(
            f"all {most} images have one PatientID, so no interval can be estimated; if they are of several patients, give patient_id "
            "in the labels, or export with pseudonyms"
        )
    elif most >= max(SUSPICIOUS, SHARE * len(patients)):
        sentences.append(f"{most} of {len(patients)} images have one PatientID; is it a placeholder?")
    if len(days) >= SUSPICIOUS and len(set(days)) == 1 and days[0]:
        sentences.append(f"all {len(days)} images have one StudyDate; if it is a placeholder, period and label_delta_days say nothing")
    return sentences


def nothing_listed(listing: Listing) -> InputError:
    """The error that says why there is no manifest: the most frequent reasons first, with their remedies."""
    reasons = sorted(listing.files.items(), key=lambda item: -item[1][0])
    if not reasons:
        return InputError("the folder holds no file; give the folder of the images")
    named = [(what.removeprefix("left out: "), line[0]) for what, line in reasons[:3]]
    text = "; ".join(
        f"{count} left out: {reason} ({LEFT_OUT.get(reason) or REASONS.get(reason, 'by its header')})" for reason, count in named
    )
    start = "no image has a label" if named[0][0] == "no label" else "no image can be listed"
    return InputError("; ".join([f"{start}: {text}", *listing.warnings]))
