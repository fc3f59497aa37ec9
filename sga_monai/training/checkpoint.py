"""Checkpoints that survive a kill, a full disk and a flipped byte, and a training that goes on from them to the bit."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import SupervisedTrainer
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from sga_monai.core import checks as check
from sga_monai.core.errors import DISK, DiskError, InputError
from sga_monai.core.files import sync_folder
from sga_monai.core.provenance import differences
from sga_monai.training.best_model import BestModelSaver
from sga_monai.training.progress import count_on, optimizer_steps

logger = logging.getLogger(__name__)
NAME = re.compile(r"epoch_(\d{6})_([0-9a-f]{64})\.pt")
KEPT = 2
# A difference in these changes the last digits of a sum, not what is computed.
NOT_BIT_IDENTICAL = ("machine.",)


class Stateful(Protocol):
    """What a checkpoint can hold: torch's and ignite's ``state_dict`` protocol."""

    def state_dict(self) -> Mapping[str, Any]:
        """Plain values and tensors."""

    def load_state_dict(self, state_dict: Any) -> Any:
        """The inverse."""


def save_checkpoint(folder: str | Path, epoch: int, state: Mapping[str, Any], keep: int = KEPT) -> Path:
    """Write ``epoch_EEEEEE_<SHA-256>.pt`` and only then delete all but the newest ``keep``.

    Written to a temporary file in the same folder, flushed to disk, read back, renamed, and the folder flushed: at every
    moment the folder holds a whole checkpoint (after the first).

    Args:
        folder: made when absent.
        epoch: completed epochs.
        state: tensors, numbers, strings, lists and dictionaries, so that it loads with ``weights_only``.
        keep: number of checkpoints to keep.

    Raises:
        DiskError: when the disk will not take it or gives back other bytes; earlier checkpoints are intact and no
            temporary file stays.
    """
    folder = Path(folder)
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    path, temporary = folder / f"epoch_{epoch:06d}_{digest}.pt", folder / f".epoch_{epoch:06d}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        written = temporary.read_bytes()
        if written != data:
            raise DiskError(path.name[:12], errno.EIO, len(data))
        # What cannot be loaded is no checkpoint: better found now than after the power failure.
        torch.load(io.BytesIO(written), weights_only=True)
        temporary.replace(path)
        sync_folder(folder)
    except OSError as error:
        if error.errno in DISK:
            raise DiskError(path.name[:12], error.errno, len(data)) from None
        raise
    finally:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            logger.warning("a temporary file of a checkpoint could not be deleted")
    # What is of this epoch or a later one is another history: damaged, or of a run that went on from an earlier epoch.
    others = [old for old in _checkpoints(folder) if old != path]
    later = [old for old in others if int(old.name[6:12]) >= epoch]
    for old in later + [old for old in others if old not in later][max(keep - 1, 0) :]:
        old.unlink(missing_ok=True)
    return path


def load_checkpoint(folder: str | Path) -> dict[str, Any]:
    """The newest checkpoint of ``folder`` that is intact.

    A file whose SHA-256 is not the one in its name is passed over with a warning.

    Raises:
        InputError: when there is none, or none is intact; a run never starts from zero in silence.
    """
    found = _checkpoints(Path(folder))
    for path in found:
        epoch = int(path.name[6:12])
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DiskError(path.name[:12], error.errno or errno.EIO, action="read") from None
        try:
            if hashlib.sha256(data).hexdigest() != path.name[13:77]:
                raise ValueError("not the bytes that were written")
            state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            if int(state["trainer"]["epoch"]) != epoch:
                raise ValueError("not the epoch that the name says")
            return state
        except Exception:  # noqa: BLE001
            # Whatever a damaged file makes of torch's reader, the answer is the same: the one before it.
            logger.warning("the checkpoint of epoch %d is damaged; trying the one before it", epoch)
    if found:
        raise InputError("every checkpoint in output_dir is damaged; restore one, or remove them and start again without resume")
    raise InputError("resume: output_dir holds no checkpoint; check output_dir, or start without resume")


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files, newest epoch first, newest file first where an epoch was written twice."""
    found = [path for path in folder.glob("epoch_*.pt") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (int(path.name[6:12]), path.stat().st_mtime_ns), reverse=True)


class Checkpoints:
    """Saves after every epoch; with ``resume`` goes on from the newest intact checkpoint of ``output_dir``.

    Attach it after the ``ValidationHandler``, so that a checkpoint holds the validation of its own epoch. Every random
    draw is a function of (seed, epoch) or (seed, iteration), so a checkpoint holds no random state.

    Args:
        output_dir: checkpoints go to its folder ``checkpoints``.
        network: its weights and buffers.
        optimizer: its state.
        members: whatever else has ``state_dict`` and ``load_state_dict``: scheduler, best model, early stopping.
        evaluator: its best metric is kept, and the mean score that ``TrainingProgress`` keeps with it.
        identity: what the run is: settings, data, code, machine; a checkpoint of another run is refused.
        resume: go on instead of starting.
        force_resume: go on in spite of differences, which are printed.
    """

    def __init__(
        self,
        output_dir: str,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        members: Mapping[str, Stateful] | None = None,
        evaluator: Engine | None = None,
        identity: Mapping[str, Any] | None = None,
        resume: bool | str = False,
        force_resume: bool | str = False,
    ) -> None:
        self.folder = Path(output_dir) / "checkpoints"
        self.parts: dict[str, Any] = {"network": network, "optimizer": optimizer, **(members or {})}
        self.evaluator = evaluator
        self.identity = dict(identity or {})
        self.resume = check.flag("resume", resume)
        self.force_resume = check.flag("force_resume", force_resume)

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)

    def start(self, engine: SupervisedTrainer) -> None:
        """Load the newest intact checkpoint when ``resume`` is set."""
        if not self.resume:
            return
        state = load_checkpoint(self.folder)
        changed = differences(state["identity"], self.identity)
        harmless = [line for line in changed if line.startswith(NOT_BIT_IDENTICAL)]
        serious = [line for line in changed if line not in harmless]
        if serious and not self.force_resume:
            listed = "; ".join(serious[:10])
            raise InputError(f"resume: the checkpoint is of another run ({listed}); repeat its settings, or set force_resume to true")
        if state["trainer"]["epoch"] > (engine.state.max_epochs or 0):
            raise InputError(f"resume: epoch {state['trainer']['epoch']} is already complete; max_epochs must not be smaller")
        for line in serious:
            logger.warning("resumed in spite of a difference: %s", line)
        for line in harmless:
            logger.warning("the result may not be identical to the bit: %s", line)
        try:
            for name, part in self.parts.items():
                part.load_state_dict(state[name])
        except InputError:
            raise
        except (RuntimeError, ValueError, KeyError):
            raise InputError("resume: the checkpoint does not fit this network or optimizer; repeat the settings of its run") from None
        # Epochs are whole; a forced change of the batch size changes how many iterations that is, and not how many steps were made.
        engine.state.epoch, engine.state.iteration = state["trainer"]["epoch"], state["trainer"]["iteration"]
        if engine.state.epoch_length:
            engine.state.iteration = engine.state.epoch * engine.state.epoch_length
        count_on(engine, **state["trainer"])
        if serious:
            self._apply_new_settings(state["identity"], engine.state.iteration)
        if self.evaluator is not None:
            best: Any = self.evaluator.state
            best.best_metric, best.best_metric_epoch = (state["evaluator"][key] for key in ("best_metric", "best_metric_epoch"))
            if "best_mean_score" in state["evaluator"]:
                best.best_mean_score = state["evaluator"]["best_mean_score"]
            self._take_kept_model(best, engine.state.epoch, bool(serious))
        logger.info("resumed after epoch %d of %s", engine.state.epoch, engine.state.max_epochs)

    def _take_kept_model(self, best: Any, epoch: int, forced: bool) -> None:
        """Let the evaluator's best be that of a better ``model.pt`` from an epoch after the checkpoint, which stays."""
        kept = self.parts.get("best_model")
        if not isinstance(kept, BestModelSaver) or not kept.best > best.best_metric:
            return
        best.best_metric, best.best_metric_epoch = kept.best, kept.epoch
        if forced and kept.epoch > epoch:
            text = "model.pt is of epoch %d of the run before, val_auroc %.4f; it stays until a later validation is better"
            logger.warning(text, kept.epoch, kept.best)

    def _apply_new_settings(self, before: Mapping[str, Any], iteration: int) -> None:
        """Where a forced resume changed the optimizer's settings or the length of an epoch, the loaded ones give way."""
        old, new = (identity.get("objects", {}).get("optimizer", {}) for identity in (before, self.identity))
        changed = {key: value for key, value in new.items() if old.get(key) != value}
        groups = self.parts["optimizer"].param_groups
        for group in groups:
            group.update({key: value for key, value in changed.items() if key in group})
        for schedule in (part for part in self.parts.values() if isinstance(part, LambdaLR)):
            # It holds the highest rate and the number of the step itself, and sets the rate of the next step from them.
            if "lr" in changed:
                schedule.base_lrs = [changed["lr"]] * len(groups)
            schedule.last_epoch = iteration
            for group, rate, factor in zip(groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
                group["initial_lr"], group["lr"] = rate, rate * factor(iteration)

    def save(self, engine: Engine) -> None:
        """Write the checkpoint of the epoch that is complete, in the first process; the others wait until it is on disk."""
        if idist.get_rank() == 0:
            self._write(engine)
        idist.barrier()

    def _write(self, engine: Engine) -> None:
        state: dict[str, Any] = {name: part.state_dict() for name, part in self.parts.items()}
        state["trainer"] = {"epoch": engine.state.epoch, "iteration": engine.state.iteration, "optimizer_steps": optimizer_steps(engine)}
        best: Any = self.evaluator.state if self.evaluator is not None else None
        if best is not None:
            state["evaluator"] = {"best_metric": float(best.best_metric), "best_metric_epoch": int(best.best_metric_epoch)}
            if hasattr(best, "best_mean_score"):
                state["evaluator"]["best_mean_score"] = best.best_mean_score
        state["identity"] = self.identity
        save_checkpoint(self.folder, engine.state.epoch, state)
