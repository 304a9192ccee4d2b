"""The programs in C: compiled where there is a compiler, else taken from where one was.

The first process of containers, what starts commands on a job's other nodes, the run hook, which is there in Python
too, the docker of jobs, and a pbsdsh for emulated nodes. They are static, so that they run in every image: what is
compiled on one host runs on all of its processor. musl makes them a tenth as large as glibc does; either will do.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pbsdock.admin.setup.errors import SetupError


@dataclass(frozen=True, slots=True)
class Program:
    """``name`` below the package; of ``sources`` the first is compiled and includes the others."""

    name: str
    sources: tuple[str, ...]


INIT = Program("init/pbsdock-init", ("init.c", "message.h", "session.h"))
RUN = Program("init/pbsdock-run", ("run.c", "message.h", "request.h", "stream.h", "wire.h"))
DOCKER = Program(
    "init/pbsdock-docker", ("docker.c", "copy.h", "message.h", "request.h", "stream.h", "terminal.h", "wire.h")
)
TM_AGENT = Program("init/tm-agent", ("tm-agent.c", "tm.h"))
PBSDSH = Program("init/pbsdsh", ("pbsdsh.c", "tm.h"))
PROGRAMS = (INIT, RUN, DOCKER, TM_AGENT, PBSDSH)
NAME = INIT.name
COMPILERS = ("musl-gcc", "cc", "gcc")
# Nothing of the day, the place or the machine is in the file: the same compiler makes the same bytes anywhere.
FLAGS = (
    "-std=c11",
    "-Os",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fno-asynchronous-unwind-tables",
    "-ffunction-sections",
    "-fdata-sections",
    "-static",
    "-s",
    "-Wl,--gc-sections",
    "-Wl,--build-id=none",
)


def compiler() -> str | None:
    """The first that is on PATH; what ``CC`` names comes before."""
    named = os.environ.get("CC")
    return next((found for name in (named, *COMPILERS) if name and (found := shutil.which(name))), None)


def compile_to(path: Path, source: Path, program: Program = INIT) -> None:
    """Compile *program* from the directory *source* into *path*, 0755. Raises SetupError, in one sentence."""
    cc = compiler()
    if cc is None:
        raise SetupError("there is no C compiler; apt-get install gcc libc6-dev (or musl-tools)")
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    command = [cc, *FLAGS, "-o", str(fresh.absolute()), program.sources[0]]
    done = subprocess.run(
        command, cwd=source, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        fresh.unlink(missing_ok=True)
        lines = [line for line in done.stderr.splitlines() if "error" in line or "cannot find" in line]
        said = (lines or done.stderr.splitlines() or ["it says nothing"])[0]
        raise SetupError(f"{cc} cannot compile {source}/{program.sources[0]}: {said}")
    fresh.chmod(0o755)
    os.replace(fresh, path)


def carried(source: Path, program: Program = INIT) -> str:
    """The name in a directory of wheels: of just these sources, for this processor."""
    digest = hashlib.sha256(b"".join((source / name).read_bytes() for name in program.sources)).hexdigest()
    return f"{Path(program.name).name}-{digest[:16]}-{platform.machine()}"


def provide(path: Path, source: Path, wheels: Path | None, program: Program = INIT) -> str:
    """Put *program* at *path*, from *wheels* if it is there; returns why it cannot be had, or ""."""
    found = wheels / carried(source, program) if wheels is not None else None
    if found is not None and found.is_file():
        path.parent.mkdir(exist_ok=True)
        shutil.copyfile(found, path)
        path.chmod(0o755)
        return ""
    try:
        compile_to(path, source, program)
    except SetupError as error:
        return str(error)
    return ""
