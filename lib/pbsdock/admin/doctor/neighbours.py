"""``pbsdock doctor nodes``: whether this node can take part in jobs on several."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator, Mapping

from pbsdock.admin.doctor.subject import Subject
from pbsdock.admin.doctor.table import Row, ok, warn, wrong
from pbsdock.agent.known_nodes import KnownNode, read
from pbsdock.agent.version import version
from pbsdock.cluster.signing import SigningError, choose
from pbsdock.core.sizes import some

_ANSWER_S = 1.0
_NUMBERS = re.compile(r"(\d+)\.(\d+)")
_CLOCK_SHARE = 0.1  # of the clock's skew that is allowed
_DAY_S, _HOUR_S = 86400.0, 3600.0


def examine(subject: Subject) -> Iterator[Row]:
    """What the nodes' agents sign with, and whether this one's listens."""
    settings = subject.config.nodes
    try:
        signer = choose(settings, subject.paths.config)
        if signer is None:
            said = "neither munge nor a key of the cluster: other nodes' tasks of a job run without a container"
            yield ok("nodes", "signing", said)
            return
        if signer.verify(signer.sign(b"doctor")) != b"doctor":
            raise SigningError("not-authentic", "what was signed reads otherwise")
    except SigningError as error:
        yield wrong("nodes", "signing", error.sentence, "the same munge.key, or pbsdock setup key, on all nodes")
        return
    yield ok("nodes", "signing", f"signs with {signer.name}, and reads it back")
    if settings.port:
        yield port(settings.port)
        known = read(subject.paths.state_dir / "nodes.json")
        yield versions(known, version(), time.time())
        yield clocks(known, settings.clock_skew_s)


def port(number: int) -> Row:
    """Whether anybody listens on it here."""
    try:
        socket.create_connection(("127.0.0.1", number), timeout=_ANSWER_S).close()
    except OSError as error:
        said = (
            f"nobody listens on port {number} ({error.strerror or error}): other nodes get no answers about jobs here"
        )
        return warn("nodes", "port", said, "the agent has to run; event channel.failed says what is in its way")
    return ok("nodes", "port", f"port {number} is listened on")


def versions(known: Mapping[str, KnownNode], own: str, now: float) -> Row:
    """Whether the agents of other nodes were of this node's version when they were heard last. Pure."""
    if not known:
        return ok("nodes", "versions", "no other node's agent has been heard in the last month")
    others = {name: node for name, node in known.items() if node.version != own}
    if not others:
        latest = now - max(node.at for node in known.values())
        return ok("nodes", "versions", f"{_nodes(len(known))} heard, all {own} as this one, the last {_ago(latest)}")
    groups: dict[str, list[str]] = {}
    for name, node in others.items():
        groups.setdefault(node.version or "a version that it did not tell", []).append(name)
    told = "; ".join(f"{some(sorted(names))}: {word}" for word, names in groups.items())
    seen = (
        f"this node has {own}, others when heard last ({_ago(now - min(node.at for node in others.values()))}): {told}"
    )
    if any(is_far(own, node.version) for node in others.values()):
        cure = (
            "upgrade the older ones: nodes more than one release apart may not take each other's jobs (docs/install.md)"
        )
        return wrong("nodes", "versions", seen, cure)
    return warn("nodes", "versions", seen, "go on with the upgrade: nodes one release apart work together meanwhile")


def is_far(own: str, other: str) -> bool:
    """Whether two versions are more than one release apart, as far as they tell. Pure."""
    here, there = _NUMBERS.match(own), _NUMBERS.match(other)
    if here is None or there is None:
        return False
    return here[1] != there[1] or abs(int(here[2]) - int(there[2])) > 1


def clocks(known: Mapping[str, KnownNode], skew_s: float) -> Row:
    """Whether other nodes' clocks showed much else than this one's when they asked last. Pure."""
    off = {name: node.ahead_s for name, node in known.items() if abs(node.ahead_s or 0.0) > _CLOCK_SHARE * skew_s}
    if not off:
        return ok("nodes", "clocks", "none of those heard is known to be off")
    told = ", ".join(f"{name} by {ahead:+.0f} s" for name, ahead in sorted(off.items())[:8])
    seen = f"off from this node's: {told}; beyond {skew_s:g} s nothing of each other is believed"
    return warn("nodes", "clocks", seen, "run chrony or systemd-timesyncd on all nodes")


def _nodes(count: int) -> str:
    return f"{count} other node{'' if count == 1 else 's'}"


def _ago(seconds: float) -> str:
    if seconds > 2 * _DAY_S:
        return f"{seconds / _DAY_S:.0f} days ago"
    return f"{seconds / _HOUR_S:.0f} hours ago" if seconds > 2 * _HOUR_S else "within two hours"
