"""Tickets of jobs of several nodes: the mother superior issues one, a sister checks what a task brings."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pbsdock.agent import neighbours
from pbsdock.cluster.signing import SigningError
from pbsdock.core.errors import Refusal
from pbsdock.core.plan import Plan, PullPolicy
from pbsdock.core.record import Record, State
from pbsdock.core.sizes import some
from pbsdock.core.ticket import LONGEST, VARIABLE, Known, Ticket, TicketError, check, ticket_for
from pbsdock.directive.image_ref import parse_image
from pbsdock.engine.images import Image
from pbsdock.rm.base import Job, Live

if TYPE_CHECKING:
    from pbsdock.agent.node import Node

_GRACE_S = 3600.0  # a job may run beyond its walltime for as long as its manager takes to end it


@dataclass(frozen=True, slots=True)
class Bearer:
    """A ticket that was checked, and its *text* as signed."""

    ticket: Ticket
    text: str


def is_of(record: Record, text: str) -> bool:
    """Whether a sister's record was made from that ticket, and tasks can go there, or hear there why not."""
    return record.facts.ticket == text and record.state in (State.READY, State.RUNNING, State.REFUSED)


def issue(node: Node, job: Job, record: Record, plan: Plan, directive: str, *, is_script: bool) -> None:
    """Sign the ticket of a job of several nodes, if this site's nodes can; it is kept in the record.

    Raises Refusal for a directive that is too long to travel, NodeFault if it cannot be signed.
    """
    if len(job.grant.hosts) < 2 or node.signer is None or not record.facts.first_process:
        return
    if record.image_digest is None:
        _must_be_everywhere(node, job, record, plan)
    live = node.rm.find(job.id)
    ticket = ticket_for(
        plan,
        incarnation=record.incarnation,
        run=live.run if live is not None else "",
        mother=node.name,
        directive=directive,
        is_script=is_script,
        image_id=record.image_id or "",
        image_digest=record.image_digest,
        now=time.time(),
        grace_s=_GRACE_S,
    )
    text = node.signer.sign(ticket.pack())
    if len(text) > LONGEST:
        raise Refusal(
            "ticket-too-long",
            f"the #DOCKER lines come to {len(text)} characters for the job's other nodes; at most {LONGEST} can be"
            " passed on to them; write shorter or fewer ones, or ask for one node",
        )
    record.note(ticket=text)
    node.emit("ticket.issued", record, nodes=len(job.grant.hosts), expires=int(ticket.expires_at))


def _must_be_everywhere(node: Node, job: Job, record: Record, plan: Plan) -> None:
    """Look for an image that comes from no registry on the job's other nodes. Raises Refusal where one says no."""
    lacking = neighbours.without_image(node, job.grant.hosts, job.id, record.image_id or "")
    if lacking:
        raise Refusal(
            "image-not-on-node",
            f"image {plan.image!r} is on {node.name}, comes from no registry, and is not on {some(lacking)}; push it to"
            " a registry, load it on every node of the job, or ask for one node",
        )


def of_task(environment: Mapping[str, str]) -> str:
    """The ticket that a task brings along, "" if none."""
    return environment.get(VARIABLE, "")


class OtherJobs(Exception):
    """The ticket is genuine and another job's, as one that a job was submitted with by its environment."""


def checked(node: Node, live: Live, text: str, caller: int) -> Bearer:
    """A ticket that user id *caller* has brought to a sister. Raises OtherJobs, Refusal with what is wrong with it."""
    if node.signer is None:
        raise Refusal(
            "ticket-unverified",
            f"{node.name} cannot tell whether the job's ticket is genuine: it has neither munge nor a key of the"
            " cluster; tell the site",
        )
    try:
        ticket = Ticket.unpack(node.signer.verify(text))
        known = Known(
            job_id=live.id,
            uid=live.uid,
            run=live.run,
            slots=live.slots,
            caller=caller,
            now=time.time(),
            skew_s=node.config.nodes.clock_skew_s,
        )
        check(ticket, known, node.name)
    except SigningError as error:
        node.emit("ticket.refused", level="warning", job=live.id, uid=caller, code=error.code, reason=error.sentence)
        raise Refusal("ticket-not-genuine", f"the job's ticket is not taken on {node.name}: {error.sentence}") from None
    except TicketError as error:
        if error.code == "ticket-other-job":
            raise OtherJobs from None
        node.emit("ticket.refused", level="warning", job=live.id, uid=caller, code=error.code, reason=str(error))
        raise Refusal(error.code, f"{error}; nothing was started on {node.name}") from None
    return Bearer(ticket, text)


def image_of(
    node: Node, ticket: Ticket, ensure: Callable[[str, PullPolicy], Image], plan: Plan, max_bytes: int
) -> Image:
    """The very image that the mother superior runs, on a sister: by its id, or fetched by its digest.

    *ensure* makes a reference present; *plan* and *max_bytes* are this node's own. Raises Refusal for an image that
    exists on the mother superior alone, or that this node does not take, and what *ensure* does.
    """
    image = node.images.same(ticket.image, ticket.image_id, platform=plan.platform, max_bytes=max_bytes)
    if image is not None:
        return replace(image, digest=ticket.image_digest)
    if ticket.image_digest is not None:
        name = parse_image(ticket.image).name
        return ensure(f"{name}@{ticket.image_digest}", "never" if plan.pull == "never" else "missing")
    raise Refusal(
        "image-not-on-node",
        f"image {ticket.image!r} is on {ticket.mother} alone, not on {node.name}, and comes from no registry; push it"
        " to one, or load it on every node of the job",
    )
