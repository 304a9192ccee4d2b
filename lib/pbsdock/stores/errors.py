"""What can go wrong at a store, in words that never hold a part of a key."""

from __future__ import annotations

from pbsdock.core.errors import Refusal


class StoreError(Refusal):
    """A store did not do as asked: the job is refused and the node stays in service, as jobs without a store run on.

    ``reason`` is for the stream; ``sentence`` names the store in front of it, for the user.
    """

    def __init__(self, code: str, reason: str, store: str = "", status: int = 0) -> None:
        super().__init__(code, f"object store {store}: {reason}" if store else reason)
        self.reason = reason
        self.status = status


def reason_of(code: str, action: str) -> tuple[str, str]:
    """(our code, reason) for an error code of the gateway's. The gateway's own message is not passed on: it may quote
    the request."""
    if code in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
        return "identity-refused", f"the gateway does not take the node's own key ({code} at {action})"
    if code == "RequestTimeTooSkewed":
        return "store-clock", "the clocks of this node and of the gateway differ by more than 15 minutes"
    if code in ("AccessDenied", "MethodNotAllowed"):
        return "identity-not-allowed", f"the node's own user may not do {action} ({code}); see the storage admin's page"
    return "store-failed", f"{action} failed: {code}"
