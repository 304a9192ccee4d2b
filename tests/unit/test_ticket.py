"""Tickets: what is in them, whose and of which run they are, and what a sister makes of them."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import Any

import pytest

from pbsdock.core.errors import Refusal
from pbsdock.core.plan import Mount, Plan
from pbsdock.core.ticket import Known, Ticket, TicketError, check, run_of, ticket_for
from pbsdock.directive.parse import directive_lines, parse_script
from pbsdock.policy.sister import narrowed
from pbsdock.rm.torque import WORDS
from tests.unit.test_policy import _plan

_NOW = 1_800_000_000.0
_DIGEST = "sha256:" + "d" * 64


def _ticket(plan: Plan | None = None, **changes: Any) -> Ticket:
    ticket = ticket_for(
        plan or _plan("alpine:3"),
        incarnation="abc1",
        run="r1",
        mother="n1",
        directive="#DOCKER alpine:3\n",
        is_script=True,
        image_id="sha256:1",
        image_digest=_DIGEST,
        now=_NOW,
        grace_s=3600.0,
    )
    return replace(ticket, **changes)


def _known(**changes: Any) -> Known:
    ticket = _ticket()
    same = Known(
        job_id=ticket.job_id,
        uid=ticket.uid,
        run="r1",
        slots=2,
        caller=ticket.uid,
        now=_NOW + 60,
        skew_s=900.0,
    )
    return replace(same, **changes)


def _payload(data: Any) -> bytes:
    return b"ticket\0" + zlib.compress(json.dumps(data).encode())


def test_a_ticket_is_read_as_it_was_packed() -> None:
    """Every field, through JSON."""
    ticket = _ticket(_plan("--volume /data/x:/in:ro --env A=é alpine:3", "[mounts]\nallow = ['/data']"))

    assert Ticket.unpack(ticket.pack()) == ticket


def test_a_ticket_of_a_later_release_is_read() -> None:
    """Rolling upgrades are one version apart: a field that is not known here is passed over."""
    packed = _ticket().pack()
    data = json.loads(zlib.decompress(packed.removeprefix(b"ticket\0")))

    assert Ticket.unpack(_payload({**data, "later": [1]})) == _ticket()


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "ticket-unreadable"),
        (b'{"op": "job"}', "ticket-unreadable"),  # what agents ask each other is signed by the same key
        (b"ticket\0", "ticket-unreadable"),
        (b"ticket\0nonsense", "ticket-unreadable"),
        (_payload([]), "ticket-version"),
        (_payload({}), "ticket-version"),
        (_payload({"version": 2}), "ticket-version"),
        (_payload({"version": 1}), "ticket-unreadable"),
        (b"ticket\0" + zlib.compress(b" " * (64 << 20)), "ticket-unreadable"),
    ],
)
def test_what_is_no_ticket_is_not_read(payload: bytes, code: str) -> None:
    """Also where root of a node has signed it; and nobody's memory is filled by what unpacks to a lot."""
    with pytest.raises(TicketError) as caught:
        Ticket.unpack(payload)

    assert caught.value.code == code


def test_a_ticket_is_for_its_job() -> None:
    """The one it was made for, brought by its owner to a node of that job, in the same run, in time."""
    check(_ticket(), _known(), "n2")


@pytest.mark.parametrize(
    ("changes", "code", "says"),
    [
        ({"job_id": "8.s"}, "ticket-other-job", "this is job 8.s"),
        ({"caller": 1002}, "ticket-other-user", "another user's"),
        ({"uid": 1002}, "ticket-other-user", "another user's"),
        ({"uid": None}, "ticket-other-user", "another user's"),
        ({"slots": 0}, "ticket-other-node", "no slot on n2"),
        ({"run": "r2"}, "ticket-other-run", "another run"),
        ({"run": ""}, "ticket-other-run", "another run"),
        ({"now": _NOW - 901}, "ticket-clock", "the clock of n2 is 901 s behind that of n1; at most 900 s are allowed"),
        ({"now": _NOW + 2e9}, "ticket-expired", "until its walltime was over"),
    ],
)
def test_a_ticket_is_for_nothing_else(changes: dict[str, Any], code: str, says: str) -> None:
    """Each with its own sentence."""
    with pytest.raises(TicketError, match=says) as caught:
        check(_ticket(), _known(**changes), "n2")

    assert caught.value.code == code


def test_a_ticket_without_a_run_is_for_none() -> None:
    """A mother superior that could not tell the run signs what nobody takes: else two runs would look alike."""
    with pytest.raises(TicketError, match="another run"):
        check(_ticket(run=""), _known(run=""), "n2")


@pytest.mark.parametrize("apart_s", [-600, 600])
def test_clocks_ten_minutes_apart_are_no_reason(apart_s: float) -> None:
    """Either way."""
    check(_ticket(), _known(now=_NOW + apart_s), "n2")


def test_a_ticket_lasts_as_long_as_its_job() -> None:
    """By the walltime, with time to end; for a job without one for very long."""
    assert _ticket(replace(_plan("a"), walltime_s=7200)).expires_at == _NOW + 7200 + 3600
    assert _ticket(replace(_plan("a"), walltime_s=None)).expires_at > _NOW + 300 * 86400


def test_a_run_is_told_by_its_secret() -> None:
    """Neither another secret nor another job has the same; the secret is not in it, and none stays none."""
    assert len({run_of("A", "7.s"), run_of("B", "7.s"), run_of("A", "8.s")}) == 3
    assert "SECRET" not in run_of("SECRET", "7.s")
    assert run_of("", "7.s") == ""


def test_a_directive_is_passed_on_as_its_lines() -> None:
    """Whatever else the script has; a sister reads the same in them."""
    script = b"#!/bin/sh\n#PBS -l nodes=2\n#DOCKER --env A=1\n# a comment\n#DOCKER alpine:3\n\necho\n#DOCKER late\n"
    lines = directive_lines(script)

    assert lines == "#DOCKER --env A=1\n#DOCKER alpine:3\n"
    there, here = parse_script(lines.encode(), WORDS), parse_script(script, WORDS)
    assert there is not None
    assert here is not None
    assert (there.image, there.env) == (here.image, here.env)


# -- the sister's own policy ------------------------------------------------------------------------------------------

_SITE = "[mounts]\nallow = ['/data']\nalways = ['/opt/site:/opt/site']\n[network]\nallow = ['host', 'none', 'lan']\n"


def _mounts(plan: Plan) -> list[tuple[str, bool]]:
    return [(mount.target, mount.read_only) for mount in plan.mounts]


def test_what_both_decide_is_what_is_done() -> None:
    """The same site on both nodes: the plan stays as it is."""
    plan = _plan("--volume /data/x:/in alpine:3", _SITE)

    assert narrowed(plan, _ticket(plan), "n2") == plan


def test_the_stricter_of_both_holds() -> None:
    """Mounts that only one node has are left out, what one has for reading only is; so with the root and the pids."""
    sister = _plan("--volume /data/x:/in alpine:3", _SITE)
    mother = replace(
        sister,
        read_only_root=True,
        limits=replace(sister.limits, pids=10),
        mounts=tuple(
            replace(mount, read_only=True) if mount.target == "/in" else mount
            for mount in sister.mounts
            if mount.target != "/opt/site"
        ),
    )
    plan = narrowed(sister, _ticket(mother), "n2")

    assert plan.read_only_root
    assert plan.limits.pids == 10
    assert _mounts(plan) == _mounts(mother)


def test_what_is_a_nodes_own_stays() -> None:
    """Each node has a TMPDIR of its own for the job."""
    own = Mount(source="/tmp/7.s", target="/tmp/7.s", read_only=False, origin="tmpdir", required=False)
    sister = replace(_plan("alpine:3"), mounts=(own,))

    assert narrowed(sister, _ticket(replace(sister, mounts=())), "n2").mounts == (own,)


@pytest.mark.parametrize(
    ("there", "here", "network"), [("none", "host", "none"), ("host", "none", "none"), ("lan", "lan", "lan")]
)
def test_no_network_is_stricter_than_any(there: str, here: str, network: str) -> None:
    """Whichever node has none."""
    mother, sister = (replace(_plan("alpine:3"), network=name) for name in (there, here))

    assert narrowed(sister, _ticket(mother), "n2").network == network


def test_two_networks_have_no_stricter_one() -> None:
    """Then nothing is started: a job whose processes cannot reach each other would hang."""
    mother, sister = (replace(_plan("alpine:3"), network=name) for name in ("host", "lan"))

    with pytest.raises(Refusal, match="network 'host' on n1, and n2 would give it 'lan'"):
        narrowed(sister, _ticket(mother), "n2")
