"""Make a child: written down, created and started, looked at like a job's own container, its gate opened."""

from __future__ import annotations

import pwd
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

from pbsdock.agent import first_process
from pbsdock.agent.children import places
from pbsdock.agent.launch import launch_error, waiting_pid
from pbsdock.agent.node import Node, ms_since
from pbsdock.agent.own_files import write_accounts
from pbsdock.agent.pinning import pinned
from pbsdock.agent.runs import ChildRun
from pbsdock.agent.starting import limits_of
from pbsdock.agent.verify import close_devices, wrong_with
from pbsdock.core.child import LABEL, PARENT_LABEL, Child, ChildState
from pbsdock.core.errors import HookError, NodeFault, Refusal
from pbsdock.core.facts import Bound
from pbsdock.core.plan import Plan
from pbsdock.core.record import Record, State
from pbsdock.engine import spec as container
from pbsdock.engine.base import EngineError, Rlimits
from pbsdock.host import mounts, pins
from pbsdock.host.process import Caller, start_time
from pbsdock.host.syscalls import unmount
from pbsdock.policy.decide import effective
from pbsdock.policy.mounts import rules_of
from pbsdock.s3.environment import DIRECTORY, has_credentials

STEP = "children"  # of a record: it has made some
_REMOVED_S = 10.0
_BEGINS_S = 30.0  # from the open gate to its command
_GRACE_MS = 10_000  # as long as docker stop waits


def bound_of(node: Node, plan: Plan) -> list[Bound]:
    """The mounts of a child as they are found, in its user's own eyes. Raises Refusal."""
    user = mounts.User.of(plan)
    allowed = effective(node.config, plan).mounts
    rules = rules_of(plan.home, allowed, node.closed_paths(), tmpdir_by_user=True)
    return mounts.resolve(plan.mounts, user, rules)[0]


@contextmanager
def making(node: Node, record: Record, key: str = "") -> Iterator[None]:
    """While something is made for a job, whose release waits for it: written down before, and never of a job that is
    over. *key*: of the child that is made. Raises Refusal, OSError."""
    with node.children.starting(record.name, key):
        live = State.READY if record.facts.bare else State.RUNNING
        if record.state is not live or node.jobs.newest(record.job_id) is not record:
            raise Refusal("job-over", f"job {record.job_id} is over; nothing more is started in it")
        if STEP not in record.steps or record.is_gone(STEP):
            record.begin((STEP,))
            record.save(durable=True)
        yield


def bring_up(
    node: Node, record: Record, child: Child, caller: Caller, *, hostname: str = ""
) -> tuple[ChildRun, Mapping[int, tuple[int, int]]]:
    """Make *child* for *caller*, whose limits it has, and which is where the resource manager counts it; its gate is
    open then. Returns its run and the limits it was opened with.

    Nothing is left of one that cannot be made. Raises Refusal, NodeFault, OSError.
    """
    began = time.monotonic()
    with making(node, record, child.key):
        if len(node.children.live(record.name)) >= node.config.shim.most:
            most = node.config.shim.most
            raise Refusal("too-many-containers", f"the job has {most} containers, as many as it may at a time")
        node.children.add(record.name, child)
        try:
            made, within = _make(node, record, child, caller, hostname)
        except BaseException:
            discard(node, record, child.key)
            raise
    running = ChildRun(
        record=record,
        name=made.key,
        pid=made.pid,
        pid_start=made.pid_start,
        client=made.client,
        begins_by=0.0 if made.client[0] else time.monotonic() + _BEGINS_S,
    )
    node.jobs.add(running)
    node.emit(
        "child.started",
        record,
        child=made.name,
        container=made.id,
        image=made.plan.image,
        image_id=made.image_id,
        detached=made.detached,
        ms=ms_since(began),
        phase="run",
    )
    return running, within


def discard(node: Node, record: Record, key: str) -> None:
    """Remove what may be there of a child, and forget it. What cannot be removed stays written down."""
    try:
        remove(node, record, key)
        node.children.forget(record.name, key)
    except (HookError, EngineError, OSError) as error:  # the release, or the reaper, tries again
        node.emit("release.failed", record, level="warning", reason=f"child: {error}", phase="run")


def remove_container(node: Node, record: Record, key: str) -> None:
    """Remove a child's container and wait until it is gone. Raises NodeFault, EngineError."""
    node.remove_container(places.container_name(record, key), _REMOVED_S)


def remove(node: Node, record: Record, key: str) -> None:
    """Remove a child's container and its files. Raises NodeFault, EngineError, OSError."""
    remove_container(node, record, key)
    remove_files(node, record, key)


def remove_files(node: Node, record: Record, key: str) -> None:
    """Remove a child's directory and its pins. Raises OSError."""
    pins.remove(places.pins(node, record, key))
    directory = places.work_dir(node, record, key)
    if directory.exists():
        unmount(str(places.init_dir(node, record, key)))
        shutil.rmtree(directory)


def _make(
    node: Node, record: Record, child: Child, caller: Caller, hostname: str
) -> tuple[Child, Mapping[int, tuple[int, int]]]:
    plan, limits = child.plan, limits_of(caller)
    own_files = _own_files(node, record, child)
    node.children.note(record.name, child.key, own_files=own_files)
    made = container.Made(
        image_id=child.image_id,
        own_files=(*own_files, (str(first_process.program(node.paths)), first_process.PROGRAM)),
        own_places=[(str(places.init_dir(node, record, child.key)), first_process.TARGET)],
        cgroup_parent=node.cgroups.cgroup_parent(record.cgroup),
        labels={**parent_labels(node, record), LABEL: child.key},
        hostname=hostname,
        runtime=node.config.engine.runtime,
        network_aliases=child.aliases,
    )
    argv = [first_process.PROGRAM, first_process.TARGET, str(_GRACE_MS)]
    try:
        with pinned(node, places.pins(node, record, child.key), plan, child.bound) as held:
            spec = container.to_wait(plan, argv, bound=held, made=made)
            identifier = node.engine.create(spec, places.container_name(record, child.key))
            node.engine.start(identifier)
            pid = waiting_pid(node.engine, identifier)
    except EngineError as error:
        raise launch_error(error, plan, node.name) from None
    within = _open(node, record, replace(child, pid=pid), caller, limits)
    now = node.children.note(
        record.name,
        child.key,
        id=identifier,
        state=ChildState.RUNNING,
        started=time.time(),
        pid=pid,
        pid_start=start_time(pid),
    )
    if now is None:
        raise Refusal("child-removed", "the container was removed while it was started")
    return now, within


def _open(node: Node, record: Record, child: Child, caller: Caller, limits: Rlimits) -> Mapping[int, tuple[int, int]]:
    """Look at it, and open its gate. Raises NodeFault, OSError."""
    # The limits that bind are the job's, of whose cgroup the child's is a part.
    plan = replace(child.plan, limits=record.planned.limits)
    with first_process.connected(places.init_dir(node, record, child.key), child.pid) as connection:
        wrong = wrong_with(child.pid, plan, child.bound, node.cgroups, record.cgroup)
        if wrong is None:
            raise NodeFault("first-process", "the container's first process ended before its command began")
        if not wrong and not first_process.is_program_of(child.pid, first_process.program(node.paths)):
            wrong = "its first process is not pbsdock's"
        if wrong:
            node.emit("container.mismatch", record, level="error", container=child.name, reason=wrong)
            raise NodeFault("container-mismatch", f"the container was stopped before its command began: {wrong}")
        close_devices(child.pid)
        _count(node, record, child, caller)
        within = first_process.within(child.pid, limits)
        first_process.open_gate(connection, within)
    return within


def _count(node: Node, record: Record, child: Child, caller: Caller) -> None:
    """Have the resource manager count, limit and end it as the step that *caller* is in. Raises Refusal, NodeFault."""
    counted_in = node.rm.take_in(child.pid, caller.pid, record.job_id, record.uid)
    if counted_in and not record.facts.counted_in:
        record.note(counted_in=counted_in)


def parent_labels(node: Node, record: Record) -> dict[str, str]:
    """As of the job's own container, but for the label by which that is found."""
    labels = node.labels(record)
    labels[PARENT_LABEL] = labels.pop("pbsdock.incarnation")
    return labels


def _own_files(node: Node, record: Record, child: Child) -> tuple[tuple[str, str], ...]:
    """The files of root's making that a child gets: (source, target). Raises OSError."""
    plan, directory = child.plan, places.work_dir(node, record, child.key)
    directory.mkdir(mode=0o700, parents=True)
    image = node.image_profiles.of(child.image_id, pwd.getpwuid(plan.uid).pw_shell or "/bin/sh")
    made = write_accounts(directory, plan, image)
    first_process.make_directory(places.init_dir(node, record, child.key), plan.uid, plan.gid)
    if has_credentials(plan):
        made.append((str(node.store_dir(record)), DIRECTORY))
    return tuple(made)
