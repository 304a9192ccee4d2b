"""What is to be run in a waiting container, and whether its user can run it there: told before anything has begun.

Pure but for the look into the container, which the caller gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pbsdock.agent.launch import no_program
from pbsdock.agent.programs import USUAL_PATH, Image, Look
from pbsdock.core.errors import Refusal
from pbsdock.core.facts import ImageTraits
from pbsdock.core.plan import Plan
from pbsdock.engine.spec import PLAIN_SHELLS, Call, carriage_return, closed_workdir, entrypoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What the first process is asked to run; all that execve(2) takes, and the directory."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str


def image_as_met(plan: Plan, look: Look, environment: Mapping[str, str], mounted: Sequence[str]) -> Image:
    """The container's files as the job's user meets them; *mounted* are the targets of what covers the image."""
    return Image.of_container(look, plan, environment.get("PATH") or USUAL_PATH, mounted)


def checked(plan: Plan, call: Call, command: Command, traits: ImageTraits, image: Image) -> Command:
    """The command with the entry point in front, and with a shell that the image has where the job names none.

    Raises Refusal for what cannot be run or entered, as far as that can be found out.
    """
    program = command.argv[0]
    argv = command.argv
    if not call.shell_chosen and image.cause(program) is not None:
        program = traits.shell
        argv = (program, *argv[1:])
    words = entrypoint(plan.entrypoint or "")
    for name in (*words[:1], program):
        if (cause := image.cause(name)) is not None:
            raise no_program(plan, call, name, cause)
    if call.interpreter:
        _check_interpreter(plan, call, argv, image)
    if plan.workdir and command.directory == plan.workdir and image.closed_on_the_way(plan.workdir) is not None:
        raise Refusal("workdir-closed", closed_workdir(plan.image, plan.workdir))
    return Command(argv=(*words, *argv), environment=command.environment, directory=command.directory)


def _check_interpreter(plan: Plan, call: Call, argv: Sequence[str], image: Image) -> None:
    """Whether the script's own first line can be followed. Raises Refusal."""
    which = "which the script's first line names"
    if call.interpreter.endswith("\r"):
        raise Refusal("no-interpreter", carriage_return(call.interpreter))
    if (cause := image.cause(call.interpreter)) is not None:
        if cause.says.startswith(f"there is no {call.interpreter}"):
            raise Refusal("no-interpreter", f"image '{plan.image}' has no {call.interpreter}, {which}")
        raise Refusal(cause.code, f"image '{plan.image}': {cause.says} ({which})")
    # Shells of other kinds may read files of the user's before, which may change PATH.
    is_plain = argv[0].rpartition("/")[2] in PLAIN_SHELLS and len(argv) == 1
    if call.env_finds and is_plain and image.cause(call.env_finds) is not None:
        raise Refusal("no-interpreter", f"image '{plan.image}' has no program {call.env_finds} in its PATH, {which}")
