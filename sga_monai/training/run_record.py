"""run.json: what a training was, so that it can be repeated, resumed and believed."""

from __future__ import annotations

import hashlib
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from torch import nn

from sga_monai.core.files import file_sha256, read_earlier, write_json
from sga_monai.core.folders import RESULTS
from sga_monai.core.live_objects import describe, processor
from sga_monai.core.provenance import code_facts, git_revision, utc_time
from sga_monai.data.dataset import CXRDataset
from sga_monai.model.networks import network_name
from sga_monai.training.progress import optimizer_steps

# More epochs change nothing in the epochs before, as long as no schedule looks ahead.
NOT_IDENTITY = ("max_epochs",)


def identify(
    settings: Mapping[str, Any],
    iteration: Any,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    datasets: Sequence[CXRDataset],
    transform: Any,
    manifest: str,
    num_workers: int = 0,
    device: torch.device | str = "cpu",
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What decides every bit of a training's result.

    Args:
        settings: hyper-parameters by name.
        iteration: the training step; its attributes are recorded, so that an override inside a section counts too.
        network: its name in ``NETWORKS`` and its structure are recorded.
        optimizer: its class and defaults are recorded.
        datasets: training and validation data; the SHA-256 of their files are recorded, in order.
        transform: the preprocessing.
        manifest: the file whose SHA-256 is recorded.
        num_workers: processes that read.
        device: where the network is.
        config: of ``resolved_config``: sections of the configuration, so that any override counts.

    Returns:
        ``settings, config, network, objects, data, code`` (a difference there makes another run) and ``machine`` (a difference there may
        change the last bits). Plain values only.
    """
    # A cosine looks ahead to the last epoch.
    free = NOT_IDENTITY if settings.get("lr_schedule", "constant") == "constant" else ()
    images = [hashlib.sha256(" ".join(dataset.sha256).encode()).hexdigest() for dataset in datasets]
    return {
        "settings": describe({key: value for key, value in settings.items() if key not in free}),
        "config": describe({key: value for key, value in (config or {}).items() if key not in settings}),
        "network": network_name(network),
        "objects": {
            "iteration": describe(iteration),
            "network": hashlib.sha256(str(network).encode()).hexdigest()[:16],
            "optimizer": describe({"class": type(optimizer), **optimizer.defaults}),
            "transform": describe(transform),
        },
        "data": {"manifest_sha256": file_sha256(manifest), "images_sha256": images},
        "code": code_facts(),
        "machine": {
            "device": str(device),
            "processor": processor(device),
            "threads": torch.get_num_threads(),
            "num_workers": num_workers,
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
        },
    }


class RunRecord:
    """Writes ``run.json`` at the start, after every epoch and at the end of a training.

    It holds ``identity``, ``git_revision``, ``started`` and ``finished`` (UTC; null while it runs), ``duration_s``,
    ``peak_memory_mb``, ``epoch`` (completed), ``optimizer_steps``, ``max_epochs``, ``resumed_after_epoch``, ``best`` and the
    ``sha256`` of ``model.pt``.

    Args:
        output_dir: where ``run.json`` goes.
        identity: of ``identify``.
        evaluator: its best metric is recorded.
    """

    def __init__(self, output_dir: str, identity: Mapping[str, Any], evaluator: Engine) -> None:
        self.path = Path(output_dir) / "run.json"
        self.identity = identity
        self.evaluator = evaluator

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after ``Checkpoints``."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.complete)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Begin the card. Results of an earlier end of this run are of other weights, and go."""
        for name in RESULTS:
            self.path.with_name(name).unlink(missing_ok=True)
        self.began = time.monotonic()
        self.epoch = engine.state.epoch
        # The time of a run that is resumed counts too.
        earlier = read_earlier(self.path) if self.epoch else {}
        self.before = float(earlier.get("duration_s") or 0.0)
        self.facts: dict[str, Any] = {
            "identity": self.identity,
            "git_revision": git_revision(),
            "started": earlier.get("started") or utc_time(),
            "finished": None,
            "resumed_after_epoch": self.epoch or None,
        }
        self.write(engine)

    def complete(self, engine: Engine) -> None:
        """Count an epoch: a run that ends between two has not completed the next."""
        self.epoch = engine.state.epoch
        self.write(engine)

    def finish(self, engine: Engine) -> None:
        """Say that the training is complete."""
        self.facts["finished"] = utc_time()
        self.write(engine)

    def write(self, engine: Engine) -> None:
        """Write the card as it stands."""
        state: Any = self.evaluator.state
        model = self.path.with_name("model.pt")
        facts = self.facts | {
            "duration_s": round(self.before + time.monotonic() - self.began, 1),
            "peak_memory_mb": _peak_memory_mb(),
            "epoch": self.epoch,
            "optimizer_steps": optimizer_steps(engine),
            "max_epochs": engine.state.max_epochs,
            # MONAI's -1 means none yet.
            "best": {"val_auroc": float(state.best_metric), "epoch": int(state.best_metric_epoch)} if state.best_metric_epoch > 0 else None,
            "model_sha256": file_sha256(model) if model.is_file() else None,
        }
        write_json(self.path, facts)


def _peak_memory_mb() -> float | None:
    try:
        import resource
    except ImportError:
        return None
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (1024 if sys.platform != "darwin" else 1024**2), 1)
