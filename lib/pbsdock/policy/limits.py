"""Policy on limits: what the scheduler granted, what the site allows, what the host has -> what the cgroup enforces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pbsdock.config.tables import LEAST_MEMORY, LimitsConfig
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.plan import Limits, Mount, Plan, Tmpfs
from pbsdock.directive.parse import Directive
from pbsdock.policy.host import HostFacts, plain, position
from pbsdock.rm.base import Job

_TMP = "/tmp"  # noqa: S108 - the container's own
# A multiple of every page size that neither the engine's int64 nor the kernel's counters overflow: a job that asks for
# more than that is not a fault of the node.
_MOST_SWAP = 1 << 60
_MOST_SIZE = (1 << 63) - 1  # of a C long, which is what the kernel's and the engine's sizes are


def limits_of(job: Job, directive: Directive, settings: LimitsConfig, host: HostFacts) -> Limits:
    """Decide the job's limits on this host. Raises Refusal; NodeFault if the site leaves no memory to anybody."""
    memory = _memory(job, settings, host)
    limits = Limits(
        memory_bytes=memory,
        memory_swap_bytes=_swap(job, settings, memory),
        cpu_millis=_cpu(job, settings, host),
        cpuset=None,
        pids=settings.pids,
        shm_bytes=_shm(directive, settings, memory, host),
    )
    return limits if host.free_cpus is None else with_cpus(limits, settings, host.free_cpus)


def with_cpus(limits: Limits, settings: LimitsConfig, free: Sequence[int]) -> Limits:
    """The same limits with as many CPUs of the job's own, where the site wants that and enough are free.

    The one part of a decision that depends on what the other jobs got.
    """
    count = (limits.cpu_millis or 0) // 1000
    if settings.cpu != "cpuset" or not 0 < count <= len(free):
        return limits
    return replace(limits, cpu_millis=None, cpuset=",".join(str(cpu) for cpu in sorted(free)[:count]))


def regranted(plan: Plan, job: Job, settings: LimitsConfig, host: HostFacts) -> Limits:
    """The limits of a job that is planned already, by what is now known to be granted to it, without CPUs of its own.

    Raises Refusal; NodeFault as :func:`limits_of`.
    """
    before = plan.limits
    memory = _memory(job, settings, host)
    most = memory or host.memory_bytes
    for tmpfs in plan.tmpfs:
        if tmpfs.size_bytes is not None and tmpfs.size_bytes > most:
            raise Refusal("tmpfs-too-large", _too_large(tmpfs, most))
    most_shm = _most_shm(settings, memory, host)
    is_default = before.shm_bytes == _default_shm(settings, _most_shm(settings, before.memory_bytes, host))
    if not is_default and before.shm_bytes > most_shm:
        sentence = f"--shm-size asks for {before.shm_bytes} bytes; this job may have {most_shm}"
        raise Refusal("shm-too-large", sentence)
    return replace(
        before,
        memory_bytes=memory,
        memory_swap_bytes=_swap(job, settings, memory),
        cpu_millis=_cpu(job, settings, host),
        cpuset=None,
        shm_bytes=_default_shm(settings, most_shm) if is_default else before.shm_bytes,
    )


def _memory(job: Job, settings: LimitsConfig, host: HostFacts) -> int | None:
    most = host.memory_bytes - settings.reserve_memory
    if settings.max_memory:
        most = min(most, settings.max_memory)
    if most < LEAST_MEMORY:
        raise NodeFault(
            "no-memory-for-jobs",
            f"limits.reserve_memory keeps {settings.reserve_memory} of the {host.memory_bytes} bytes of {host.node};"
            " that leaves nothing for a job",
        )
    key, memory = job.grant.memory_from, job.grant.memory_bytes
    if memory is None:
        if settings.default_memory:
            return min(settings.default_memory, most)
        # A job that asks for nothing must not get more than one that asks.
        return most if settings.max_memory or settings.reserve_memory else None
    if memory > _MOST_SIZE:
        asked = job.grant.memory_text or str(memory)
        raise Refusal(
            "memory-too-large",
            f"{key}={asked[:80]} is no size that a node can have, and {job.words.impossible_size}; a container may have"
            f" {most} bytes on {host.node}",
        )
    if memory > most:
        raise Refusal(
            "memory-too-large", f"{key} asks for {memory} bytes on {host.node}; a container may have {most} there"
        )
    if memory < LEAST_MEMORY:
        raise Refusal("memory-too-small", f"{key} asks for {memory} bytes; the engine needs at least 6mb")
    return memory


def _swap(job: Job, settings: LimitsConfig, memory: int | None) -> int | None:
    if memory is None:
        return None
    granted = job.grant.memory_swap_bytes
    if settings.swap == "as-vmem" and granted is not None:
        return max(memory, min(granted, _MOST_SWAP))
    return memory


def _cpu(job: Job, settings: LimitsConfig, host: HostFacts) -> int | None:
    """CPU time in thousandths of a CPU; a node's np may exceed its CPUs."""
    if settings.cpu == "none":
        return None
    most = max(host.cpus, 1)
    return (most if job.grant.whole_node else min(max(job.grant.cpus, 1), most)) * 1000


def _most_shm(settings: LimitsConfig, memory: int | None, host: HostFacts) -> int:
    most = memory or host.memory_bytes
    return min(most, settings.max_shm) if settings.max_shm else most


def _default_shm(settings: LimitsConfig, most: int) -> int:
    return min(settings.shm or max(most // 2, 1), most)


def _shm(directive: Directive, settings: LimitsConfig, memory: int | None, host: HostFacts) -> int:
    most = _most_shm(settings, memory, host)
    if directive.shm_size is None:
        return _default_shm(settings, most)
    if directive.shm_size > most:
        raise Refusal(
            "shm-too-large",
            f"{directive.at('shm-size')}: --shm-size asks for {directive.shm_size} bytes; this job may have {most}",
        )
    return directive.shm_size


def tmpfs_of(directive: Directive, limits: Limits, host: HostFacts, mounts: Sequence[Mount]) -> tuple[Tmpfs, ...]:
    """The tmpfs a directive asks for, each within the job's memory. Raises Refusal."""
    most = limits.memory_bytes or host.memory_bytes
    made = [Tmpfs(target=plain(tmpfs.target), size_bytes=tmpfs.size_bytes) for tmpfs in directive.tmpfs]
    for index, tmpfs in enumerate(made):
        if tmpfs.size_bytes is not None and tmpfs.size_bytes > most:
            raise Refusal(
                "tmpfs-too-large",
                f"{position(directive, 'tmpfs', index)}: {_too_large(tmpfs, most)}",
            )
    taken = {tmpfs.target for tmpfs in made} | {mount.target for mount in mounts}
    if directive.read_only and _TMP not in taken:
        made.append(Tmpfs(target=_TMP, size_bytes=None))  # most programs need one they can write to
    return tuple(made)


def _too_large(tmpfs: Tmpfs, most: int) -> str:
    return f"--tmpfs {tmpfs.target} asks for {tmpfs.size_bytes} bytes; it lives in the job's memory of {most}"
