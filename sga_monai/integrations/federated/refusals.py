"""Why a site is left out of a round. Only these codes and sentences travel, so that nothing of a site's data gets into them."""

from __future__ import annotations

from sga_monai.core.errors import InputError

# The field of an answer that holds a code.
REFUSED = "refused"
# The first group is said by sites, the second by the server.
REASONS = {
    "no part": "the site's file has no section for this task; the site does not take part",
    "site file": "the site's file is missing or damaged; its administrator finds the sentence in the site's log",
    "task": "the server's task is not one that this version knows; use the same version at the server and at all sites",
    "bundle": "the site's bundle is not the one that the server asks for, or not what was packaged",
    "data": "the site's data were refused; its administrator finds the sentence in the site's log",
    "release": "nothing may leave the site: too few patients, or its report is not reportable",
    "approval": "a person at the site has not yet approved the release; `sga-monai release --approved-by` does",
    "too few": "a class has fewer patients than may be shown, so no weights leave",
    "error": "an unexpected error at the site; its administrator finds it in the site's log",
    "not connected": "the site was not connected when the task was sent",
    "no answer": "the site did not answer in time, or its process ended",
    "not finite": "the answer holds NaN or an infinite value",
    "not a release": "the answer is not what may leave a site",
    "other bundle": "the release is of another bundle than the one that was asked for",
    "other approval": "the values of the release are not those that a person approved at the site",
    "same alias": "another site has this alias, and neither of them is pooled; give each site its own",
    "other weights": "the weights do not have the names, shapes and types that were sent",
    "diverged": "a weight changed more than training changes it, or a variance is negative; if so at every site, lower the learning rate",
    "no count": "the number of training images is not a whole number within its range",
    "no metrics": "the metrics are not those of the task",
}


class Refusal(InputError):
    """A site or an answer is left out.

    Args:
        code: a key of ``REASONS``.
    """

    def __init__(self, code: str) -> None:
        self.code = code
        super().__init__(REASONS[code])

    def __reduce__(self) -> tuple[type[Refusal], tuple[str]]:
        """Pickle by code."""
        return Refusal, (self.code,)


def known(code: object) -> str:
    """``code`` where it is one of ``REASONS``, else "error": a site's own words do not get into results."""
    return code if isinstance(code, str) and code in REASONS else "error"
