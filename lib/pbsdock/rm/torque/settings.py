"""The settings of pbs_server, asked from a node, by qmgr, where that is installed and may ask."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable

from pbsdock.rm.torque import tools

_ANSWER_S = 3.0


def heeds_errors(
    client_dir: str = "", run: Callable[[list[str]], tuple[int, str, str]] | None = None
) -> tuple[bool | None, str]:
    """Whether the server takes a node out of service that reports an error (``down_on_error``); None where it cannot be
    asked. The second is a sentence."""
    program = tools.find("qmgr", client_dir)
    if not program:
        return None, "there is no qmgr here to ask the server"
    code, out, err = (run or _run)([program, "-c", "print server"])
    if code:
        return None, f"the server cannot be asked: {' '.join((err or out).split())[-160:] or f'qmgr exits {code}'}"
    found = re.search(r"^set server down_on_error = (\S+)", out, re.MULTILINE)
    if found is not None and found[1].lower() == "true":
        return True, "the server takes a node out of service that reports an error"
    return False, "the server keeps sending jobs to a node that reports an error: set server down_on_error is not True"


def _run(command: list[str]) -> tuple[int, str, str]:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_ANSWER_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, "", str(error)
    return done.returncode, done.stdout, done.stderr
