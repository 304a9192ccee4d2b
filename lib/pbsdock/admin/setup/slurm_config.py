"""slurm.conf: the lines pbsdock needs, what else must be set and is not, the text with and without its block.

Names are Slurm's own, read without regard to case (slurm.conf(5)). What an Include names is not looked into.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import socket
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from pbsdock.admin.setup.errors import SetupError
from pbsdock.admin.setup.files import put, read
from pbsdock.admin.setup.places import Places
from pbsdock.rm.slurm.values import settings

BEGIN = "# begin pbsdock (written by pbsdock setup, removed by pbsdock setup uninstall)"
END = "# end pbsdock"
_BLOCK = re.compile(r"^# begin pbsdock .*?$(?:\n.*?)*?(?:^# end pbsdock(?:\n|\Z)|\Z)", re.MULTILINE)
_HOOKS = {
    "Prolog": "slurm/prolog",
    "Epilog": "slurm/epilog",
    "TaskProlog": "slurm/task-prolog",
    "HealthCheckProgram": "slurm/health-check",
}
REQUEUE = 190  # what a run hook ends with where the job is to be queued again (agent_link.py, run.c)
_SPOOL = "/var/spool/slurmd"  # the default of SlurmdSpoolDir
# What has to be set, a part of its value, and why.
_NEEDED = (
    ("ProctrackType", "proctrack/cgroup", "Slurm would not end a job's container"),
    ("TaskPlugin", "task/cgroup", "a job's container would not be held to the job's memory and CPUs"),
    ("JobAcctGatherType", "jobacct_gather/cgroup", "Slurm would not count what a job's container uses"),
)
_COMMON = ("PrologFlags=Alloc", "HealthCheckInterval=60", "HealthCheckNodeState=ANY")


def lines(places: Places) -> list[str]:
    """The lines pbsdock needs."""
    return [*(f"{name}={places.hooks / hook}" for name, hook in _HOOKS.items()), *_COMMON, f"RequeueExit={REQUEUE}"]


def stack_file(places: Places) -> Path:
    """plugstack.conf, as PlugStackConfig or its default beside slurm.conf has it."""
    assert places.slurm_conf is not None
    named = settings(read(places.slurm_conf)).get("plugstackconfig", "")
    return Path(named) if named.startswith("/") else places.slurm_conf.with_name("plugstack.conf")


def stack_line(places: Places) -> str:
    """Its line for job steps. What it names is passed over where it is not there."""
    return f"include {places.prefix / 'current/slurm/plugstack.conf'}"


def has_stack_line(places: Places) -> bool:
    """Whether it has that line."""
    return stack_line(places) in [" ".join(line.split()) for line in read(stack_file(places)).splitlines()]


def write_stack(places: Places) -> None:
    """Put the line into plugstack.conf, as a marked block. Raises OSError."""
    if has_stack_line(places):
        return
    path = stack_file(places)
    found = path.stat() if path.exists() else None
    mode = stat.S_IMODE(found.st_mode) if found is not None else 0o644
    put(path, joined(read(path), [stack_line(places)]), mode, like=found)


def take_out_stack(places: Places) -> bool:
    """Take the block out again, and a file that had nothing else; returns whether there was one. Raises OSError."""
    path = stack_file(places)
    old = read(path)
    text = without(old)
    if text == old:
        return False
    found = path.stat()
    if text.strip():
        put(path, text, stat.S_IMODE(found.st_mode), like=found)
    else:
        path.unlink()
    return True


def spool(text: str) -> str:
    """SlurmdSpoolDir on this node (``%h``: the host's name, ``%n``: the node's). Where several slurmds have one each
    here, with its ``%n`` in it."""
    name = socket.gethostname().split(".")[0]
    found = settings(text).get("slurmdspooldir", _SPOOL).replace("%h", name)
    there = glob.glob(glob.escape(found).replace("%n", "*")) if "%n" in found else []
    return found if len(there) > 1 else there[0] if there else found.replace("%n", name)


def check(text: str, places: Places) -> None:
    """Refuse a file that names other hooks in the places of ours. Raises SetupError."""
    found = settings(_BLOCK.sub("", text))
    for name, hook in _HOOKS.items():
        value = found.get(name.lower(), "")
        if value and value != str(places.hooks / hook):
            raise SetupError(
                f"{places.slurm_conf} has another {name} ({value}); call {places.hooks / hook} from it"
                f"{_how(name)}, or name a directory of several (Prolog and Epilog take a pattern), then run this again"
            )


def _how(name: str) -> str:
    return " with the same environment" if name in ("Prolog", "Epilog", "TaskProlog") else ""


def unfit(text: str, where: Path) -> Iterator[str]:
    """A sentence for each setting without which containers do not belong to their jobs."""
    found = settings(text)
    for name, part, lost in _NEEDED:
        value = found.get(name.lower(), "")
        if part not in [one.strip() for one in value.split(",")]:
            yield f"{where} has {name}={value or '(not set)'}, expected {part}: {lost}"
    flags = [flag.strip() for flag in found.get("prologflags", "").lower().split(",")]
    if flags != [""] and not {"alloc", "contain", "x11"} & set(flags):
        yield f"{where} has PrologFlags without Alloc: a job that is queued again and soon started may have no Prolog"
    if "nohold" in flags:
        yield f"{where} has PrologFlags with NoHold: a job may begin before pbsdock's Prolog is over"


def wrong(text: str, places: Places) -> Iterator[str]:
    """A sentence for each line that is missing or differs, and for what does not fit."""
    found = settings(text)
    for line in lines(places):
        name, _, value = line.partition("=")
        held = found.get(name.lower(), "")
        if name == "RequeueExit":
            if value not in re.split(r"[,\s]+", held):
                yield f"{places.slurm_conf} lacks the line {line}"
        elif name in _HOOKS and held != value:
            yield f"{places.slurm_conf} lacks the line {line}"
    assert places.slurm_conf is not None
    yield from unfit(text, places.slurm_conf)


def joined(text: str, wanted: Sequence[str]) -> str:
    """The text with our block, without the lines that the site has outside of it."""
    rest = _BLOCK.sub("", text)
    theirs = settings(rest)
    missing = [line for line in wanted if line.partition("=")[0].lower() not in theirs]
    if rest and not rest.endswith("\n"):
        rest += "\n"
    # A block at the end could be behind a line of nodes, which is no harm: each line is a record of its own.
    return rest + "\n".join([BEGIN, *missing, END]) + "\n" if missing else rest


def without(text: str) -> str:
    """The text without our block."""
    return _BLOCK.sub("", text)


def mentions(text: str) -> bool:
    """Whether a hook of ours is named."""
    return any(value.endswith(f"/hooks/{hook}") for value in settings(text).values() for hook in _HOOKS.values())


def before(path: Path) -> Path:
    """Where the file of before is kept."""
    return path.with_name(f"{path.name}.before-pbsdock")


def write(path: Path, wanted: Sequence[str]) -> None:
    """Write the block. Raises OSError."""
    old = read(path)
    text = joined(old, wanted)
    if text == old:
        return
    found = path.stat()
    if not before(path).exists():
        shutil.copy2(path, before(path))
        os.chown(before(path), found.st_uid, found.st_gid)
    put(path, text, stat.S_IMODE(found.st_mode), like=found)


def take_out(path: Path) -> bool:
    """Take the block out again; returns whether there was one. Raises OSError."""
    old = read(path)
    text = without(old)
    if text == old:
        return False
    found = path.stat()
    put(path, text, stat.S_IMODE(found.st_mode), like=found)
    before(path).unlink(missing_ok=True)
    return True
