"""The whole external validation as one command: verify, manifest, check, evaluate, report. It stops before the release."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sga_monai.cohorts.contact_sheet import write_contact_sheet
from sga_monai.cohorts.from_dicom import manifest_from_dicom
from sga_monai.cohorts.inspection import Inspection, inspect_manifest
from sga_monai.cohorts.listing import LEFT_OUT, Listing
from sga_monai.core.display import page_templates
from sga_monai.core.errors import REASONS
from sga_monai.core.files import file_sha256, read_earlier, write_json, write_utf8
from sga_monai.core.folders import first_free, lock_output_dir
from sga_monai.data.listed_files import OUTSIDE, any_is_back
from sga_monai.data.manifest import read_manifest
from sga_monai.data.pseudonyms import new_site_key
from sga_monai.evaluation.predictions import FILE, read_predictions
from sga_monai.hospital.evaluate import evaluate_bundle, listed_files_sha256, selftest_bundle
from sga_monai.hospital.evaluated import changed_files
from sga_monai.hospital.formats import EVALUATION
from sga_monai.hospital.html import write_html
from sga_monai.hospital.reference import read_reference
from sga_monai.hospital.report import make_report
from sga_monai.hospital.selftest import refuse_failures
from sga_monai.hospital.site import CHECKED, INDEX, MANIFEST, SHEET, Site
from sga_monai.hospital.verify import SUMS, verify_bundle, verify_signature

logger = logging.getLogger(__name__)

# In CHECKED: SHA-256 of the manifest as it was written, by which one that was edited is known.
WRITTEN = "written_sha256"
STEPS = (
    ("verify", "compare every file of the bundle with SHA256SUMS; run its self-test"),
    ("manifest", f"read headers, join the labels, write {MANIFEST}"),
    ("check", f"read every image, write {CHECKED} and {SHEET}"),
    ("evaluate", f"score every image, write {EVALUATION}/"),
    ("report", f"write {EVALUATION}/report.html and {INDEX}"),
)


@dataclass(frozen=True)
class Outcome:
    """What a validation came to.

    Attributes:
        listing: what became of every file and every label.
        failed: rows whose image could not be scored.
        verdict: of the report.
        page: ``index.html``.
    """

    listing: Listing
    failed: int
    verdict: Mapping[str, Any]
    page: Path

    @property
    def complete(self) -> bool:
        """Whether every file has a label, every label an image, and every row a score."""
        return not self.failed and not self.listing.one_sided


class Validation:
    """The steps of ``STEPS`` for one site, each a method. After a stop the same call goes on.

    Args:
        site: what is validated where.

    Example:
        >>> from pathlib import Path
        >>> site = Site(Path("sga_cxr-0.1.0"), Path("images"), Path("labels.csv"), "our_hospital", Path("out"))
        Traceback (most recent call last):
        sga_monai.core.errors.InputError: images is not a folder; check its path
    """

    def __init__(self, site: Site) -> None:
        self.site = site

    def verify(self) -> int:
        """The number of files that are what was packaged; then the self-test.

        Raises:
            InputError: when one is not, the signature is not the sender's, or the model computes here otherwise.
        """
        count = verify_bundle(self.site.bundle)
        if self.site.public_key is not None:
            verify_signature(self.site.bundle, self.site.public_key)
        refuse_failures(selftest_bundle(self.site.bundle))
        return count

    def write_manifest(self) -> Listing:
        """Write ``site.csv``, and ``site.key`` before it where there is none. One that was edited is kept as ``site.1.csv``.

        Raises:
            InputError: see ``manifest_from_dicom``.
        """
        site = self.site
        lock_output_dir(site.out)
        site.out.mkdir(parents=True, exist_ok=True)
        if site.site_key is None and not site.key.exists():
            new_site_key(site.key)
        earlier = read_earlier(site.out / CHECKED)
        _keep_edited(site.out / MANIFEST, earlier.get(WRITTEN))
        listing = manifest_from_dicom(site.images, site.labels, site.name, site.key, site.out / MANIFEST)
        written = file_sha256(site.out / MANIFEST)
        if earlier.get(WRITTEN) != written:
            write_json(site.out / CHECKED, earlier | {WRITTEN: written})
        return listing

    def check_images(self) -> dict[str, Any]:
        """Read every image; write ``check.json`` and the contact sheet. Not done again for the same manifest, files and bundle.

        Returns:
            ``flow, facts, failed, pairs, warnings, manifest_sha256, files_sha256`` and the bundle's ``voi, orientation``.

        Raises:
            InputError: when one file is in two rows.
        """
        out, reference = self.site.out, read_reference(self.site.bundle / "reference.json")
        prepared = {name: reference[name] for name in ("voi", "orientation")}
        inputs = {"manifest_sha256": file_sha256(out / MANIFEST), "files_sha256": self._files_sha256(), **prepared}
        earlier = read_earlier(out / CHECKED)
        if inputs.items() <= earlier.items() and not self._any_is_back(earlier.get("failed", {})):
            return earlier
        found = inspect_manifest(out / MANIFEST, self.site.images, True, num_workers=self.site.num_workers, thumbnails=True, **prepared)
        # An earlier one shows files that are no more.
        (out / SHEET).unlink(missing_ok=True)
        if found.thumbnails:
            write_contact_sheet(out / SHEET, found.thumbnails)
        checked = inputs | {WRITTEN: earlier.get(WRITTEN)} | _summary(found)
        write_json(out / CHECKED, checked)
        return checked

    def evaluate(self) -> dict[str, int]:
        """Score the images into ``evaluation/``; a finished evaluation of the same inputs is left as it is.

        One whose files or predictions have changed since, or can be opened that could not be, is moved to ``evaluation.1``, or the
        next free number, and a new one is made.

        Returns:
            The numbers of ``rows``, ``scored`` and ``failed``.
        """
        site, folder = self.site, self.site.out / EVALUATION
        earlier = read_earlier(folder / "run.json")
        same = earlier.get("manifest_sha256") == file_sha256(site.out / MANIFEST)
        same &= earlier.get("bundle", {}).get("sha256sums") == file_sha256(site.bundle / SUMS)
        same &= bool(earlier.get("finished"))
        changed = ""
        if same and earlier.get("files_sha256") != self._files_sha256():
            changed = "images have changed since they were scored"
        elif same and (names := changed_files(folder, earlier)):
            changed = f"{names[0]} was changed since it was written"
        elif same and earlier["counts"]["failed"] and self._any_is_back(_failed_rows(folder / FILE)):
            changed = "images can be opened that could not be when they were scored"
        if changed:
            logger.warning("%s; all are scored again, and the earlier evaluation is kept beside", changed)
        if changed or not same:
            given: dict[str, Any] = {"num_workers": site.num_workers, "protocol": site.protocol, "site_key": site.key}
            evaluate_bundle(site.bundle, site.out / MANIFEST, site.images, folder, site.public_key, **given)
            earlier = read_earlier(folder / "run.json")
        counts: dict[str, int] = earlier["counts"]
        return counts

    def report(self, listing: Listing, checked: Mapping[str, Any]) -> Outcome:
        """Write the report and the first page.

        Args:
            listing: of ``write_manifest``.
            checked: of ``check_images``.
        """
        folder = self.site.out / EVALUATION
        figures = make_report(folder, self.site.prevalence, self.site.protocol)
        write_html(figures, folder)
        template = page_templates("hospital").get_template("index.html.jinja")
        sheet = (self.site.out / SHEET).is_file()
        page = template.render(report=figures, listing=asdict(listing), checked=checked, reasons=REASONS | LEFT_OUT, sheet=sheet)
        write_utf8(self.site.out / INDEX, page)
        return Outcome(listing, figures["failures"]["failed"], figures["verdict"], self.site.out / INDEX)

    def _files_sha256(self) -> str:
        """Of the listed files as they are now."""
        return listed_files_sha256(self.site.bundle, self.site.out / MANIFEST, self.site.images, self.site.key)

    def _any_is_back(self, failed: Mapping[str, Iterable[int]]) -> bool:
        """Whether an image that could not be opened can be now; nothing else of the files tells."""
        if not any(failed.get(code) for code in OUTSIDE):
            return False
        return any_is_back(failed, read_manifest(self.site.out / MANIFEST), self.site.images)


def _keep_edited(manifest: Path, written: str | None) -> None:
    """Move a manifest that is not the one that was written to ``site.1.csv``, or the next free number, since it is written anew.

    Args:
        manifest: of an earlier call.
        written: SHA-256 of what that call wrote; ``None`` where it is not known.
    """
    if written is None or not manifest.is_file() or file_sha256(manifest) == written:
        return
    kept = manifest.rename(first_free(manifest, manifest.suffix))
    remedy = "it is written anew from the files and labels; sga-monai evaluate takes an edited one"
    logger.warning("%s was edited and is kept as %s; %s", MANIFEST, kept.name, remedy)


def _failed_rows(path: Path) -> dict[str, list[int]]:
    """Numbers of the rows without a score by the reason."""
    table = read_predictions(path)
    failed = table[table["score"].isna()]
    return {str(code): rows.tolist() for code, rows in failed.groupby("error")["row"]}


def _summary(found: Inspection) -> dict[str, Any]:
    """An inspection as plain values, without pictures."""
    reasons: dict[str, list[int]] = {}
    for row, code in found.failures:
        reasons.setdefault(code, []).append(row)
    facts = {name: dict(counter.most_common()) for name, counter in found.facts.items()}
    return {"flow": found.flow, "facts": facts, "failed": reasons, "pairs": found.pairs, "warnings": list(found.warnings)}
