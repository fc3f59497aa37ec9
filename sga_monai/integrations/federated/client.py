"""The script that NVFlare's Client API runs at a site for ``federated train``; it is read from this wheel, never from a job."""

from __future__ import annotations

import logging

from nvflare import client as flare
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.fuel.data_event.data_bus import DataBus

from sga_monai.core.errors import InputError, NumericError
from sga_monai.integrations.federated.local_training import LocalTraining
from sga_monai.integrations.federated.plan import FINISH, TRAIN, TrainingPlan, read_plan
from sga_monai.integrations.federated.refusals import REFUSED, Refusal
from sga_monai.integrations.federated.site import SiteFile, read_site_file

SITE_FILE = "sga_monai.site_file"
PLAN, IMAGES = "plan", "images"
logger = logging.getLogger("sga_monai.federated")


class Client:
    """Answers the server's tasks of one training, one after the other.

    Args:
        site_file: path of the site's file.
    """

    def __init__(self, site_file: str) -> None:
        self.site_file = site_file
        self.training: LocalTraining | None = None
        self.plan: TrainingPlan | None = None

    def answer(self, task: str, received: FLModel) -> FLModel:
        """Weights and metrics, or the code of why there are none; the site stays in the training for the next round."""
        try:
            return self._answer(task, received)
        except Refusal as refusal:
            code = refusal.code
        except NumericError as error:
            logger.warning("%s", error)
            code = "not finite"
        except Exception as error:
            # The words of an unexpected error may quote data, so that only its kind is logged.
            logger.warning("unexpected %s", type(error).__name__)
            code = "error"
        return FLModel(metrics={REFUSED: code})

    def _answer(self, task: str, received: FLModel) -> FLModel:
        plan = read_plan((received.meta or {}).get(PLAN))
        if task not in (TRAIN, FINISH) or not isinstance(received.params, dict) or self.plan not in (None, plan):
            raise Refusal("task")
        if self.training is None:
            self.training, self.plan = LocalTraining(self._site(), plan), plan
        if task == FINISH:
            return FLModel(metrics=self.training.finish(received.params))
        update = self.training.round(received.params, int(received.current_round or 0))
        return FLModel(params=dict(update.weights), metrics=dict(update.metrics), meta={IMAGES: update.images})

    def _site(self) -> SiteFile:
        try:
            return read_site_file(self.site_file)
        except InputError as error:
            logger.warning("%s", error)
            raise Refusal("site file") from None


def main() -> None:
    """Take tasks until the server ends the job."""
    flare.init()
    client = Client(DataBus().get_data(SITE_FILE))
    while flare.is_running():
        received = flare.receive()
        if received is None:
            break
        flare.send(client.answer(flare.get_task_name(), received))


if __name__ == "__main__":
    main()
