"""``benchmark commands``: what a command costs to start."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Sequence

from sga_monai.core.errors import InputError


def command_seconds(arguments: Sequence[str], rounds: int = 3) -> float:
    """CPU seconds of ``sga-monai`` with these arguments in a process of its own, start and imports included; median of ``rounds``.

    Raises:
        InputError: when the command fails, or the system does not count the CPU time of child processes.
    """
    try:
        import resource
    except ImportError:
        raise InputError("this system does not count the CPU time of child processes") from None
    seconds = []
    for _ in range(rounds):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = subprocess.run([sys.executable, "-m", "sga_monai", *arguments], capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if result.returncode:
            raise InputError(f"sga-monai {arguments[0]} ended with code {result.returncode}; give what it can run on")
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(seconds)
