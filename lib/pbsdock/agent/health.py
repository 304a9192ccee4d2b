"""Whose fault a failure is: the table of every code of a NodeFault, each with a look at the node without the job.

A node goes out of service only for what such a look confirms, and comes back as soon as the same look is well again: a
job that fails by itself would otherwise take down node after node. Where the look finds nothing, the failure is the
job's or a passing one, and :class:`pbsdock.agent.attempts.Attempts` bounds how often the job is queued again for it.
"""

from __future__ import annotations

import os
import pwd
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pbsdock.agent.node import Node
from pbsdock.config.tables import LEAST_MEMORY
from pbsdock.core.errors import HookError
from pbsdock.core.plan import Limits
from pbsdock.engine import fitness
from pbsdock.engine.base import EngineError
from pbsdock.host.facts import host_memory

Probe = Callable[[Node], str]
_LEAST_DISK = 256 << 20  # bytes; with less the engine can hardly unpack anything
_BLOCK = b"\0" * 65536


def engine(node: Node) -> str:
    """What is wrong with the engine, "" if it answers."""
    return "" if node.engine.probe() else f"the Docker engine does not answer: {node.engine.down_because}"


def cgroup(node: Node) -> str:
    """Make and remove a cgroup of no job's."""
    name = f"probe-{secrets.token_hex(4)}"
    limits = Limits(
        memory_bytes=64 << 20, memory_swap_bytes=64 << 20, cpu_millis=1000, cpuset=None, pids=16, shm_bytes=1 << 20
    )
    try:
        backend = node.cgroups
        try:
            backend.create(name, limits)
        finally:
            backend.remove(name, 2.0)
    except (HookError, EngineError, OSError) as error:
        return f"no cgroup can be set up on {node.name}: {error}"
    return ""


def disk(node: Node) -> str:
    """Write to, and remove from, the directories a job's record and files go to."""
    for directory in (node.paths.state_dir, node.paths.run_dir):
        if wrong := _written(directory / f".probe-{secrets.token_hex(4)}"):
            return f"nothing can be written to {directory} on {node.name}: {wrong}"
    return ""


def _written(path: Path) -> str:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            if os.write(fd, _BLOCK) < len(_BLOCK):
                return "no room is left"
        finally:
            os.close(fd)
    except OSError as error:
        return error.strerror or str(error)
    finally:
        with suppress(OSError):
            path.unlink()
    return ""


def layers(node: Node) -> str:
    """Whether the engine's own disk has room: an image too large for it is the job's fault, a full disk is not."""
    if wrong := engine(node):
        return wrong
    try:
        root = node.engine_info().root_dir
        found = os.statvfs(root)
    except (HookError, EngineError, OSError):
        return ""  # the engine may have a file system of its own, which is not to be seen from here
    free = found.f_bavail * found.f_frsize
    return f"{root} on {node.name} has only {free} bytes left" if free < _LEAST_DISK else ""


def users(node: Node) -> str:
    """Whether users can be looked up at all."""
    try:
        pwd.getpwnam("root")
        return ""
    except (KeyError, OSError) as error:
        return f"users cannot be looked up on {node.name}: {error}"


def memory(node: Node) -> str:
    """Whether the site's limits, without any override, leave this host's jobs something."""
    limits = node.config.limits
    most = host_memory() - limits.reserve_memory
    most = min(most, limits.max_memory) if limits.max_memory else most
    if most >= LEAST_MEMORY:
        return ""
    return (
        f"limits.reserve_memory keeps {limits.reserve_memory} of the {host_memory()} bytes of {node.name}; that leaves"
        " nothing for a job"
    )


def fit_engine(node: Node) -> str:
    """Whether the engine, asked anew, can run jobs as they are planned."""
    try:
        fitness.check(node.engine.info(), node.config.engine.runtime, node.config.security.seccomp)
        return ""
    except (HookError, EngineError) as error:
        return str(error)


def private_images(node: Node) -> str:
    """Whether it is known which images are not for everybody."""
    try:
        node.images.private.check()
        return ""
    except HookError as error:
        return str(error)


def registry_credentials(node: Node) -> str:
    """Whether the site's own file of registry credentials can be used."""
    try:
        node.check_logins()
        return ""
    except HookError as error:
        return str(error)


def prepared(node: Node) -> str:
    """For a failure of no known kind: all that preparing needs."""
    return disk(node) or engine(node) or cgroup(node)


def nothing(_node: Node) -> str:
    """For what is never the node's fault, or tells nothing of it."""
    return ""


# code -> how the agent looks for itself; a test compares it with every NodeFault in the source
PROBES: dict[str, Probe] = {
    "agent-error": nothing,
    "cgroup-busy": cgroup,
    "cgroup-failed": cgroup,
    "cgroup-gone": cgroup,
    "cgroup-inner-process": cgroup,
    "cgroup-limit": cgroup,
    "cgroup-missing": cgroup,
    "cgroup-not-delegated": cgroup,
    "cgroup-unknown": cgroup,
    "children-stay": engine,
    "container-mismatch": cgroup,
    "container-stays": engine,
    "credentials-not-delivered": disk,
    "credentials-stay": nothing,
    "disk-full": layers,
    "drained": nothing,
    "engine-error": engine,
    "engine-unreachable": engine,
    "first-process": engine,
    "gpus-failed": nothing,
    "image-gone": engine,
    "job-busy": nothing,
    "no-first-process": nothing,
    "no-job-file": nothing,
    "no-limits": nothing,
    "no-prolog": nothing,
    "not-in-step": nothing,
    "no-memory-for-jobs": memory,
    "no-seccomp": fit_engine,
    "nodev": engine,
    "pin-failed": disk,
    "prepare-failed": prepared,
    "private-images": private_images,
    "pull-failed": engine,
    "pulls-busy": nothing,
    "record-not-written": disk,
    "registry-busy": nothing,
    "registry-credentials": registry_credentials,
    "runtime-missing": fit_engine,
    "unknown-user": users,
    "userns-remap": fit_engine,
}
# Flags of the hooks' and of an agent that did not start: one that runs is all the proof there is to be had.
OURS = ("", "bad-configuration", "untrusted-files")


def look(node: Node, code: str) -> str | None:
    """What is wrong with the node as *code* says, "" if nothing is; None for a code of another release."""
    probe = engine if code in OURS else PROBES.get(code)
    return None if probe is None else probe(node)


def recover(node: Node) -> None:
    """Put the node back into service once its reason is gone (or, where nobody can tell, after a pause)."""
    try:
        lines = node.paths.unhealthy.read_text().splitlines()
        age = time.time() - node.paths.unhealthy.stat().st_mtime
    except OSError:
        return
    code = lines[1] if len(lines) > 1 else ""
    wrong = look(node, code)
    if wrong is None:
        wrong = "" if age >= node.config.health.hold_s and node.engine.probe() else code
    if not wrong:
        node.paths.unhealthy.unlink(missing_ok=True)
        node.emit("node.healthy", after_s=round(age, 1))
