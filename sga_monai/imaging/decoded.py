"""What a reader is asked for, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError

VOI = ("dicom", "none")
ORIENTATIONS = ("header", "stored")


@dataclass(frozen=True)
class ReadOptions:
    """How a file is read; PNG, JPEG and NIfTI files have no header to which ``voi`` or ``frame`` could apply.

    Attributes:
        voi: "dicom" applies the first VOI LUT, or else the first window, of a DICOM file and maps its output range to
            [0, 1]; "none" maps the range that the stored bits can represent to [0, 1].
        lateral: accept lateral and oblique views too.
        frame: the frame to take of a DICOM file with several, from 1; ``None`` refuses such a file.
        orientation: "header" turns a frontal view by its PatientOrientation so that it hangs as a radiograph does;
            "stored" leaves the rows and columns as they are stored.
        other_examinations: accept a DICOM file whose header says that it is no chest radiograph.

    Raises:
        InputError: when a value is not one of these.
    """

    voi: str = "dicom"
    lateral: bool = False
    frame: int | None = None
    orientation: str = "header"
    other_examinations: bool = False

    def __post_init__(self) -> None:
        check.choice("voi", self.voi, VOI)
        check.choice("orientation", self.orientation, ORIENTATIONS)
        if self.frame is not None and (isinstance(self.frame, bool) or not isinstance(self.frame, int) or self.frame < 1):
            raise InputError(f"frame must be a number from 1, or null, got {self.frame!r}")


@dataclass(frozen=True)
class Decoded:
    """One image and what its file says of it.

    Attributes:
        image: float32 in [0, 1], rows x columns, bright is dense.
        facts: what a site's team wants counted, in DICOM's own words; see ``examination.facts_of``. No free text of the
            file is in it.
        padding: where the pixels are padding, which carries no information; ``None`` where none is.
        refusal: the reason code for which ``ReadOptions()`` would have refused the file; ``None`` when it would not.
    """

    image: NDArray[np.float32]
    facts: dict[str, str] = field(default_factory=dict)
    padding: NDArray[np.bool_] | None = None
    refusal: str | None = None
