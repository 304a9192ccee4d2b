"""What a program of the manager's needs to run in any container."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from pbsdock.rm.client_tools import interpreter, libraries, look_at


def test_a_program_with_libraries_runs_with_nothing_but_them(tmp_path: Path) -> None:
    """By its own loader, in a root that holds nothing else."""
    program = shutil.which("true")
    assert program

    tool, why = look_at(program)

    assert tool is not None, why
    assert tool.loader.startswith("/")
    assert "libc.so.6" in dict(tool.libraries)
    (tmp_path / "lib").mkdir()
    for name, path in (*tool.libraries, ("loader", tool.loader)):
        shutil.copy(path, tmp_path / "lib" / name)
    shutil.copy(tool.program, tmp_path / "true")
    command = ["chroot", str(tmp_path), "/lib/loader", "--library-path", "/lib", "/true"]
    assert subprocess.run(command, check=False).returncode == 0


def test_a_static_program_needs_nothing() -> None:
    """It is used as it is."""
    busybox = shutil.which("busybox")
    assert busybox
    tool, why = look_at(busybox)

    assert (tool is not None, why) == (True, "")
    assert tool is not None
    assert (tool.loader, tool.libraries) == ("", ())


@pytest.mark.parametrize(("data", "says"), [(b"#!/bin/sh\n", "is no program"), (b"\x7fELF\x01\x01", "is no program")])
def test_what_is_no_program(tmp_path: Path, data: bytes, says: str) -> None:
    """A script of the site's in place of it, another machine's file."""
    (tmp_path / "pbsdsh").write_bytes(data)

    tool, why = look_at(str(tmp_path / "pbsdsh"))

    assert tool is None
    assert says in why


def test_headers_that_lie() -> None:
    """Offsets beyond what was read are no reason to fail."""
    head = bytearray(64)
    head[:6] = b"\x7fELF\x02\x01"
    head[32:40] = (1 << 40).to_bytes(8, "little")
    head[54:58] = (56).to_bytes(2, "little") + (3).to_bytes(2, "little")

    assert interpreter(bytes(head)) is None


def test_what_the_loader_lists() -> None:
    """As glibc prints it; the loader itself and the kernel's own are left out."""
    listed = (
        "\tlinux-vdso.so.1 (0x00007f)\n\tlibtorque.so.2 => /opt/torque/lib/libtorque.so.2 (0x00007f)\n"
        "\tlibgone.so.1 => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n"
    )

    assert libraries(listed) == ((("libtorque.so.2", "/opt/torque/lib/libtorque.so.2"),), ("libgone.so.1",))
