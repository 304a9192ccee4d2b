"""Why a program of an image cannot be run: images as tables, walked as the kernel would."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbsdock.agent.programs import Identity, Image, env_program
from pbsdock.engine.base import FoundFile

_WHO = Identity(uid=1000, gids=frozenset({100, 200}))


def _elf(machine: int, loader: bytes = b"", *, wide: bool = True) -> bytes:
    """A program's first bytes: the header and one program header (elf(5))."""
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    if wide:
        header = ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        entry = struct.pack("<IIQQQQQQ", 3, 4, 120, 0, 0, len(loader) + 1, 0, 1)
    else:
        header = ident + struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        entry = struct.pack("<IIIIIIII", 3, 84, 0, 0, len(loader) + 1, 0, 4, 1)
    return header + (entry + loader + b"\0" if loader else bytes(len(entry)))


def _directory(mode: int = 0o755, uid: int = 0, gid: int = 0) -> FoundFile:
    return FoundFile(kind="directory", mode=mode, uid=uid, gid=gid)


def _file(head: bytes, mode: int = 0o755, uid: int = 0, gid: int = 0) -> FoundFile:
    return FoundFile(kind="file", mode=mode, uid=uid, gid=gid, head=head)


def _link(target: str) -> FoundFile:
    return FoundFile(kind="link", mode=0o777, uid=0, gid=0, link=target)


_FILES = {
    "/": _directory(),
    "/bin": _link("usr/bin"),
    "/usr": _directory(),
    "/usr/bin": _directory(),
    "/usr/bin/static": _file(_elf(62)),
    "/usr/bin/old": _file(_elf(3, b"/lib/ld-linux.so.2", wide=False)),
    "/usr/bin/dynamic": _file(_elf(62, b"/lib64/ld.so")),
    "/usr/bin/up": _link("../../usr/./bin//static"),
    "/mine": _directory(0o700, uid=1000),
    "/mine/tool": _file(_elf(62), 0o100, uid=1000),
    "/ours": _directory(0o710, gid=200),
    "/ours/tool": _file(_elf(62), 0o010, gid=100),
    "/not-ours": _directory(0o707, gid=200),  # the group's bits count for its members, and no others
    "/not-ours/tool": _file(_elf(62)),
    "/home": _directory(),
    "/home/u": _directory(0o700),
}


def _image(machine: str = "x86_64", **more: FoundFile) -> Image:
    return Image(look={**_FILES, **more}.get, who=_WHO, mounted=["/home/u"], machine=machine)


@pytest.mark.parametrize(
    "program", ["/bin/static", "static", "/bin/up", "/mine/tool", "/ours/tool", "/home/u/tool", "./static", "/home/u"]
)
def test_what_can_be_run(program: str) -> None:
    """Or what cannot be judged: a mount, a path that depends on the work directory."""
    assert _image().cause(program) is None


@pytest.mark.parametrize(
    ("program", "code", "says"),
    [
        ("/bin/none", "no-such-program", "there is no /bin/none (/usr/bin/none does not exist)"),
        ("/not-ours/tool", "program-closed", "the directory /not-ours on the way to /not-ours/tool is closed to you"),
        ("/bin/dynamic", "no-interpreter", "there is no /lib64/ld.so, the loader that /bin/dynamic needs,"),
        ("/bin/old", "no-interpreter", "there is no /lib/ld-linux.so.2, the loader that /bin/old needs,"),
        ("/bin", "program-not-executable", "/bin is a directory, not a program"),
    ],
)
def test_causes(program: str, code: str, says: str) -> None:
    """More of them are tested through the engine."""
    found = _image().cause(program)

    assert found is not None
    assert found.code == code
    assert found.says.startswith(says)


def test_another_machine() -> None:
    """The kernel of an amd64 node runs i386 as well; not so the other way round."""
    found = _image("aarch64").cause("/bin/static")

    assert found is not None
    assert found.says == "/bin/static is built for amd64; this node runs aarch64 (exec format error)"


def test_interpreters_of_interpreters() -> None:
    """The kernel goes on for a while."""
    found = _image(**{"/usr/bin/again": _file(b"#!/usr/bin/again\n")}).cause("again")

    assert found is not None
    assert found.code == "no-interpreter"


@pytest.mark.parametrize(
    ("words", "program"),
    [("python3", "python3"), ("-S python3 -u", "python3"), ("-i sh", ""), ("A=b sh", ""), ("", ""), ("-S", "")],
)
def test_what_env_is_to_find(words: str, program: str) -> None:
    """Only where it is plain to see: nobody is refused for what env(1) would have made of it."""
    assert env_program(words.split()) == program


@given(st.binary(max_size=300), st.booleans())
def test_no_program_breaks_the_walk(tail: bytes, is_elf: bool) -> None:
    """An image is its maker's to write."""
    head = b"\x7fELF" + tail if is_elf else tail
    _image(**{"/usr/bin/x": _file(head)}).cause("/bin/x")
