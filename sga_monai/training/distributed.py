"""A training or evaluation by several processes, one for each GPU, as ``torchrun`` starts them.

The overlays ``multi_gpu_train.json`` and ``multi_gpu_evaluate.json`` name these parts. Everything but the trainer has the bare
network: ``DistributedDataParallel`` does nothing else than average the gradients.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence, Sized
from types import TracebackType
from typing import Any

import ignite.distributed as idist
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Sampler
from torch.utils.tensorboard import SummaryWriter

from sga_monai.core.errors import InputError
from sga_monai.core.process import is_program
from sga_monai.sga.iteration import SGAIteration

# Parts of the messages with which gloo and NCCL say that another process is gone.
LOST = ("gloo", "nccl", "connection closed by peer", "connection reset")


def local_device() -> torch.device:
    """The GPU of this process, by ``LOCAL_RANK``; the CPU where there is no GPU."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")


def join_group(device: torch.device) -> int:
    """Join the group of processes that ``torchrun`` started, by nccl on a GPU and by gloo elsewhere, and return the rank.

    Raises:
        InputError: when the process was not started by ``torchrun``.
    """
    if "RANK" not in os.environ:
        raise InputError("multi_gpu_*.json needs several processes; start it with torchrun --nproc_per_node N -m monai.bundle run ...")
    if not torch.distributed.is_initialized():
        idist.initialize("nccl" if device.type == "cuda" else "gloo")
    rank = int(idist.get_rank())
    if rank:
        # Every line would otherwise come once from each process.
        logging.getLogger("sga_monai").setLevel(logging.ERROR)
    return rank


def leave_group() -> None:
    """Leave the group of processes at the end of a run."""
    idist.finalize()


def world_size(rank: int) -> int:  # noqa: ARG001
    """Number of processes; ``rank``, of ``join_group``, makes sure that they have joined."""
    return int(idist.get_world_size())


def say_when_a_process_is_lost() -> None:
    """End the program with one sentence when another process of the group is gone, instead of with a traceback of gloo or NCCL."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if isinstance(error, RuntimeError) and any(part in str(error).lower() for part in LOST):
            sys.stderr.write(
                "sga-monai: another process of this run has ended, and this one with it; a training goes on with --resume true\n"
            )
            sys.stderr.flush()
            # Without the end of the group, which would wait for the process that is gone.
            os._exit(1)
        before(kind, error, traceback)

    if is_program():
        sys.excepthook = hook


def data_parallel(network: nn.Module, device: torch.device, iteration: SGAIteration) -> nn.Module:
    """The network for the trainer: gradients are averaged over all processes in the backward pass.

    Buffers are not broadcast at each forward pass: a step has two of them before one backward pass, and the second broadcast would
    change in place what the first pass has saved. ``share_statistics`` makes them equal instead.

    Raises:
        InputError: when the step keeps weights of groups, which each process would learn for itself.
    """
    if iteration.groups.group_dro_step > 0:
        raise InputError("group_dro_step learns its weights in one process: set it to 0, or train without multi_gpu_train.json")
    ids = [device.index] if device.type == "cuda" else None
    return DistributedDataParallel(network, device_ids=ids, broadcast_buffers=False)


def rank_summary_writer(log_dir: str, rank: int) -> SummaryWriter | None:
    """The TensorBoard writer of the first process; ``None`` in the others."""
    return SummaryWriter(log_dir) if rank == 0 else None


def handlers_of_rank(handlers: Sequence[Any], writers: Sequence[Any], rank: int) -> list[Any]:
    """All handlers in the first process, and those that are not ``writers`` in the others."""
    return [handler for handler in handlers if rank == 0 or not any(handler is writer for writer in writers)]


class RankSampler(Sampler[int]):
    """The rows of one process in an evaluation: consecutive, and every row in exactly one process.

    torch's ``DistributedSampler`` repeats rows until all processes have equally many, so that some would be scored twice.

    Args:
        data_source: its length is taken.
        rank: of ``join_group``.

    Raises:
        InputError: when there are fewer rows than processes.
    """

    def __init__(self, data_source: Sized, rank: int) -> None:
        rows, processes = len(data_source), int(idist.get_world_size())
        if rows < processes:
            raise InputError(f"{rows} rows cannot be divided among {processes} processes; start fewer")
        self.indices = range(rows * rank // processes, rows * (rank + 1) // processes)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)
