"""What the Docker Engine answers, in the terms of every engine. Pure. Source: the Engine API reference, 1.41."""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Literal

from pbsdock.engine.base import (
    ContainerState,
    EngineCapabilities,
    EngineEvent,
    EventKind,
    ExecState,
    Failure,
    FoundFile,
    ImageFacts,
    ListedContainer,
    ListedImage,
    ListedNetwork,
)

_STARTS = ("attach", "start", "exec start")
_EXEC = re.compile(r'\bexec: "')
# The last two are crun's (1.8 to 1.21), as is "chdir `"; the others runc's.
_NO_PROGRAM = re.compile(
    r"no such file or directory|permission denied|too many levels of symbolic"
    r"|executable file `[^`]*` not found|open executable: "
)
_NO_DIRECTORY = re.compile(r"\bchdir(?: to|:| `)|\bset cwd\b|[Cc]annot mkdir: ")
# Where NVIDIA's container toolkit is not there: the words of engines up to 28, and of 29, which asks CDI.
_NO_GPUS = re.compile(r"could not select device driver|discover GPU vendor|unresolvable CDI devices")
_GPUS_FAILED = re.compile(r"nvidia-container-(?:cli|runtime)|\bnvml error\b")
_KINDS = {"die": EventKind.CONTAINER_DIED, "exec_die": EventKind.EXEC_DIED, "oom": EventKind.OUT_OF_MEMORY}
EVENTS = tuple(_KINDS)  # the actions worth asking for


def message(answer: bytes) -> str:
    """What the engine says of an error: ``{"message": …}``, unless something between us answered in its stead."""
    try:
        return str(json.loads(answer)["message"])
    except (ValueError, KeyError, TypeError):
        return answer.decode("utf-8", "replace").strip()[:400]


def failure(doing: str, status: int, text: str) -> Failure:
    """Why the engine refused to do this; only its sentence, or its runtime's in it, tells (Engine 20.10 to 28)."""
    if doing in _STARTS and _EXEC.search(text):  # before the others: the name in it is the user's
        return Failure.NO_PROGRAM
    if doing in (*_STARTS, "create") and _NO_GPUS.search(text):
        return Failure.NO_GPUS
    if doing in _STARTS and _GPUS_FAILED.search(text):
        return Failure.GPUS_FAILED
    if doing in (*_STARTS, "create") and _NO_DIRECTORY.search(text):
        return Failure.NO_DIRECTORY
    if _NO_PROGRAM.search(text) and (doing == "exec start" or (doing in _STARTS and "mount" not in text)):
        return Failure.NO_PROGRAM
    if status == 404 and "image" in text.lower():
        return Failure.IMAGE_GONE
    if doing == "network remove" and "active endpoints" in text:
        return Failure.IN_USE
    if "network" in text and "not found" in text:
        return Failure.NO_NETWORK
    return Failure.OTHER


# In engines of old without "name=" (Engine API, SystemInfo.SecurityOptions).
_USER_NAMESPACE = ("name=userns", "userns")


def capabilities(info: Mapping[str, Any]) -> EngineCapabilities:
    """Of ``GET /info``. An engine that names no version of cgroups is older than 20.10 and knows the first only."""
    return EngineCapabilities(
        version=str(info.get("ServerVersion") or ""),
        architecture=str(info.get("Architecture") or ""),
        cgroup_driver=str(info.get("CgroupDriver") or ""),
        cgroup_version=2 if str(info.get("CgroupVersion")) == "2" else 1,
        root_dir=str(info.get("DockerRootDir") or ""),
        security_options=tuple(str(option) for option in info.get("SecurityOptions") or ()),
        live_restore=bool(info.get("LiveRestoreEnabled")),
        runtimes=tuple(sorted(info.get("Runtimes") or ())),
        default_runtime=str(info.get("DefaultRuntime") or ""),
        maps_user_ids=any(str(option).split(",")[0] in _USER_NAMESPACE for option in info.get("SecurityOptions") or ()),
    )


def components(version: Mapping[str, Any]) -> dict[str, str]:
    """Name -> version, of ``GET /version``."""
    return {str(part["Name"]): str(part["Version"]) for part in version.get("Components") or []}


def container_state(inspected: Mapping[str, Any]) -> ContainerState:
    """Of ``GET /containers/ID/json``."""
    state = inspected.get("State") or {}
    return ContainerState(
        is_running=bool(state.get("Running")),
        pid=int(state.get("Pid") or 0),
        exit_code=int(state.get("ExitCode") or 0),
        out_of_memory=bool(state.get("OOMKilled")),
        started_at=moment(state.get("StartedAt")),
        finished_at=moment(state.get("FinishedAt")),
        error=str(state.get("Error") or ""),
        address=_address((inspected.get("NetworkSettings") or {}).get("Networks")),
    )


def _address(networks: object) -> str:
    if not isinstance(networks, dict):
        return ""
    return next((str(found["IPAddress"]) for found in networks.values() if found and found.get("IPAddress")), "")


def exec_state(inspected: Mapping[str, Any]) -> ExecState:
    """Of ``GET /exec/ID/json``."""
    code = inspected.get("ExitCode")
    return ExecState(
        container_id=str(inspected.get("ContainerID") or ""),
        is_running=bool(inspected.get("Running")),
        pid=int(inspected.get("Pid") or 0),
        exit_code=None if code is None else int(code),
    )


def image_facts(inspected: Mapping[str, Any]) -> ImageFacts:
    """Of ``GET /images/NAME/json``."""
    config = inspected.get("Config") or {}
    return ImageFacts(
        id=str(inspected["Id"]),
        digests=tuple(str(digest) for digest in inspected.get("RepoDigests") or ()),
        architecture=str(inspected.get("Architecture") or ""),
        size_bytes=int(inspected.get("Size") or 0),
        tags=_named(inspected.get("RepoTags")),
        created_at=moment(inspected.get("Created")),
        entrypoint=_words(config.get("Entrypoint")),
        command=_words(config.get("Cmd")),
        workdir=str(config.get("WorkingDir") or ""),
        stop_signal=str(config.get("StopSignal") or ""),
    )


def _words(found: object) -> tuple[str, ...]:
    return tuple(str(word) for word in found) if isinstance(found, list) else ()


def _named(names: object) -> tuple[str, ...]:
    """Those that are names: what has none is written ``<none>``."""
    return tuple(name for name in _words(names) if "<none>" not in name)


def listed_network(network: Mapping[str, Any]) -> ListedNetwork:
    """Of one entry of ``GET /networks``."""
    return ListedNetwork(
        id=str(network["Id"]),
        name=str(network.get("Name") or ""),
        labels=network.get("Labels") or {},
        created_at=moment(network.get("Created")) or time.time(),
    )


def listed_image(image: Mapping[str, Any]) -> ListedImage:
    """Of ``GET /images/json``."""
    return ListedImage(
        id=str(image["Id"]),
        tags=_named(image.get("RepoTags")),
        digests=_named(image.get("RepoDigests")),
        size_bytes=int(image.get("Size") or 0),
        created_at=float(image.get("Created") or 0),
    )


def first_file(archive: bytes) -> FoundFile | None:
    """What a tar archive that may be cut off begins with; None if that is no header."""
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as tar:
            found = tar.next()
    except (tarfile.TarError, ValueError):
        return None
    if found is None:
        return None
    kind: Literal["file", "directory", "link", "other"] = "other"
    if found.isreg() or found.islnk():
        kind = "file"
    elif found.isdir():
        kind = "directory"
    elif found.issym():
        kind = "link"
    head = archive[found.offset_data : found.offset_data + found.size] if kind == "file" else b""
    return FoundFile(
        kind=kind,
        mode=found.mode,
        uid=found.uid,
        gid=found.gid,
        link=found.linkname if kind == "link" else "",
        head=head,
    )


def listed(container: Mapping[str, Any]) -> ListedContainer:
    """Of one entry of ``GET /containers/json``; one without a time is taken for new, which the reaper spares."""
    created = container.get("Created")
    return ListedContainer(
        id=str(container["Id"]),
        labels=container.get("Labels") or {},
        created_at=time.time() if created is None else float(created),
    )


def events(chunks: Iterable[bytes]) -> Iterator[EngineEvent]:
    """Of the lines of ``GET /events``, however they are cut. Raises ValueError for one that is no JSON."""
    buffer = b""
    for chunk in chunks:
        buffer += chunk
        *lines, buffer = buffer.split(b"\n")
        for line in lines:
            if line.strip() and (event := _event(json.loads(line))) is not None:
                yield event


def _event(said: Mapping[str, Any]) -> EngineEvent | None:
    actor = said.get("Actor") or {}
    attributes = actor.get("Attributes") or {}  # the labels and, among them, the engine's own
    kind = _KINDS.get(said.get("Action", ""))
    if kind is None:
        return None
    code = attributes.get("exitCode", "")
    at = said.get("timeNano")
    return EngineEvent(
        kind=kind,
        container_id=str(actor.get("ID") or ""),
        exec_id=attributes.get("execID", ""),
        exit_code=int(code) if code.isdigit() else None,
        labels=attributes,
        at=None if at is None else int(at) / 1e9,
    )


def moment(text: object) -> float | None:
    """A time as the engine writes it, RFC 3339 with nanoseconds; None for the year 1, its "never", and for no time."""
    try:
        found = datetime.fromisoformat(f"{str(text)[:19]}+00:00").timestamp()
        fraction = str(text)[19:].rstrip("Z")
        return None if found <= 0 else found + (float(f"0{fraction}") if fraction[:1] == "." else 0.0)
    except ValueError:
        return None
