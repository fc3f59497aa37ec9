"""Output folders: one run at a time in each, earlier runs moved aside, finished runs recognized."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from sga_monai.core import checks as check
from sga_monai.core.errors import DiskError, InputError
from sga_monai.core.files import read_earlier
from sga_monai.core.process import loads_a_network

logger = logging.getLogger(__name__)
_held: dict[str, int] = {}
# What a run's last test writes.
RESULTS = ("predictions.csv", "results.csv", "embedding.json")
# The files by which a run, an experiment, an evaluation, an audit and saliency maps are known.
MARKS = ("run.json", "model.pt", "records.jsonl", "predictions.csv", "audit.json", "saliency.json")
IN_USE = "another run is writing this output_dir; wait for it, stop it, or give another folder"


def lock_output_dir(output_dir: str | Path) -> None:
    """Hold ``output_dir`` until this process ends, however it ends.

    Two locks, both ``flock``, which the system releases when their owner dies: on a hidden file beside the folder, which
    stays where it is when the folder is renamed, and on the folder itself where it exists, whatever name it has in another
    container. To be called again when the folder was made. The owner may ask again.

    Raises:
        InputError: when another process holds it, or ``output_dir`` is a link.
        DiskError: when neither can be locked.
    """
    folder = Path(output_dir)
    if folder.is_symlink():
        raise InputError("output_dir is a link; give the folder that it leads to")
    folder = folder.resolve()
    beside = folder.with_name(f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        _hold(str(beside), os.O_RDWR | os.O_CREAT)
    except OSError as error:
        # A folder of one's own in somebody else's: its own lock must do.
        if not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise DiskError("the lock of output_dir", error.errno or 0) from None
    if folder.is_dir():
        _hold(f"{folder.stat().st_dev}:{folder.stat().st_ino}", os.O_RDONLY, folder)


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Wait until no other process is inside with the same ``path``, a file that is there meanwhile; at once where there are no locks."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path) -> BinaryIO:
    """The file at ``path``, opened and locked; open alone where there are no locks."""
    while True:
        stream = path.open("ab")
        try:
            import fcntl

            fcntl.flock(stream, fcntl.LOCK_EX)
        except (ImportError, OSError):
            return stream
        # Who had it before has unlinked it: a lock on what is at no path keeps nobody out.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(stream.fileno()), path.stat()):
                return stream
        stream.close()


def is_in_use(output_dir: str | Path) -> bool:
    """Whether another process holds the lock of ``output_dir`` beside it; ``False`` where the system has no locks."""
    folder = Path(output_dir).resolve()
    try:
        import fcntl

        with folder.with_name(f".{folder.name}.lock").open("rb+") as stream:
            # Given back when the file is closed.
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return False
    return False


def _hold(key: str, flags: int, path: Path | None = None) -> None:
    if key in _held:
        return
    try:
        import fcntl
    except ImportError:
        logger.warning("this system has no file locks: start one run at a time in output_dir")
        return
    descriptor = os.open(path or key, flags, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise InputError(IN_USE) from None
    except OSError:
        os.close(descriptor)
        logger.warning("this file system has no locks: start one run at a time in output_dir")
        return
    _held[key] = descriptor


def _forget() -> None:
    """In a forked child: the lock is its parent's, and must not outlive it."""
    for descriptor in _held.values():
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def is_finished(folder: Path) -> bool:
    """Whether a run's training and its final table are complete."""
    finished = read_earlier(folder / "run.json").get("finished")
    return finished is not None and all((folder / name).is_file() for name in RESULTS[:2])


def archive_previous_run(output_dir: str, checkpoint: str | None = None, resume: bool | str = False) -> None:
    """Rename an ``output_dir`` that holds a run to the first free ``output_dir.N``, so that nothing is lost.

    Nothing happens while MONAI's ``load`` initializes a bundle for its network: no run follows.

    Args:
        output_dir: the folder.
        checkpoint: a file that must not move with it.
        resume: leave it, since the run goes on.

    Raises:
        InputError: when the folder holds something else than a run, or ``checkpoint``.
    """
    if loads_a_network():
        return
    folder = Path(output_dir)
    if not check.flag("resume", resume):
        _move_aside(folder, checkpoint)
    folder.mkdir(parents=True, exist_ok=True)
    lock_output_dir(folder)


def _move_aside(folder: Path, checkpoint: str | None) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not any((folder / name).exists() for name in ("run.json", "model.pt", "predictions.csv", "tensorboard")):
        raise InputError("output_dir is not empty and holds no run; give another folder")
    if (folder / "records.jsonl").exists():
        raise InputError("output_dir holds an experiment; give another folder, or one inside of it")
    if checkpoint and folder.resolve() in Path(checkpoint).resolve().parents:
        raise InputError("output_dir is a folder that the checkpoint is in; give another folder")
    aside = folder.rename(first_free(folder))
    logger.info("an earlier run was in output_dir; it is now %s", aside.name)


def move_results_aside(output_dir: str | Path, names: Iterable[str]) -> None:
    """Lock ``output_dir``, and move what an earlier call left in it to the first free ``output_dir.N``; all else stays.

    For a folder that may hold what is of no call, such as the folders of sites.

    Args:
        output_dir: is made.
        names: of the files and folders that a call leaves.

    Raises:
        InputError: see ``lock_output_dir``.
        DiskError: see ``lock_output_dir``.
    """
    folder = Path(output_dir)
    lock_output_dir(folder)
    left = [name for name in names if (folder / name).exists()]
    if left:
        aside = first_free(folder)
        aside.mkdir()
        for name in left:
            (folder / name).rename(aside / name)
        logger.info("earlier results were in output_dir; they are now in %s", aside.name)
    folder.mkdir(parents=True, exist_ok=True)
    lock_output_dir(folder)


def refuse_other_results(output_dir: str | Path, own: str) -> None:
    """Refuse a folder in which another command has left what ``own`` would be mixed with.

    Args:
        output_dir: a command's folder.
        own: of ``MARKS``, the file by which results of this command are known.

    Raises:
        InputError: when there is another one of ``MARKS``.
    """
    if holds_other_results(output_dir, own):
        raise InputError(
            "output_dir is the folder of a run, an experiment, an evaluation, an audit or of saliency maps; "
            "give a folder of its own inside it"
        )


def holds_other_results(output_dir: str | Path, own: str) -> bool:
    """Whether there is another one of ``MARKS`` than ``own`` in a folder."""
    return any((Path(output_dir) / name).exists() for name in MARKS if name != own)


def first_free(path: Path, suffix: str = "") -> Path:
    """The first ``path.N`` that is not there; a file's ``suffix`` comes last."""
    stem = path.name.removesuffix(suffix)
    return next(free for n in range(1, sys.maxsize) if not (free := path.with_name(f"{stem}.{n}{suffix}")).exists())
