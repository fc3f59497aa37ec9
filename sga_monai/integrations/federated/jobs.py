"""NVFlare's job folders of a federated task: names of classes of this package and plain numbers, no code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sga_monai.core.files import write_json
from sga_monai.integrations.federated.plan import EVALUATE, FINISH, TRAIN

PACKAGE = "sga_monai.integrations.federated"
# What the server and the sites must allow; NVFlare takes each as the path of one class.
CONTROLLERS = (f"{PACKAGE}.controllers.EvaluateController", f"{PACKAGE}.training_controller.TrainController")
EXECUTORS = (f"{PACKAGE}.executors.EvaluateExecutor", f"{PACKAGE}.executors.TrainExecutor")


@dataclass(frozen=True)
class Job:
    """One federated task.

    Attributes:
        name: of the job.
        controller: one of ``CONTROLLERS``.
        executor: one of ``EXECUTORS``.
        tasks: names of the tasks that the executor takes.
        arguments: of the controller.
    """

    name: str
    controller: str
    executor: str
    tasks: Sequence[str]
    arguments: dict[str, Any]


def evaluation_job(sums: str, min_sites: int, timeout: int, expected: Sequence[str] = ()) -> Job:
    """The job of ``federated evaluate``; see ``EvaluateController``."""
    arguments = {"sums": sums, "min_sites": min_sites, "timeout": timeout, "expected": list(expected)}
    return Job("sga_evaluate", CONTROLLERS[0], EXECUTORS[0], [EVALUATE], arguments)


def training_job(plan: dict[str, Any], min_sites: int, timeout: int, expected: Sequence[str] = ()) -> Job:
    """The job of ``federated train``; see ``TrainController``."""
    arguments = {"plan": plan, "min_sites": min_sites, "timeout": timeout, "expected": list(expected)}
    return Job("sga_train", CONTROLLERS[1], EXECUTORS[1], [TRAIN, FINISH], arguments)


def write_job(job: Job, folder: Path) -> Path:
    """Write the folder that NVFlare takes; returns it."""
    common: dict[str, Any] = {"format_version": 2, "task_data_filters": [], "task_result_filters": [], "components": []}
    server = common | {"workflows": [{"id": "controller", "path": job.controller, "args": job.arguments}]}
    client = common | {"executors": [{"tasks": list(job.tasks), "executor": {"path": job.executor, "args": {}}}]}
    meta = {"name": job.name, "resource_spec": {}, "min_clients": 1, "deploy_map": {"app": ["@ALL"]}}
    write_json(folder / "meta.json", meta)
    write_json(folder / "app/config/config_fed_server.json", server)
    write_json(folder / "app/config/config_fed_client.json", client)
    return folder
