"""What a directive is made of: plain values with their place in the script, and the errors found on the way. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pbsdock.directive.image_ref import ImageRef

_FILENAME_LIMIT = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """``--volume SOURCE:TARGET[:ro|rw]``; line and column are the option's, counted from 1 in characters."""

    source: str
    target: str
    read_only: bool
    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TmpfsOption:
    """``--tmpfs PATH[:size=SIZE]``; bytes."""

    target: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Directive:
    """What the script asks for. ``where`` has line and column of each option's every use, in the script's order.

    In volumes, workdir, tmpfs, environment values and stage paths variables stand as ``$NAME`` or ``${NAME}`` and a
    plain dollar sign as ``$$`` until :func:`pbsdock.directive.parse.expand` has filled them in.
    """

    image: ImageRef
    image_text: str = ""
    line: int
    column: int
    filename: str = "script"
    volumes: tuple[Volume, ...] = ()
    workdir: str | None = None
    env: tuple[tuple[str, str | None], ...] = ()
    entrypoint: str | None = None
    network: str | None = None
    shm_size: int | None = None
    tmpfs: tuple[TmpfsOption, ...] = ()
    read_only: bool = False
    no_home: bool = False
    pull: Literal["never", "missing", "always"] | None = None
    platform: str | None = None
    gpus: str | None = None
    s3: tuple[str, ...] = ()
    stage_in: tuple[tuple[str, str], ...] = ()  # (s3://BUCKET/KEY, path)
    stage_out: tuple[tuple[str, str, str], ...] = ()  # (path, s3://BUCKET/KEY, "success" or "always")
    where: Mapping[str, tuple[tuple[int, int], ...]] = field(default_factory=dict)

    def at(self, option: str) -> str:
        """``script:4:9`` of an option, for a sentence; the image's place if the option was not given."""
        line, column = next(iter(self.where.get(option, ())), (self.line, self.column))
        return f"{self.filename}:{line}:{column}"


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One error of a script, where it is and what to do."""

    line: int
    column: int
    message: str


class DirectiveError(ValueError):
    """All errors of a script; ``str()`` is one line each, and a file's name cannot forge another."""

    def __init__(self, filename: str, problems: list[Problem]) -> None:
        self.filename = "".join(
            character if character.isprintable() else "?" for character in filename[:_FILENAME_LIMIT]
        )
        self.problems = tuple(sorted(problems))
        super().__init__(
            "\n".join(
                f"{self.filename}:{problem.line}:{problem.column}: {problem.message}" for problem in self.problems
            )
        )
