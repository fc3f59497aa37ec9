"""Turn each guard of the training off, one at a time, and see that a test fails: ``python tests/faults/turn_off_guards.py``.

Works on a copy of the project; prints one line a guard and ends with 1 when a guard can be removed unnoticed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT, FAULTS = "tests/training/test_checkpoint.py", "tests/faults/test_faults.py"
# Guard, module of sga_monai, the text that is it, what stands there without it, where a test must fail.
GUARDS = [
    ("fsync of the file", "training/checkpoint", "            os.fsync(stream.fileno())\n", "", CHECKPOINT),
    ("fsync of the folder", "training/checkpoint", "        sync_folder(folder)\n", "", CHECKPOINT),
    ("temporary file and rename", "training/checkpoint", 'folder / f".epoch_{epoch:06d}.tmp"', "folder / f\"epoch_{epoch:06d}_{'0' * 64}.pt\"", CHECKPOINT),
    ("read back", "training/checkpoint", "if written != data:", "if False:", CHECKPOINT),
    ("loads with weights_only", "training/checkpoint", "        torch.load(io.BytesIO(written), weights_only=True)\n", "", CHECKPOINT),
    ("hash before loading", "training/checkpoint", "if hashlib.sha256(data).hexdigest() != path.name[13:77]:", "if False:", CHECKPOINT),
    ("epoch as the name says", "training/checkpoint", 'if int(state["trainer"]["epoch"]) != epoch:', "if False:", CHECKPOINT),
    ("keep two", "training/checkpoint", "KEPT = 2", "KEPT = 1", CHECKPOINT),
    ("delete last", "training/checkpoint", "    buffer = io.BytesIO()\n    torch.save(dict",
     "    for old in _checkpoints(folder)[keep - 1 :]:\n        old.unlink()\n    buffer = io.BytesIO()\n    torch.save(dict", CHECKPOINT),
    ("damaged ones go first", "training/checkpoint", "    for old in later + [", "    for old in [", CHECKPOINT),
    ("no temporary left", "training/checkpoint", "            temporary.unlink(missing_ok=True)\n", "            pass\n", CHECKPOINT),
    ("disk errors become exit 4", "training/checkpoint", "        if error.errno in DISK:", "        if False:", CHECKPOINT),
    ("never from zero", "training/checkpoint", '    raise InputError("resume: output_dir holds no', '    return {}\n    raise InputError("resume: output_dir holds no', CHECKPOINT),
    ("identity", "training/checkpoint", "if serious and not self.force_resume:", "if False:", CHECKPOINT),
    ("evaluator's best", "training/checkpoint", 'best.best_metric, best.best_metric_epoch = (state["evaluator"]', '_ = (state["evaluator"]', CHECKPOINT),
    ("iteration restored", "training/checkpoint", "            engine.state.iteration = engine.state.epoch * engine.state.epoch_length\n", "            engine.state.iteration = 0\n", CHECKPOINT),
    ("reseed each epoch", "training/epochs", "        torch.manual_seed(seed)\n", "", CHECKPOINT),
    ("order by epoch", "training/epochs", "        self.sampler.epoch = epoch\n", "", CHECKPOINT),
    ("draws by iteration", "sga/engine", "(seed, self.engine.state.iteration, self.engine.state.rank)", "(seed, id(self.engine), self.engine.state.rank)", CHECKPOINT),
    ("NaN in the image", "sga/engine", "        self.check_finite(image=self.image)\n", "", CHECKPOINT),
    ("NaN in the saliency", "sga/iteration", "saliency=views.gradient, ", "", CHECKPOINT),
    ("NaN in the perturbation", "sga/iteration", ", perturbation=views.adversarial)", ")", CHECKPOINT),
    ("NaN in the loss", "sga/engine", "        self.check_finite(loss=terms.loss)\n", "", CHECKPOINT),
    ("NaN in the gradient", "sga/engine", "        self.check_finite(gradient=nn.utils.get_total_norm(gradients))\n", "", CHECKPOINT),
    ("NaN never wins", "training/best_model", "        if not value > self.best:", "        if value <= self.best:", CHECKPOINT),
    ("a better model stays", "training/best_model", "if self.resume and value > self.best and", "if False and", CHECKPOINT),
    ("early stopping in the checkpoint", "training/stopping", '        self.best, self.waited = state_dict["best"], state_dict["waited"]\n', "        pass\n", CHECKPOINT),
    ("random transforms reseeded", "training/epochs", "            set_rnd(self.dataset, seed)\n", "            pass\n", CHECKPOINT),
    ("robust guard in the checkpoint", "training/stopping", '        self.best, self.stopped = state_dict["best"], state_dict["stopped"]\n', "        pass\n", CHECKPOINT),
    ("fsync of other files", "core/files", "            os.fsync(stream.fileno())\n        temporary", "            pass\n        temporary", CHECKPOINT),
    ("fsync of their folder", "core/files", "        sync_folder(path.parent)\n", "", CHECKPOINT),
    ("other files by way of a temporary", "core/files", 'path.with_name(f".{path.name}.tmp")', "path", CHECKPOINT),
    ("hash of model.pt", "model/weights", 'not in ("", hashlib.sha256(data).hexdigest())', "not in (data,) and False", CHECKPOINT),
    ("data in the identity", "training/run_record", '"data": {"manifest_sha256": file_sha256', '"data": {"manifest_sha256": None and file_sha256', f"{FAULTS}::test_resume_refuses_what_changed"),
    ("configuration in the identity", "training/run_record", "for key, value in (config or {}).items() if key not in settings", "for key, value in ()", f"{FAULTS}::test_resume_refuses_what_changed"),
    ("lock beside the folder", "core/folders", "        _hold(str(beside), os.O_RDWR | os.O_CREAT)\n", "        pass\n", f"{FAULTS}::test_links_and_other_names_of_a_folder_do_not_get_past_the_lock"),
    ("lock of the folder", "core/folders", '        _hold(f"{folder.stat', '        str(f"{folder.stat', f"{FAULTS}::test_links_and_other_names_of_a_folder_do_not_get_past_the_lock"),
    ("lock forgotten by children", "core/folders", "os.close(descriptor)\n    _held.clear()", "pass\n    _held.clear()", f"{FAULTS}::test_a_child_does_not_keep_the_lock_of_a_dead_parent"),
    ("SIGTERM", "bundle/preparation", "        end_on_sigterm()\n", "", f"{FAULTS}::test_sigterm_ends_in_time_and_the_run_goes_on_to_the_bit"),
    ("a resumed folder stays", "core/folders", 'if not check.flag("resume", resume):', "if True:", f"{FAULTS}::test_a_file_that_may_not_grow"),
]  # fmt: skip


def survives(folder: Path, module: str, guard: str, without: str, tests: str) -> bool:
    """Whether the tests pass although the guard is off."""
    path = folder / "sga_monai" / f"{module}.py"
    source = path.read_text()
    if source.count(guard) != 1:
        raise SystemExit(f"the guard is not where it should be in {module}.py: {guard.strip()}")
    path.write_text(source.replace(guard, without))
    try:
        return _passes(folder, tests)
    finally:
        path.write_text(source)


def _passes(folder: Path, tests: str) -> bool:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", "-p", "no:cacheprovider", tests]
    environment = os.environ | {"PYTHONPATH": str(folder)}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if result.returncode not in (0, 1):
        raise SystemExit(result.stdout[-3000:] + result.stderr[-3000:])
    return result.returncode == 0


def main() -> None:
    """Go through the guards."""
    unnoticed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("sga_monai", "bundles", "tests", "pyproject.toml", "constraints.txt"):
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, folder / part)
        for tests in dict.fromkeys(tests for *_, tests in GUARDS):
            if not _passes(folder, tests):
                raise SystemExit(f"{tests} fails with every guard on")
        for label, *guard in GUARDS:
            began = time.monotonic()
            passed = survives(folder, *guard)
            unnoticed += [label] if passed else []
            sys.stdout.write(f"{'UNNOTICED' if passed else 'caught':<10} {label} ({time.monotonic() - began:.0f} s)\n")
            sys.stdout.flush()
    sys.stdout.write(f"{len(GUARDS) - len(unnoticed)} of {len(GUARDS)} caught\n")
    raise SystemExit(bool(unnoticed))


if __name__ == "__main__":
    main()
