"""What a failed pull means, by the engine's words: whose it is to mend, and in which sentence it is told. Pure."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from pbsdock.core.errors import HookError, NodeFault, Refusal
from pbsdock.core.redact import known
from pbsdock.engine.turns import Turn

# What the engine (20.10 to 28) writes into the pull stream, which carries no status code of the registry's answer.
_TEXTS: tuple[tuple[str, str], ...] = (
    (r"no space left on device", "disk-full"),
    (
        r"no matching manifest|does not match the specified platform|image operating system .* cannot be used",
        "image-wrong-architecture",
    ),
    (r"manifest .*(not found|unknown)|manifest unknown", "image-tag-not-found"),
    (r"toomanyrequests|too many requests|HTTP 429|status: 429|pull rate limit", "registry-busy"),
    (r"(HTTP|HTTP status:|status:) 5\d\d|: 5\d\d [A-Z]", "registry-busy"),
    (
        r"unauthorized|no basic auth credentials|authentication required|access forbidden|403 Forbidden",
        "image-access-denied",
    ),
    (r"repository .* not found|pull access denied|name unknown|repository does not exist", "image-not-found"),
    (
        r"dial tcp|no such host|connection refused|i/o timeout|TLS handshake|server misbehaving|unexpected EOF|EOF$"
        r"|no route to host|network is unreachable|proxyconnect|Client\.Timeout|connection reset|deadline exceeded"
        r"|x509|http: server gave HTTP response|received unexpected HTTP status|request canceled",
        "registry-unreachable",
    ),
    (r"\bdenied\b", "image-access-denied"),
)
# Of what makes a registry unreachable, what may be otherwise in a moment; the rest is a wrong name, or for good.
_PASSING = re.compile(
    r"i/o timeout|TLS handshake timeout|Client\.Timeout|deadline exceeded|request canceled|connection reset"
    r"|unexpected EOF|EOF$|server misbehaving",
    re.IGNORECASE,
)


class PullFailure(Exception):
    """What a registry has answered: *error* is for those who wait, *is_passing* whether it is worth another try."""

    def __init__(self, error: HookError, is_passing: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.is_passing = is_passing


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long to wait between tries, seconds: doubled each time, and varied, since many nodes ask one registry."""

    first_s: float = 1.0
    most_s: float = 30.0

    def delay_s(self, tries: int, asked_s: float | None) -> float:
        """The pause after so many tries; *asked_s* is what the registry wants at least, None if it does not say."""
        own = min(self.most_s, self.first_s * 2.0 ** min(tries - 1, 16))
        return max(own * random.SystemRandom().uniform(0.75, 1.25), asked_s or 0.0)


def failure(reference: str, text: str) -> PullFailure:
    """The engine's words on a registry's answer, and whether to try again."""
    error = classify(reference, text)
    passing = error.code == "registry-busy" or (error.code == "registry-unreachable" and bool(_PASSING.search(text)))
    return PullFailure(error, passing)


def tried(error: HookError, tries: int) -> HookError:
    """An error of one's own for each that waits; it says how often this was tried."""
    said = f"{error.sentence} ({tries} tries)" if tries > 1 else error.sentence
    return type(error)(error.code, said)


def classify(reference: str, text: str) -> HookError:
    """Turn the engine's pull error into one that says who can mend it."""
    code = next((code for pattern, code in _TEXTS if re.search(pattern, text, re.IGNORECASE)), "pull-failed")
    short = known.clean(" ".join(text.split()))[:300]
    image = repr(reference)
    sentences = {
        "disk-full": f"image {image} does not fit on this node's disk; the job is queued again",
        "image-wrong-architecture": f"image {image} is not built for this node's architecture",
        "image-tag-not-found": f"image {image} has no such tag or digest in its registry; check what follows the name",
        "image-access-denied": f"image {image} cannot be pulled: its registry denies access",
        "image-not-found": f"image {image} does not exist in its registry, or is not public; check the name",
        "registry-busy": f"the registry of image {image} is busy for now, the job is queued again: {short}",
        "registry-unreachable": f"the registry of image {image} cannot be reached; nothing was started: {short}",
        "pull-failed": f"image {image} could not be pulled; nothing was started: {short}",
    }
    # Whoever names a registry could otherwise take node after node out of service with it, and a batch user whose job
    # goes back to the queue is told nothing. A full disk is the one thing here that the node is to blame for; a busy
    # registry is for now, and no look at the node will confirm it as the node's.
    kind = NodeFault if code in ("disk-full", "registry-busy") else Refusal
    return kind(code, sentences[code])


def too_large(reference: str, how: str, max_bytes: int) -> Refusal:
    """An image with more bytes than the site allows."""
    return Refusal("image-too-large", f"image {reference!r} {how}; this site allows {max_bytes}")


def too_slow(reference: str, how: str) -> Refusal:
    """A pull that has used up what its job grants."""
    return Refusal("pull-too-slow", f"image {reference!r} could not be pulled {how}; nothing was started")


def not_our_turn(reference: str, turn: Turn, at_once: int, waited_s: float) -> NodeFault:
    """A pull whose turn has not come in the time its job grants, and why."""
    begin = f"image {reference!r} could not be pulled in {waited_s:.0f} s"
    if turn.why == "registry":
        said = f"{begin}: its registry has told this node to wait; the job is queued again"
        return NodeFault("registry-busy", said)
    why = f"others were pulled first, {at_once} at once (images.max_pulls)"
    if turn.why == "rate":
        why = f"this node begins no more pulls a minute at {turn.registry} (registry.{turn.registry}.max_per_minute)"
    return NodeFault("pulls-busy", f"{begin}: {why}; the job is queued again")


def short(error: BaseException) -> str:
    """An exception in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]
