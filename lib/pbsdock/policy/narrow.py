"""What a ``docker run`` inside a job comes to: the plan of a child, never more than a ``#DOCKER`` line would get, nor
than its job has. Pure.

The options become a directive, which :func:`pbsdock.policy.decide.decide` judges like any other; what is left is
narrowed to the job's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pbsdock.config.tables import LEAST_MEMORY, Config
from pbsdock.core.cpus import parse_cpus
from pbsdock.core.errors import Refusal
from pbsdock.core.pathrules import below
from pbsdock.core.plan import Limits, Mount, Plan, Tmpfs
from pbsdock.core.sizes import human
from pbsdock.directive.image_ref import ImageRef
from pbsdock.directive.types import Directive, TmpfsOption, Volume
from pbsdock.policy.decide import decide
from pbsdock.policy.host import HostFacts, plain
from pbsdock.policy.mounts import check_target
from pbsdock.rm.base import Job
from pbsdock.shim.commands import Run, VolumeArg

_PLACE = "docker run"
_PREFIX = f"{_PLACE}:1:1: "
_ENGINE_SOCKETS = ("docker.sock", "containerd.sock", "podman.sock")
_DEVICE = "device="
NOBODY = ("nobody", "65534")


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """What a job has already, of which a child may have a part: ``places`` are the directories of the job's own that
    a ``#DOCKER`` line gives it unasked, as the host names them. ``limits`` are its cgroup's."""

    plan: Plan | None  # None for a job without a container of its own
    limits: Limits | None
    places: Sequence[str] = ()


def narrow(job: Job, run: Run, own: Own, config: Config, host: HostFacts, real: Callable[[str], str]) -> Plan:
    """The plan of a child; *real* gives the host's name of a path as the one who asks sees it.

    The network of a child may be another one later: ``container:NAME`` and the job's own are not decided here. Raises
    Refusal with a sentence as for ``docker run``; NodeFault as :func:`pbsdock.policy.decide.decide`.
    """
    _check_user(run, job)
    volumes = [_volume(volume, real) for volume in run.volumes]
    inside = [volume for volume in volumes if any(below(volume.source, place) for place in own.places)]
    directive = _directive(run, [volume for volume in volumes if volume not in inside])
    plan = _decided(job, directive, config, host)
    plan = replace(plan, tmpfs=_tmpfs(run, volumes, plan))
    plan = replace(plan, mounts=(*plan.mounts, *_in_places(inside, plan)))
    stores = own.plan.stores if own.plan is not None else ()
    return replace(
        plan,
        job_id=job.id,
        gpus=_gpus(run, plan.gpus),
        limits=_limits(run, own.limits or plan.limits, plan.limits),
        stores=tuple(replace(store, staging=()) for store in stores if store.container),
        environment=(),
        workdir=run.workdir,
        entrypoint=None,
        credentials_port=plan.credentials_port if stores else 0,
    )


def to_pull(job: Job, image: ImageRef, platform: str | None, config: Config, host: HostFacts) -> Plan:
    """The plan by which ``docker pull`` fetches *image*. Raises Refusal, NodeFault as
    :func:`pbsdock.policy.decide.decide`."""
    directive = Directive(image=image, line=1, column=1, filename=_PLACE, no_home=True, pull="always")
    return replace(_decided(job, directive, config, host), platform=platform)


def _decided(job: Job, directive: Directive, config: Config, host: HostFacts) -> Plan:
    """As for a ``#DOCKER`` line, but without what that mounts unasked: Docker mounts what is named."""
    bare = replace(job, work_dir=None, tmpdir=None, nodefile=None, gpufile=None, script_path=None, interactive=True)
    try:
        return decide(bare, directive, config, host)
    except Refusal as error:
        raise Refusal(error.code, error.sentence.removeprefix(_PREFIX), **error.facts) from None


def _check_user(run: Run, job: Job) -> None:
    """Raises Refusal for another user than the job's own, root or nobody."""
    if run.user is None or is_root(run.user):
        return
    name, _, group = run.user.partition(":")
    is_own = name in (job.user, str(job.uid), "") or name in NOBODY
    groups = {job.group, str(job.gid), *map(str, job.groups), ""}
    if not is_own or (group not in groups and group not in ("0", "root", "nogroup", *NOBODY)):
        raise Refusal(
            "user-not-own",
            f"--user {run.user}: a container of a job runs as {job.user} ({job.uid}:{job.gid}); leave --user out",
        )


def is_root(user: str) -> bool:
    """Whether ``--user`` names root."""
    return user.partition(":")[0] in ("root", "0")


def _volume(volume: VolumeArg, real: Callable[[str], str]) -> VolumeArg:
    if os.path.basename(plain(volume.source)) in _ENGINE_SOCKETS:
        raise Refusal(
            "engine-socket",
            f"{volume.text}: the engine's socket would make the job root on the node; it is never given. docker itself"
            " works in a job as it is, and starts containers beside this one",
        )
    return replace(volume, source=real(volume.source))


def _directive(run: Run, volumes: Sequence[VolumeArg]) -> Directive:
    is_named = run.network is not None and not run.network.startswith("container:")
    return Directive(
        image=run.image,
        image_text=run.image_text,
        line=1,
        column=1,
        filename=_PLACE,
        volumes=tuple(
            Volume(
                source=_literal(volume.source),
                target=_literal(volume.target),
                read_only=volume.read_only,
                line=1,
                column=1,
            )
            for volume in volumes
        ),
        workdir=_literal(run.workdir) if run.workdir else None,
        network=run.network if is_named else None,
        shm_size=run.shm_size,
        tmpfs=tuple(TmpfsOption(target=_literal(target), size_bytes=size) for target, size in run.tmpfs),
        read_only=run.read_only,
        no_home=True,
        pull=run.pull,
        platform=run.platform,
        gpus="all" if run.gpus is not None and run.gpus.startswith(_DEVICE) else run.gpus,
    )


def _literal(text: str) -> str:
    """As a directive has it, in whose paths variables expand."""
    return text.replace("$", "$$")


def _gpus(run: Run, granted: tuple[str, ...]) -> tuple[str, ...]:
    """The ones named of those that are the job's, by the engine's id or by their place among the job's own."""
    if run.gpus is None or not run.gpus.startswith(_DEVICE):
        return granted
    by_place = {str(place): gpu for place, gpu in enumerate(granted)}
    found = []
    for name in run.gpus.removeprefix(_DEVICE).strip('"').split(","):
        gpu = name if name in granted else by_place.get(name)
        if gpu is None:
            allowed = ", ".join(by_place) or "none"
            raise Refusal("gpus-not-granted", f"--gpus {run.gpus}: the job's GPUs are counted from 0: {allowed}")
        found.append(gpu)
    return tuple(dict.fromkeys(found))


def _tmpfs(run: Run, volumes: Sequence[VolumeArg], plan: Plan) -> tuple[Tmpfs, ...]:
    """Without the /tmp that a read-only image gets unasked, where a volume takes its place."""
    asked, covered = {plain(target) for target, _ in run.tmpfs}, {plain(volume.target) for volume in volumes}
    return tuple(tmpfs for tmpfs in plan.tmpfs if tmpfs.target in asked or tmpfs.target not in covered)


def _in_places(volumes: Sequence[VolumeArg], plan: Plan) -> list[Mount]:
    """Mounts of parts of what the job has anyway. Raises Refusal where two meet in one place."""
    taken = {mount.target for mount in plan.mounts} | {tmpfs.target for tmpfs in plan.tmpfs}
    found = []
    for volume in volumes:
        target = plain(volume.target)
        if not volume.target.startswith("/") or ".." in target.split("/") or not target.isprintable():
            raise Refusal("path-not-plain", f"{volume.text}: the path in the container is absolute and without '..'")
        check_target(volume.text, "--volume target", target)
        if target in taken:
            raise Refusal("target-taken", f"{volume.text}: {target} is used twice; choose another")
        taken.add(target)
        found.append(
            Mount(
                source=plain(volume.source),
                target=target,
                read_only=volume.read_only,
                origin="workdir",
                required=True,
                where=volume.text,
            )
        )
    return found


def _limits(run: Run, job: Limits, own: Limits) -> Limits:
    """The job's own limits, or less where less is asked for. Raises Refusal where it is more."""
    memory, swap = job.memory_bytes, job.memory_swap_bytes
    if run.memory is not None:
        if run.memory < LEAST_MEMORY:
            raise Refusal("memory-too-small", f"--memory {human(run.memory)}: the engine needs at least 6m")
        if memory is not None and run.memory > memory:
            raise Refusal("memory-too-large", f"--memory {human(run.memory)} is more than the job's {human(memory)}")
        both = 2 * run.memory  # as much swap as memory, Docker's own default
        memory, swap = run.memory, both if swap is None else max(run.memory, min(swap, both))
    return Limits(
        memory_bytes=memory,
        memory_swap_bytes=swap,
        cpu_millis=_cpus(run, job),
        cpuset=_cpuset(run, job),
        pids=_pids(run, job),
        shm_bytes=min(own.shm_bytes, memory) if memory is not None else own.shm_bytes,
    )


def _cpus(run: Run, job: Limits) -> int | None:
    if run.cpus is None:
        return job.cpu_millis
    count = job.cpu_millis if job.cpuset is None else 1000 * len(parse_cpus(job.cpuset))
    if count is not None and run.cpus > count:
        raise Refusal("cpus-too-many", f"--cpus {run.cpus / 1000:g} is more than the job's {count / 1000:g}")
    return run.cpus


def _cpuset(run: Run, job: Limits) -> str | None:
    if run.cpuset is None:
        return job.cpuset
    if job.cpuset is None:
        return run.cpuset
    if more := parse_cpus(run.cpuset) - parse_cpus(job.cpuset):
        raise Refusal(
            "cpus-not-own", f"--cpuset-cpus {run.cpuset}: CPU {min(more)} is not among the job's {job.cpuset}"
        )
    return run.cpuset


def _pids(run: Run, job: Limits) -> int:
    if run.pids is None or run.pids <= 0:
        return job.pids
    if run.pids > job.pids:
        raise Refusal("pids-too-many", f"--pids-limit {run.pids} is more than the job's {job.pids}")
    return run.pids
