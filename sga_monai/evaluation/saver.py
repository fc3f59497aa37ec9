"""Collect the predictions of an evaluator and write them with the table computed from them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pandas as pd
import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys
from torch import nn

from sga_monai.core import checks as check
from sga_monai.core.errors import InputError
from sga_monai.core.files import write_csv
from sga_monai.data.dataset import CXRDataset
from sga_monai.evaluation.embedding import write_embedding
from sga_monai.evaluation.predictions import FILE, add_failures, image_features, is_internal
from sga_monai.evaluation.results import FAILURE_LIMIT, render, summarize
from sga_monai.evaluation.scoring import prediction_columns
from sga_monai.model.features import FeatureRecorder

logger = logging.getLogger(__name__)


class PredictionSaver:
    """Collects an evaluator's predictions, writes ``predictions.csv`` and ``results.csv``, logs the table.

    ``predictions.csv`` has one line for each row of the manifests (see ``sga_monai.evaluation.predictions``): scored, or
    failed with a reason in ``error``, so that scored + failed = rows.

    Args:
        output_dir: where the files go.
        dataset: the dataset that is evaluated; each of its rows must come out, scored or failed.
        internal: name of the set that ``auroc_difference`` is taken against.
        summary_writer: TensorBoard writer for the table.
        failure_limit: share of failed images above which a set has no headline figure.
        network: with it, ``embedding.json`` has the mean and variance of its features over the internal test and validation
            images together, and their ``source_profile``; a site's are compared with them.
        temperature: the probability is sigmoid(score / temperature); ``sga-monai package --fit-temperature`` sets it.
    """

    def __init__(
        self,
        output_dir: str,
        dataset: CXRDataset,
        internal: str | None = None,
        summary_writer: Any = None,
        failure_limit: float = FAILURE_LIMIT,
        network: nn.Module | None = None,
        temperature: float = 1.0,
    ) -> None:
        self.temperature = check.number("temperature", temperature, above=0)
        self.failure_limit = check.number("failure_limit", failure_limit, low=0, high=1)
        self.output_dir = Path(output_dir)
        self.dataset = dataset
        self.internal = internal
        self.writer = summary_writer
        self.recorder = None if network is None else FeatureRecorder(network)
        self.frames: list[pd.DataFrame] = []

    def attach(self, engine: Engine) -> None:
        """Attach to a ``SupervisedEvaluator`` with ``decollate`` off."""
        if self.recorder is not None:
            # Not before: the network is trained before it is evaluated.
            engine.add_event_handler(Events.STARTED, self.recorder.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.collect)
        engine.add_event_handler(Events.COMPLETED, self.save)

    def collect(self, engine: Engine) -> None:
        """Keep the scores of one mini-batch, and of internal images the features."""
        batch: Any = engine.state.batch
        output: Any = engine.state.output
        columns = prediction_columns(batch, output[Keys.PRED], self.temperature)
        self.frames.append(pd.DataFrame(columns | image_features(output[Keys.IMAGE])))
        if self.recorder is not None:
            self.recorder.keep([is_internal(name) for name in columns["set"]])

    def save(self, engine: Engine) -> None:
        """Write the files and show the table; of several processes the first does, with what all have scored."""
        features = None if self.recorder is None else self.recorder.finish()
        parts = _of_all_processes((pd.concat(self.frames, ignore_index=True), features))
        self.frames = []
        if idist.get_rank() > 0:
            return
        scored = pd.concat([frame for frame, _ in parts], ignore_index=True)
        if features is not None:
            features = np.concatenate([part for _, part in parts if part.size] or [features])
            kept = scored[scored["set"].map(is_internal)]
            write_embedding(self.output_dir / "embedding.json", features, kept["label"], kept["patient"])
        predictions = add_failures(scored, self.dataset.failures)
        if len(predictions) != len(self.dataset.data) + len(self.dataset.failures):
            raise InputError("some rows were neither scored nor failed; let the data loader give every row once (no drop_last)")
        order = {name: i for i, name in enumerate(dict.fromkeys(predictions["set"]))}
        predictions = predictions.sort_values(["set", "row"], key=lambda c: c.map(order) if c.name == "set" else c)
        write_csv(self.output_dir / FILE, predictions)
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


def _of_all_processes(value: Any) -> list[Any]:
    """``value`` of every process, in the order of their ranks."""
    if idist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * int(idist.get_world_size())
    torch.distributed.all_gather_object(values, value)
    return values
