"""An evaluation at a site on the server's behalf: verify, manifest, check, evaluate, report, release; then only the release leaves."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from typing import Any

from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, read_earlier
from sga_monai.hospital.approval import APPROVED, approval_state, content_sha256, keep_approved
from sga_monai.hospital.formats import EVALUATION
from sga_monai.hospital.release import make_release
from sga_monai.hospital.site import Site
from sga_monai.hospital.validate import Validation
from sga_monai.hospital.verify import SUMS
from sga_monai.integrations.federated.aggregation import read_release
from sga_monai.integrations.federated.refusals import Refusal
from sga_monai.integrations.federated.site import EvaluationSite, SiteFile

# What a person approves, and what the figures are now.
RELEASE, FRESH = "release.json", "release.fresh.json"
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
        fresh = make_release(given.out / EVALUATION, given.out / FRESH, site.alias, given.min_cell)
    except InputError as error:
        raise _refusal("release", error) from None
    text = released(given, fresh)
    read_release(text, sums)
    return text


def released(given: EvaluationSite, fresh: Mapping[str, Any]) -> str:
    """The text of ``release.json``, which a person may have approved; it is written anew when the figures have changed.

    Raises:
        Refusal: when the site wants every release approved, and nobody has approved this one.
    """
    path = given.out / RELEASE
    there: Mapping[str, Any] = read_earlier(path)
    if content_sha256(there) != content_sha256(fresh):
        keep_approved(path, fresh, there)
        shutil.copyfile(given.out / FRESH, path)
        there = fresh
    if given.approval == "each" and approval_state(there) != APPROVED:
        raise Refusal("approval")
    return path.read_text(encoding="utf-8")


def _refusal(code: str, error: InputError) -> Refusal:
    logger.warning("%s: %s", code, error)
    return Refusal(code)
