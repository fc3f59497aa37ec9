"""Small things attached to MONAI's engines: scores, progress, the best model, the predictions."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from monai.utils.enums import CommonKeys as Keys
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from sga_monai.dataset import CXRDataset
from sga_monai.embedding import FeatureWatch, write_embedding
from sga_monai.errors import InputError, NumericError
from sga_monai.files import write_csv, write_whole
from sga_monai.results import FAILURE_LIMIT, render, summarize
from sga_monai.settings import as_flag

logger = logging.getLogger(__name__)


def logit_difference(pred: Tensor) -> Tensor:
    """Score of the positive class, ``[N]`` float64: logit 1 minus logit 0 of ``pred`` ``[N, 2]``.

    Not a softmax, which saturates in float32 and ties what it saturates.

    Raises:
        NumericError: when a logit is NaN or infinite, of which an AUROC would make 1.0 without a word.
    """
    score = pred.detach().double()[:, 1] - pred.detach().double()[:, 0]
    if not bool(score.isfinite().all()):
        raise NumericError("the network's output is NaN or infinite; lower learning_rate")
    return score


def row_columns(batch: Mapping[str, Any]) -> dict[str, list[Any]]:
    """``set, row, patient, label`` of a collated batch as plain values, whether they were collated to tensors or not."""
    keys = ("set", "row", "patient", "label")
    return {key: [value.item() if isinstance(value, Tensor) else value for value in batch[key]] for key in keys}


def image_features(image: Tensor) -> dict[str, Any]:
    """Three figures of each prepared image ``[N, 1, H, W]`` for comparing sites: mean, standard deviation, dark share."""
    flat = image.detach().double().flatten(1).cpu()
    dark = (flat < 0.05).double().mean(dim=1)
    return {"image_mean": flat.mean(dim=1).numpy(), "image_sd": flat.std(dim=1).numpy(), "image_dark": dark.numpy()}


def score_and_label(output: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """``output_transform`` of MONAI's ``ROCAUC``: score ``[N]`` and label ``[N]`` of an undecollated output."""
    return logit_difference(output[Keys.PRED]), output[Keys.LABEL]


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
        self.resume = as_flag("resume", resume)
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
        state = {key: tensor.detach().cpu() for key, tensor in self.network.state_dict().items()}
        # By way of memory: torch's own writer would hide that a disk is full.
        buffer = io.BytesIO()
        torch.save(state, buffer)
        facts = {self.metric: value, "epoch": self.epoch, "sha256": hashlib.sha256(buffer.getvalue()).hexdigest()}
        write_whole(self.output_dir / "model.pt", lambda path: path.write_bytes(buffer.getvalue()))
        write_whole(self.output_dir / "model.json", lambda path: path.write_text(json.dumps(facts, indent=4) + "\n"))

    def state_dict(self) -> dict[str, Any]:
        """The best metric and its epoch."""
        return {"best": self.best, "epoch": self.epoch}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The inverse. A model on disk that is better, from an epoch after the checkpoint, stays."""
        self.best, self.epoch = state_dict["best"], state_dict["epoch"]
        if self.resume and self.epoch and not (self.output_dir / "model.pt").is_file():
            raise InputError("resume: output_dir has checkpoints but no model.pt; restore it, or start again without resume")
        try:
            facts = json.loads((self.output_dir / "model.json").read_text())
            value, epoch = float(facts[self.metric]), int(facts["epoch"])
        except (OSError, ValueError, KeyError, TypeError):
            return
        # Where a kill fell between the two files they are of different epochs, and the later one is trained again.
        sound = facts.get("sha256") == hashlib.sha256((self.output_dir / "model.pt").read_bytes()).hexdigest()
        if self.resume and value > self.best and sound:
            self.best, self.epoch = value, epoch


class TrainingProgress:
    """A bar with the time left on a terminal, and one log line an epoch everywhere.

    Args:
        evaluator: its metric ``val_auroc`` is shown.
    """

    def __init__(self, evaluator: Engine) -> None:
        self.evaluator = evaluator
        self.sums: dict[str, list[float]] = {}

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after its ``ValidationHandler``."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.epoch)
        engine.add_event_handler(Events.COMPLETED, self.stop)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.fail)

    def start(self, engine: SupervisedTrainer) -> None:
        """Open the bar."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, transient=True, disable=not sys.stdout.isatty())
        self.task = self.bar.add_task("training", total=(engine.state.max_epochs or 0) * (engine.state.epoch_length or 0))
        self.began = time.monotonic()
        self.bar.start()

    def step(self, engine: Engine) -> None:
        """Advance by one iteration."""
        output: Any = engine.state.output
        for key in (Keys.LOSS, "ce_loss", "kl_loss", "adversarial_accuracy"):
            if key in output:
                self.sums.setdefault(str(key), []).append(output[key].item())
        self.bar.update(self.task, advance=1, description=f"epoch {engine.state.epoch}/{engine.state.max_epochs}")

    def epoch(self, engine: Engine) -> None:
        """Log the epoch's means and its validation AUROC."""
        means = " ".join(f"{key} {sum(values) / len(values):.4f}" for key, values in self.sums.items())
        validated = self.evaluator.state.epoch == engine.state.epoch
        metric = self.evaluator.state.metrics.get("val_auroc", math.nan) if validated else math.nan
        seconds = time.monotonic() - self.began
        logger.info("epoch %d/%d %s val_auroc %.4f (%.0f s)", engine.state.epoch, engine.state.max_epochs, means, metric, seconds)
        self.sums.clear()

    def stop(self, engine: Engine) -> None:
        """Close the bar."""
        self.bar.stop()

    def fail(self, engine: Engine, error: BaseException) -> None:
        """Close the bar and pass the error on."""
        self.bar.stop()
        raise error


class PredictionSaver:
    """Collects an evaluator's predictions, writes ``predictions.csv`` and ``results.csv``, logs the table.

    ``predictions.csv`` has one line for each row of the manifests: ``set, row, patient, label, score, probability,
    image_mean, image_sd, image_dark, error``. ``row`` is the manifest's, ``patient`` a number or a key made with the
    site's key; no path and no identifier is written. A row whose image could not be read has an ``error`` and no score,
    so evaluated + failed = rows.

    Args:
        output_dir: where the files go.
        dataset: the dataset that is evaluated; each of its rows must come out, scored or failed.
        internal: name of the set that ``auroc_difference`` is taken against.
        summary_writer: TensorBoard writer for the table.
        failure_limit: share of failed images above which a set has no headline figure.
        network: with it, ``embedding.json`` has the mean and variance, over the sets ``internal`` and ``internal
            (validation)`` together, of the features before its last layer ``fc``, and their ``source_profile``; a site's are
            compared with them.
    """

    def __init__(
        self,
        output_dir: str,
        dataset: CXRDataset,
        internal: str | None = None,
        summary_writer: Any = None,
        failure_limit: float = FAILURE_LIMIT,
        network: nn.Module | None = None,
    ) -> None:
        if isinstance(failure_limit, bool) or not isinstance(failure_limit, (int, float)) or not 0 <= failure_limit <= 1:
            raise InputError(f"failure_limit must be in [0, 1], got {failure_limit!r}")
        self.failure_limit = failure_limit
        self.output_dir = Path(output_dir)
        self.dataset = dataset
        self.internal = internal
        self.inside = (internal, f"{internal} (validation)")
        self.writer = summary_writer
        self.watch = None if network is None else FeatureWatch(network)
        self.frames: list[pd.DataFrame] = []

    def attach(self, engine: Engine) -> None:
        """Attach to a ``SupervisedEvaluator`` with ``decollate`` off."""
        if self.watch is not None:
            # Not before: the network is trained before it is evaluated.
            engine.add_event_handler(Events.STARTED, self.watch.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.save)

    def collect(self, engine: Engine) -> None:
        """Keep the scores of one mini-batch, and of internal images the features."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        score = logit_difference(output[Keys.PRED]).cpu()
        frame = row_columns(batch)
        figures = {"score": score.numpy(), "probability": torch.sigmoid(score).numpy()}
        self.frames.append(pd.DataFrame(frame | figures | image_features(output[Keys.IMAGE])))
        if self.watch is not None:
            self.watch.keep([name in self.inside for name in frame["set"]])

    def save(self, engine: Engine) -> None:
        """Write the files and show the table."""
        predictions = pd.concat(self.frames, ignore_index=True)
        self.frames = []
        if self.watch is not None:
            kept = predictions[predictions["set"].isin(self.inside)]
            write_embedding(self.output_dir / "embedding.json", self.watch.finish(), kept["label"], kept["patient"])
        predictions["error"] = ""
        if self.dataset.failures:
            failed = pd.DataFrame(self.dataset.failures)[["set", "row", "patient", "label", "code"]]
            predictions = pd.concat([predictions, failed.rename(columns={"code": "error"})], ignore_index=True)
        if len(predictions) != len(self.dataset.data) + len(self.dataset.failures):
            raise InputError("some rows were neither scored nor failed; let the data loader give every row once (no drop_last)")
        order = {name: i for i, name in enumerate(dict.fromkeys(predictions["set"]))}
        predictions = predictions.sort_values(["set", "row"], key=lambda c: c.map(order) if c.name == "set" else c)
        write_csv(self.output_dir / "predictions.csv", predictions)
        if (predictions["label"] < 0).all():
            logger.info("%d images scored, %d failed", predictions["score"].notna().sum(), len(self.dataset.failures))
            return
        results = summarize(predictions, self.internal, self.failure_limit)
        write_csv(self.output_dir / "results.csv", results)
        table = render(results)
        logger.info("\n%s", table)
        if self.writer is not None:
            self.writer.add_text("results", "```\n" + table + "\n```")
            for _, line in results.iterrows():
                self.writer.add_scalar(f"final_auroc/{line['set']}", line["auroc"])
            self.writer.flush()
