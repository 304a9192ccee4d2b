"""What ``inspect``, ``version`` and ``info`` show: plain JSON types under Docker's names. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from pbsdock.core.child import Child, ChildNetwork, ChildState

_API = "1.41"
_NEVER = "0001-01-01T00:00:00Z"  # as Docker writes a moment that has not been
STATES: Mapping[ChildState, str] = {
    ChildState.CREATED: "created",
    ChildState.RUNNING: "running",
    ChildState.EXITED: "exited",
}


def container(child: Child, *, network: str, address: str, environment: Sequence[str]) -> dict[str, Any]:
    """Of a container of the job's; *network* is the user's name for it, *environment* ``NAME=value``."""
    limits = child.plan.limits
    return {
        "Id": child.id,
        "Created": moment(child.created),
        "Path": child.command[0] if child.command else "",
        "Args": list(child.command[1:]),
        "State": {
            "Status": STATES[child.state],
            "Running": child.state is ChildState.RUNNING,
            "Paused": False,
            "Restarting": False,
            "OOMKilled": child.oom,
            "Dead": False,
            "Pid": child.pid,
            "ExitCode": child.code,
            "Error": "",
            "StartedAt": moment(child.started),
            "FinishedAt": moment(child.ended),
        },
        "Image": child.image_id,
        "Name": f"/{child.name}",
        "RestartCount": 0,
        "Platform": "linux",
        "HostConfig": {
            "NetworkMode": network,
            "Memory": limits.memory_bytes or 0,
            "NanoCpus": (limits.cpu_millis or 0) * 1_000_000,
            "CpusetCpus": limits.cpuset or "",
            "PidsLimit": limits.pids,
            "ShmSize": limits.shm_bytes,
            "ReadonlyRootfs": child.plan.read_only_root,
            "AutoRemove": child.removes_itself,
            "Privileged": False,
            "Binds": [f"{mount.source}:{mount.target}{':ro' if mount.read_only else ''}" for mount in child.bound],
        },
        "Mounts": [
            {
                "Type": "bind",
                "Source": mount.source,
                "Destination": mount.target,
                "Mode": "ro" if mount.read_only else "",
                "RW": not mount.read_only,
                "Propagation": "rprivate",
            }
            for mount in child.bound
        ],
        "Config": {
            "Hostname": child.short,
            "User": f"{child.plan.uid}:{child.plan.gid}",
            "Tty": child.terminal,
            "Env": list(environment),
            "Cmd": list(child.command),
            "Image": child.image_text,
            "WorkingDir": child.plan.workdir or "",
            "Labels": dict(child.labels),
        },
        "NetworkSettings": {"IPAddress": address, "Networks": {network: {"IPAddress": address}}},
    }


def image(
    *,
    id: str,
    tags: Sequence[str],
    digests: Sequence[str],
    created: float | None,
    architecture: str,
    size: int,
    command: Sequence[str],
    entrypoint: Sequence[str],
    workdir: str,
    stop_signal: str,
) -> dict[str, Any]:
    """Of an image; seconds since the epoch, bytes."""
    return {
        "Id": id,
        "RepoTags": list(tags),
        "RepoDigests": list(digests),
        "Created": moment(created),
        "Architecture": architecture,
        "Os": "linux",
        "Size": size,
        "Config": {
            "Cmd": list(command),
            "Entrypoint": list(entrypoint),
            "WorkingDir": workdir,
            "StopSignal": stop_signal,
        },
    }


def network(found: ChildNetwork) -> dict[str, Any]:
    """Of a network of the job's."""
    return {
        "Name": found.name,
        "Id": found.id,
        "Created": moment(found.created),
        "Scope": "local",
        "Driver": "bridge",
        "Internal": found.is_internal,
    }


def version(*, engine: str, own: str, machine: str) -> dict[str, Any]:
    """Of the client and the engine behind it."""
    both = {"Version": engine, "ApiVersion": _API, "Os": "linux", "Arch": machine}
    return {"Client": {**both, "Pbsdock": own}, "Server": both}


def info(
    *,
    job: str,
    node: str,
    engine: str,
    architecture: str,
    cgroup_driver: str,
    cgroup_version: int,
    runtime: str,
    cpus: int,
    memory_bytes: int,
    running: int,
    over: int,
) -> dict[str, Any]:
    """Of what the job has, not the node."""
    return {
        "Containers": running + over,
        "ContainersRunning": running,
        "ContainersPaused": 0,
        "ContainersStopped": over,
        "ServerVersion": engine,
        "OSType": "linux",
        "Architecture": architecture,
        "NCPU": cpus,
        "MemTotal": memory_bytes,
        "CgroupDriver": cgroup_driver,
        "CgroupVersion": str(cgroup_version),
        "Name": node,
        "DefaultRuntime": runtime,
        "Swarm": {"LocalNodeState": "inactive"},
        "Job": job,
    }


def moment(seconds: float | None) -> str:
    """Seconds since the epoch as Docker writes them."""
    if seconds is None:
        return _NEVER
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):  # an image may name any time
        return _NEVER
