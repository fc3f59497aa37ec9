"""A query's studies are found, their frontal radiographs fetched into a folder, and the manifest written: one pass that can be repeated."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sga_monai.cohorts.from_dicom import manifest_from_dicom
from sga_monai.cohorts.listing import Listing
from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.files import write_whole
from sga_monai.core.folders import lock_output_dir
from sga_monai.core.text import ALPHABET_IN_WORDS, plain_text
from sga_monai.data.pseudonyms import new_site_key, read_site_key
from sga_monai.integrations.pacs.accounting import Accounting
from sga_monai.integrations.pacs.progress import Progress
from sga_monai.integrations.pacs.query import Wanted, read_query
from sga_monai.integrations.pacs.received import Rejected
from sga_monai.integrations.pacs.retry import Retry
from sga_monai.integrations.pacs.run import WITHDRAWN, Run
from sga_monai.integrations.pacs.server import MOST_WORKERS, Server, silenced

IMAGES, LABELS, MANIFEST, SITE_KEY, ACCOUNTING, REJECTED = "images", "labels.csv", "site.csv", "site.key", "accounting.csv", "rejected.txt"


@dataclass(frozen=True)
class Order:
    """What is pulled, and where to.

    Attributes:
        query: CSV; see ``read_query``.
        out: the folder; all of it stays at the site.
        site: the site's name in the manifest.
        site_key: file of ``new_site_key``; ``None`` makes or takes ``site.key`` in ``out``.
        workers: connections at once.
        retry: of each request.
    """

    query: Path
    out: Path
    site: str
    site_key: Path | None = None
    workers: int = 4
    retry: Retry = field(default_factory=Retry)

    def __post_init__(self) -> None:
        check.whole("workers", self.workers, low=1, high=MOST_WORKERS)
        if not plain_text(self.site):
            raise InputError(f"site must be written in {ALPHABET_IN_WORDS}")


@dataclass(frozen=True)
class Pulled:
    """What a pull came to.

    Attributes:
        accounting: of every row, study and object.
        listing: of the manifest; ``None`` where there was no image to list.
        warnings: sentences: ids of the query that look damaged, images that the archive has withdrawn.
    """

    accounting: Accounting
    listing: Listing | None
    warnings: Sequence[str]

    @property
    def complete(self) -> bool:
        """Whether every row has its images, and every image is listed."""
        return self.accounting.complete and self.listing is not None and not self.listing.one_sided


def pull(order: Order, connect: Callable[[], Server]) -> Pulled:
    """Find, fetch and list. What is complete on disk is not fetched again; a file is whole or absent.

    Writes to ``out``: ``images/<study>/<object>.dcm``, named with the site's key; ``labels.csv`` and ``site.csv``, the inputs of
    ``sga-monai validate`` and ``evaluate``, which list what the archive now has of these studies; ``accounting.csv``;
    ``rejected.txt``, what need not be fetched again; ``withdrawn/``, what an earlier call fetched and the archive no longer has
    in its study, or has under another patient; ``site.key`` where none was given.

    Args:
        order: what is pulled, and where to.
        connect: makes a connection; called once in each thread.

    Returns:
        What became of every row, study and file.

    Raises:
        InputError: when the query is malformed, or the server refuses this program or stays away; what was fetched stays, and
            the same call goes on.
        DiskError: when a file cannot be written.
    """
    query = read_query(order.query)
    lock_output_dir(order.out)
    (order.out / IMAGES).mkdir(parents=True, exist_ok=True)
    order.out.chmod(0o700)
    key_file = order.site_key or order.out / SITE_KEY
    if order.site_key is None and not key_file.exists():
        new_site_key(key_file)
    for unfinished in (order.out / IMAGES).rglob(".*.tmp"):
        # Of a pull that was killed while it wrote.
        unfinished.unlink()
    run = Run(order.out / IMAGES, read_site_key(key_file), connect, order.workers, order.retry, Rejected(order.out / REJECTED))
    for name in (LABELS, MANIFEST, ACCOUNTING):
        # Of an earlier pull, which this one may not confirm.
        (order.out / name).unlink(missing_ok=True)
    with silenced(), Progress() as progress:
        try:
            with run:
                jobs = run.find(query.rows, progress)
                run.fetch(jobs, progress)
        finally:
            # When no thread counts any more.
            if run.accounting.lines:
                run.accounting.write(order.out / ACCOUNTING)
    warnings = [*query.warnings, *_withdrawn(sum(job.withdrawn for job in jobs))]
    labels = [(f"{job.name}/{name}", job.wanted) for job in jobs for name in sorted(job.kept)]
    if not labels:
        return Pulled(run.accounting, None, warnings)
    _write_labels(order.out / LABELS, labels)
    listing = manifest_from_dicom(run.images, order.out / LABELS, order.site, key_file, order.out / MANIFEST)
    return Pulled(run.accounting, listing, warnings)


def _withdrawn(number: int) -> list[str]:
    sentence = f"{number} images that the archive no longer has in their study, or for their patient, were moved to {WITHDRAWN}/"
    return [sentence] if number else []


def _write_labels(path: Path, labels: Sequence[tuple[str, Wanted]]) -> None:
    """The labels by file, as ``manifest_from_dicom`` joins them; no identifier is in them."""

    def write(draft: Path) -> None:
        with draft.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(("image", "label", "label_date", "negative_type"))
            for image, wanted in labels:
                writer.writerow((image, wanted.label.label, wanted.label.label_date or "", wanted.label.negative_type))

    write_whole(path, write)
