"""Collect the predictions of an evaluator and write them with the table computed from them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

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
from sga_monai.evaluation.predictions import image_features, row_columns
from sga_monai.evaluation.results import FAILURE_LIMIT, render, summarize
from sga_monai.model.features import FeatureRecorder
from sga_monai.model.scores import logit_difference

logger = logging.getLogger(__name__)


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
        self.failure_limit = check.number("failure_limit", failure_limit, low=0, high=1)
        self.output_dir = Path(output_dir)
        self.dataset = dataset
        self.internal = internal
        self.inside = (internal, f"{internal} (validation)")
        self.writer = summary_writer
        self.watch = None if network is None else FeatureRecorder(network)
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
