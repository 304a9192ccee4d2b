"""Have the engine create and start a job's container, and say whose fault it is where it does not."""

from __future__ import annotations

import socket
from collections.abc import Callable

from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.core.plan import Plan
from pbsdock.engine.base import ContainerEngine, ContainerSpec, EngineError, Failure
from pbsdock.engine.spec import Call

MakeSpec = Callable[[bool], ContainerSpec]  # whether the command is behind a shell line


def launch(
    engine: ContainerEngine,
    name: str,
    spec: MakeSpec,
    *,
    before_start: Callable[[], None],
    failed: Callable[[EngineError], NodeFault | Refusal],
    no_program: Refusal,
) -> tuple[socket.socket, str]:
    """Create, attach, start; returns the streams and the container's id.

    An image without /bin/sh gets its command bare, with runc's own umask. *before_start* is called when only the start
    is left to do. A container that was made is the caller's to remove, whatever comes of it. Raises what *failed* makes
    of an error of the engine's, and *no_program* if the command itself cannot be run.
    """
    for wrapped in (True, False):
        try:
            identifier = engine.create(spec(wrapped), name)
        except EngineError as error:
            raise failed(error) from None
        try:
            return _started(engine, identifier, before_start), identifier
        except EngineError as error:
            if error.failure is not Failure.NO_PROGRAM:
                raise failed(error) from None
            if not wrapped:
                raise no_program from None
            engine.remove(identifier)
    raise AssertionError("unreachable")


def _started(engine: ContainerEngine, identifier: str, before_start: Callable[[], None]) -> socket.socket:
    stream = engine.attach(identifier)
    try:
        before_start()
        engine.start(identifier)
    except BaseException:
        stream.close()
        raise
    return stream


def no_program(plan: Plan, call: Call) -> Refusal:
    """For an image that has nothing of the command's name. Pure."""
    return Refusal(
        "no-such-program",
        f"image {plan.image!r} has no {call.argv[0]} that can be run; choose a shell it has with {call.shell_option}",
    )


def launch_error(error: EngineError, plan: Plan, node: str) -> NodeFault | Refusal:
    """Whose fault it is that the engine did not start a container. Pure."""
    if error.failure is Failure.IMAGE_GONE:
        return NodeFault("image-gone", f"image {plan.image!r} was removed from {node} after it had been checked")
    if error.failure is Failure.NO_NETWORK:
        return Refusal("no-such-network", f"network {plan.network!r} does not exist on {node}")
    return NodeFault("engine-error", f"the Docker engine of {node} could not start the container: {str(error)[:400]}")
