"""``docker run``: decided by the site's policy, made, and run by the container's first process."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial

from pbsdock.agent import first_process, prepare
from pbsdock.agent.call import read_answer
from pbsdock.agent.children import adopt, inner, logs, places
from pbsdock.agent.children.finish import failed, finish, kill
from pbsdock.agent.children.start import bound_of, bring_up
from pbsdock.agent.node import Node
from pbsdock.agent.runs import ChildRun
from pbsdock.agent.shim import bare
from pbsdock.agent.shim.context import Context
from pbsdock.agent.shim.dialogue import Steps, Tell, notice, out
from pbsdock.agent.shim.environment import of_command
from pbsdock.agent.shim.fetch import fetched
from pbsdock.core.child import Child, is_name, new_key
from pbsdock.core.errors import BadValue, HookError, NodeFault, Refusal
from pbsdock.core.pathrules import below
from pbsdock.core.plan import Plan
from pbsdock.core.record import Record
from pbsdock.engine.base import EngineError, ImageFacts
from pbsdock.host import mounts, syscalls
from pbsdock.policy.decide import without_container
from pbsdock.policy.narrow import NOBODY, Own, is_root, narrow
from pbsdock.protocol import init, wire
from pbsdock.s3.environment import variables
from pbsdock.shim.commands import Run, VolumeArg
from pbsdock.shim.refusal import ShimRefusal

_CONTAINER = "container:"
_UNASKED = ("workdir", "tmpdir")  # mounts of a job that none of its lines has asked for
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_STOP_S = 10.0
_KEPT_CHARACTERS = 16 << 10
_LAST_SIGNAL = 64


def run(at: Context, asked: Run) -> Steps:
    """The command. Raises Refusal, NodeFault, EngineError, OSError before anything is left behind."""
    node = at.node
    at.asked.check_terminal(asked)
    _check_name(asked)
    _check_sizes(asked)
    yield from _notices(at, asked)
    given = yield from of_command(at, asked.env, asked.env_files)
    job = at.job
    asked = replace(asked, volumes=tuple(_absolute(volume, at.asked.directory) for volume in asked.volumes))
    whole = without_container(job, node.config, node.host()) if at.asker.record is None else None
    with node.planning.turn(job.uid, job.user):
        plan = narrow(job, _on_ordinary_network(at, asked), _own(at, whole), node.config, node.host(), at.asker.real)
    image = yield from _image(at, asked, plan)
    at.look_again()  # the client may have taken its time, and so may the registry
    argv = _argv(asked, image)
    plan = replace(plan, workdir=asked.workdir or image.workdir or None)
    record = at.asker.record or bare.record_of(node, job)
    node.image_cache.used(image.id, record)
    plan, aliases = _on_network(at, record, asked, plan)
    _make_sources(asked, plan, at)
    key = new_key()
    child = Child(
        key=key,
        name=_name(asked, key),
        plan=plan,
        image_text=asked.image_text,
        image_id=image.id,
        command=_shown(argv),
        labels=asked.labels,
        aliases=aliases,
        created=time.time(),
        bound=tuple(bound_of(node, plan)),
        detached=asked.detach,
        client=(0, 0) if asked.detach else (at.caller.pid, at.caller.started),
        terminal=asked.tty and not asked.detach,
        removes_itself=asked.remove,
        stop_signal=signal_number(asked.stop_signal or image.stop_signal or "TERM"),
        stop_timeout=_STOP_S if asked.stop_timeout is None else float(asked.stop_timeout),
    )
    running, within = bring_up(node, record, child, at.caller, hostname=asked.hostname or "")
    adopt.begin(node, running, at.asked.environment)
    try:
        if asked.cidfile:
            yield from _write_id(at, running, asked.cidfile)
        message = _started(running, child, argv, given, within, at.asked.umask)
        if asked.detach:
            yield from _detached(at, asked, running, child, message)
            return 0
    except GeneratorExit:  # the client is gone; whoever has found that out must not wait for the engine
        _abandoned(node, running)
        raise
    except BaseException:
        with suppress(HookError, EngineError):  # the release, or the reaper, tries again
            kill(node, running)
        raise
    return (yield from _attached(at, asked, running, message))


# -- before anything is made -----------------------------------------------------------------------------------------


def _check_name(asked: Run) -> None:
    if asked.name is not None and not is_name(asked.name):
        raise ShimRefusal(
            f"Invalid container name ({asked.name[:80]}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", 125
        )


def _notices(at: Context, asked: Run) -> Iterator[Tell]:
    if asked.user is not None and is_root(asked.user):
        if at.node.config.shim.root == "refuse":
            raise Refusal(
                "root-refused",
                f"--user {asked.user}: nothing in a job runs as root; leave --user out, and it runs as yourself",
            )
        yield notice(f"docker: --user {asked.user}: a job's containers run as yourself, not as root")
    elif asked.user is not None and asked.user.partition(":")[0] in NOBODY:
        yield notice(f"docker: --user {asked.user}: a job's containers run as yourself")


def _absolute(volume: VolumeArg, directory: str) -> VolumeArg:
    """Without ``..``: as the shell of the one who asks would have it, links left alone."""
    return replace(volume, source=os.path.normpath(os.path.join(directory, volume.source)))


def _own(at: Context, whole: Plan | None) -> Own:
    record = at.asker.record
    if record is None:
        return Own(plan=None, limits=whole.limits if whole else None, places=_places_of_bare(at))
    if record.facts.bare:
        return Own(plan=None, limits=record.planned.limits, places=_places_of_bare(at))
    targets = {mount.target for mount in record.planned.mounts if mount.origin in _UNASKED}
    found = [mount.source for mount in record.facts.bound if mount.target in targets]
    return Own(plan=record.planned, limits=record.planned.limits, places=found)


def _places_of_bare(at: Context) -> list[str]:
    job = at.job
    return [place for place in (job.work_dir, job.tmpdir) if place]


def _on_ordinary_network(at: Context, asked: Run) -> Run:
    """What of the network the site's list decides: not one of the job's own, nor another container's."""
    if asked.network is not None and any(network.name == asked.network for network in at.networks):
        return replace(asked, network=None)
    return asked


def _image(at: Context, asked: Run, plan: Plan) -> Generator[Tell, wire.Message | None, ImageFacts]:
    """The image, fetched if it must be. Raises Refusal, NodeFault, EngineError."""
    node = at.node
    prepare.check_engine(node, node.config)
    facts = node.engine.inspect_image(plan.image) if plan.pull != "always" else None
    if facts is None and plan.pull != "always" and not asked.quiet:
        yield notice(f"Unable to find image '{asked.image_text}' locally")
    image = fetched(node, plan, tells=False)  # a job may start any number
    if facts is None or facts.id != image.id:
        facts = node.engine.inspect_image(image.id)
    if facts is None:
        raise NodeFault("image-gone", f"image {plan.image!r} was removed from {node.name} after it had been fetched")
    return facts


def _argv(asked: Run, image: ImageFacts) -> tuple[str, ...]:
    """Entry point and command: the image's own command is for the image's own entry point. Raises ShimRefusal."""
    own = asked.entrypoint
    entrypoint = image.entrypoint if own is None else (own,) if own else ()
    command = asked.argv or (image.command if own is None else ())
    if not (argv := (*entrypoint, *command)):
        raise ShimRefusal("No command specified: the image has none of its own", 125)
    return argv


def _shown(argv: tuple[str, ...]) -> tuple[str, ...]:
    """As much of it as is remembered, for a person."""
    shown, left = [], _KEPT_CHARACTERS
    for word in argv:
        if left <= 0:
            break
        shown.append(word[:left])
        left -= len(word) + 1
    return tuple(shown)


def _check_sizes(asked: Run) -> None:
    """What a child is remembered with, of which a job may have hundreds. Raises ShimRefusal."""
    for what, texts in (
        ("labels", [text for pair in asked.labels for text in pair]),
        ("mounts", [text for volume in asked.volumes for text in (volume.source, volume.target)]),
        ("tmpfs", [target for target, _ in asked.tmpfs]),
    ):
        if (size := sum(map(len, texts))) > _KEPT_CHARACTERS:
            raise ShimRefusal(f"its {what} have {size} characters; at most {_KEPT_CHARACTERS} are taken", 125)


def _name(asked: Run, key: str) -> str:
    return asked.name or f"job_{key.removeprefix('c')}"


def _on_network(at: Context, record: Record, asked: Run, plan: Plan) -> tuple[Plan, tuple[str, ...]]:
    """The plan with the network as the engine knows it, and the names by which others on it find the child."""
    if asked.network is None:
        return plan, ()
    if asked.network.startswith(_CONTAINER):
        other = at.running(asked.network.removeprefix(_CONTAINER))
        return replace(plan, network=f"{_CONTAINER}{other.id}", credentials_port=0), ()
    for network in at.networks:
        if network.name == asked.network:
            names = dict.fromkeys((*((asked.name,) if asked.name else ()), *asked.network_aliases))
            return replace(plan, network=network.engine_name, credentials_port=0), tuple(names)
    return plan, ()


def _make_sources(asked: Run, plan: Plan, at: Context) -> None:
    """Make the directories that ``-v`` names and that are not there, as Docker does, but as the user."""
    wanted = {at.asker.real(volume.source) for volume in asked.volumes if volume.makes_source}
    user = mounts.User.of(plan)
    for mount in plan.mounts:
        if mount.source in wanted and mount.origin in ("volume", "workdir"):
            with suppress(OSError), syscalls.filesystem_user(user.uid, user.gid, user.groups):
                os.makedirs(mount.source, exist_ok=True)


# -- when its gate is open -------------------------------------------------------------------------------------------


def _write_id(at: Context, running: ChildRun, path: str) -> Generator[Tell, wire.Message | None, None]:
    child = at.node.children.child(running.record.name, running.name)
    identifier = child.id if child is not None else ""
    answer = yield Tell(wire.Message("write", path=path, text=identifier, mode="644", how="new"), is_answered=True)
    if answer is None or answer.op == "failed":
        why = answer.text("reason") if answer is not None else "no answer"
        exists = answer is not None and answer.number("errno") == errno.EEXIST
        said = (
            f"container ID file found, make sure the other container isn't running or delete {path}"
            if exists
            else f"failed to create the container ID file {path}: {why}"
        )
        raise ShimRefusal(said, 125)


def _started(
    running: ChildRun,
    child: Child,
    argv: tuple[str, ...],
    given: Mapping[str, str],
    within: Mapping[int, tuple[int, int]],
    umask: int,
) -> wire.Message:
    """What runs in it, and how."""
    plan = child.plan
    environment = {"PATH": _PATH, **first_process.environment_of(running.pid), "HOME": _home(plan)}
    if child.terminal:
        environment["TERM"] = "xterm"
    environment = {**environment, **variables(plan), **given}
    if sum(len(name) + len(value) for name, value in environment.items()) <= _KEPT_CHARACTERS:
        running.environment = environment  # else docker exec asks the kernel for it
    message = wire.Message("started", name=first_process.LEADER, leader=1, child=running.key, umask=umask)
    return inner.commanded(message, argv, environment, plan.workdir or "/", within)


def _home(plan: Plan) -> str:
    """The user's where the container has it, else where everybody may write."""
    return plan.home if any(below(plan.home, mount.target) for mount in plan.mounts) else "/tmp"  # noqa: S108


def _attached(
    at: Context, asked: Run, running: ChildRun, message: wire.Message
) -> Generator[Tell, wire.Message | None, int]:
    node, session = at.node, at.session
    inner.of_client(message, interactive=asked.interactive, terminal=asked.tty, proxy=asked.sig_proxy)
    running.abandon = partial(_abandoned, node, running)
    session.running = running
    running.join(session.channel)
    directory = first_process.open_directory(places.init_dir(node, running.record, running.name))
    answer = yield Tell(message, (directory,), is_answered=True)
    running.abandon = None
    if answer is not None and answer.op == "left":
        kill(node, running)
        yield notice("docker: the container was ended: with a terminal none runs on in a job; start it with --detach")
        return 0
    if answer is not None and answer.text("kind"):
        try:
            running.said = read_answer(answer)
        except BadValue:  # a client of the user's own making, which leaves nobody who waits for it
            kill(node, running)
            raise
    elif running.is_alive():
        kill(node, running)
    said = running.said
    code = finish(node, running)
    if said is not None and said.kind == init.FAILED:
        yield notice(f"docker: {failed(said)[1]}")
    return code


def _abandoned(node: Node, running: ChildRun) -> None:
    def act() -> None:
        with suppress(HookError, EngineError):  # the mender tries again, and the release
            kill(node, running)

    node.later.soon(act)


def _detached(
    at: Context, asked: Run, running: ChildRun, child: Child, message: wire.Message
) -> Generator[Tell, wire.Message | None, None]:
    """Have it run with nobody waiting, and tell its id. Raises ShimRefusal, NodeFault, OSError."""
    node, record = at.node, running.record
    place = places.init_dir(node, record, child.key)
    fds = logs.make(node, record, child)
    try:
        fds.insert(0, inner.endless_input() if asked.interactive else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
        end = inner.run_here(place, running.pid, message, fds)
    finally:
        logs.close_all(fds)
    running.begins_by = 0.0
    now = node.children.child(record.name, child.key)
    yield out(f"{now.id if now is not None else child.id}\n")  # Docker has it printed of one that failed, too
    if end is not None:
        running.said = end
        code, why = failed(end)
        finish(node, running)
        raise ShimRefusal(why, code)


def signal_number(name: str) -> int:
    """The number of ``TERM``, ``SIGTERM``, ``RTMIN+3`` or ``15``. Raises ShimRefusal."""
    text = name.upper().removeprefix("SIG")
    base, plus, more = text.partition("+")
    if text.isascii() and text.isdigit() and 0 < int(text) <= _LAST_SIGNAL:
        return int(text)
    try:
        number = int(getattr(signal, f"SIG{base}")) + (int(more) if plus else 0)
    except (AttributeError, ValueError):
        number = 0
    if not 0 < number <= _LAST_SIGNAL:
        raise ShimRefusal(f"Invalid signal: {name[:40]}", 1)
    return number
