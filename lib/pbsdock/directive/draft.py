"""What has been read of a script's directive so far: values, and every error with its place."""

from __future__ import annotations

from dataclasses import dataclass, field

from pbsdock.directive.image_ref import ImageRef
from pbsdock.directive.tokens import Token
from pbsdock.directive.types import Problem, TmpfsOption, Volume
from pbsdock.rm.base import Words

PROBLEM_LIMIT = 100
# Options of one kind; each costs the planning of its job, and the engine, something.
MOST = {"volume": 128, "tmpfs": 64, "env": 1024, "s3": 64, "stage-in": 256, "stage-out": 256}


@dataclass(slots=True)
class Draft:
    """What has been read of a script so far. ``unsure``: a word was skipped that may have been the image.
    ``words`` are those of the resource manager that runs the job."""

    filename: str
    words: Words
    problems: list[Problem] = field(default_factory=list)
    unsure: bool = False
    image: Token | None = None
    reference: ImageRef | None = None
    volumes: list[Volume] = field(default_factory=list)
    targets: set[str] = field(default_factory=set)
    env: dict[str, str | None] = field(default_factory=dict)
    tmpfs: list[TmpfsOption] = field(default_factory=list)
    s3: list[str] = field(default_factory=list)
    stage_in: list[tuple[str, str]] = field(default_factory=list)
    stage_out: list[tuple[str, str, str]] = field(default_factory=list)
    single: dict[str, str] = field(default_factory=dict)
    shm_size: int | None = None
    where: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    too_many: set[str] = field(default_factory=set)

    def wrong(self, line: int, column: int, message: str) -> None:
        """Note an error, up to ``PROBLEM_LIMIT``."""
        if len(self.problems) < PROBLEM_LIMIT:
            self.problems.append(Problem(line, column, message))
        elif len(self.problems) == PROBLEM_LIMIT:
            self.problems.append(Problem(line, column, f"more errors follow; the first {PROBLEM_LIMIT} are listed"))

    @property
    def is_full(self) -> bool:
        """Whether nothing more will be noted."""
        return len(self.problems) > PROBLEM_LIMIT

    def note(self, option: str, line: int, column: int) -> bool:
        """Note the place of an option; False, with an error, if there are too many of its kind."""
        places = self.where.setdefault(option, [])
        if option in MOST and len(places) >= MOST[option]:
            if option not in self.too_many:
                self.too_many.add(option)
                self.wrong(line, column, f"--{option} is given more than {MOST[option]} times; no job may have more")
            return False
        places.append((line, column))
        return True

    def unreadable(self, line: int, column: int, message: str) -> None:
        """Note an error that hides the rest of its line."""
        self.unsure = True
        self.wrong(line, column, message)
