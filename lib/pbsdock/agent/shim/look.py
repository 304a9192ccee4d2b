"""``docker ps``, ``images``, ``inspect``, ``version``, ``info``: what a job may see, its own and the node's images."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pbsdock.agent.shim.context import Context
from pbsdock.agent.shim.dialogue import Steps, notice, out
from pbsdock.agent.shim.execute import environment_of
from pbsdock.agent.version import version as own_version
from pbsdock.config.tables import ImagesConfig
from pbsdock.core.child import Child
from pbsdock.core.errors import HookError
from pbsdock.directive.image_ref import BadImage, parse_image
from pbsdock.engine.base import ContainerState, EngineError, ImageFacts, ListedImage
from pbsdock.policy.decide import effective, image_matches
from pbsdock.shim import inspected, tables
from pbsdock.shim.commands import Images, Info, Inspect, Ps, Version
from pbsdock.shim.filters import select_containers, select_images
from pbsdock.shim.refusal import FAILED, ShimRefusal
from pbsdock.shim.rows import ContainerRow, ImageRow

_HUB, _LIBRARY = "docker.io/", "docker.io/library/"


def ps(at: Context, asked: Ps) -> Steps:
    """The job's containers, its own left out: that is where it runs."""
    rows = select_containers([_row(at, child) for child in at.children], asked)
    yield out(tables.containers(rows, time.time(), format_=asked.format, quiet=asked.quiet, no_trunc=asked.no_trunc))
    return 0


def images(at: Context, asked: Images) -> Steps:
    """The images of the node that the job may run."""
    rows = select_images(_image_rows(at), asked)
    yield out(
        tables.images(
            rows,
            time.time(),
            format_=asked.format,
            quiet=asked.quiet,
            no_trunc=asked.no_trunc,
            digests=asked.digests,
        )
    )
    return 0


def inspect(at: Context, asked: Inspect) -> Steps:
    """Each by whatever it is: a container, an image, a network of the job's."""
    found, missing = [], []
    for name in asked.names:
        value = _inspected(at, name, asked.type)
        if value is None:
            missing.append(name)
        else:
            found.append(value)
    if found or not asked.format:
        yield out(tables.objects(found, asked.format))
    for name in missing:
        yield notice(f"Error: No such {asked.type or 'object'}: {name}")
    return FAILED if missing else 0


def version(at: Context, asked: Version) -> Steps:
    """What the client is, and the engine behind it."""
    try:
        engine = at.node.engine_info().version
    except (HookError, EngineError):
        engine = "unknown"
    told = inspected.version(engine=engine, own=own_version(), machine=_machine())
    if asked.short:
        yield out(f"Docker version {engine}, pbsdock {own_version()}\n")
    elif asked.format:
        yield out(tables.one_object(told, asked.format))
    else:
        yield out(
            f"Client: pbsdock's docker for jobs\n Version:    {own_version()}\n OS/Arch:    linux/{_machine()}\n\n"
            f"Server: Docker Engine\n Version:    {engine}\n OS/Arch:    linux/{_machine()}\n"
        )
    return 0


def info(at: Context, asked: Info) -> Steps:
    """What the job has: its containers and its limits, not the node's."""
    engine = at.node.engine_info()
    record = at.asker.record
    limits = record.planned.limits if record is not None else None
    children = at.children
    running = sum(not child.is_over for child in children)
    told = inspected.info(
        job=at.asker.live.id,
        node=at.node.name,
        engine=engine.version,
        architecture=engine.architecture,
        cgroup_driver=engine.cgroup_driver,
        cgroup_version=engine.cgroup_version,
        runtime=engine.default_runtime,
        cpus=(limits.cpu_millis or 0) // 1000 if limits and limits.cpu_millis else os.cpu_count() or 1,
        memory_bytes=(limits.memory_bytes or 0) if limits else 0,
        running=running,
        over=len(children) - running,
    )
    if asked.format:
        yield out(tables.one_object(told, asked.format))
    else:
        lines = [f" {name}: {value}" for name, value in told.items() if not isinstance(value, list | dict)]
        yield out("\n".join(["Server:", *lines]) + "\n")
    return 0


# -- containers -------------------------------------------------------------------------------------------------------


def _row(at: Context, child: Child) -> ContainerRow:
    return ContainerRow(
        id=child.id,
        image=child.image_text,
        image_id=child.image_id,
        command=" ".join(child.command),
        created=child.created,
        started=child.started,
        finished=child.ended,
        state=inspected.STATES[child.state],
        exit_code=child.code,
        names=(child.name,),
        labels=dict(child.labels),
        networks=(_network_of(at, child),),
        mounts=tuple(mount.source for mount in child.bound),
    )


def _network_of(at: Context, child: Child) -> str:
    """By the user's name for it."""
    own = {network.engine_name: network.name for network in at.networks}
    return own.get(child.plan.network, child.plan.network)


def _inspected(at: Context, name: str, kind: str) -> dict[str, Any] | None:
    if kind in ("", "container"):
        try:
            return _container(at, at.child(name))
        except ShimRefusal as error:
            if "multiple" in error.sentence:
                raise
    if kind in ("", "image") and (facts := _image(at, name)) is not None:
        return _image_told(facts)
    if kind in ("", "network"):
        with suppress(ShimRefusal):
            return inspected.network(at.network(name))
    return None


def _container(at: Context, child: Child) -> dict[str, Any]:
    return inspected.container(
        child, network=_network_of(at, child), address=_address(at, child), environment=_environment(child)
    )


def _environment(child: Child) -> list[str]:
    try:
        return [f"{name}={value}" for name, value in environment_of(child).items()] if not child.is_over else []
    except OSError:
        return []


def _address(at: Context, child: Child) -> str:
    if child.is_over:
        return ""
    try:
        found: ContainerState | None = at.node.engine.inspect(child.id)
    except (HookError, EngineError):
        return ""
    return found.address if found is not None else ""


# -- images -----------------------------------------------------------------------------------------------------------


def _image_rows(at: Context) -> Iterator[ImageRow]:
    settings = effective(at.node.config, at.job).images
    for listed in at.node.engine.images():
        for name in listed.tags:
            if (row := _image_row(at, settings, listed, name)) is not None:
                yield row


def _image_row(at: Context, settings: ImagesConfig, listed: ListedImage, name: str) -> ImageRow | None:
    """None for one that is not the job's to run, as far as the node itself knows."""
    try:
        reference = parse_image(name)
    except BadImage:
        return None
    is_denied = any(image_matches(reference, pattern) for pattern in settings.deny)
    if is_denied or not any(image_matches(reference, pattern) for pattern in settings.allow):
        return None
    if at.node.images.private.holds(reference.name, listed.id):
        return None  # fetched by somebody's own right
    repository = reference.name.removeprefix(_LIBRARY).removeprefix(_HUB)
    digest = next((item.rpartition("@")[2] for item in listed.digests if item.rpartition("@")[0] == repository), "")
    return ImageRow(
        id=listed.id,
        repository=repository,
        tag=reference.tag or "",
        digest=digest,
        created=listed.created_at,
        size=listed.size_bytes,
    )


def _image(at: Context, name: str) -> ImageFacts | None:
    """One that is listed, by name or id."""
    bare = name.removeprefix("sha256:")
    try:
        wanted = parse_image(name).canonical
    except BadImage:
        wanted = ""
    for row in _image_rows(at):
        is_wanted = wanted == parse_image(f"{row.repository}:{row.tag}").canonical
        if is_wanted or row.id.removeprefix("sha256:").startswith(bare):
            return at.node.engine.inspect_image(row.id)
    return None


def _image_told(facts: ImageFacts) -> dict[str, Any]:
    return inspected.image(
        id=facts.id,
        tags=facts.tags,
        digests=facts.digests,
        created=facts.created_at,
        architecture=facts.architecture,
        size=facts.size_bytes,
        command=facts.command,
        entrypoint=facts.entrypoint,
        workdir=facts.workdir,
        stop_signal=facts.stop_signal,
    )


def _machine() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
