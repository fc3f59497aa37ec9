"""Hooks of a program: errors as one sentence, SIGTERM with an exit code. Installed by programs, never by imports."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from types import FrameType, TracebackType

from sga_monai.core.errors import EXIT_INTERRUPTED, EXIT_TERMINATED, input_error


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

    def handler(number: int, frame: FrameType | None) -> None:
        # A second one must not interrupt the clearing up.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.stderr.write(f"sga-monai: stopped by SIGTERM; {remedy}\n")
        raise SystemExit(EXIT_TERMINATED)

    # Only the main thread may; elsewhere the program that embeds this one decides.
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGTERM, handler)
