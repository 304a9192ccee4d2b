"""Shell lines run twice: with the docker of a job, as its user, and with Docker's own client, as root on the host."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pbsdock.trial import Outcome
from tests.conftest import IMAGE, USERS, Instance

_ID = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{12})\b")
# What a program may look for in what Docker's client says.
_SAID = (
    "no such container",
    "no such image",
    "no such object",
    "no such network",
    "no such file or directory",
    "not found",
    "permission denied",
    "read-only file system",
    "is not running",
    "already in use",
    "unknown flag",
    "unknown shorthand flag",
    "is not a docker command",
    "container id file found",
    "running container",
    "requires at least 1 argument",
    "requires at least 2 arguments",
    "not a tty",
    "not a directory",
)


@dataclass(frozen=True, slots=True)
class Told:
    """What a line printed and how it ended. Ids are ``ID``; ``said`` are the known phrases on standard error."""

    stdout: str
    said: tuple[str, ...]
    is_silent: bool
    code: int

    def is_like(self, other: Told) -> bool:
        """Whether whoever can read *other* can read this: more may be said."""
        alike = (self.stdout, self.is_silent, self.code) == (other.stdout, other.is_silent, other.code)
        return alike and set(other.said) <= set(self.said)


@contextmanager
def place_of(user: str) -> Iterator[Path]:
    """A directory in a user's home, removed afterwards."""
    account = pwd.getpwnam(user)
    place = Path(account.pw_dir) / f"shim-{os.getpid()}"
    place.mkdir()
    os.chown(place, account.pw_uid, account.pw_gid)
    try:
        yield place
    finally:
        shutil.rmtree(place)


def run_in_job(
    instance: Instance, job: Callable[..., Outcome], lines: Sequence[str], **options: object
) -> tuple[list[Told], Outcome]:
    """Every line by a shell of its own, one after the other in one directory, in one job."""
    with place_of(USERS[0]) as place:
        _write(place, lines)
        # numbers of its own: a line may leave files
        script = f"cd {place} || exit 99\nfor at in $(seq {len(lines)}); do timeout 20 sh ./.$at.sh >.$at.out 2>.$at.err </dev/null"
        done = job(instance, f"{script}; echo $? >.$at.code; done", **options)
        assert done.exit_status == 0, done.stderr
        return _read(place, lines), done


def same(
    instance: Instance, job: Callable[..., Outcome], lines: Sequence[str], tmp_path: Path, **options: object
) -> list[Told]:
    """The same of every line by both; returns it. ``{image}`` is an image, ``{own}`` begins names of this run's own."""
    shown = [line.replace("{image}", IMAGE).replace("{own}", f"same{os.getpid()}") for line in lines]
    found, _ = run_in_job(instance, job, shown, **options)
    wanted = _run_as_root(tmp_path, shown)
    different = [
        f"{line}\n  job:    {one}\n  Docker: {other}"
        for line, one, other in zip(lines, found, wanted, strict=True)
        if not one.is_like(other)
    ]
    assert not different, "\n".join(different)
    return found


def _run_as_root(place: Path, lines: Sequence[str]) -> list[Told]:
    _write(place, lines)
    try:
        for at in range(1, len(lines) + 1):
            done = subprocess.run(
                ["timeout", "20", "sh", f"./.{at}.sh"],
                cwd=place,
                capture_output=True,
                check=False,
                timeout=120,
                stdin=subprocess.DEVNULL,
            )
            (place / f".{at}.out").write_bytes(done.stdout)
            (place / f".{at}.err").write_bytes(done.stderr)
            (place / f".{at}.code").write_text(str(done.returncode))
        return _read(place, lines)
    finally:
        mine = f"name=same{os.getpid()}"
        for kind in (["ps", "-aq"], ["network", "ls", "-q"]):
            ids = subprocess.run(["docker", *kind, "--filter", mine], capture_output=True, text=True, check=False)
            remove = ["rm", "-f"] if kind[0] == "ps" else ["network", "rm"]
            if ids.stdout.split():
                subprocess.run(["docker", *remove, *ids.stdout.split()], capture_output=True, check=False)


def _write(place: Path, lines: Sequence[str]) -> None:
    for at, line in enumerate(lines, 1):
        (place / f".{at}.sh").write_text(f"{line}\n")


def _read(place: Path, lines: Sequence[str]) -> list[Told]:
    return [_told(place, at) for at in range(1, len(lines) + 1)]


def _told(place: Path, at: int) -> Told:
    text = (place / f".{at}.err").read_text(errors="replace")
    lower = text.lower()
    return Told(
        stdout=_ID.sub("ID", (place / f".{at}.out").read_text(errors="replace").replace(str(place), "PLACE")),
        said=tuple(phrase for phrase in _SAID if phrase in lower),
        is_silent=not text.strip(),
        code=int((place / f".{at}.code").read_text()),
    )
