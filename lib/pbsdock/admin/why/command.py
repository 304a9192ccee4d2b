"""The edge of ``pbsdock why``: ask the agent, print, ask again each second."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from pbsdock.admin.why import nodes, view
from pbsdock.protocol import wire
from pbsdock.protocol.link import AgentGone, Link, connect

_TIMEOUT_S = 30.0
_AGAIN_S = 10.0  # how long an agent that was lost while a job is watched is waited for
_PERIOD_S = 1.0
_GOING_ON = ("preparing", "ready", "running", "staging")
_WIDTH = 100

Ask = Callable[[bool], Mapping[str, Any]]


class NotTold(Exception):
    """The agent has nothing to tell; ``str()`` is its sentence, ``code`` the exit code."""

    def __init__(self, sentence: str, code: int = 1) -> None:
        super().__init__(sentence)
        self.code = code


def run(socket: str, job: str, *, as_json: bool, watch: bool, out: TextIO) -> int:
    """Tell of a job; returns the exit code."""
    agent = _Agent(socket, job)
    try:
        if watch:
            told = follow(agent.ask, as_json=as_json, out=out)
        else:
            told = agent.ask(False)
    except NotTold as error:
        print(f"pbsdock: {error}", file=sys.stderr)
        return error.code
    if as_json:
        print(json.dumps(told) if watch else json.dumps(told, indent=1), file=out)
    else:
        width = _width(out)
        print("\n".join(view.screen(told, nodes.lines(told), width=width, colour=out.isatty())), file=out)
    return 0


class _Agent:
    """One connection, opened anew when an agent was lost."""

    def __init__(self, socket: str, job: str) -> None:
        self._socket = socket
        self._job = job
        self._link: Link | None = None
        self._was_there = False

    def ask(self, live: bool) -> Mapping[str, Any]:
        """The agent's answer; *live*: without what was before. Raises NotTold."""
        try:
            return self._ask(live)
        except AgentGone as error:
            if not self._was_there:
                raise NotTold(f"the agent does not answer ({error}); the next job's prologue starts it") from None
        self._link = None
        try:
            return self._ask(live)
        except AgentGone as error:
            raise NotTold(f"the agent does not answer any more ({error})") from None

    def _ask(self, live: bool) -> Mapping[str, Any]:
        if self._link is None:
            self._link = connect(self._socket, wait_s=_AGAIN_S if self._was_there else 0.0, timeout_s=_TIMEOUT_S)
        self._link.send(wire.Message("why", job=self._job, live=int(live)))
        answer, _fds = self._link.recv()
        self._was_there = True
        if answer.op != "why":
            raise NotTold(answer.text("sentence"), 2 if answer.text("code") == "bad-job-id" else 1)
        told = json.loads(answer.text("json"))
        assert isinstance(told, dict)
        return told


def follow(ask: Ask, *, as_json: bool, out: TextIO, pause: Callable[[float], None] = time.sleep) -> Mapping[str, Any]:
    """Print what the job has once a second until it is over; returns what is told of it then. Raises NotTold."""
    drawn, before, said = 0, None, ""
    while (told := ask(True)).get("state") in _GOING_ON:
        if as_json:
            print(json.dumps(told), file=out, flush=True)
        elif told.get("state") != "running":
            sentence = (told.get("cause") or {}).get("sentence", "")
            if sentence != said:
                said = sentence
                print(sentence, file=out, flush=True)
        elif out.isatty():
            drawn = _draw([*view.live_rows(told, before), *nodes.live(told)], drawn, out)
        else:
            print("\n".join([view.live_row(told, before), *nodes.live(told)]), file=out, flush=True)
        before = told
        pause(_PERIOD_S)
    return ask(False)


def _draw(rows: list[str], drawn: int, out: TextIO) -> int:
    """Draw in place of as many rows drawn before; returns how many there are now."""
    width = _width(out)
    up = f"\033[{drawn}A" if drawn else ""
    print(up + "".join(f"\r\033[K{row[: width - 1]}\n" for row in rows) + "\033[J", end="", file=out, flush=True)
    return len(rows)


def _width(out: TextIO) -> int:
    try:
        return max(60, os.get_terminal_size(out.fileno()).columns)
    except (OSError, ValueError):
        return _WIDTH
