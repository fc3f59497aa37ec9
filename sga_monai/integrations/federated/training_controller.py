"""``federated train`` at the server: rounds of FedAvg over the sites whose answers are valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel

from sga_monai.core.files import write_json
from sga_monai.integrations.federated.aggregation import METRICS, Update, Weights, average, read_metrics, read_update
from sga_monai.integrations.federated.client import IMAGES, PLAN
from sga_monai.integrations.federated.controllers import SiteController
from sga_monai.integrations.federated.local_training import MODEL, first_network, load_shared, shared_weights, write_model
from sga_monai.integrations.federated.plan import FINISH, TRAIN, TrainingPlan, plan_content
from sga_monai.integrations.federated.refusals import REASONS, Refusal
from sga_monai.integrations.federated.results import ROUNDS, VALID

SCHEMA = "sga_monai federated training 1"


class TrainController(SiteController):
    """Sends the weights, averages what comes back, and records every site in every round.

    A site that is gone, refuses or sends what is no update is named and left out of the round; in the next it is asked again.

    Args:
        plan: fields of ``TrainingPlan``.
        min_sites: with fewer valid updates the training stops, and the weights of the round before are kept.
        timeout: see ``SiteController``, also for the argument that follows.
        expected: names of sites.
    """

    def __init__(self, plan: Mapping[str, Any], min_sites: int = 2, timeout: int = 3600, expected: Sequence[str] = ()) -> None:
        super().__init__(min_sites, timeout, expected)
        self.plan = TrainingPlan(**plan)

    def run(self) -> None:
        """Train; write ``rounds.json`` and, unless BatchNorm stays at the sites, ``model.pt`` after every round."""
        folder, network = self.results_dir(), first_network(self.plan)
        weights: Weights = shared_weights(network, self.plan.fed_bn)
        record: dict[str, Any] = {"schema": SCHEMA, "plan": plan_content(self.plan), "rounds": [], "final": [], "stopped": None}
        for number in range(self.plan.rounds):
            lines, updates = [], []
            for name, answer in self.ask(TRAIN, self._task(weights, number)).items():
                line, update = read_answer(name, answer, weights)
                lines.append(line)
                updates += [update] if update is not None else []
            record["rounds"].append({"round": number, "sites": lines, "averaged": len(updates) >= self.min_sites})
            if len(updates) < self.min_sites:
                record["stopped"] = f"round {number}: {len(updates)} valid updates are fewer than the {self.min_sites} that were asked for"
                break
            weights = average(updates)
            write_json(folder / ROUNDS, record)
            if not self.plan.fed_bn:
                load_shared(network, weights)
                write_model(network, folder / MODEL, self.plan)
        if any(line["averaged"] for line in record["rounds"]):
            record["final"] = [read_final(name, answer) for name, answer in self.ask(FINISH, self._task(weights, self.plan.rounds)).items()]
        write_json(folder / ROUNDS, record)

    def _task(self, weights: Weights, number: int) -> FLModel:
        return FLModel(params=dict(weights), current_round=number, total_rounds=self.plan.rounds, meta={PLAN: plan_content(self.plan)})


def read_answer(name: str, answer: FLModel | str, sent: Weights) -> tuple[dict[str, Any], Update | None]:
    """The line of ``rounds.json`` of a site, and its update where it is valid."""
    update, code = None, answer if isinstance(answer, str) else VALID
    if not isinstance(answer, str):
        try:
            update = read_update(answer.params, (answer.meta or {}).get(IMAGES), answer.metrics, sent)
        except Refusal as refusal:
            code = refusal.code
    line: dict[str, Any] = {"name": name, "status": code, "reason": REASONS.get(code, "")}
    if update is not None:
        line |= {"images": update.images, **update.metrics}
    return line, update


def read_final(name: str, answer: FLModel | str) -> dict[str, Any]:
    """The line of ``rounds.json`` of a site that took the last weights."""
    code, metrics = answer if isinstance(answer, str) else VALID, {}
    if not isinstance(answer, str):
        try:
            metrics = read_metrics(answer.metrics, METRICS[:1])
        except Refusal as refusal:
            code = refusal.code
    return {"name": name, "status": code, "reason": REASONS.get(code, ""), **metrics}
