"""Jobs that use their docker: bare or in a container of their own, and clients of an attacker's making."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

import pytest

from pbsdock.trial import Outcome, Trial
from tests.conftest import IMAGE, USERS, Instance
from tests.support.attack import _HEAD, library

_ASK = """
def ask(*argv, env=(), cwd=b"/", link=None):
    "A command line of docker's, sent; what the agent says first is taken."
    link = link or Link(sys.argv[1], 30.0)
    words = [word if isinstance(word, bytes) else word.encode() for word in argv]
    link.send(wire.Message("docker", argv=words, env=[*env], cwd=cwd, umask=18))
    return link

def until(link, *ops):
    "The first message with one of these names, or the last one there is."
    while True:
        message, fds = link.recv()
        if message.op in (*ops, "exit", "refused", "fault"):
            return message, fds
"""


def bare(instance: Instance, lines: str, user: str = USERS[0], **options: object) -> Outcome:
    """A job without a container of its own."""
    instance.start_agent()  # for such a one nobody else starts it
    return instance.run(f"#!/bin/sh\n{lines}\n", user=user, **options)


def contained(instance: Instance, lines: str, user: str = USERS[0], **options: object) -> Outcome:
    """The same in a container of its own."""
    return instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n{lines}\n", user=user, **options)


def begin_bare(instance: Instance, lines: str, user: str = USERS[0], **options: object) -> Trial:
    """A bare job that goes on."""
    instance.start_agent()
    return instance.begin(f"#!/bin/sh\n{lines}\n", user=user, **options)


def client(instance: Instance, code: str, *arguments: str) -> str:
    """Shell lines that run a client of one's own, with ``ask`` and ``until``, on the host."""
    words = " ".join(f"'{word}'" for word in (str(instance.run_dir / "agent.sock"), *arguments, library(instance)))
    return f"/usr/bin/python3 - {words} <<'END-OF-CODE'\n{_HEAD}{_ASK}{textwrap.dedent(code)}\nEND-OF-CODE"


Job = Callable[..., Outcome]
JOBS = pytest.mark.parametrize("job", [bare, contained])
