"""What can go wrong while files are copied, in sentences that never quote a request, and what is worth another try."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    SSLError,
)

Result = TypeVar("Result")
_PASSING = frozenset({"InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout", "Throttling", "BadDigest"})
_PAUSES = (0.1, 0.3, 1.0, 2.0, 4.0)


class StageError(Exception):
    """Ends an order; ``str()`` is the sentence without its place in the script."""

    def __init__(self, code: str, sentence: str, where: str = "") -> None:
        super().__init__(sentence)
        self.code = code
        self.where = where


class Passing(Exception):
    """Something that may go well the next time, such as an answer that came short."""


_BROKEN = (Passing, HTTPClientError, ConnectionError, IncompleteReadError)  # botocore's ConnectionError


class Patience:
    """Runs requests again as long as anything at all has moved within *seconds*; any thread."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.stopped = threading.Event()
        self._moved = time.monotonic()

    def moved(self) -> None:
        """Something went well."""
        self._moved = time.monotonic()

    def persist(self, act: Callable[[], Result], what: str) -> Result:
        """Return what *act* returns. Raises StageError when trying again is in vain."""
        tries = 0
        while True:
            try:
                result = act()
            except (Passing, ClientError, BotoCoreError) as error:
                reason = _told(error)
                if not _may_pass(error):
                    raise StageError(_code(error), f"{what}: {reason}") from None
                if time.monotonic() - self._moved > self.seconds:
                    raise StageError(
                        "store-unreachable", f"{what}: {reason}, and nothing went on for {self.seconds:.0f} s"
                    ) from None
                if self.stopped.wait(_PAUSES[min(tries, len(_PAUSES) - 1)]):
                    raise StageError("stopped", f"{what}: it was stopped") from None
                tries += 1
                continue
            self.moved()
            return result


def code_of(error: ClientError) -> str:
    """The gateway's error code, or HTTP's status where it sends none (a HEAD has no body)."""
    return "".join(
        character for character in str(error.response.get("Error", {}).get("Code", "")) if character.isalnum()
    )[:60]


def _may_pass(error: Exception) -> bool:
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return status >= 500 or status == 429 or code_of(error) in _PASSING
    return isinstance(error, _BROKEN) and not isinstance(error, SSLError)


def _code(error: Exception) -> str:
    if isinstance(error, SSLError):
        return "store-certificate"
    if isinstance(error, ClientError):
        code = code_of(error)
        if code in ("NoSuchKey", "404", "NoSuchBucket"):
            return "no-such-object"
        return "store-denied" if code in ("AccessDenied", "403") else "store-failed"
    return "store-failed"


def _told(error: Exception) -> str:
    """botocore's own words may quote the request, and with it a token."""
    if isinstance(error, ClientError):
        code = code_of(error)
        known = {
            "NoSuchBucket": "there is no such bucket",
            "NoSuchKey": "there is no such object",
            "AccessDenied": "the store denies it",
            "PreconditionFailed": "it was changed while it was copied",
            "QuotaExceeded": "the bucket's quota is used up",
        }
        return known.get(code, f"the store says {code or 'nothing'}")
    if isinstance(error, Passing):
        return str(error)
    if isinstance(error, SSLError):
        return "the store does not speak TLS with a certificate that is known here"
    return "the store cannot be reached" if isinstance(error, _BROKEN) else type(error).__name__
