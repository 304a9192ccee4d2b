"""The files of root's making that a container gets: passwd, group, the copy of the script, a place for credentials."""

from __future__ import annotations

import grp
import hashlib
import os
import pwd
from pathlib import Path

from pbsdock.agent import door, first_process, task_tools
from pbsdock.agent.image_profile import GROUP, PASSWD, ImageProfile
from pbsdock.agent.node import Node
from pbsdock.agent.script import env_finds, interpreter
from pbsdock.core.plan import Plan
from pbsdock.core.record import Record
from pbsdock.engine.accounts import group, passwd
from pbsdock.policy.mpi import host_lines, mentioned
from pbsdock.rm.base import Job
from pbsdock.s3.environment import DIRECTORY, has_credentials
from pbsdock.stores import files


def write(node: Node, job: Job, record: Record, plan: Plan, script: bytes | None) -> list[tuple[str, str]]:
    """Write the root-made files the container gets; returns (source, target) pairs. Raises OSError."""
    directory = node.work_dir(record)
    directory.mkdir(mode=0o700, parents=True)
    image = node.image_profiles.of(record.image_id or "", pwd.getpwuid(plan.uid).pw_shell or "/bin/sh")
    record.note(image=image.traits)
    tools, account = task_tools.provide(node, record)
    made = write_accounts(directory, plan, image, account)
    if script is not None and job.script_path:
        write_file(directory / "script", script, 0o700, plan.uid, plan.gid)
        record.note(
            script_names_shell=node.rm.chooses_shell(script),
            interpreter=interpreter(script),
            env_finds=env_finds(script),
            mpi_own=mentioned(script) if record.facts.nodes > 1 else (),
            script_sha256=hashlib.sha256(script).hexdigest(),
        )
        made.append((str(directory / "script"), job.script_path))
    if record.facts.first_process:
        first_process.make_directory(node.init_dir(record), plan.uid, plan.gid)
    made += tools
    made += door.mounts(node, record)
    if record.facts.nodes > 1 and not record.facts.mother:
        write_file(directory / "hosts", host_lines(job.grant.hosts, job.grant.host_slots).encode(), 0o644, 0, 0)
        made.append((str(directory / "hosts"), task_tools.HOSTS))
    if has_credentials(plan):
        files.make(node.store_dir(record), plan.uid, plan.gid)
        made.append((str(node.store_dir(record)), DIRECTORY))
    return made


def write_accounts(directory: Path, plan: Plan, image: ImageProfile, account: str = "") -> list[tuple[str, str]]:
    """The image's own passwd and group with the owner in them, and the host's user *account* where it has one of that
    name; returns (source, target) pairs. Raises OSError."""
    made = []
    for name, target, text in (
        ("passwd", PASSWD, passwd(plan, image.traits.shell, image.passwd, _named(account))),
        ("group", GROUP, group(plan, group_names(plan), image.group)),
    ):
        write_file(directory / name, text.encode(), 0o644, 0, 0)
        made.append((str(directory / name), target))
    return made


def _named(account: str) -> tuple[str, int] | None:
    try:
        return (account, pwd.getpwnam(account).pw_uid) if account else None
    except KeyError:
        return None


def write_file(path: Path, data: bytes, mode: int, uid: int, gid: int) -> None:
    """A new file. Raises OSError."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        os.fchown(fd, uid, gid)
        os.fchmod(fd, mode)


def group_names(plan: Plan) -> dict[int, str]:
    """The host's names of the owner's groups, as far as it has any."""
    names = {}
    for gid in (plan.gid, *plan.groups):
        try:
            names[gid] = grp.getgrgid(gid).gr_name
        except KeyError:
            continue
    return names
