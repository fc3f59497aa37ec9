"""A site's side of a task as NVFlare executors. They take no arguments, so that a job can configure nothing at a site."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.executor import Executor
from nvflare.apis.fl_constant import FLContextKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.executors.client_api_executor import ClientAPIExecutor, ExecutionMode
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.client.config import ExchangeFormat
from nvflare.fuel.data_event.data_bus import DataBus

from sga_monai.core.errors import InputError
from sga_monai.integrations.federated import client
from sga_monai.integrations.federated.controllers import RELEASE
from sga_monai.integrations.federated.plan import EVALUATE, FINISH, TRAIN, read_sums
from sga_monai.integrations.federated.refusals import REFUSED, Refusal
from sga_monai.integrations.federated.site import SiteFile, local_name, read_site_file


class EvaluateExecutor(Executor):  # type: ignore[misc]
    """``federated evaluate`` at a site: sends its release, or the code of why there is none."""

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:  # noqa: ARG002
        """Evaluate the site's own bundle; nothing but the task's SHA-256 is read of what the server sent."""
        try:
            return FLModelUtils.to_shareable(FLModel(metrics={RELEASE: self._release(task_name, shareable, fl_ctx)}))
        except Refusal as error:
            return FLModelUtils.to_shareable(FLModel(metrics={REFUSED: error.code}))
        except Exception as error:
            # The words of an unexpected error may quote data, so that only its kind is logged.
            self.log_error(fl_ctx, f"unexpected {type(error).__name__}", fire_event=False)
            return FLModelUtils.to_shareable(FLModel(metrics={REFUSED: "error"}))

    def _release(self, task_name: str, shareable: Shareable, fl_ctx: FLContext) -> str:
        # Here, so that what is not evaluated needs no MONAI.
        from sga_monai.integrations.federated.at_site import evaluate_site

        metrics: Any = FLModelUtils.from_shareable(shareable).metrics
        if task_name != EVALUATE or not isinstance(metrics, Mapping):
            raise Refusal("task")
        sums = read_sums(metrics.get("sums"))
        return evaluate_site(self._site(fl_ctx), sums)

    def _site(self, fl_ctx: FLContext) -> SiteFile:
        try:
            return read_site_file(site_path(fl_ctx))
        except InputError as error:
            self.log_error(fl_ctx, str(error), fire_event=False)
            raise Refusal("site file") from None


class TrainExecutor(ClientAPIExecutor):  # type: ignore[misc]
    """``federated train`` at a site: NVFlare's Client API runs ``client.py`` of this package, never a script of the job."""

    def __init__(self) -> None:
        super().__init__(
            execution_mode=ExecutionMode.IN_PROCESS,
            task_script_path=str(client.__file__),
            train_task_name=TRAIN,
            evaluate_task_name=FINISH,
            params_exchange_format=ExchangeFormat.RAW,
            server_expected_format=ExchangeFormat.RAW,
        )

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Tell the script where the site's file is, before NVFlare starts it."""
        if event_type == EventType.START_RUN:
            DataBus().put_data(client.SITE_FILE, site_path(fl_ctx))
        super().handle_event(event_type, fl_ctx)


def site_path(fl_ctx: FLContext) -> str:
    """The site's file in the folder ``local`` of its kit."""
    workspace = fl_ctx.get_prop(FLContextKey.WORKSPACE_OBJECT)
    return str(workspace.get_file_path_in_site_config(local_name(fl_ctx.get_identity_name())))
