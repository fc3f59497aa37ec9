"""The server's side of a task as NVFlare controllers. They are in this wheel, so that sites can forbid code that a job brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.model_controller import ModelController

from sga_monai.core import checks as check
from sga_monai.integrations.federated.plan import EVALUATE, read_sums
from sga_monai.integrations.federated.refusals import REFUSED, known
from sga_monai.integrations.federated.results import RESULTS, Answer, pool_answers

# The field of an answer that holds the text of a release.
RELEASE = "release"


class SiteController(ModelController):  # type: ignore[misc]
    """Sends one task to every site and gathers what comes back; an error of one site is no error of the round.

    Args:
        min_sites: fewer valid answers than these are no result.
        timeout: seconds after which a site is left out.
        expected: names of sites that are to be named also where they are not connected.
    """

    def __init__(self, min_sites: int = 2, timeout: int = 3600, expected: Sequence[str] = ()) -> None:
        super().__init__(persistor_id="", ignore_result_error=True)
        self.min_sites = check.whole("min_sites", min_sites, low=1)
        self.timeout = check.whole("timeout", timeout, low=1)
        self.expected = [str(name) for name in expected]

    def ask(self, task: str, data: FLModel) -> dict[str, FLModel | str]:
        """The answer of each site, or the code of what is wrong with it, sorted by the site's name.

        A site's name is that of its connection, which the server knows by its certificate.
        """
        connected = sorted(client.name for client in self.engine.get_clients())
        found: dict[str, FLModel | str] = dict.fromkeys(self.expected, "not connected")
        found |= dict.fromkeys(connected, "no answer")
        # A site whose process ended stays in the list until its heartbeat is missed; the time limit holds for it too.
        for model in self.send_model_and_wait(task_name=task, data=data, timeout=self.timeout):
            refused = (model.metrics or {}).get(REFUSED) if isinstance(model.metrics, Mapping) else None
            found[str(model.meta["client_name"])] = known(refused) if refused is not None else model
        return dict(sorted(found.items()))

    def results_dir(self) -> Path:
        """The folder of the job's results at the server."""
        return Path(self.get_run_dir()) / RESULTS


class EvaluateController(SiteController):
    """``federated evaluate``: asks each site for the release of one bundle, and pools those that are valid.

    Args:
        sums: SHA-256 of the bundle's ``SHA256SUMS``.
        min_sites: see ``SiteController``, also for the arguments that follow.
        timeout: seconds.
        expected: names of sites.
    """

    def __init__(self, sums: str, min_sites: int = 2, timeout: int = 3600, expected: Sequence[str] = ()) -> None:
        super().__init__(min_sites, timeout, expected)
        self.sums = read_sums(sums)

    def run(self) -> None:
        """Ask once; write ``sites.json``, the releases and what they come to together."""
        found = self.ask(EVALUATE, FLModel(metrics={"sums": self.sums}))
        answers = [Answer(name, answer if isinstance(answer, str) else None, _release(answer)) for name, answer in found.items()]
        pooled = pool_answers(answers, self.sums, self.results_dir(), self.min_sites)
        self.info(f"{pooled['valid']} of {len(answers)} sites sent a release")


def _release(answer: FLModel | str) -> Any:
    """The text that a site sent for its release; ``None`` where there is none."""
    return answer.metrics.get(RELEASE) if not isinstance(answer, str) and isinstance(answer.metrics, Mapping) else None
