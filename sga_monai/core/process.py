"""Hooks of a program: errors as one sentence, SIGTERM with an exit code. Installed by programs, never by imports or libraries.

And the option of a child that ends with its program.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from sga_monai.core.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, input_error

# Numbers of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3


def is_program() -> bool:
    """Whether this process is ``python -m monai.bundle`` or ``sga-monai``, and no program that only uses this package.

    A notebook, a federated client or a script that opens the bundle as a ``ConfigWorkflow`` has its own hooks and signals.
    """
    parts = Path(sys.argv[0] if sys.argv else "").parts
    return (
        parts[-3:] == ("monai", "bundle", "__main__.py")
        or parts[-2:] == ("sga_monai", "__main__.py")
        or Path(*parts[-1:]).stem == "sga-monai"
    )


def usable_cores() -> int:
    """Cores that this process may use: fewer than the machine has where a scheduler, a container or ``taskset`` gives a part."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def loads_a_network() -> bool:
    """Whether MONAI's ``load`` is at work: it initializes a whole bundle, as for a run, and takes the network alone."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "load" and frame.f_globals.get("__name__") == "monai.bundle.scripts":
            return True
        frame = frame.f_back
    return False


def quiet_monai() -> None:
    """Drop MONAI's warning that a GPU decoder is absent: it tries every reader it knows before ours."""
    warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
    logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)


def keep_freed_memory() -> None:
    """Let the C library keep the memory of freed tensors for the next ones, where it is glibc.

    It gives every large block back to the system, which clears each page again when the next step asks for it: on a CPU a
    fifth of a step of SGA at 224 pixels (``sga-monai benchmark step``). The process holds what its largest step needed.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_MMAP_THRESHOLD, 1 << 30)
    mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)


def show_what_the_console_can() -> None:
    """Put a question mark for what the console's encoding lacks, instead of ending a run that is done with an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def name_the_user() -> None:
    """Give a user without a name one: MONAI asks for it when it is imported, and a container may know a number alone."""
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["USER"] = "user"


def install_plain_errors() -> None:
    """Show an ``InputError`` that ends the program as one sentence with its exit code, without a traceback."""

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write("sga-monai: stopped\n")
            raise SystemExit(EXIT_INTERRUPTED)
        reason = input_error(error)
        if reason is None:
            sys.__excepthook__(kind, error, traceback)
            return
        sys.stderr.write(f"sga-monai: {reason}\n")
        # The interpreter takes the exit code from a SystemExit that the hook raises.
        raise SystemExit(reason.exit_code)

    sys.excepthook = hook
    # Ignite logs every exception with its traceback before it passes it on.
    logging.getLogger("ignite.engine.engine").setLevel(logging.CRITICAL)


def end_on_sigterm(remedy: str = "a training goes on with --resume true") -> None:
    """Let SIGTERM, which schedulers send before they kill, end the program with code 143 at once, and say the remedy.

    Nothing has to be saved then: the checkpoint of the last full epoch is on disk, and a file that is being written is
    whole or absent.
    """

    def handler(_number: int, _frame: FrameType | None) -> None:
        # A second one must not interrupt the clearing up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.stderr.write(f"sga-monai: stopped by SIGTERM; {remedy}\n")
        raise SystemExit(EXIT_TERMINATED)

    # Only the main thread may; elsewhere the program that embeds this one decides.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, handler)


def tied_to_parent() -> dict[str, Any]:
    """The option of a child that is to be told to stop when this process was killed and cannot tell it; Linux alone has it."""
    if sys.platform != "linux":
        return {}
    pr_set_pdeathsig = 1
    # Found before the fork: in the child of a process with threads nothing may be loaded.
    prctl: Callable[[int, int], int] = ctypes.CDLL(None).prctl
    return {"preexec_fn": lambda: prctl(pr_set_pdeathsig, signal.SIGTERM)}
