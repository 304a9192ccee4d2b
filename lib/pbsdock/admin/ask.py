"""Ask the agent as root."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from pbsdock.protocol import wire
from pbsdock.protocol.link import AgentGone, connect


def told(paths_file: Path, message: wire.Message) -> dict[str, Any] | None:
    """The agent's answer to *message*; None if there is none, which stderr tells."""
    if not is_root("ask the agent about all jobs"):
        return None
    try:
        answer = answered(paths_file, message)
    except AgentGone as error:
        print(f"pbsdock: the agent does not answer ({error}); the next job's prologue starts it", file=sys.stderr)
        return None
    if answer.op in ("refused", "fault"):
        print(f"pbsdock: {answer.text('sentence')}", file=sys.stderr)
        return None
    found: dict[str, Any] = json.loads(answer.text("json"))
    return found


def answered(paths_file: Path, message: wire.Message, timeout_s: float = 300.0) -> wire.Message:
    """The agent's answer itself, which may be silent for so long. Raises AgentGone."""
    from pbsdock.core.paths import load

    link = connect(str(load(paths_file).socket), wait_s=0.0, timeout_s=timeout_s)
    try:
        link.send(message)
        while (answer := link.recv()[0]).op == "notice":
            if sentence := answer.text("sentence"):  # without one it says that the agent is at work
                print(f"pbsdock: {sentence}", file=sys.stderr)
        return answer
    finally:
        link.close()


def is_root(what: str) -> bool:
    """Whether the caller is root, which else stderr asks for."""
    if os.geteuid() == 0:
        return True
    print(f"pbsdock: only root may {what}; use sudo", file=sys.stderr)
    return False
