"""``pbsdock drain`` and ``undrain``: no new container jobs on this node, and again."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from pbsdock.admin.ask import answered, is_root, told
from pbsdock.protocol import wire
from pbsdock.protocol.link import AgentGone

_LOOK_S = 1.0


def add_arguments(drain: argparse.ArgumentParser, undrain: argparse.ArgumentParser) -> None:
    """Their options."""
    drain.add_argument("--reason", metavar="TEXT", default="", help="for pbsnodes, pbsdock ps and whoever asks why")
    drain.add_argument("--wait", action="store_true", help="until no container job is left here")
    drain.add_argument("--timeout", metavar="SECONDS", type=float, default=None, help="wait no longer; then exit 1")
    for parser in (drain, undrain):
        parser.add_argument("--json", action="store_true", help="one JSON object")


def drain(arguments: argparse.Namespace) -> int:
    """Drain; exit code 0, or 1 if jobs are left when the time is over, or it cannot be done."""
    if not is_root("drain a node"):
        return 1
    message = wire.Message("drain", reason=arguments.reason)
    try:
        data = _answer(answered(arguments.paths, message))
    except AgentGone:
        data = _without_agent(arguments.paths, arguments.reason)
    if data is None:
        return 1
    if arguments.wait:
        data["jobs"] = _wait(arguments.paths, arguments.timeout)
    if arguments.json:
        print(json.dumps(data, indent=1))
    else:
        left = "no container job is here" if not data["jobs"] else f"container jobs still here: {data['jobs']}"
        print(f"{data['drained']['sentence']}; {left}")
    return 1 if arguments.wait and data["jobs"] else 0


def undrain(arguments: argparse.Namespace) -> int:
    """Take jobs again; exit code 0, or 1 if that cannot be done."""
    if not is_root("undrain a node"):
        return 1
    try:
        data = _answer(answered(arguments.paths, wire.Message("undrain")))
    except AgentGone:
        data = {"was_drained": _drain_of(arguments.paths).clear() is not None}
    if data is None:
        return 1
    if arguments.json:
        print(json.dumps(data, indent=1))
    else:
        print("the node takes container jobs again" if data["was_drained"] else "the node was not drained")
    return 0


def shown(drained: dict[str, Any]) -> str:
    """A line for ``pbsdock ps``."""
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(drained["since"]))
    return f"{drained['sentence']}, since {since}; pbsdock undrain lets jobs come again"


def _answer(answer: wire.Message) -> dict[str, Any] | None:
    if answer.op == "done":
        found: dict[str, Any] = json.loads(answer.text("json"))
        return found
    print(f"pbsdock: {answer.text('sentence')}", file=sys.stderr)
    return None


def _without_agent(paths_file: Path, reason: str) -> dict[str, Any] | None:
    """The file alone counts: the next agent, and mom's node check, find it there."""
    try:
        drained = _drain_of(paths_file).set(reason)
    except OSError as error:
        print(f"pbsdock: the node cannot be drained: {error}", file=sys.stderr)
        return None
    return {"drained": drained.to_dict(), "jobs": 0}


def _drain_of(paths_file: Path) -> Any:
    from pbsdock.agent.drain import Drain
    from pbsdock.core.paths import load

    return Drain(load(paths_file).drained)


def _wait(paths_file: Path, timeout_s: float | None) -> int:
    """How many are left; 0 once none is."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        data = told(paths_file, wire.Message("list"))
        left = len(data["jobs"]) if data is not None else 0
        if not left or (deadline is not None and time.monotonic() >= deadline):
            return left
        time.sleep(_LOOK_S)
