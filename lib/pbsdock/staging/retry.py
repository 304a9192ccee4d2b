"""When a request to an object store is repeated, and when it is given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from botocore.exceptions import BotoCoreError, ClientError

from pbsdock.staging.errors import StageError, TransientError, is_transient, sentence_of, stage_code

Result = TypeVar("Result")
_PAUSES_S = (0.1, 0.3, 1.0, 2.0, 4.0)  # before the second try, the third, ...; the last for all that follow


class RetryPolicy:
    """Repeats requests that failed, until no request at all has succeeded for *seconds*. Any thread.

    ``stopped`` ends all waiting.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.stopped = threading.Event()
        self._last_success = time.monotonic()

    def progressed(self) -> None:
        """A request, or a part of its answer, has succeeded."""
        self._last_success = time.monotonic()

    def call(self, act: Callable[[], Result], what: str) -> Result:
        """Return what *act* returns; *what* names it in a sentence. Raises StageError when it is given up."""
        tries = 0
        while True:
            try:
                result = act()
            except (TransientError, ClientError, BotoCoreError) as error:
                reason = sentence_of(error)
                if not is_transient(error):
                    raise StageError(stage_code(error), f"{what}: {reason}") from None
                if time.monotonic() - self._last_success > self.seconds:
                    raise StageError(
                        "store-unreachable", f"{what}: {reason}, and nothing went on for {self.seconds:.0f} s"
                    ) from None
                if self.stopped.wait(_PAUSES_S[min(tries, len(_PAUSES_S) - 1)]):
                    raise StageError("stopped", f"{what}: it was stopped") from None
                tries += 1
                continue
            self.progressed()
            return result
