"""The errors of copying: their codes, their sentences, which never quote a request, and which of them are transient."""

from __future__ import annotations

from botocore.exceptions import (
    ClientError,
    ConnectionError,
    HTTPClientError,
    IncompleteReadError,
    SSLError,
)

_TRANSIENT = frozenset({"InternalError", "SlowDown", "ServiceUnavailable", "RequestTimeout", "Throttling", "BadDigest"})


class StageError(Exception):
    """Ends an order. ``str()`` is the sentence, ``where`` the place in the script."""

    def __init__(self, code: str, sentence: str, where: str = "") -> None:
        super().__init__(sentence)
        self.code = code
        self.where = where


class TransientError(Exception):
    """May not happen again, such as an answer that came short."""


_BROKEN = (TransientError, HTTPClientError, ConnectionError, IncompleteReadError)  # botocore's ConnectionError


def code_of(error: ClientError) -> str:
    """The gateway's error code, or the HTTP status of an answer without a body (HEAD)."""
    return "".join(
        character for character in str(error.response.get("Error", {}).get("Code", "")) if character.isalnum()
    )[:60]


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return status >= 500 or status == 429 or code_of(error) in _TRANSIENT
    return isinstance(error, _BROKEN) and not isinstance(error, SSLError)


def stage_code(error: Exception) -> str:
    """The code of the failed job (docs/configuration.md)."""
    if isinstance(error, SSLError):
        return "store-certificate"
    if isinstance(error, ClientError):
        code = code_of(error)
        if code in ("NoSuchKey", "404", "NoSuchBucket"):
            return "no-such-object"
        return "store-denied" if code in ("AccessDenied", "403") else "store-failed"
    return "store-failed"


def sentence_of(error: Exception) -> str:
    """A sentence for the job. botocore's own text may quote the request, and with it a token."""
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
    if isinstance(error, TransientError):
        return str(error)
    if isinstance(error, SSLError):
        return "the store does not speak TLS with a certificate that is known here"
    return "the store cannot be reached" if isinstance(error, _BROKEN) else type(error).__name__
