"""The argument vectors of prologue and epilogue (``src/resmom/prolog.c``). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pbsdock.core.errors import BadValue
from pbsdock.rm.torque.ids import JobId, parse_job_id
from pbsdock.rm.torque.resources import Resources, items_of, understood


@dataclass(frozen=True, slots=True, kw_only=True)
class PrologueArgs:
    """The prologue's eight arguments. ``wrong`` says what of the resources cannot be understood, "" if nothing."""

    job_id: JobId
    user: str
    group: str
    name: str
    resources: Resources
    queue: str
    account: str
    script_path: str
    wrong: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class EpilogueArgs:
    """The epilogue's eleven arguments. On a sister session id and exit status are always 0 (observed)."""

    job_id: JobId
    user: str
    group: str
    name: str
    session_id: int
    resources: str
    resources_used: str
    queue: str
    account: str
    exit_status: int
    script_path: str


def parse_prologue_argv(argv: Sequence[str]) -> PrologueArgs:
    """Parse the arguments after argv[0]; an older mom leaves the last one out.

    Raises BadValue for what leaves no job to speak of: another number of arguments, or no job id.
    """
    if len(argv) not in (7, 8):
        raise BadValue(f"a prologue gets 7 or 8 arguments, not {len(argv)}")
    padded = [*argv, ""][:8]
    job_id, user, group, name, text, queue, account, script_path = padded
    resources, wrong = understood(items_of(text))
    return PrologueArgs(
        job_id=parse_job_id(job_id),
        user=user,
        group=group,
        name=name,
        resources=resources,
        queue=queue,
        account=account,
        script_path=script_path,
        wrong=wrong,
    )


def parse_epilogue_argv(argv: Sequence[str]) -> EpilogueArgs:
    """Parse the arguments after argv[0]; an older mom leaves the last one out. Raises BadValue."""
    if len(argv) not in (10, 11):
        raise BadValue(f"an epilogue gets 10 or 11 arguments, not {len(argv)}")
    job_id, user, group, name, session, resources, used, queue, account, status, script = [*argv, ""][:11]
    return EpilogueArgs(
        job_id=parse_job_id(job_id),
        user=user,
        group=group,
        name=name,
        session_id=_integer(session, "a session id"),
        resources=resources,
        resources_used=used,
        queue=queue,
        account=account,
        exit_status=_integer(status, "an exit status"),
        script_path=script,
    )


def _integer(text: str, what: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 19):
        raise BadValue(f"{text[:40]!r} is not {what}; it is a whole number")
    return int(text)
