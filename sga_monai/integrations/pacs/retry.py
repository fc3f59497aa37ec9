"""A request is made again, later and later, when it failed for a reason that may pass."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sga_monai.core import checks as check
from sga_monai.integrations.pacs.server import FINAL, TransferError

Answer = TypeVar("Answer")
LONGEST_S = 60.0
# An object that the server cannot read fails every time: for it alone nobody waits a minute.
SERVER_ERRORS = 3


@dataclass(frozen=True)
class Retry:
    """How often and when.

    Attributes:
        attempts: in all, 1 or more; fewer where the server reports ``SERVER_ERRORS`` errors of its own.
        first_s: before the second; doubled each time, a minute at most, each with up to half as much again at random, so that
            several workers do not come back at once.
    """

    attempts: int = 6
    first_s: float = 1.0

    def __post_init__(self) -> None:
        check.whole("attempts", self.attempts, low=1)
        check.number("first_s", self.first_s, low=0)

    def call(self, request: Callable[[], Answer], stop: threading.Event) -> Answer:
        """The answer of ``request``.

        Args:
            request: is called until it returns.
            stop: ends the waiting.

        Raises:
            TransferError: the last one.
        """
        server_errors = 0
        for number in range(1, self.attempts + 1):
            try:
                return request()
            except TransferError as error:
                server_errors += error.code == "server_error"
                last = number == self.attempts or server_errors == SERVER_ERRORS
                if last or error.code in FINAL or stop.is_set():
                    raise
                pause = max(min(self.first_s * 2 ** (number - 1), LONGEST_S), min(error.wait_s, LONGEST_S))
            stop.wait(pause * (1 + random.random() / 2))
        raise AssertionError("the last attempt returns or raises")
