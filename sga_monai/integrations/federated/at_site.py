"""An evaluation at a site on the server's behalf: verify, manifest, check, evaluate, report, release; then only the release leaves."""

from __future__ import annotations

import hmac
import logging

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, write_whole
from sga_monai.hospital.release import make_release
from sga_monai.hospital.validate import EVALUATION, Site, Validation
from sga_monai.hospital.verify import SUMS
from sga_monai.integrations.federated.aggregation import read_release
from sga_monai.integrations.federated.refusals import Refusal
from sga_monai.integrations.federated.site import EvaluationSite, SiteFile

RELEASE, APPROVED = "release.json", "approved.sha256"
logger = logging.getLogger(__name__)


def evaluate_site(site: SiteFile, sums: str) -> str:
    """Evaluate the site's own bundle on its images, and return the text of its ``release.json``.

    What an earlier call has finished is not done again.

    Args:
        site: of ``read_site_file``.
        sums: SHA-256 of the ``SHA256SUMS`` of the bundle that the server asks for.

    Raises:
        Refusal: when the site does not take part, its bundle is another one, its data are refused, nothing may leave, or a person
            has not approved the release. The sentence with the cause is in the site's log alone.
    """
    if site.evaluate is None:
        raise Refusal("no part")
    given = site.evaluate
    if not (given.bundle / SUMS).is_file() or file_sha256(given.bundle / SUMS) != sums:
        raise Refusal("bundle")
    try:
        files = (given.bundle, given.images, given.labels, site.alias, given.out, given.prevalence)
        validation = Validation(Site(*files, given.public_key, given.site_key, given.num_workers, given.protocol))
    except InputError as error:
        raise _refusal("data", error) from None
    try:
        validation.verify()
    except InputError as error:
        raise _refusal("bundle", error) from None
    try:
        listing = validation.write_manifest()
        checked = validation.check_images()
        validation.evaluate()
        validation.report(listing, checked)
    except InputError as error:
        raise _refusal("data", error) from None
    try:
        make_release(given.out / EVALUATION, given.out / RELEASE, site.alias, given.min_cell)
    except InputError as error:
        raise _refusal("release", error) from None
    if given.approval == "each" and not is_approved(given):
        raise Refusal("approval")
    text = (given.out / RELEASE).read_text(encoding="utf-8")
    read_release(text, sums)
    return text


def approve(site: SiteFile) -> str:
    """Approve the release that is in the site's folder now, and only this one; a changed one must be approved again.

    Returns:
        Its text, for the person who approves.

    Raises:
        InputError: when there is no release yet.
    """
    if site.evaluate is None:
        raise InputError("the site's file has no section evaluate; there is nothing to approve")
    path = site.evaluate.out / RELEASE
    if not path.is_file():
        raise InputError("there is no release.json yet; it is made when the server asks for an evaluation")
    text = path.read_text(encoding="utf-8")
    read_release(text)
    digest = file_sha256(path)
    write_whole(site.evaluate.out / APPROVED, lambda target: target.write_text(digest + "\n", encoding="utf-8"))
    return text


def is_approved(given: EvaluationSite) -> bool:
    """Whether a person approved the release that is in the folder now."""
    approved = given.out / APPROVED
    return approved.is_file() and hmac.compare_digest(approved.read_text(encoding="utf-8").strip(), file_sha256(given.out / RELEASE))


def _refusal(code: str, error: InputError) -> Refusal:
    logger.warning("%s: %s", code, error)
    return Refusal(code)
