"""The ticket of a job of several nodes: what its mother superior has decided, for sisters to prepare the same. Pure.

It is signed where it is made (:mod:`pbsdock.cluster.signing`) and travels with the environment of the job's tasks. It
holds no secret: its user can read it, and copy it, but not make one.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pbsdock.core.plain import from_plain, to_plain
from pbsdock.core.plan import Plan

VERSION = 1
VARIABLE = "PBSDOCK_TICKET"
LONGEST = 32_000  # characters of a signed one: the agents' channel takes it as well, and launchers copy it into words
_KIND = b"ticket\0"  # what else is signed by the same key begins otherwise
_UNPACKED = 1 << 20
_NO_WALLTIME_S = 400 * 86400.0


class TicketError(Exception):
    """A ticket that a sister does not take; ``str()`` says why, ``code`` is stable."""

    def __init__(self, code: str, sentence: str) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What the mother superior signs.

    ``run`` tells this run of the job from one before it with the same id. ``directive`` is the text asked for: lines
    of a script, or with ``is_script`` false what a variable had. ``image_digest`` is REPOSITORY's at its registry,
    None for an image that exists on nodes alone. ``mounts`` are (source, target, read only) as planned. Memory and CPUs
    are not in it: what a node grants is in its own resource manager's file, which no user has a hand in. Times are
    seconds since the epoch.
    """

    version: int = VERSION
    job_id: str
    incarnation: str
    run: str
    user: str
    uid: int
    mother: str
    directive: str
    is_script: bool
    image: str
    image_id: str
    image_digest: str | None
    network: str
    read_only_root: bool
    mounts: tuple[tuple[str, str, bool], ...]
    pids: int
    issued_at: float
    expires_at: float

    def pack(self) -> bytes:
        """What is signed."""
        return _KIND + zlib.compress(json.dumps(to_plain(self), separators=(",", ":"), sort_keys=True).encode())

    @classmethod
    def unpack(cls, payload: bytes) -> Ticket:
        """From what was signed. Fields of a later release are passed over. Raises TicketError."""
        if not payload.startswith(_KIND):
            raise TicketError("ticket-unreadable", "what was signed is no ticket of a job")
        try:
            reader = zlib.decompressobj()
            data: Mapping[str, Any] = json.loads(reader.decompress(payload.removeprefix(_KIND), _UNPACKED))
            if not isinstance(data, dict) or data.get("version") != VERSION:
                version = data.get("version") if isinstance(data, dict) else None
                said = f"the job's ticket is of version {version!r}; this node's pbsdock knows version {VERSION}"
                raise TicketError("ticket-version", said)
            ticket: Ticket = from_plain(cls, data, newer=True)
        except (ValueError, zlib.error) as error:
            raise TicketError("ticket-unreadable", f"the job's ticket cannot be read: {error}") from None
        return ticket


def ticket_for(
    plan: Plan,
    *,
    incarnation: str,
    run: str,
    mother: str,
    directive: str,
    is_script: bool,
    image_id: str,
    image_digest: str | None,
    now: float,
    grace_s: float,
) -> Ticket:
    """The ticket of a job with *plan* on its mother superior; it expires *grace_s* after the walltime."""
    return Ticket(
        job_id=plan.job_id,
        incarnation=incarnation,
        run=run,
        user=plan.user,
        uid=plan.uid,
        mother=mother,
        directive=directive,
        is_script=is_script,
        image=plan.image,
        image_id=image_id,
        image_digest=image_digest,
        network=plan.network,
        read_only_root=plan.read_only_root,
        mounts=tuple((mount.source, mount.target, mount.read_only) for mount in plan.mounts),
        pids=plan.limits.pids,
        issued_at=now,
        expires_at=now + (plan.walltime_s or _NO_WALLTIME_S) + grace_s,
    )


def run_of(secret: str, job_id: str) -> str:
    """What tells this run of a job from others, of a *secret* that only this run has; "" where there is none."""
    return hashlib.sha256(f"pbsdock run {job_id} {secret}".encode()).hexdigest()[:32] if secret else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What a sister knows of the job without the ticket: from its resource manager's own file, and its clock.

    ``slots`` are those of the job on this node. ``caller`` is the uid of who brings the ticket.
    """

    job_id: str
    uid: int | None
    run: str
    slots: int
    caller: int
    now: float
    skew_s: float


def check(ticket: Ticket, known: Known, node: str) -> None:
    """Whether the ticket is for this job, in this run, on this *node*, now. Raises TicketError."""
    if ticket.job_id != known.job_id:
        raise TicketError("ticket-other-job", f"the ticket is job {ticket.job_id}'s; this is job {known.job_id}")
    if ticket.uid != known.caller or ticket.uid != known.uid:
        raise TicketError("ticket-other-user", f"the ticket of job {ticket.job_id} is another user's")
    if not known.slots:
        raise TicketError("ticket-other-node", f"job {ticket.job_id} has no slot on {node}")
    if not ticket.run or ticket.run != known.run:
        raise TicketError("ticket-other-run", f"the ticket is of another run of job {ticket.job_id}")
    if ticket.issued_at - known.skew_s > known.now:
        ahead = ticket.issued_at - known.now
        raise TicketError(
            "ticket-clock",
            f"the clock of {node} is {ahead:.0f} s behind that of {ticket.mother}; at most {known.skew_s:.0f} s are"
            " allowed",
        )
    if ticket.expires_at + known.skew_s < known.now:
        raise TicketError("ticket-expired", f"the ticket of job {ticket.job_id} was good until its walltime was over")
