from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import random
import re
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TinyNet, equal, iteration
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ROCAUC, LrScheduleHandler, ValidationHandler
from monai.transforms import RandGaussianNoise
from torch import nn

from sga_monai.core.checks import flag
from sga_monai.core.errors import DiskError, InputError, NumericError
from sga_monai.core.files import write_whole
from sga_monai.core.folders import is_finished
from sga_monai.core.live_objects import describe
from sga_monai.core.provenance import differences
from sga_monai.model.scores import score_and_label
from sga_monai.model.weights import load_best_model
from sga_monai.training import checkpoint
from sga_monai.training.best_model import BestModelSaver
from sga_monai.training.checkpoint import Checkpoints, load_checkpoint, save_checkpoint
from sga_monai.training.epochs import EpochSampler, EpochSeeds, epoch_seed
from sga_monai.training.run_record import RunRecord, identify
from sga_monai.training.schedule import lr_scheduler
from sga_monai.training.stopping import EarlyStopping, RobustOverfitting


def state(epoch: int) -> dict:
    generator = torch.Generator().manual_seed(epoch)
    return {"trainer": {"epoch": epoch, "iteration": 3 * epoch}, "weights": torch.rand(5000, generator=generator), "text": "x" * 200}


def test_two_are_kept_and_the_newest_is_loaded(tmp_path):
    for epoch in range(1, 6):
        path = save_checkpoint(tmp_path, epoch, state(epoch))
        assert re.fullmatch(rf"epoch_{epoch:06d}_[0-9a-f]{{64}}\.pt", path.name)
    assert [path.name[:12] for path in sorted(tmp_path.iterdir())] == ["epoch_000004", "epoch_000005"]
    loaded = load_checkpoint(tmp_path)
    assert loaded["trainer"] == {"epoch": 5, "iteration": 15}
    assert torch.equal(loaded["weights"], state(5)["weights"])


def damage(kind: str, number: int, newest: Path, older: Path) -> None:
    data = bytearray(newest.read_bytes())
    if kind == "flip":
        data[random.Random(number).randrange(len(data))] ^= 1 << (number % 8)
        newest.write_bytes(bytes(data))
    elif kind == "cut":
        newest.write_bytes(bytes(data[: len(data) * number // 10]))
    elif kind == "zeros":
        newest.write_bytes(bytes(len(data)))
    elif kind == "swap":
        first, second = newest.read_bytes(), older.read_bytes()
        newest.write_bytes(second)
        older.write_bytes(first)
    else:
        # The older one under the newer one's number, with its own hash.
        newest.unlink()
        newest.with_name(f"epoch_000009_{older.name[13:]}").write_bytes(older.read_bytes())


@pytest.mark.parametrize(
    ("kind", "number"), [("flip", i) for i in range(20)] + [("cut", i) for i in range(10)] + [("zeros", 0), ("renumbered", 0)]
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(tmp_path, caplog, kind, number):
    older, newest = (save_checkpoint(tmp_path, epoch, state(epoch)) for epoch in (1, 2))
    damage(kind, number, newest, older)
    assert load_checkpoint(tmp_path)["trainer"]["epoch"] == 1
    assert "damaged; trying the one before it" in caplog.text


def test_a_save_after_a_fallback_leaves_no_damaged_one_and_loses_no_good_one(tmp_path):
    for epoch in (4, 5):
        save_checkpoint(tmp_path, epoch, state(epoch))
    for name in (9, 10):
        (tmp_path / f"epoch_{name:06d}_{'0' * 64}.pt").write_bytes(b"damaged")
    assert load_checkpoint(tmp_path)["trainer"]["epoch"] == 5
    save_checkpoint(tmp_path, 6, state(6))
    assert [path.name[:12] for path in sorted(tmp_path.iterdir())] == ["epoch_000005", "epoch_000006"]
    newest = next(tmp_path.glob("epoch_000006*"))
    damage("flip", 1, newest, newest)
    save_checkpoint(tmp_path, 6, state(6) | {"text": "trained again"})
    assert [path.name[:12] for path in sorted(tmp_path.iterdir())] == ["epoch_000005", "epoch_000006"]
    assert load_checkpoint(tmp_path)["text"] == "trained again"


def test_never_in_silence_from_zero(tmp_path):
    with pytest.raises(InputError, match="holds no checkpoint"):
        load_checkpoint(tmp_path)
    older, newest = (save_checkpoint(tmp_path, epoch, state(epoch)) for epoch in (1, 2))
    damage("swap", 0, newest, older)
    with pytest.raises(InputError, match="every checkpoint in output_dir is damaged"):
        load_checkpoint(tmp_path)


def test_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/canary",)

    with pytest.raises(Exception, match="Weights only load failed"):
        save_checkpoint(tmp_path / "c", 1, state(1) | {"evil": Evil()})
    assert not list((tmp_path / "c").iterdir())
    assert not (tmp_path / "canary").exists()


def test_flushed_before_renamed_and_nothing_deleted_before(tmp_path, monkeypatch):
    """The order that a power failure needs: data on disk, then the name, then the folder, then the old one goes."""
    save_checkpoint(tmp_path, 1, state(1))
    save_checkpoint(tmp_path, 2, state(2))
    calls = []
    fsync, replace, unlink = os.fsync, os.replace, Path.unlink

    def note_fsync(descriptor: int) -> None:
        calls.append("fsync folder" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "fsync file")
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        assert len(list(tmp_path.glob("epoch_*.pt"))) == 2
        calls.append("rename")
        replace(source, target)

    def note_unlink(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            calls.append("delete")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    monkeypatch.setattr(Path, "unlink", note_unlink)
    save_checkpoint(tmp_path, 3, state(3))
    assert calls == ["fsync file", "rename", "fsync folder", "delete"]


def test_a_disk_that_lies_is_found_out(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, state(1))
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path)[:-1] + b"\1" if path.name.endswith(".tmp") else read(path))
    with pytest.raises(DiskError, match=r"cannot write epoch_000002 .*the disk reports an error"):
        save_checkpoint(tmp_path, 2, state(2))
    assert [path.name[:12] for path in tmp_path.iterdir()] == ["epoch_000001"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
@pytest.mark.parametrize("place", ["fsync", "replace"])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, number, place):
    save_checkpoint(tmp_path, 1, state(1))

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, place, fail)
    with pytest.raises(DiskError, match=r"cannot write epoch_000002 \(0\.0 MB\)") as caught:
        save_checkpoint(tmp_path, 2, state(2))
    assert caught.value.exit_code == 4
    assert [path.name[:12] for path in tmp_path.iterdir()] == ["epoch_000001"]
    assert load_checkpoint(tmp_path)["trainer"]["epoch"] == 1


def test_a_checkpoint_that_cannot_be_read_says_so(tmp_path, monkeypatch):
    save_checkpoint(tmp_path, 1, state(1))

    def fail(_: Path) -> None:
        raise OSError(errno.EACCES, "denied")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(DiskError, match=r"^cannot read epoch_000001: permission is denied"):
        load_checkpoint(tmp_path)


def save_slowly(folder: Path, rng: random.Random) -> None:
    """Epoch after epoch, with pauses inside the save where a kill may fall."""
    fsync, replace = os.fsync, os.replace

    def slow(function, *arguments):
        time.sleep(rng.random() * 0.01)
        function(*arguments)
        time.sleep(rng.random() * 0.01)

    os.fsync = lambda descriptor: slow(fsync, descriptor)
    os.replace = lambda source, target: slow(replace, source, target)
    for epoch in range(2, 1000):
        save_checkpoint(folder, epoch, state(epoch))


@pytest.mark.parametrize("kills", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_kills_inside_a_save(tmp_path, kills):
    rng = random.Random(7)
    inside = 0
    for number in range(kills):
        folder = tmp_path / f"{number}"
        save_checkpoint(folder, 1, state(1))
        child = os.fork()
        if child == 0:
            try:
                save_slowly(folder, random.Random(number))
            finally:
                os._exit(1)
        time.sleep(0.02 + rng.random() * 0.15)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        inside += any(path.name.startswith(".") for path in folder.iterdir())
        names = sorted(path.name for path in folder.glob("epoch_*.pt"))
        loaded = load_checkpoint(folder)
        assert loaded["trainer"]["epoch"] == int(names[-1][6:12])
        assert torch.equal(loaded["weights"], state(loaded["trainer"]["epoch"])["weights"])
    assert inside >= kills // 5


class Fixed(torch.utils.data.Dataset):
    def __init__(self, count: int = 40) -> None:
        generator = torch.Generator().manual_seed(3)
        self.label = torch.arange(count) % 2
        self.image = torch.rand((count, 1, 12, 12), generator=generator) * 0.8
        self.image[self.label == 1, :, :4] += 0.15

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int) -> dict:
        return {"image": self.image[index], "label": self.label[index], "row": index + 2}


def build(
    out: Path, max_epochs: int, resume: bool = False, identity: dict | None = None, num_workers: int = 0, **options: object
) -> SimpleNamespace:
    """A small training with all that the bundle attaches, dropout and a schedule of the learning rate included."""
    torch.manual_seed(0)
    network, dataset = TinyNet(), Fixed()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    device = torch.device("cpu")
    metric = {"val_auroc": ROCAUC(output_transform=score_and_label)}
    evaluator = SupervisedEvaluator(device, DataLoader(dataset, batch_size=20), network, decollate=False, key_val_metric=metric)
    best = BestModelSaver(network, str(out), resume=resume)
    best.attach(evaluator)
    sampler = EpochSampler(dataset, 5)
    early = EarlyStopping(evaluator, options.pop("patience", 0))
    step = iteration(seed=5, **options)
    trainer = SupervisedTrainer(
        device, max_epochs, DataLoader(dataset, batch_size=8, sampler=sampler, num_workers=num_workers), network, optimizer,
        nn.CrossEntropyLoss(), iteration_update=step, decollate=False,
    )  # fmt: skip
    EpochSeeds(5, sampler, dataset).attach(trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda _: scheduler.step())
    ValidationHandler(1, evaluator).attach(trainer)
    early.attach(trainer)
    members = {"best_model": best, "early_stopping": early, "scheduler": scheduler}
    Checkpoints(str(out), network, optimizer, members, evaluator, identity or {"settings": {"a": 1}}, resume).attach(trainer)
    parts = {"network": network, "optimizer": optimizer, "best": best, "early": early, "iteration": step}
    return SimpleNamespace(trainer=trainer, evaluator=evaluator, **parts)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("at", [1, 2, 4])
def test_a_resumed_training_is_the_same_to_the_bit(tmp_path, at, num_workers):
    straight = build(tmp_path / "a", 5, num_workers=num_workers)
    straight.trainer.run()
    build(tmp_path / "b", at, num_workers=num_workers).trainer.run()
    torch.manual_seed(999)
    random.seed(999)
    resumed = build(tmp_path / "b", 5, resume=True, num_workers=num_workers)
    resumed.trainer.run()
    first, second = (load_checkpoint(tmp_path / name / "checkpoints") for name in "ab")
    assert first["trainer"] == {"epoch": 5, "iteration": 25, "optimizer_steps": 25}
    assert equal(first, second)
    assert (tmp_path / "a/model.json").read_text() == (tmp_path / "b/model.json").read_text()
    assert equal(*(torch.load(tmp_path / name / "model.pt", weights_only=True) for name in "ab"))
    assert resumed.evaluator.state.best_metric == straight.evaluator.state.best_metric


def test_the_evaluators_best_comes_back(tmp_path):
    first = build(tmp_path, 2)
    first.trainer.run()
    resumed, seen = build(tmp_path, 3, resume=True), []
    best, before = resumed.evaluator.state, first.evaluator.state
    resumed.trainer.add_event_handler(Events.EPOCH_STARTED, lambda _: seen.append((best.best_metric, best.best_metric_epoch)))
    resumed.trainer.run()
    assert 0 < before.best_metric <= 1
    assert seen[0] == (before.best_metric, before.best_metric_epoch)


def test_a_run_that_was_killed_in_its_last_test_goes_on_to_it_without_another_epoch(tmp_path):
    first = build(tmp_path, 2)
    first.trainer.run()
    resumed, seen = build(tmp_path, 2, resume=True), []
    resumed.trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: seen.append("iteration"))
    resumed.trainer.add_event_handler(Events.COMPLETED, lambda _: seen.append("end"))
    resumed.trainer.run()
    assert seen == ["end"]
    assert equal(resumed.network.state_dict(), first.network.state_dict())


def test_another_run_is_refused_with_the_difference(tmp_path, caplog):
    before = {"settings": {"mask_fraction": 0.1, "norm": math.inf}, "data": {"manifest_sha256": "aa"}, "machine": {"threads": 2}}
    build(tmp_path, 1, identity=before).trainer.run()
    now = {"settings": {"mask_fraction": 0.2, "norm": math.inf}, "data": {"manifest_sha256": "aa"}, "machine": {"threads": 2}}
    with pytest.raises(InputError, match=r"settings\.mask_fraction: was 0\.1, is 0\.2\); repeat its settings"):
        build(tmp_path, 2, resume=True, identity=now).trainer.run()
    other_threads = before | {"machine": {"threads": 1}}
    build(tmp_path, 2, resume=True, identity=other_threads).trainer.run()
    assert "not be identical to the bit: machine.threads: was 2, is 1" in caplog.text
    forced = build(tmp_path, 3, identity=now)
    Checkpoints(str(tmp_path), forced.network, forced.optimizer, {}, forced.evaluator, now, "true", "True").attach(forced.trainer)
    forced.trainer.run()
    assert "in spite of a difference: settings.mask_fraction" in caplog.text
    with pytest.raises(InputError, match=r"epoch \d is already complete; max_epochs must not be smaller"):
        build(tmp_path, 1, resume=True, identity=now).trainer.run()


def test_a_forced_resume_uses_the_new_settings(tmp_path):
    before = {"objects": {"optimizer": {"lr": 0.1, "momentum": 0.9}}}
    build(tmp_path, 1, identity=before).trainer.run()
    now = {"objects": {"optimizer": {"lr": 0.001, "momentum": 0.9}}}
    forced = build(tmp_path, 2)
    saver = Checkpoints(str(tmp_path), forced.network, forced.optimizer, {}, forced.evaluator, now, True, True)
    saver.attach(forced.trainer)
    forced.trainer.add_event_handler(Events.EPOCH_STARTED, lambda _: rates.append(forced.optimizer.param_groups[0]["lr"]))
    rates: list[float] = []
    forced.trainer.run()
    assert rates == [0.001]


def test_a_kept_model_of_a_lost_epoch_is_the_evaluators_best(tmp_path, caplog):
    """Killed after the validation of an epoch and before its checkpoint; what follows is no better than the model that was saved."""
    build(tmp_path, 2, identity={"settings": {"a": 1}}).trainer.run()
    facts = json.loads((tmp_path / "model.json").read_text()) | {"val_auroc": 2.0, "epoch": 2}
    (tmp_path / "model.json").write_text(json.dumps(facts))
    next((tmp_path / "checkpoints").glob("epoch_000002*")).unlink()
    resumed = build(tmp_path, 3, resume=True, identity={"settings": {"a": 2}})
    saver = Checkpoints(
        str(tmp_path),
        resumed.network,
        resumed.optimizer,
        {"best_model": resumed.best},
        resumed.evaluator,
        {"settings": {"a": 2}},
        True,
        True,
    )
    saver.start(resumed.trainer)
    assert "model.pt is of epoch 2 of the run before, val_auroc 2.0000; it stays" in caplog.text
    for epoch in (2, 3):
        resumed.evaluator.run(epoch)
    state = resumed.evaluator.state
    assert (state.best_metric, state.best_metric_epoch) == (resumed.best.best, resumed.best.epoch) == (2.0, 2)


@pytest.mark.parametrize(("batch_size", "rate"), [(8, 0.1), (8, 0.01), (16, 0.1)])
def test_a_forced_resume_goes_on_in_the_new_schedule(tmp_path, batch_size, rate):
    """The rates of the epochs that are left are those that a training with the new settings has there."""

    def rates(out: Path, batch_size: int, lr: float, max_epochs: int, resume: bool = False) -> list[float]:
        network, seen = TinyNet(), list[float]()
        optimizer = torch.optim.SGD(network.parameters(), lr=lr)
        batches = DataLoader(Fixed(), batch_size=batch_size)
        schedule = lr_scheduler(optimizer, batches, 4, "cosine", warmup_epochs=1)
        trainer = SupervisedTrainer(
            torch.device("cpu"),
            max_epochs,
            batches,
            network,
            optimizer,
            nn.CrossEntropyLoss(),
            iteration_update=iteration(),
            decollate=False,
        )
        trainer.add_event_handler(Events.ITERATION_STARTED, lambda _: seen.append(optimizer.param_groups[0]["lr"]))
        LrScheduleHandler(schedule, print_lr=False, epoch_level=False).attach(trainer)
        identity = {"objects": {"optimizer": {"lr": lr}}, "settings": {"batch_size": batch_size}}
        Checkpoints(str(out), network, optimizer, {"lr_scheduler": schedule}, None, identity, resume, resume).attach(trainer)
        trainer.run()
        return seen

    rates(tmp_path / "forced", 8, 0.1, 2)
    straight = rates(tmp_path / "straight", batch_size, rate, 4)
    assert rates(tmp_path / "forced", batch_size, rate, 4, resume=True) == pytest.approx(straight[len(straight) // 2 :])


def test_a_resume_without_its_best_model_is_refused(tmp_path):
    build(tmp_path, 1).trainer.run()
    (tmp_path / "model.pt").unlink()
    with pytest.raises(InputError, match=r"no model\.pt; restore it"):
        build(tmp_path, 2, resume=True).trainer.run()


def test_weights_that_were_changed_are_not_loaded(tmp_path):
    network = build(tmp_path, 1).network
    run = build(tmp_path, 1)
    run.trainer.run()
    load_best_model(network, str(tmp_path / "model.pt"))
    (tmp_path / "run.json").write_text(json.dumps({"identity": {"settings": {"image_size": 128, "voi": "dicom"}}}))
    load_best_model(network, str(tmp_path / "model.pt"), image_size=128, voi="dicom")
    with pytest.raises(InputError, match="trained with image_size 128, not 224; give --image_size 128"):
        load_best_model(network, str(tmp_path / "model.pt"), image_size=224, voi="dicom")
    with pytest.raises(InputError, match="trained with voi dicom, not none"):
        load_best_model(network, str(tmp_path / "model.pt"), image_size=128, voi="none")
    data = bytearray((tmp_path / "model.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "model.pt").write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"not those that model\.json"):
        load_best_model(network, str(tmp_path / "model.pt"))
    for damaged in ("", "[1]"):
        (tmp_path / "model.json").write_text(damaged)
        with pytest.raises(InputError, match=r"model\.json beside it is damaged"):
            load_best_model(network, str(tmp_path / "model.pt"))
    (tmp_path / "model.json").unlink()
    nowhere = {key: value * math.nan if value.is_floating_point() else value for key, value in network.state_dict().items()}
    torch.save(nowhere, tmp_path / "model.pt")
    with pytest.raises(InputError, match="NaN or infinite"):
        load_best_model(network, str(tmp_path / "model.pt"))


def test_best_model_traps(tmp_path):
    """NaN first, a tie, NaN later; and a resumed run beside a better model."""
    network = TinyNet()

    def validate(saver: BestModelSaver, values: list[float], first: int = 1) -> dict:
        for epoch, value in enumerate(values, first):
            engine = Engine(lambda *_: None)
            engine.state.metrics, engine.state.epoch = {"val_auroc": value}, epoch
            saver(engine)
        facts = json.loads((tmp_path / "model.json").read_text())
        assert facts.pop("sha256") == hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()
        return facts

    assert validate(BestModelSaver(network, str(tmp_path)), [math.nan, 0.7, 0.9, 0.9, math.nan, 0.8]) == {"val_auroc": 0.9, "epoch": 3}
    kept = (tmp_path / "model.pt").read_bytes()
    resumed = BestModelSaver(network, str(tmp_path), resume="true")
    resumed.load_state_dict({"best": 0.7, "epoch": 2})
    nn.init.zeros_(network.fc.weight)
    assert validate(resumed, [0.85, 0.9], 3) == {"val_auroc": 0.9, "epoch": 3}
    assert (tmp_path / "model.pt").read_bytes() == kept
    assert validate(resumed, [0.95], 5) == {"val_auroc": 0.95, "epoch": 5}
    # A kill between the two files: the card is of an earlier epoch, so what it says of the weights does not count.
    (tmp_path / "model.pt").write_bytes(kept)
    torn = BestModelSaver(network, str(tmp_path), resume=True)
    torn.load_state_dict({"best": 0.7, "epoch": 2})
    assert (torn.best, torn.epoch) == (0.7, 2)


def test_files_are_flushed_before_and_after_their_names_change(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, Path.replace
    kind = {True: "folder", False: "file"}
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(kind[Path(f"/proc/self/fd/{fd}").is_dir()]), fsync(fd)))
    monkeypatch.setattr(Path, "replace", lambda path, target: (calls.append("rename"), replace(path, target))[1])
    write_whole(tmp_path / "a", lambda path: path.write_text("x"))
    assert calls == ["file", "rename", "folder"]
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
    with pytest.raises(DiskError):
        write_whole(tmp_path / "a", lambda path: path.write_text("y"))
    assert (tmp_path / "a").read_text() == "x"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("what", ["image", "loss", "gradient", "saliency", "perturbation"])
def test_what_is_not_finite_stops_before_the_optimizer(tmp_path, monkeypatch, what):
    run = build(tmp_path, 2, mask_fraction=0.0 if what == "perturbation" else 0.1)
    before: dict[str, torch.Tensor] = {}
    seventh = 7

    def at_the_seventh(engine: Engine) -> None:
        if engine.state.iteration != seventh:
            return
        before.update({key: value.clone() for key, value in run.network.state_dict().items()})
        if what == "image":
            engine.state.batch["image"][3, 0, 0, 0] = math.nan
        elif what == "loss":
            monkeypatch.setattr("sga_monai.sga.options.kl_divergence", lambda *_: torch.tensor(math.inf, requires_grad=True))
        elif what == "gradient":
            run.network.fc.weight.register_hook(lambda gradient: gradient * math.nan)
        elif what == "saliency":
            monkeypatch.setattr("sga_monai.sga.options.input_gradient", lambda network, image, *_: torch.full_like(image, math.nan))
        else:
            monkeypatch.setattr("sga_monai.sga.options.Attack.__call__", lambda self, network, image, *_: image * math.nan)

    run.trainer.add_event_handler(Events.ITERATION_STARTED, at_the_seventh)
    message = f"epoch 2, iteration 7, rows .*: the {what} is NaN or infinite, and the step was not taken"
    with pytest.raises(NumericError, match=message) as caught:
        run.trainer.run()
    assert caught.value.exit_code == 5
    weights = {name for name, _ in run.network.named_parameters()}
    assert all(torch.equal(run.network.state_dict()[name], before[name]) for name in weights)
    assert all(bool(value.isfinite().all()) for value in load_checkpoint(tmp_path / "checkpoints")["network"].values())
    if what == "image":
        assert re.search(r"rows \d+: ", str(caught.value))


def test_a_gradient_that_is_not_finite_is_found_in_its_own_part_of_an_accumulated_step(tmp_path):
    run = build(tmp_path, 1)
    run.trainer.accumulation_steps = 3
    seen: list[int] = []

    def poison(gradient: torch.Tensor) -> torch.Tensor:
        seen.append(1)
        return gradient * math.nan if len(seen) == 1 else gradient

    run.network.fc.weight.register_hook(poison)
    with pytest.raises(NumericError, match="epoch 1, iteration 1, rows"):
        run.trainer.run()


def test_a_nan_image_at_the_first_step_is_a_numeric_error(tmp_path):
    run = build(tmp_path, 1)
    run.trainer.add_event_handler(Events.ITERATION_STARTED, lambda engine: engine.state.batch["image"][2].fill_(math.nan))
    with pytest.raises(NumericError, match=r"iteration 1, rows \d+: the image is NaN"):
        run.trainer.run()


def test_early_stopping_counts_on_after_a_resume(tmp_path, monkeypatch):
    straight = build(tmp_path / "a", 30, patience=3)
    straight.trainer.run()
    stopped = straight.trainer.state.epoch
    assert straight.best.epoch + 3 == stopped < 30
    build(tmp_path / "b", stopped - 1, patience=3).trainer.run()
    resumed = build(tmp_path / "b", 30, resume=True, patience=3)
    resumed.trainer.run()
    assert load_checkpoint(tmp_path / "b/checkpoints")["trainer"]["epoch"] == stopped
    again = build(tmp_path / "b", 30, resume=True, patience=3)
    again.trainer.run()
    assert load_checkpoint(tmp_path / "b/checkpoints")["trainer"]["epoch"] == stopped
    with pytest.raises(InputError, match="early_stopping_patience must be"):
        EarlyStopping(straight.evaluator, -1)


def test_early_stopping_counts_validations_alone_and_nan_is_never_better():
    """With val_interval 2 every other epoch has none of its own."""
    for values, expected in (((0.7, math.nan, 0.7, 0.6), 7), ((math.nan, math.nan, 0.7, 0.5), 0)):
        evaluator, trainer, ended = Engine(lambda *_: None), Engine(lambda *_: None), []
        early = EarlyStopping(evaluator, 3)
        trainer.terminate = lambda ended=ended, trainer=trainer: ended.append(trainer.state.epoch)
        for epoch in range(1, 9):
            trainer.state.epoch = epoch
            if epoch % 2:
                evaluator.state.epoch, evaluator.state.metrics = epoch, {"val_auroc": values[epoch // 2]}
            early.watch(trainer)
        assert ended == [expected] * bool(expected)
        assert early.best == 0.7


def test_robust_overfitting_is_measured_and_ends_the_run(tmp_path, monkeypatch):
    run = build(tmp_path, 6)
    guard = RobustOverfitting(run.iteration, run.network, Fixed(), interval=1, drop=0.3, batch_size=16)
    before = {key: value.clone() for key, value in run.network.state_dict().items()}
    state = torch.get_rng_state()
    accuracy = guard.accuracy()
    assert 0 <= accuracy <= 1
    assert equal(run.network.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), state)
    # An attack can only lower what is right without one.
    run.network.eval()
    clean = float((run.network(Fixed().image).argmax(1) == Fixed().label).float().mean())
    assert accuracy <= clean
    values = iter([0.5, 0.9, 0.7, 0.6])
    monkeypatch.setattr(guard, "accuracy", lambda: next(values))
    guard.attach(run.trainer)
    run.trainer.run()
    assert run.trainer.state.epoch == 4
    assert guard.state_dict() == {"best": 0.9, "last": 0.6, "stopped": True}
    # Not before a validation has chosen a model, and by a fall of exactly the drop.
    unvalidated = build(tmp_path / "unvalidated", 4)
    waiting = RobustOverfitting(unvalidated.iteration, unvalidated.network, Fixed(), 1, 0.1, evaluator=Engine(lambda *_: None))
    waiting.evaluator.state.best_metric_epoch = -1
    falls = iter([0.9, 0.5, 0.8, 0.8])
    monkeypatch.setattr(waiting, "accuracy", lambda: next(falls))
    waiting.measure(unvalidated.trainer)
    waiting.measure(unvalidated.trainer)
    assert not waiting.stopped
    waiting.evaluator.state.best_metric_epoch = 2
    waiting.measure(unvalidated.trainer)
    assert waiting.stopped
    # A resumed run that was stopped stays stopped.
    again = build(tmp_path / "again", 6)
    later = RobustOverfitting(again.iteration, again.network, Fixed(), interval=1, drop=0.3)
    later.load_state_dict(guard.state_dict())
    later.attach(again.trainer)
    again.trainer.run()
    assert again.trainer.state.iteration == 0
    with pytest.raises(InputError, match="robust_drop"):
        RobustOverfitting(run.iteration, run.network, Fixed(), 1, drop=2.0)
    with pytest.raises(InputError, match="robust_drop needs a robust_interval of 1 or more"):
        RobustOverfitting(run.iteration, run.network, Fixed(), drop=0.3)


@pytest.mark.parametrize(("state", "drop", "iterations"), [
    ({"last": 0.6}, 0.3, 0), ({"last": 0.6}, 0.4, 1), ({"last": 0.6}, None, 1), ({}, 0.3, 0), ({}, None, 1),
])  # fmt: skip
def test_a_forced_resume_with_another_drop_or_none_goes_on(state, drop, iterations):
    """Checkpoints without ``last`` are older."""
    guard = RobustOverfitting(iteration(), TinyNet(), [], interval=2, drop=drop)
    guard.load_state_dict({"best": 0.9, "stopped": True} | state)
    trainer = Engine(lambda *_: None)
    guard.attach(trainer)
    trainer.run([0], max_epochs=1)
    assert trainer.state.iteration == iterations


def test_processes_whose_gpus_differ_stop_together(monkeypatch):
    items = [{"image": torch.full((1, 16, 16), 0.9), "label": label} for label in (0, 1)]
    monkeypatch.setattr("ignite.distributed.broadcast", lambda right: right + 1)
    assert RobustOverfitting(iteration(), Middle(), items, 1).accuracy() == 1.0


class Middle(torch.nn.Module):
    """Decides by the middle of the image alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        score = self.weight * (image[:, 0, 8, 8] - 0.5)
        return torch.stack([-score, score], dim=1)


def test_robust_overfitting_attacks_where_the_training_does():
    items = [{"image": torch.full((1, 16, 16), 0.49 + 0.02 * label), "label": label} for label in (0, 1)]
    for border_width, expected in ((0.5, 0.0), (0.25, 1.0)):
        assert RobustOverfitting(iteration(border_width=border_width), Middle(), items, 1).accuracy() == expected


def test_robust_accuracy_is_of_all_images_also_of_a_last_smaller_batch():
    items = [{"image": torch.full((1, 16, 16), 0.9), "label": label} for label in (1, 0, 1, 1, 0)]
    for batch_size in (1, 2, 5, 64):
        assert RobustOverfitting(iteration(), Middle(), items, 1, batch_size=batch_size).accuracy() == 0.6
    # 0.05 moves the middle of the first two over 0.5, not that of the third.
    near = [{"image": torch.full((1, 16, 16), value), "label": 1} for value in (0.52, 0.54, 0.56)]
    assert RobustOverfitting(iteration(), Middle(), near, 1).accuracy() == pytest.approx(1 / 3)


def test_orders_and_seeds_depend_on_seed_and_epoch_alone(monkeypatch):
    orders = {}
    for seed in (0, 1):
        for epoch in (1, 2):
            sampler = EpochSampler(range(50), seed)
            sampler.epoch = epoch
            orders[seed, epoch] = list(sampler)
            assert list(sampler) == orders[seed, epoch]
            assert sorted(orders[seed, epoch]) == list(range(50))
    assert len({tuple(order) for order in orders.values()}) == 4
    assert epoch_seed(0, 1) != epoch_seed(1, 0)
    sampler, engine = EpochSampler(range(5), 0), Engine(lambda *_: None)
    engine.state.epoch = 3
    draws = []
    for _ in range(2):
        EpochSeeds(0, sampler)(engine)
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(1))))  # noqa: NPY002
    assert draws[0] == draws[1]
    assert sampler.epoch == 3
    # Dropout and random transforms of the next epoch, or of another process, are not those of this one.
    for epoch, rank in ((4, 0), (3, 1), (3, 2)):
        engine.state.epoch = epoch
        monkeypatch.setattr("ignite.distributed.get_rank", lambda rank=rank: rank)
        EpochSeeds(0, sampler)(engine)
        draws.append((random.random(), float(np.random.rand()), float(torch.rand(1))))  # noqa: NPY002
    assert [len(set(each)) for each in zip(*draws[1:], strict=True)] == [4, 4, 4]
    monkeypatch.undo()
    dataset = SimpleNamespace(transform=RandGaussianNoise(prob=1.0))
    noise = []
    for _ in range(2):
        EpochSeeds(0, sampler, dataset)(engine)
        noise.append(dataset.transform(torch.zeros(1, 4, 4)))
    assert torch.equal(*noise)


def test_records_and_flags():
    changes = ["a.b.1: was 2, is 3", "c: was 1, is absent", "d: was absent, is 2"]
    assert describe({"a": math.inf, "b": (1, None)}) == {"a": "inf", "b": [1, None]}
    assert differences({"a": {"b": [1, 2]}, "c": 1}, {"a": {"b": [1, 3]}, "d": 2}) == changes
    assert [flag("x", value) for value in (True, False, "true", "False")] == [True, False, True, False]
    with pytest.raises(InputError, match="resume must be true or false, got 'yes'"):
        flag("resume", "yes")
    assert describe(iteration(mask_fraction=0.2))["masking"]["mask_fraction"] == 0.2
    assert checkpoint.KEPT == 2


def test_what_decides_a_result_is_its_identity(tmp_path):
    network, manifest = TinyNet(), tmp_path / "a.csv"
    manifest.write_text("image\n")

    def facts(settings: dict, images: list[list[str]], lr: float = 0.1, config: dict | None = None) -> dict:
        optimizer, datasets = torch.optim.SGD(network.parameters(), lr=lr), [SimpleNamespace(sha256=names) for names in images]
        return identify(settings, iteration(), network, optimizer, datasets, None, str(manifest), 2, "cpu", config)

    images = [["a", "b"], ["c"]]
    plain = facts({"seed": 0, "max_epochs": 3}, images, config={"seed": 1, "train": {"x": 1}})
    assert plain["settings"] == {"seed": 0}
    assert plain["config"] == {"train": {"x": 1}}
    assert (plain["machine"]["device"], plain["machine"]["num_workers"]) == ("cpu", 2)
    # A schedule looks ahead to the last epoch.
    assert facts({"max_epochs": 3, "lr_schedule": "constant"}, images)["settings"] == {"lr_schedule": "constant"}
    assert facts({"max_epochs": 3, "lr_schedule": "cosine"}, images)["settings"] == {"max_epochs": 3, "lr_schedule": "cosine"}
    others = facts({}, [["b", "a"], ["c"]]), facts({}, [["a"], ["b", "c"]]), facts({}, images, lr=0.2)
    changed = [differences(facts({}, images), other) for other in others]
    assert [[line.partition(":")[0] for line in lines] for lines in changed] == [
        ["data.images_sha256.0"],
        ["data.images_sha256.0", "data.images_sha256.1"],
        ["objects.optimizer.lr"],
    ]
    manifest.write_text("image\n\n")
    assert facts({}, images)["data"]["manifest_sha256"] != plain["data"]["manifest_sha256"]


def test_the_record_of_a_run_that_is_resumed_goes_on(tmp_path, monkeypatch):
    engine, evaluator, clock = Engine(lambda *_: None), Engine(lambda *_: None), iter(range(100, 1000, 10))
    times = map("2026-01-{:02d}".format, range(1, 30))
    monkeypatch.setattr("sga_monai.training.run_record.utc_time", lambda: next(times))
    monkeypatch.setattr("sga_monai.training.run_record.time.monotonic", lambda: next(clock))
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = -1, -1
    engine.state.max_epochs, engine.state.epoch_length = 3, 7

    def record(epoch: int) -> RunRecord:
        engine.state.epoch, engine.state.iteration = epoch, 7 * epoch
        return RunRecord(str(tmp_path), {"a": 1}, evaluator)

    def card() -> dict:
        return json.loads((tmp_path / "run.json").read_text())

    first = record(0)
    first.start(engine)
    began = card()
    assert (began["epoch"], began["finished"], began["resumed_after_epoch"], began["best"], began["model_sha256"]) == (0, *[None] * 4)
    engine.state.epoch, engine.state.iteration = 1, 7
    evaluator.state.best_metric, evaluator.state.best_metric_epoch = 0.75, 1
    (tmp_path / "model.pt").write_bytes(b"weights")
    first.complete(engine)
    assert (card()["epoch"], card()["optimizer_steps"], card()["duration_s"]) == (1, 7, 20.0)
    # Killed in the second epoch, which is not complete.
    engine.state.epoch = 2
    first.write(engine)
    assert (card()["epoch"], card()["duration_s"]) == (1, 30.0)
    again = record(1)
    again.start(engine)
    again.finish(engine)
    last = card()
    assert (last["started"], last["resumed_after_epoch"], last["duration_s"]) == (began["started"], 1, 50.0)
    assert last["finished"] > last["started"] == "2026-01-01"
    assert (last["best"], last["max_epochs"], last["identity"]) == ({"val_auroc": 0.75, "epoch": 1}, 3, {"a": 1})
    assert last["model_sha256"] == hashlib.sha256(b"weights").hexdigest()
    # A run from the start is of its own time.
    fresh = record(0)
    fresh.start(engine)
    assert (card()["duration_s"], card()["resumed_after_epoch"], card()["finished"]) == (10.0, None, None)


def test_a_run_that_goes_on_has_no_results_of_its_earlier_end(tmp_path):
    """Killed in its last test it would else be finished, with predictions of other weights."""
    for name in ("predictions.csv", "results.csv", "embedding.json"):
        (tmp_path / name).write_text("old")
    engine, evaluator = Engine(lambda *_: None), Engine(lambda *_: None)
    engine.state.epoch = engine.state.max_epochs = 3
    evaluator.state.best_metric_epoch = -1
    engine.data_loader = [0]
    record = RunRecord(str(tmp_path), {}, evaluator)
    record.start(engine)
    record.finish(engine)
    assert not is_finished(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("content", ["[]", "null", "{", '{"finished": null}', "{}"])
def test_a_run_whose_card_is_damaged_is_not_finished(tmp_path, content):
    for name in ("predictions.csv", "results.csv"):
        (tmp_path / name).write_text("")
    (tmp_path / "run.json").write_text('{"finished": "now"}')
    assert is_finished(tmp_path)
    (tmp_path / "run.json").write_text(content)
    assert not is_finished(tmp_path)
