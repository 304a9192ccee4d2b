"""The job script, read once as root: what is judged is what runs."""

from __future__ import annotations

import os
import re
import stat

from pbsdock.agent.programs import env_program
from pbsdock.core.errors import Refusal
from pbsdock.directive.parse import SCRIPT_LIMIT, late_line, parse_script
from pbsdock.rm.base import ResourceManager

_INTERPRETER = re.compile(rb"#![ \t]*(/[A-Za-z0-9._/+-]+(?:\r(?=\n|$))?)(?=[ \t\n]|$)([^\n]*)")


def read_script(path: str, uid: int) -> bytes | None:
    """Read the job script once, without following a link; None if it does not exist (an interactive job).

    Raises Refusal when it is not a plain file of the user's, has a second name, or is too long.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Refusal("script-unreadable", f"the job script {path} cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid not in (uid, 0):
            raise Refusal(
                "script-unsafe",
                f"the job script {path} is not a plain file of the job's owner with one name; nothing was started",
            )
        if found.st_size > SCRIPT_LIMIT:
            raise Refusal(
                "script-too-long",
                f"the job script has {found.st_size} bytes; a script with #DOCKER may have {SCRIPT_LIMIT}",
            )
        with open(fd, "rb", closefd=False) as file:
            return file.read(SCRIPT_LIMIT + 1)
    finally:
        os.close(fd)


def has_directive(rm: ResourceManager, path: str) -> bool:
    """Whether a job's script has a directive, also one that is wrong; what cannot be read may have one."""
    try:
        script = read_script(path, os.lstat(path).st_uid)
        return script is not None and parse_script(script, rm.words) is not None
    except FileNotFoundError:
        return False
    except (OSError, ValueError, Refusal):
        return True


def late(rm: ResourceManager, path: str, uid: int) -> int:
    """The line of a script's #DOCKER after its first command, from 1; 0 for none, and where it cannot be read."""
    try:
        script = read_script(path, uid)
    except Refusal:
        return 0
    return late_line(rm.submitted(script)) if script is not None else 0


def interpreter(script: bytes) -> str:
    """What the first line names, a carriage return with it; "" for none, or one that is no plain path."""
    named = _INTERPRETER.match(script)
    return named[1].decode() if named else ""


def env_finds(script: bytes) -> str:
    """The program that env(1) is to find as the interpreter; "" for none, or where that is not plain to see."""
    named = _INTERPRETER.match(script)
    if named is None or not named[1].endswith(b"/env"):
        return ""
    return env_program(named[2].decode("utf-8", "replace").split())
