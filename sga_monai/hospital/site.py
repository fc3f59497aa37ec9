"""What a hospital gives for a validation, and where in its folder each step writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.outputs import refuse_inputs, refuse_inside
from sga_monai.hospital.acceptance import refuse_other_prevalence
from sga_monai.hospital.protocol import read_protocol

# What each step writes to the folder of the validation.
SITE_KEY, MANIFEST, SHEET, CHECKED, INDEX = "site.key", "site.csv", "sheet.png", "check.json", "index.html"


@dataclass(frozen=True)
class Site:
    """What a hospital gives.

    Attributes:
        bundle: the unpacked bundle.
        images: folder of the exported files.
        labels: CSV; see ``manifest_from_dicom``.
        name: of the site in its manifest.
        out: the folder of the validation; all of it stays at the site.
        prevalence: of the population in whom the model would be used, in (0, 1); ``None`` takes the cohort's.
        public_key: of the bundle's sender.
        site_key: file of ``new_site_key``; ``None`` makes or takes ``site.key`` in ``out``.
        num_workers: processes that read.
        protocol: of ``write_protocol``; ``None`` where there is none.
    """

    bundle: Path
    images: Path
    labels: Path
    name: str
    out: Path
    prevalence: float | None = None
    public_key: Path | None = None
    site_key: Path | None = None
    num_workers: int = 0
    protocol: Path | None = None

    def __post_init__(self) -> None:
        if self.prevalence is not None:
            check.number("prevalence", self.prevalence, above=0, below=1)
        check.whole("num_workers", self.num_workers, low=0)
        plan = None if self.protocol is None else read_protocol(self.protocol)
        if plan is not None and self.prevalence is not None:
            # The report would refuse it, after all images were scored.
            refuse_other_prevalence(plan, self.prevalence)
        for name, path in (("images", self.images), ("bundle", self.bundle)):
            if not path.is_dir():
                raise InputError(f"{name} is not a folder; check its path")
        if self.out.exists() and not self.out.is_dir():
            raise InputError("--out is a file; give a folder")
        refuse_inside("--out", self.out, self.bundle, "the bundle")
        for file in (MANIFEST, SHEET, CHECKED, INDEX):
            refuse_inputs(f"--out with its {file}", self.out / file, (self.labels, self.public_key, self.site_key, self.protocol))
        if self.out.resolve().is_relative_to(self.images.resolve()):
            raise InputError("out lies inside images, which would then be searched with it; give a folder elsewhere")

    @property
    def key(self) -> Path:
        """The key that was given, or the folder's own. It also names patients in the predictions, for ``monitor``."""
        return self.site_key or self.out / SITE_KEY
