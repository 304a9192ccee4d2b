"""Have the engine create and start a job's container, and say whose fault it is where it does not."""

from __future__ import annotations

import functools
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from pbsdock.agent.programs import USUAL_PATH, Cause, Image
from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.plan import Plan
from pbsdock.engine.base import ContainerEngine, ContainerSpec, EngineError, Failure, FoundFile
from pbsdock.engine.spec import Call, closed_workdir, entrypoint

_LOOK_S = 5.0
_WORDS_S, _WORDS_BYTES = 0.5, 4096
_FRAME = 8  # bytes of a frame's header

MakeSpec = Callable[[bool], ContainerSpec]  # whether the command is behind a shell line


def launch(
    engine: ContainerEngine,
    name: str,
    spec: MakeSpec,
    *,
    before_start: Callable[[], None],
    failed: Callable[[EngineError], NodeFault | Refusal],
    no_program: Callable[[str], Refusal],
) -> tuple[socket.socket, str]:
    """Create, attach, start; returns the streams and the container's id.

    An image without /bin/sh gets its command bare, with runc's own umask. *before_start* is called when only the start
    is left to do. A container that was made is the caller's to remove, whatever comes of it. Raises what *failed* makes
    of an error of the engine's, and what *no_program* makes of the program that cannot be run.
    """
    for wrapped in (True, False):
        asked = spec(wrapped)
        try:
            identifier = engine.create(asked, name)
        except EngineError as error:
            raise failed(error) from None
        try:
            return _started(engine, identifier, before_start), identifier
        except EngineError as error:
            if error.failure is not Failure.NO_PROGRAM:
                raise failed(error) from None
        if not wrapped or asked.entrypoint:  # of which the engine speaks, whatever is behind it
            raise no_program(first_program(asked))
        engine.remove(identifier)
    raise AssertionError("unreachable")


def waiting_pid(engine: ContainerEngine, identifier: str) -> int:
    """The process id of the first process of our own in a container that was started. Raises NodeFault, EngineError."""
    found = engine.inspect(identifier)
    if found is None or found.pid <= 0:
        said = f"it ended with {found.exit_code}; {found.error}" if found else "it was removed"
        raise NodeFault("first-process", f"the container's first process is not there: {said}")
    return found.pid


def first_program(spec: ContainerSpec) -> str:
    """What the engine is to run."""
    return (*spec.entrypoint, *spec.argv)[0]


def _started(engine: ContainerEngine, identifier: str, before_start: Callable[[], None]) -> socket.socket:
    stream = engine.attach(identifier)
    try:
        before_start()
        engine.start(identifier)
    except BaseException:
        stream.close()
        raise
    return stream


def no_program(plan: Plan, call: Call, program: str, cause: Cause | None) -> Refusal:
    """For a program that the image cannot run; *cause* is why, where that was found out. Pure."""
    is_entrypoint = program == next(iter(entrypoint(plan.entrypoint or "")), None)
    cure = "" if is_entrypoint or len(call.argv) != 1 else f"; choose a shell it has with {call.shell_option}"
    what = "the entry point: " if is_entrypoint else ""
    if cause is None or (not is_entrypoint and cause.says == f"there is no {program}"):
        what = "entry point " if is_entrypoint else ""
        return Refusal("no-such-program", f"image {plan.image!r} has no {what}{program} that can be run{cure}")
    if cause.code == "no-such-program" and program.startswith("/"):
        cure = cure or "; name a program that it has"
    return Refusal(cause.code, f"image {plan.image!r}: {what}{cause.says}{cure}")


def launch_error(error: EngineError, plan: Plan, node: str) -> NodeFault | Refusal:
    """Whose fault it is that the engine did not start a container. Pure."""
    if error.failure is Failure.IMAGE_GONE:
        return NodeFault("image-gone", f"image {plan.image!r} was removed from {node} after it had been checked")
    if error.failure is Failure.NO_NETWORK:
        return Refusal("no-such-network", f"network {plan.network!r} does not exist on {node}")
    if error.failure is Failure.NO_GPUS:
        return Refusal(
            "gpus-not-here",
            f"--gpus: the job was granted GPU {', '.join(plan.gpus)} of {node}, but the Docker engine there can give a"
            " container none: it lacks NVIDIA's container toolkit; leave --gpus out, or tell the site",
        )
    if error.failure is Failure.GPUS_FAILED:
        said = " ".join(str(error).split())[-300:]
        return NodeFault("gpus-failed", f"--gpus: GPU {', '.join(plan.gpus)} of {node} cannot be given: {said}")
    if error.failure is Failure.NO_DIRECTORY:
        where = plan.workdir or "that the job starts in"
        if "ermission denied" in str(error):
            return Refusal("workdir-closed", closed_workdir(plan.image, where))
        wrong = f"image '{plan.image}': the work directory {where} is no directory; choose another with --workdir"
        return Refusal("workdir-closed", wrong)
    return NodeFault("engine-error", f"the Docker engine of {node} could not start the container: {str(error)[:400]}")


def cause_in_image(engine: ContainerEngine, name: str, spec: ContainerSpec, program: str) -> Cause | None:
    """Why the user cannot run *program* of an image; None where that is not to be found out.

    It is looked for in a container beside that of *name* which is never started and in which nothing is mounted: the
    engine would follow paths in what is the user's as root.
    """
    bare = replace(
        spec,
        argv=("/",),
        entrypoint=(),
        mounts=(),
        tmpfs=(),
        network="none",
        workdir="/",
        devices=(),
        gpus=(),
        sysctls={},
    )
    mounted = [mount.target for mount in spec.mounts] + [tmpfs.target for tmpfs in spec.tmpfs]
    search = [value for name, _, value in (pair.partition("=") for pair in spec.environment) if name == "PATH"]
    beside = f"{name}-look"
    try:
        identifier = engine.create(bare, beside)
        path = search[0] if search else USUAL_PATH
        image = Image.of_container(_looker(engine, identifier), spec, path, mounted)
        return image.cause(program)
    except (EngineError, NodeFault):  # what failed is the job's start, and that is told in any case
        return None
    finally:
        with suppress(EngineError, NodeFault):  # the reaper tries again
            engine.remove(beside)


def _looker(engine: ContainerEngine, identifier: str) -> Callable[[str], FoundFile | None]:
    """Each path is asked for once, and not for ever: a long PATH of an image's is not searched to its end."""
    deadline = time.monotonic() + _LOOK_S

    @functools.cache
    def look(path: str) -> FoundFile | None:
        if time.monotonic() > deadline:
            raise EngineError(0, "looking took too long")
        return engine.look(identifier, path)

    return look


def last_words(stream: socket.socket, *, tty: bool) -> str:
    """What a container that is over has written, in one line of some hundred characters; frames as in
    :meth:`pbsdock.engine.base.ContainerEngine.attach`."""
    data = b""
    stream.settimeout(_WORDS_S)
    with suppress(OSError):
        while len(data) < _WORDS_BYTES and (more := stream.recv(_WORDS_BYTES)):
            data += more
    text = b""
    while not tty and len(data) > _FRAME:
        end = _FRAME + int.from_bytes(data[4:_FRAME], "big")
        text, data = text + data[_FRAME:end], data[end:]
    return " ".join((data if tty else text).decode("utf-8", "replace").split())[:300]
