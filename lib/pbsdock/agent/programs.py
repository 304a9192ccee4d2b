"""Why a program of an image cannot be run by a job's user: its path is walked as the kernel would. Pure but
for the machine's own name.

What execve(2) answers leaves open which of several files it is about; "no such file" may be the loader's.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pbsdock.core.pathrules import below
from pbsdock.engine.base import FoundFile

Look = Callable[[str], "FoundFile | None"]  # a path without links in it -> what is there

USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KERNELS = ("/proc", "/sys", "/dev")  # mounted in every container
_LINKS = 40  # as the kernel follows at most (path_resolution(7))
_INTERPRETERS = 4  # likewise of scripts (execve(2))
_PT_INTERP = 3
# e_machine of an ELF file (elf.h) -> the architecture's name, and the kernels (uname -m) that run it.
_MACHINES = {
    3: ("i386", ("i386", "i686", "x86_64")),
    21: ("ppc64le", ("ppc64", "ppc64le")),
    22: ("s390x", ("s390x",)),
    40: ("arm", ("armv7l", "aarch64")),
    62: ("amd64", ("x86_64",)),
    183: ("arm64", ("aarch64",)),
    243: ("riscv64", ("riscv64",)),
}
_SHEBANG = re.compile(rb"#![ \t]*([^ \t\n]+)[ \t]*([^\n]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who is to run it, in numbers."""

    uid: int
    gids: frozenset[int]


class HasIdentity(Protocol):
    """A plan, or a container's specification: who its processes are, in numbers."""

    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def groups(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, slots=True)
class Cause:
    """A code of the table in docs/configuration.md, and the rest of a sentence that begins with the image."""

    code: str
    says: str


class _Found(Exception):
    def __init__(self, code: str, says: str) -> None:
        super().__init__(says)
        self.cause = Cause(code, says)


class _Unknown(Exception):
    """It lies in a mount, of which the image says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image as one user meets it. *mounted* are the targets of what covers it, *machine* is the kernel's name."""

    look: Look
    who: Identity
    mounted: Sequence[str]
    machine: str
    search: str = USUAL_PATH  # PATH

    @classmethod
    def of_container(cls, look: Look, user: HasIdentity, search: str, mounted: Sequence[str]) -> Image:
        """The files of a container as its *user* meets them; *search* is PATH, *mounted* are the targets of what
        covers the image beside what the kernel has in every container."""
        return cls(
            look=look,
            who=Identity(uid=user.uid, gids=frozenset((user.gid, *user.groups))),
            mounted=[*mounted, *_KERNELS],
            machine=os.uname().machine,
            search=search,
        )

    def cause(self, program: str) -> Cause | None:
        """Why *program*, a path or a name to be searched, cannot be run; None if nothing is found."""
        try:
            self._check(program, "", _INTERPRETERS)
        except _Found as found:
            return found.cause
        except _Unknown:
            return None
        return None

    def _check(self, program: str, named_by: str, depth: int) -> None:
        path = program if "/" in program else self._searched(program, named_by)
        if not path.startswith("/"):
            raise _Unknown
        file = self._resolve(path, named_by)
        if file.kind == "directory":
            raise _Found("program-not-executable", f"{path}{named_by} is a directory, not a program")
        if file.kind != "file" or not file.mode & 0o111 or not self._may(file, 1):
            raise _Found(
                "program-not-executable",
                f"{path}{named_by} is not executable for you (mode {file.mode & 0o7777:04o}); make it so in the image,"
                " with chmod a+rx",
            )
        if script := _SHEBANG.match(file.head):
            self._check_script(path, script[1].decode("utf-8", "replace"), script[2], depth)
        elif file.head.startswith(b"\x7fELF"):
            self._check_binary(path, file.head)
        elif file.head:
            raise _Found(
                "program-format",
                f"{path}{named_by} is neither a program nor a script whose first line names its interpreter with '#!'"
                " (exec format error)",
            )
        else:
            raise _Found("program-format", f"{path}{named_by} is an empty file (exec format error)")

    def _check_script(self, path: str, interpreter: str, rest: bytes, depth: int) -> None:
        if not depth:
            raise _Found("no-interpreter", f"{path} has interpreters that are scripts themselves, too many of them")
        if interpreter.endswith("\r"):
            raise _Found(
                "no-interpreter",
                f"the '#!' line of {path} ends with a carriage return (CRLF), so that {interpreter!r} is looked for",
            )
        self._check(interpreter, f", which the '#!' line of {path} names,", depth - 1)
        words = rest.decode("utf-8", "replace").split()
        if interpreter.endswith("/env") and (name := env_program(words)):
            self._check(name, f", which the '#!' line of {path} names,", depth - 1)

    def _check_binary(self, path: str, head: bytes) -> None:
        machine = _machine(head)
        name, runs_on = _MACHINES.get(machine, ("another machine", ()))
        if self.machine not in runs_on:
            raise _Found(
                "program-format", f"{path} is built for {name}; this node runs {self.machine} (exec format error)"
            )
        if loader := _loader(head):
            self._resolve(loader, f", the loader that {path} needs,")

    def _searched(self, name: str, named_by: str) -> str:
        seen: Cause | None = None
        for directory in self.search.split(":"):
            path = f"{directory or '/'}/{name}"
            try:
                file = self._resolve(path, named_by)
            except _Found as found:
                if found.cause.code == "program-closed":
                    seen = seen or found.cause
                continue
            if file.kind == "file" and self._may(file, 1):
                return path
            if file.kind == "file":
                seen = Cause("program-not-executable", f"{path}{named_by} is not executable for you")
        if seen:
            raise _Found(seen.code, seen.says)
        code = "no-interpreter" if named_by else "no-such-program"
        raise _Found(code, f"there is no program {name!r}{named_by} in its PATH ({self.search})")

    def _resolve(self, path: str, named_by: str) -> FoundFile:
        """What *path* leads to, through links, as the user may go."""
        left = _parts(path)
        here, links = "", 0
        file = self._must_enter(self.look("/"), "/", path, named_by)
        while left:
            part = left.pop(0)
            if part == "..":
                here = here.rpartition("/")[0]
                continue
            here = f"{here}/{part}"
            if any(below(here, target) for target in self.mounted):
                raise _Unknown
            found = self.look(here)
            if found is None and any(below(target, here) for target in self.mounted):
                raise _Unknown  # the engine makes what is missing on the way to a mount
            if found is None:
                code = "no-interpreter" if named_by else "no-such-program"
                through = f" ({here} does not exist)" if here != path else ""
                raise _Found(code, f"there is no {path}{named_by}{through}")
            if found.kind == "link":
                links += 1
                if links > _LINKS:
                    raise _Found("no-such-program", f"{path}{named_by} leads through too many symbolic links")
                left = [*_parts(found.link), *left]
                here = "" if found.link.startswith("/") else here.rpartition("/")[0]
                continue
            file = self._must_enter(found, here, path, named_by) if left else found
        return file

    def _must_enter(self, file: FoundFile | None, here: str, path: str, named_by: str) -> FoundFile:
        if file is None:
            raise _Unknown
        if file.kind != "directory":
            raise _Found("no-such-program", f"there is no {path}{named_by}: {here} is not a directory")
        if not self._may(file, 1):
            raise _Found(
                "program-closed",
                f"the directory {here} on the way to {path}{named_by} is closed to you (mode {file.mode & 0o7777:04o});"
                " open it in the image, with chmod a+rx",
            )
        return file

    def _may(self, file: FoundFile, bit: int) -> bool:
        if file.uid == self.who.uid:
            return bool(file.mode >> 6 & bit)
        return bool(file.mode >> (3 if file.gid in self.who.gids else 0) & bit)

    def closed_on_the_way(self, directory: str) -> Cause | None:
        """Why the user cannot enter *directory*; None if nothing is found."""
        try:
            self._must_enter(self._resolve(directory, ""), directory, directory, "")
        except _Found as found:
            return found.cause
        except _Unknown:
            return None
        return None


def env_program(words: Sequence[str]) -> str:
    """The program that ``env`` is to find; "" where that is not plain to see."""
    rest = [word for word in words if word != "-S"]
    return rest[0] if rest and re.fullmatch(r"[A-Za-z0-9._+/-]+", rest[0]) and not rest[0].startswith("-") else ""


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def _machine(head: bytes) -> int:
    order = ">" if head[5:6] == b"\2" else "<"
    return int(struct.unpack_from(f"{order}H", head, 18)[0]) if len(head) >= 20 else 0


def _loader(head: bytes) -> str:
    """What the program header PT_INTERP names (elf(5)); "" for a static program, or where it lies further on."""
    is_wide = head[4:5] == b"\2"
    order = ">" if head[5:6] == b"\2" else "<"
    try:
        if is_wide:
            (table,) = struct.unpack_from(f"{order}Q", head, 32)
            size, count = struct.unpack_from(f"{order}HH", head, 54)
        else:
            (table,) = struct.unpack_from(f"{order}I", head, 28)
            size, count = struct.unpack_from(f"{order}HH", head, 42)
        for index in range(min(count, 64)):
            entry = table + index * size
            if struct.unpack_from(f"{order}I", head, entry)[0] != _PT_INTERP:
                continue
            wide, narrow = (f"{order}Q", 8, 32), (f"{order}I", 4, 16)
            letter, at, length_at = wide if is_wide else narrow
            (offset,) = struct.unpack_from(letter, head, entry + at)
            (length,) = struct.unpack_from(letter, head, entry + length_at)
            return head[offset : offset + min(length, 4096)].split(b"\0")[0].decode("utf-8", "replace")
    except (struct.error, OverflowError):
        pass
    return ""
