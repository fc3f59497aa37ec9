"""Keep the network with the best validation AUROC."""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.files import file_sha256, read_json, write_bytes, write_json


class BestModelSaver:
    """Keeps the network with the best validation AUROC as ``model.pt``, a plain state dict, with ``model.json`` beside.

    NaN never wins, the first of equals stays, and a resumed run never replaces a better model that is there. Each file
    is written whole or not at all.

    Args:
        network: saved without any wrapper.
        output_dir: where ``model.pt`` goes.
        metric: name of the evaluator's metric.
        resume: a model in ``output_dir`` counts.
    """

    def __init__(self, network: nn.Module, output_dir: str, metric: str = "val_auroc", resume: bool | str = False) -> None:
        self.network = network
        self.output_dir = Path(output_dir)
        self.metric = metric
        self.resume = check.flag("resume", resume)
        self.best = -math.inf
        self.epoch = 0

    def attach(self, engine: Engine) -> None:
        """Run after each validation of the evaluator ``engine``."""
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Save when the metric is the best so far. MONAI gives the evaluator the trainer's epoch."""
        value = float(engine.state.metrics[self.metric])
        if not value > self.best:
            return
        self.best, self.epoch = value, engine.state.epoch
        if idist.get_rank() > 0:
            return
        state = {key: tensor.detach().cpu() for key, tensor in self.network.state_dict().items()}
        # By way of memory: torch's own writer would hide that a disk is full.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        facts = {self.metric: value, "epoch": self.epoch, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
        write_bytes(self.output_dir / "model.pt", buffer.getvalue())
        write_json(self.output_dir / "model.json", facts)

    def state_dict(self) -> dict[str, Any]:
        """The best metric and its epoch."""
        return {"best": self.best, "epoch": self.epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The inverse. A model on disk that is better, from an epoch after the checkpoint, stays."""
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]
        if self.resume and self.epoch and not (self.output_dir / "model.pt").is_file():
            raise InputError("resume: output_dir has checkpoints but no model.pt; restore it, or start again without resume")
        try:
            facts = read_json(self.output_dir / "model.json")
            value, epoch = float(facts[self.metric]), int(facts["epoch"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        # Where a kill fell between the two files they are of different epochs, and the later one is trained again.
        sound = facts.get("sha256") == file_sha256(self.output_dir / "model.pt")
        if self.resume and value > self.best and sound:
            self.best, self.epoch = value, epoch
