"""A site's part of a federated training: a few epochs of SGA from the weights that were received."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.engines import SupervisedTrainer
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

from sga_monai.core.errors import InputError
from sga_monai.core.files import write_json, write_whole
from sga_monai.core.folders import lock_output_dir
from sga_monai.data.datalist import load_manifest
from sga_monai.data.dataset import CXRDataset
from sga_monai.data.transforms import preprocessing
from sga_monai.evaluation.scoring import score_dataset
from sga_monai.integrations.federated.aggregation import METRICS, Update, Weights, is_negative
from sga_monai.integrations.federated.plan import TrainingPlan, plan_content
from sga_monai.integrations.federated.refusals import Refusal
from sga_monai.integrations.federated.site import SiteFile
from sga_monai.model.modes import norms
from sga_monai.model.networks import build_network
from sga_monai.model.preparation import Preparation
from sga_monai.sga.iteration import SGAIteration
from sga_monai.sga.options import Masking, Objective
from sga_monai.statistics.discrimination import auroc
from sga_monai.training.epochs import EpochSampler, EpochSeeds, epoch_seed
from sga_monai.training.statistics import BatchNormStatistics

logger = logging.getLogger(__name__)
MODEL = "model.pt"
# train.json has the same.
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4


def first_network(plan: TrainingPlan) -> nn.Module:
    """The network before the first round, equal at the server and at all sites.

    Raises:
        InputError: when BatchNorm is to stay at the sites, and the network has none.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        network = build_network(plan.architecture)
    if plan.fed_bn and not norms(network):
        raise InputError(f"fed_bn: {plan.architecture} has no BatchNorm; leave fed_bn out")
    return network


def local_keys(network: nn.Module) -> set[str]:
    """Names of BatchNorm's weights and statistics, which stay at a site with ``fed_bn``."""
    layers = set(map(id, norms(network)))
    names = [name for name, module in network.named_modules() if id(module) in layers]
    return {key for key in network.state_dict() if any(key.startswith(f"{name}.") for name in names)}


def shared_weights(network: nn.Module, fed_bn: bool) -> dict[str, NDArray[Any]]:
    """Copies of what leaves a site, and what the server sends."""
    kept = local_keys(network) if fed_bn else set()
    return {key: np.array(value.detach().cpu().numpy()) for key, value in network.state_dict().items() if key not in kept}


def load_shared(network: nn.Module, weights: Weights) -> None:
    """Put received weights into ``network``; what is not among them stays as it is.

    Raises:
        Refusal: when a name is unknown, a shape or type differs, or a value is not finite or a negative variance.
    """
    state = network.state_dict()
    for key, value in weights.items():
        if key not in state or not isinstance(value, np.ndarray) or value.shape != tuple(state[key].shape):
            raise Refusal("task")
        if not np.isfinite(value).all() or is_negative(key, value):
            raise Refusal("task")
    received = {key: torch.from_numpy(np.array(value)) for key, value in weights.items()}
    if any(received[key].dtype != state[key].dtype for key in received):
        raise Refusal("task")
    network.load_state_dict(state | received)


class LocalTraining:
    """The training data and the network of one site, kept from round to round.

    With the same plan, weights and images every number is the same again. The optimizer begins anew in each round.

    Args:
        site: its section "train".
        plan: of the server.

    Raises:
        Refusal: when the site does not take part, its data are refused, or a class has too few patients.
    """

    def __init__(self, site: SiteFile, plan: TrainingPlan) -> None:
        if site.train is None:
            raise Refusal("no part")
        given = site.train
        try:
            lock_output_dir(given.out)
            rows = {split: load_manifest(given.manifest, given.dataset_dir, split) for split in ("train", "val")}
            self.patients = fewest_patients(list(rows.values()))
            if self.patients < given.min_cell:
                raise Refusal("too few")
            transform = preprocessing(Preparation(plan.image_size))
            self.data = {split: CXRDataset(lines, transform) for split, lines in rows.items()}
            self.network = first_network(plan)
            training: Any = self.data["train"]
            self.statistics = BatchNormStatistics(self.network, training, batch_size=plan.batch_size, seed=plan.seed)
        except Refusal:
            raise
        except InputError as error:
            logger.warning("data: %s", error)
            raise Refusal("data") from None
        self.plan, self.out = plan, given.out

    def round(self, weights: Weights, number: int) -> Update:
        """Train ``local_epochs`` from the weights received.

        Args:
            weights: of the server.
            number: of the round, from 0.

        Raises:
            Refusal: when the weights are not those of the network, or what was computed is not finite.
        """
        plan, seed = self.plan, epoch_seed(self.plan.seed, number, 2)
        self._load(weights)
        received = self.validate()
        iteration: Any = SGAIteration(Masking(mask_fraction=plan.mask_fraction), objective=Objective(kl_weight=plan.kl_weight), seed=seed)
        dataset = self.data["train"]
        sampler = EpochSampler(dataset, seed)
        # A last mini-batch of one image has no variance, which BatchNorm needs at 32 pixels.
        loader = DataLoader(dataset, plan.batch_size, sampler=sampler, drop_last=len(dataset) % plan.batch_size == 1)
        SupervisedTrainer(
            device=torch.device("cpu"),
            max_epochs=plan.local_epochs,
            train_data_loader=loader,
            network=self.network,
            optimizer=torch.optim.SGD(self.network.parameters(), plan.learning_rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY),
            loss_function=nn.CrossEntropyLoss(),
            iteration_update=iteration,
            train_handlers=[EpochSeeds(seed, sampler, dataset), self.statistics],
            optim_set_to_none=True,
            decollate=False,
        ).run()
        metrics = dict(zip(METRICS, (received, self.validate()), strict=True))
        return Update(shared_weights(self.network, plan.fed_bn), len(dataset), metrics)

    def finish(self, weights: Weights) -> dict[str, float]:
        """Take the last weights, write the site's own ``model.pt``, and return the AUROC of its validation images."""
        self._load(weights)
        write_model(self.network, self.out / MODEL, self.plan)
        return {METRICS[0]: self.validate()}

    def _load(self, weights: Weights) -> None:
        load_shared(self.network, weights)
        if self.plan.fed_bn:
            # The site's own statistics belong to the weights before they were averaged.
            self.statistics()

    def validate(self) -> float:
        """AUROC of the validation images, with as many decimals as a release shows of so many patients."""
        found = score_dataset(self.network, self.data["val"], self.plan.batch_size).predictions
        return round(auroc(found["score"], found["label"], found["patient"]).auroc, 3 if self.patients >= 100 else 2)


def fewest_patients(splits: Sequence[Sequence[Mapping[str, Any]]]) -> int:
    """The smallest number of patients with one label in one split."""
    return min(len({row["patient"] for row in rows if row["label"] == label}) for rows in splits for label in (0, 1))


def write_model(network: nn.Module, path: Path, plan: TrainingPlan) -> None:
    """Write a plain state dict, and beside it the ``run.json`` by which evaluations know its network and preparation."""
    write_whole(path, lambda target: torch.save(network.state_dict(), target))
    settings = plan_content(plan) | {"voi": Preparation().voi, "orientation": Preparation().orientation}
    write_json(path.with_name("run.json"), {"identity": {"network": plan.architecture, "settings": settings}})
