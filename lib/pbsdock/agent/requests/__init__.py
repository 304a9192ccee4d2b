"""Every request there is, and who may make it."""

from __future__ import annotations

import os

from pbsdock.agent.requests.admin import AdminRequests
from pbsdock.agent.requests.docker import DockerRequests
from pbsdock.agent.requests.root import RootRequests
from pbsdock.agent.requests.running import RunningRequests
from pbsdock.agent.requests.users import UserRequests
from pbsdock.agent.requests.why import why
from pbsdock.agent.session import Session
from pbsdock.agent.version import version
from pbsdock.core.errors import Refusal
from pbsdock.protocol import wire
from pbsdock.shim.request_names import ANSWERS, COMMAND, OVER

_OF_ROOT = {op: op for op in ("prepare", "failed", "release", "announce", "sweep", "reap", "nodes")}
_OF_ROOT["list"] = "list_jobs"
_OF_ADMINS = frozenset({"drain", "undrain", "reload", "config", "images", "pull", "pin", "prune"})
_OF_USERS = frozenset({"start", "rejoin"})
_BY_THE_DOOR = ANSWERS | {COMMAND, OVER}
_OF_RUN_HOOKS = frozenset({"signal", "resize", "adopted", "held", "over", "eof"})


def respond(session: Session, message: wire.Message) -> None:
    """Do what is asked for. Raises Refusal for a request that is not there, or not this peer's to make."""
    op = message.op
    if session.is_door and op not in _BY_THE_DOOR:
        raise Refusal("not-from-here", f"{op[:32]!r} is not asked for from within a container")
    if op == "ping":
        session.answer(wire.Message("pong", pid=os.getpid(), version=version()))
    elif op == "why":
        why(session, message)
    elif op in _OF_USERS:
        getattr(UserRequests(session), op)(message)
    elif op == COMMAND:
        DockerRequests(session).docker(message)
    elif op == OVER:
        DockerRequests(session).over(message)
    elif op in ANSWERS and session.dialogue is not None:
        DockerRequests(session).answer(message)
    elif op in _OF_RUN_HOOKS:
        getattr(RunningRequests(session), op)(message)
    elif op not in _OF_ROOT and op not in _OF_ADMINS:
        raise Refusal("unknown-request", f"the agent knows no request {op!r}")
    elif session.peer.uid != 0:
        session.node.emit("client.refused", level="warning", uid=session.peer.uid, op=op)
        raise Refusal("root-only", f"{op} is for root; you may start, signal and ask about your own job")
    elif op in _OF_ADMINS:
        getattr(AdminRequests(session), op)(message)
    else:
        getattr(RootRequests(session), _OF_ROOT[op])(message)
