"""Every random draw of a training as a function of (seed, epoch, rank), so that a resumed run draws the same."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sized
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd
from torch.utils.data import Sampler


def epoch_seed(seed: int, epoch: int, stream: int = 0) -> int:
    """A seed of 32 bits for one epoch and one use; neighboring arguments give unrelated seeds (NumPy's SeedSequence)."""
    return int(np.random.SeedSequence((seed, epoch, stream)).generate_state(1)[0])


class EpochSampler(Sampler[int]):
    """A random order of the data that depends on (seed, epoch) alone; of several processes each takes its part of it.

    The n-th mini-batches of all processes are together the n-th of one process with as many images. Where the rows cannot be
    divided evenly, the first of the order come again at its end.

    Args:
        data_source: its length is taken.
        seed: of the run.

    Attributes:
        epoch: set by ``EpochSeeds`` before the order is drawn.
    """

    def __init__(self, data_source: Sized, seed: int = 0) -> None:
        self.data_source = data_source
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return -(-len(self.data_source) // int(idist.get_world_size()))

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng(epoch_seed(self.seed, self.epoch, 1))
        processes, order = int(idist.get_world_size()), generator.permutation(len(self.data_source))
        return iter(np.resize(order, len(self) * processes)[idist.get_rank() :: processes].tolist())


class EpochSeeds:
    """At the start of every epoch: seeds Python, NumPy, torch and random transforms, and tells the sampler the epoch.

    Args:
        seed: of the run.
        sampler: an ``EpochSampler``.
        dataset: searched for random transforms, whose state is hidden from a checkpoint.
    """

    def __init__(self, seed: int, sampler: EpochSampler, dataset: Any = None) -> None:
        self.seed = seed
        self.sampler = sampler
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed everything for ``engine.state.epoch``."""
        epoch = engine.state.epoch
        self.sampler.epoch = epoch
        # Stream 1 is the sampler's, and the same in all processes.
        rank = int(idist.get_rank())
        seed = epoch_seed(self.seed, epoch, rank + 1 if rank else 0)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        if self.dataset is not None:
            set_rnd(self.dataset, seed)
