"""Which job a ``docker`` command is about: the one its process is in, as the kernel and the resource manager say.

Nothing of the process's environment counts. A process in a job's own container is known by its cgroup, another one by
the sessions that mom has written down (:meth:`pbsdock.rm.base.ResourceManager.job_of`).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from pbsdock.agent.node import Node
from pbsdock.core.errors import BadValue, Refusal
from pbsdock.core.facts import Bound
from pbsdock.core.pathrules import below
from pbsdock.core.record import Record, State
from pbsdock.host.process import Caller, alive, sessions
from pbsdock.policy.host import plain
from pbsdock.rm.base import Live


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Whose command it is. ``record`` None: the job has no container, and has started none so far.

    ``mounts`` are those of the container that the process is in, None where it is on the host itself: by them its names
    of files become the host's.
    """

    caller: Caller
    live: Live
    record: Record | None
    mounts: Sequence[Bound] | None

    def real(self, path: str) -> str:
        """The host's name of a path as the one who asks sees it. Raises Refusal for what their container alone has."""
        if self.mounts is None:
            return path
        around = [mount for mount in self.mounts if below(plain(path), mount.target)]
        if not path.startswith("/") or ".." in path.split("/"):
            raise Refusal("path-not-plain", f"{path} is not an absolute path without '..'")
        if not around:
            shared = sorted({mount.target for mount in self.mounts if os.path.isdir(mount.source)})
            raise Refusal(
                "path-in-container",
                f"{path} is in the job's own container alone, of which another cannot mount a part; both can have"
                f" {', '.join(shared) or 'nothing: this job has no mounts'}",
            )
        nearest = max(around, key=lambda mount: len(mount.target))
        return plain(os.path.join(nearest.source, os.path.relpath(plain(path), nearest.target)))


def asker_of(node: Node, caller: Caller) -> Asker:
    """Who asks. Raises Refusal for a process that is in no job of its user's."""
    if caller.uid == 0:
        raise Refusal("root-docker", "docker in a job is its owner's; root has the engine's own client")
    try:
        found = _contained(node, caller) or _on_host(node, caller)
        is_theirs = caller.is_still_there()
    except (OSError, ValueError):
        is_theirs = False
        found = None
    if not is_theirs:
        raise Refusal("asker-gone", "the process that asked is gone; nothing was done")
    if found is None:
        raise Refusal(
            "no-job",
            f"this process is in no job of yours on {node.name}; docker is for jobs, submit one with"
            f" {node.rm.words.submit}",
        )
    return found


def _contained(node: Node, caller: Caller) -> Asker | None:
    """Of a process in a container of a job's own. Raises OSError, Refusal."""
    for record in node.jobs.records():
        if record.uid != caller.uid or not record.cgroup or record.facts.bare:
            continue
        try:
            if not node.cgroups.contains(record.cgroup, caller.pid) and not _sees_the_same(record, caller):
                continue
        except ProcessLookupError:
            return None
        if record.state is not State.RUNNING:
            raise Refusal("job-over", f"job {record.job_id} is over; nothing more is started in it")
        live = _live(node, record.job_id)
        if live is None:
            raise Refusal("job-over", f"job {record.job_id} is over; nothing more is started in it")
        if _namespace(caller.pid) != _namespace(record.facts.pid):
            raise Refusal(
                "not-the-jobs-container",
                "docker works in the job's own container, not in another that the job has started",
            )
        return Asker(caller=caller, live=live, record=record, mounts=record.facts.bound)
    return None


def _sees_the_same(record: Record, caller: Caller) -> bool:
    """Whether a process has the mount namespace of the job's container, which nobody gets into without root's rights: a
    container that the resource manager has taken into cgroups of its own is not known by ours. Raises OSError if it is
    over."""
    facts, seen = record.facts, _namespace(caller.pid)
    if not alive(facts.pid, facts.pid_start):
        return False
    try:
        return _namespace(facts.pid) == seen
    except OSError:  # it has just ended
        return False


def _on_host(node: Node, caller: Caller) -> Asker | None:
    """Of a process on the host itself. Raises OSError, Refusal."""
    job_id = node.rm.job_of(caller.pid, sessions(caller.pid))
    live = _live(node, job_id) if job_id else None
    if live is None or live.uid != caller.uid:
        return None
    if _namespace(caller.pid) != _namespace(os.getpid()):
        raise Refusal(
            "other-mounts", "this process sees other mounts than the host; docker cannot tell which files it means"
        )
    record = node.jobs.newest(live.id)
    if record is not None and not record.facts.bare:
        if record.state is State.RUNNING:
            return Asker(caller=caller, live=live, record=record, mounts=None)
        raise Refusal("job-not-running", f"job {live.id} has a container of its own that does not run")
    if record is not None and record.state is State.PREPARING:
        record = None  # by another command of the job's; whoever needs it waits
    if record is not None and record.state is not State.READY:
        raise Refusal("job-over", f"job {live.id} is over; nothing more is started in it")
    return Asker(caller=caller, live=live, record=record, mounts=None)


def _live(node: Node, job_id: str) -> Live | None:
    try:
        return node.rm.find(job_id)
    except BadValue:
        return None


def _namespace(pid: int) -> tuple[int, int]:
    """Raises OSError if the process is over."""
    found = os.stat(f"/proc/{pid}/ns/mnt")
    return found.st_dev, found.st_ino
