"""Find out what a job is that has come to a sister: its mother superior is asked, before its first task comes.

Mom tells a sister of a job before the mother superior's own prologue runs, and never what the job's script says. Where
the answer is a ticket, the container is prepared ahead; a task that brings no ticket waits for the answer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from pbsdock.agent import neighbours, prepare, tickets
from pbsdock.agent.arrivals import Arrival, Outcome
from pbsdock.agent.node import Node
from pbsdock.core.errors import HookError
from pbsdock.core.record import State
from pbsdock.engine.base import EngineError
from pbsdock.rm.base import Live

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.03, 1.0
_MOST_S = 900.0  # a prologue may pull an image for so long
_ASK_S = 3.0
_FAILURES = 3  # one after another, until the mother superior is given up
_STARTS_S = 2.0  # or longer where nobody listens there yet: its prologue may be about to start the agent
_PAST = (State.RUNNING, State.STAGING, State.ENDED, State.REFUSED, State.RELEASING)


def ask(node: Node, live: Live, env: Mapping[str, str]) -> Arrival:
    """Begin to ask, in a thread of its own, unless that is under way or done for this run of the job.

    *env* is a hook's of the job on this node, see :meth:`pbsdock.rm.base.Live.job`.
    """
    arrival, is_new = node.arrivals.of(live.id, live.run)
    if is_new:
        try:
            threading.Thread(target=_ask, args=(node, live, env, arrival), name="arrival", daemon=True).start()
        except RuntimeError as error:  # no thread more can be had
            _conclude(node, live.id, arrival, Outcome.UNKNOWN, str(error))
    return arrival


def _ask(node: Node, live: Live, env: Mapping[str, str], arrival: Arrival) -> None:
    try:
        outcome, why = _find_out(node, live, env)
    except (HookError, EngineError, OSError) as error:  # the job's first task meets it again, and is told
        outcome, why = Outcome.UNKNOWN, str(error)
    except Exception as error:  # whoever waits must be let go
        node.emit("agent.error", level="error", where="arrival", job=live.id, reason=repr(error)[:300])
        outcome, why = Outcome.UNKNOWN, "the agent could not find out"
    _conclude(node, live.id, arrival, outcome, why)


def _conclude(node: Node, job_id: str, arrival: Arrival, outcome: Outcome, why: str) -> None:
    if outcome is Outcome.BARE or (outcome is Outcome.UNKNOWN and node.config.nodes.without_ticket == "bare"):
        if node.jobs.newest(job_id) is None:
            node.paths.unmark(job_id)
    arrival.outcome, arrival.why = outcome, why
    arrival.over.set()
    node.emit("job.announced", job=job_id, outcome=outcome.value, reason=why or None)


def _find_out(node: Node, live: Live, env: Mapping[str, str]) -> tuple[Outcome, str]:
    """Raises HookError, EngineError, OSError."""
    mother = live.hosts[0] if live.hosts else ""
    begun = time.monotonic()
    pause, deadline, failures = _FIRST_PAUSE_S, begun + _MOST_S, 0
    while time.monotonic() < deadline:
        try:
            told = neighbours.ask(node, mother, "ticket", live.id, timeout_s=_ASK_S)
            failures = 0
        except neighbours.NO_ANSWER as error:
            failures += 1
            is_patient = error.code == "unreachable" and time.monotonic() < begun + _STARTS_S
            if error.code == "no-channel" or (failures >= _FAILURES and not is_patient):
                return Outcome.UNKNOWN, error.sentence
            told = {}
        if text := str(told.get("ticket") or ""):
            try:
                bearer = tickets.checked(node, live, text, live.uid if live.uid is not None else -1)
            except tickets.OtherJobs:
                return Outcome.UNKNOWN, f"{mother} has told of another job"
            prepare.from_ticket(node, live.job(env), bearer, lambda _sentence: None, live.wrong)
            return Outcome.PREPARED, ""
        if told.get("bare"):
            return Outcome.BARE, ""
        if told.get("state") in _PAST:
            return Outcome.UNKNOWN, f"{mother} has no ticket of the job"
        if told:
            node.paths.mark(live.id)  # it is to have a container: its tasks wait for that
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
        if not node.rm.is_live(live.id):
            return Outcome.UNKNOWN, "the job is over"
    return Outcome.UNKNOWN, f"{mother} has not prepared the job in {_MOST_S:.0f} s"
