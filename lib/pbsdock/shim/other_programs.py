"""Other container programs a script may call: each is refused with the ``docker`` line that does the same. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from pbsdock.shim.refusal import USAGE, ShimRefusal, not_offered

_LIKE_DOCKER = ("podman", "nerdctl")
_OF_SINGULARITY = ("singularity", "apptainer")
_SHOWN = 400  # characters of a line that is proposed
# Those of singularity's options that have a value, of which the first few have a counterpart.
_BIND = ("-B", "--bind")
_DIRECTORY = ("--pwd", "--cwd")
_ENV = ("--env",)
_WITH_VALUE = (
    *_BIND,
    *_DIRECTORY,
    *_ENV,
    "-W",
    "--workdir",
    "-H",
    "--home",
    "-S",
    "--scratch",
    "-o",
    "--overlay",
    "--env-file",
    "--network",
)


def why_not_called(called_as: str, argv: Sequence[str]) -> ShimRefusal | None:
    """The refusal of a program by its name and its words; None for ``docker``."""
    name = called_as.rpartition("/")[2]
    if name in _LIKE_DOCKER:
        return _refusal(name, "write docker instead of it, with the same options", ("docker", *argv))
    if name in _OF_SINGULARITY:
        return _singularity(name, argv)
    if name == "docker-compose":
        why = "write docker network create, and docker run -d --network --name for each service"
        return not_offered(name, why)
    return None


def _refusal(name: str, how: str, line: Sequence[str]) -> ShimRefusal:
    said = shlex.join(line) if sum(map(len, line)) <= _SHOWN else ""
    return not_offered(name, f"{how}: {said}" if said and said.isprintable() else how, USAGE)


def _singularity(name: str, argv: Sequence[str]) -> ShimRefusal:
    """``singularity exec|run|shell|pull [OPTION…] docker://IMAGE [WORD…]`` as docker would have it."""
    action, rest = (argv[0], list(argv[1:])) if argv else ("", [])
    how = "images run here with docker"
    if sum(map(len, argv)) > _SHOWN or action not in ("exec", "run", "shell", "pull"):
        return _refusal(name, f"{how}; write docker run --rm IMAGE COMMAND", ())
    options: list[str] = []
    at = 0
    while at < len(rest) and rest[at].startswith("-"):
        option, equals, value = rest[at].partition("=")
        if not equals and option in _WITH_VALUE:
            at += 1
            value = rest[at] if at < len(rest) else ""
        options += _as_docker(option, value)
        at += 1
    following = rest[at:]
    image = next((word for word in following if word.startswith("docker://")), "") if action == "pull" else ""
    image = image or (following[0] if following else "IMAGE")
    if "://" in image and not image.startswith("docker://"):
        return _refusal(name, f"{how}, from registries alone; write docker run --rm IMAGE COMMAND", ())
    if not image.startswith("docker://"):
        return _refusal(name, f"{how}, not from files; push the image to a registry and write docker run IMAGE", ())
    image = image.removeprefix("docker://")
    if action == "pull":
        return _refusal(name, f"{how}; write", ("docker", "pull", image))
    inside = ("-it",) if action == "shell" else ("-i",)
    line = ("docker", "run", "--rm", *inside, *options, image, *following[1:])
    return _refusal(name, f"{how}; your directories are mounted by -v alone; write", line)


def _as_docker(option: str, value: str) -> list[str]:
    """The option of docker run for one of singularity's, as far as there is one."""
    if option in _BIND:
        binds = [bind if ":" in bind else f"{bind}:{bind}" for bind in value.split(",") if bind]
        return [word for bind in binds for word in ("-v", bind)]
    if option in _DIRECTORY:
        return ["-w", value]
    if option in _ENV:
        return [word for pair in value.split(",") for word in ("-e", pair)]
    if option == "--nv":
        return ["--gpus", "all"]
    return []
