"""Site policy: job + directive + configuration -> plan, or a refusal. Pure: no engine, no clock, no file.

Paths are judged by components as written; what they really are is judged again when they are resolved as the user.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from pbsdock.config import Config, LimitsConfig
from pbsdock.directive import Directive, Volume, expand
from pbsdock.errors import Refusal
from pbsdock.plan import Device, Limits, Mount, Plan, Tmpfs
from pbsdock.torque import Job

_SYSTEM = ("/proc", "/sys", "/dev", "/run", "/var/run", "/var/lib/docker", "/boot")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a decision needs of the execution host: memory in bytes, CPUs that can be used."""

    node: str
    memory_bytes: int
    cpus: int


def effective(config: Config, job: Job) -> Config:
    """The configuration with the first override that matches the job laid over it."""
    for one in config.override:
        if (
            (not one.users or job.user in one.users)
            and (not one.groups or job.group in one.groups)
            and (not one.queues or job.queue in one.queues)
        ):
            tables = {
                name: getattr(one, name)
                for name in ("images", "mounts", "network", "env", "limits", "devices")
                if getattr(one, name) is not None
            }
            return replace(config, **tables)
    return config


def decide(job: Job, directive: Directive, config: Config, host: HostFacts) -> Plan:
    """Make the plan. Raises Refusal with one sentence that says what is allowed."""
    settings = effective(config, job)
    _check_user(job, settings)
    _check_image(directive, settings)
    _check_store(directive)
    directive = _expanded(job, directive)
    limits = _limits(job, directive, settings.limits, host)
    return Plan(
        job_id=job.id.text, user=job.user, group=job.group, uid=job.uid, gid=job.gid, groups=job.groups,
        home=job.home, queue=job.queue, image=directive.image.canonical,
        pull=directive.pull or settings.images.pull, platform=directive.platform, limits=limits,
        network=_network(directive, settings), mounts=_mounts(job, directive, settings),
        tmpfs=_tmpfs(directive, limits), devices=tuple(Device(path=one) for one in settings.devices.allow),
        gpus=_gpus(job, directive, settings), read_only_root=directive.read_only,
        environment=_environment(directive, settings), environment_deny=settings.env.deny,
        workdir=directive.workdir, entrypoint=directive.entrypoint, oom_score_adj=settings.limits.oom_score_adj,
        interactive=job.interactive, walltime_s=job.resources.walltime,
    )


def _check_user(job: Job, settings: Config) -> None:
    if job.uid < settings.users.min_uid:
        raise Refusal(
            "user-not-allowed",
            f"user {job.user} has uid {job.uid}; containers are for users from uid {settings.users.min_uid} on",
        )
    if job.user in settings.users.deny:
        raise Refusal("user-not-allowed", f"user {job.user} may not run containers at this site")


def _check_image(directive: Directive, settings: Config) -> None:
    image, images = directive.image, settings.images
    where = f"{directive.filename}:{directive.line}:{directive.column}"

    def listed(patterns: Sequence[str]) -> bool:
        return any(
            one in (image.digest, f"{image.name}@{image.digest}")
            or fnmatch.fnmatchcase(image.name, one)
            or fnmatch.fnmatchcase(image.canonical, one)
            for one in patterns
        )

    if listed(images.deny) or not listed(images.allow):
        raise Refusal(
            "image-not-allowed",
            f"{where}: image {image.canonical!r} is not allowed at this site; allowed are {_some(images.allow)}",
        )
    if images.require_digest and not image.digest:
        raise Refusal(
            "image-not-pinned",
            f"{where}: image {image.canonical!r} names no digest; this site wants IMAGE@sha256:…",
        )


def _some(patterns: Sequence[str]) -> str:
    shown = ", ".join(patterns[:8]) or "none"
    return f"{shown} and {len(patterns) - 8} more" if len(patterns) > 8 else shown


def _check_store(directive: Directive) -> None:
    if directive.store:
        option = directive.store[0].split(" ", 1)[0]
        raise Refusal(
            "no-object-store",
            f"{directive.at(option.removeprefix('--'))}: {option}: this site has no object store configured",
        )


def _expanded(job: Job, directive: Directive) -> Directive:
    variables = {"USER": job.user, "HOME": job.home, "PBS_JOBID": job.id.text}
    if job.work_dir:
        variables["PBS_O_WORKDIR"] = job.work_dir
    if job.tmpdir:
        variables["TMPDIR"] = job.tmpdir
    try:
        return expand(directive, variables)
    except KeyError as error:
        raise Refusal(
            "no-such-variable", f"{directive.at('volume')}: ${error.args[0]} is not set for this job on this node"
        ) from None


def _network(directive: Directive, settings: Config) -> str:
    wanted = directive.network or settings.network.default
    if directive.network and wanted not in (*settings.network.allow, settings.network.default):
        raise Refusal(
            "network-not-allowed",
            f"{directive.at('network')}: network {wanted!r} is not allowed; use one of"
            f" {', '.join(settings.network.allow)}",
        )
    return wanted


def _environment(directive: Directive, settings: Config) -> tuple[tuple[str, str | None], ...]:
    for name, value in directive.env:
        if value is None and any(fnmatch.fnmatchcase(name, one) for one in settings.env.deny):
            raise Refusal(
                "variable-not-allowed",
                f"{directive.at('env')}: --env {name} would take the host's own {name} into the container; write"
                f" --env {name}=VALUE",
            )
    return directive.env


# -- limits -----------------------------------------------------------------------------------------------------------


def _limits(job: Job, directive: Directive, settings: LimitsConfig, host: HostFacts) -> Limits:
    memory = _memory(job, settings, host)
    slots = job.resources.ncpus if not job.resources.nodes and job.resources.ncpus else job.slots_here
    cpu = min(max(slots, 1), host.cpus) * 1000 if settings.cpu == "quota" else None
    return Limits(
        memory_bytes=memory, memory_swap_bytes=_swap(job, settings, memory), cpu_millis=cpu, cpuset=None,
        pids=settings.pids, shm_bytes=_shm(directive, settings, memory, host),
    )


def _share(job: Job, total: int) -> int:
    """This node's part of what was asked for the whole job: by slots."""
    return total * job.slots_here // max(job.slots_total, 1)


def _memory(job: Job, settings: LimitsConfig, host: HostFacts) -> int | None:
    asked = job.resources
    if asked.mem is not None:
        key, memory = "mem", _share(job, asked.mem)
    elif asked.pmem is not None:
        key, memory = "pmem", asked.pmem * job.slots_here
    elif asked.vmem is not None:
        key, memory = "vmem", _share(job, asked.vmem)
    elif asked.pvmem is not None:
        key, memory = "pvmem", asked.pvmem * job.slots_here
    elif settings.default_memory:
        return min(settings.default_memory, host.memory_bytes)
    else:
        return None
    most = host.memory_bytes - settings.reserve_memory
    if settings.max_memory:
        most = min(most, settings.max_memory)
    if memory > most:
        raise Refusal(
            "memory-too-large",
            f"{key} asks for {memory} bytes on {host.node}; a container may have {most} there",
        )
    if memory < 6 << 20:
        raise Refusal("memory-too-small", f"{key} asks for {memory} bytes; the engine needs at least 6mb")
    return memory


def _swap(job: Job, settings: LimitsConfig, memory: int | None) -> int | None:
    if memory is None:
        return None
    vmem = job.resources.vmem
    if settings.swap == "as-vmem" and vmem is not None:
        return max(memory, _share(job, vmem))
    return memory


def _shm(directive: Directive, settings: LimitsConfig, memory: int | None, host: HostFacts) -> int:
    most = settings.max_shm or memory or host.memory_bytes
    if directive.shm_size is None:
        return min(settings.shm, most)
    if directive.shm_size > most:
        raise Refusal(
            "shm-too-large",
            f"{directive.at('shm-size')}: --shm-size asks for {directive.shm_size} bytes; this job may have {most}",
        )
    return directive.shm_size


def _tmpfs(directive: Directive, limits: Limits) -> tuple[Tmpfs, ...]:
    made = [Tmpfs(target=one.target, size_bytes=one.size_bytes) for one in directive.tmpfs]
    for one in made:
        if limits.memory_bytes and one.size_bytes and one.size_bytes > limits.memory_bytes:
            raise Refusal(
                "tmpfs-too-large",
                f"{directive.at('tmpfs')}: --tmpfs {one.target} asks for {one.size_bytes} bytes; it lives in the job's"
                f" memory of {limits.memory_bytes}",
            )
    if directive.read_only and not any(one.target == "/tmp" for one in made):  # noqa: S108 - the container's own
        made.append(Tmpfs(target="/tmp", size_bytes=None))  # noqa: S108 - most programs need one
    return tuple(made)


def _gpus(job: Job, directive: Directive, settings: Config) -> tuple[str, ...]:
    if directive.gpus is None:
        return ()
    granted = sum(one.gpus for one in job.resources.nodes)
    if not settings.devices.gpus or not granted:
        raise Refusal(
            "gpus-not-granted",
            f"{directive.at('gpus')}: --gpus needs GPUs granted by the scheduler; ask with qsub -l nodes=1:gpus=N"
            if settings.devices.gpus
            else f"{directive.at('gpus')}: --gpus is not offered at this site",
        )
    wanted = granted if directive.gpus == "all" else int(directive.gpus) if directive.gpus.isdigit() else 0
    if not 0 < wanted <= granted:
        raise Refusal(
            "gpus-not-granted", f"{directive.at('gpus')}: --gpus {directive.gpus}: this job was granted {granted}"
        )
    return tuple(str(one) for one in range(wanted))


# -- mounts -----------------------------------------------------------------------------------------------------------


def _below(path: str, prefix: str) -> bool:
    return PurePosixPath(path).is_relative_to(PurePosixPath(prefix))


def _mounts(job: Job, directive: Directive, settings: Config) -> tuple[Mount, ...]:
    mounts = settings.mounts
    made: list[Mount] = []

    def add(source: str, target: str, read_only: bool, origin: str, required: bool, where: str = "") -> None:
        if not any(one.target == target for one in made):
            made.append(
                Mount(source=source, target=target, read_only=read_only, origin=origin,  # type: ignore[arg-type]
                      required=required, where=where)  # literal below
            )  # fmt: skip

    if mounts.home != "none" and job.home not in ("", "/"):
        add(job.home, job.home, mounts.home == "ro", "home", False)
    if job.work_dir and mounts.work_dir and not _covered(job.work_dir, made):
        prefix = _prefix(job.work_dir, mounts.allow)
        if prefix is not None:
            add(job.work_dir, job.work_dir, prefix.endswith(":ro"), "workdir", False)
    if job.tmpdir:
        add(job.tmpdir, job.tmpdir, False, "tmpdir", False)
    if job.nodefile:
        add(job.nodefile, job.nodefile, True, "nodefile", False)
    for entry in mounts.always:
        source, _, rest = entry.partition(":")
        target, _, mode = rest.partition(":")
        add(source, target or source, mode == "ro", "site", True)
    for volume in directive.volumes:
        made = [one for one in made if one.target != volume.target]
        add(volume.source, volume.target, _volume_mode(job, volume, settings, directive), "volume", True,
            f"{directive.filename}:{volume.line}:{volume.column}")  # fmt: skip
    return tuple(made)


def _covered(path: str, mounts: Sequence[Mount]) -> bool:
    return any(_below(path, one.target) for one in mounts)


def _prefix(path: str, allow: Sequence[str]) -> str | None:
    return next((one for one in allow if _below(path, one.removesuffix(":ro"))), None)


def _volume_mode(job: Job, volume: Volume, settings: Config, directive: Directive) -> bool:
    """Whether the volume is read-only; Refusal where it may not be mounted at all, or not for writing."""
    where = f"{directive.filename}:{volume.line}:{volume.column}"
    allow = (*settings.mounts.allow, f"{job.home}:ro" if settings.mounts.home == "ro" else job.home)
    if settings.mounts.home == "none":
        allow = settings.mounts.allow
    prefix = _prefix(volume.source, allow)
    system = volume.source == "/" or any(_below(volume.source, one) for one in (*_SYSTEM, *settings.mounts.deny))
    if prefix is None or system:
        listed = ", ".join(one.removesuffix(":ro") for one in allow) or "no path"
        raise Refusal(
            "mount-not-allowed",
            f"{where}: {volume.source} cannot be mounted; this site allows paths below {listed}",
        )
    if prefix.endswith(":ro") and not volume.read_only:
        raise Refusal(
            "mount-read-only",
            f"{where}: {volume.source} can be mounted for reading only; write {volume.source}:{volume.target}:ro",
        )
    return volume.read_only
