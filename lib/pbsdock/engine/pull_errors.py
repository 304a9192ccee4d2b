"""What a failed pull means, by the engine's words: whose it is to mend, and in which sentence it is told. Pure."""

from __future__ import annotations

import re

from pbsdock.core.errors import HookError, NodeFault, Refusal

# What the engine (20.10 to 28) writes into the pull stream, which carries no status code of the registry's answer.
_TEXTS: tuple[tuple[str, str], ...] = (
    (r"no space left on device", "disk-full"),
    (
        r"no matching manifest|does not match the specified platform|image operating system .* cannot be used",
        "image-wrong-architecture",
    ),
    (r"manifest .*(not found|unknown)|manifest unknown", "image-tag-not-found"),
    (
        r"unauthorized|no basic auth credentials|authentication required|access forbidden|403 Forbidden",
        "image-access-denied",
    ),
    (r"repository .* not found|pull access denied|name unknown|repository does not exist", "image-not-found"),
    (
        r"dial tcp|no such host|connection refused|i/o timeout|TLS handshake|server misbehaving|unexpected EOF|EOF$"
        r"|no route to host|network is unreachable|proxyconnect|Client\.Timeout|connection reset|deadline exceeded"
        r"|status: 5\d\d|x509|http: server gave HTTP response|received unexpected HTTP status",
        "registry-unreachable",
    ),
)


def classify(reference: str, text: str) -> HookError:
    """Turn the engine's pull error into one that says who can mend it."""
    code = next((code for pattern, code in _TEXTS if re.search(pattern, text, re.IGNORECASE)), "pull-failed")
    short = " ".join(text.split())[:300]
    image = repr(reference)
    sentences = {
        "disk-full": f"image {image} does not fit on this node's disk; the job is queued again",
        "image-wrong-architecture": f"image {image} is not built for this node's architecture",
        "image-tag-not-found": f"image {image} has no such tag or digest in its registry; check what follows the name",
        "image-access-denied": f"image {image} cannot be pulled: its registry denies access",
        "image-not-found": f"image {image} does not exist in its registry, or is not public; check the name",
        "registry-unreachable": f"the registry of image {image} cannot be reached; nothing was started: {short}",
        "pull-failed": f"image {image} could not be pulled; nothing was started: {short}",
    }
    # Whoever names a registry could otherwise take node after node out of service with it, and a batch user whose job
    # goes back to the queue is told nothing. A full disk is the one thing here that the node is to blame for.
    kind = NodeFault if code == "disk-full" else Refusal
    return kind(code, sentences[code])


def too_large(reference: str, how: str, max_bytes: int) -> Refusal:
    """An image with more bytes than the site allows."""
    return Refusal("image-too-large", f"image {reference!r} {how}; this site allows {max_bytes}")


def too_slow(reference: str, how: str) -> Refusal:
    """A pull that has used up what its job grants."""
    return Refusal("pull-too-slow", f"image {reference!r} could not be pulled {how}; nothing was started")


def short(error: BaseException) -> str:
    """An exception in one line of at most 200 characters."""
    return " ".join(str(error).split())[:200]
