"""Torque's ``pbsdsh`` with all it needs to run where there is neither Torque nor this host's C library.

A static one needs nothing. Any other is asked of by its own loader (``ld.so --list``, ld.so(8)), which runs none of its
code: with that loader and those libraries it runs in every image.
"""

from __future__ import annotations

import os
import re
import struct
import subprocess

from pbsdock.rm.base import ClientTool

_LIST_S = 20.0
_PT_INTERP = 3
_ELF64 = b"\x7fELF\x02\x01"  # 64 bits, little endian: what Docker's engine runs on here
_MOST_HEADERS = 256


def interpreter(head: bytes) -> str | None:
    """The loader that the first bytes of an ELF file name (elf(5)); "" for a static program, None for another file.
    Pure."""
    if head[:6] != _ELF64 or len(head) < 64:
        return None
    (offset,) = struct.unpack_from("<Q", head, 32)
    size, count = struct.unpack_from("<HH", head, 54)
    if size != 56 or count > _MOST_HEADERS or offset + size * count > len(head):
        return None
    for at in range(offset, offset + size * count, size):
        kind, _flags, start, _address, _physical, length = struct.unpack_from("<IIQQQQ", head, at)
        if kind == _PT_INTERP:
            return os.fsdecode(head[start : start + length].rstrip(b"\0")) if start + length <= len(head) else None
    return ""


def libraries(listed: str) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """From what ``ld.so --list`` prints: (name, path) of every library, and names of those it has not found. Pure."""
    found = re.findall(r"^\s*(\S+) => (/\S+) \(0x", listed, re.MULTILINE)
    lacking = re.findall(r"^\s*(\S+) => not found", listed, re.MULTILINE)
    return tuple(found), tuple(lacking)


def look_at(path: str, *, loader: str | None = None) -> tuple[ClientTool | None, str]:
    """The program *path* with its loader and libraries, or None and why it cannot be given to containers.

    *loader* is that of the program that loads it, where it is a library itself.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(65536)
    except OSError as error:
        return None, f"{path} cannot be read: {error.strerror}"
    loader = loader or interpreter(head)
    if loader is None:
        return None, f"{path} is no program of this machine's kind"
    if not loader:
        return ClientTool(program=path), ""
    try:
        done = subprocess.run(
            [loader, "--list", path],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIST_S,
            check=False,
            env={},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"{loader} does not say what libraries {path} needs: {error}"
    found, lacking = libraries(os.fsdecode(done.stdout))
    if lacking or done.returncode:
        said = f"lacks {', '.join(lacking)}" if lacking else "cannot be loaded"
        return None, f"{path} {said} here"
    # What looks names up came as a library of its own, which nothing names, until glibc 2.34.
    for name, library in found:
        if name.startswith("libc.so.") and os.path.exists(files := f"{os.path.dirname(library)}/libnss_files.so.2"):
            found = (*found, ("libnss_files.so.2", files))
    return ClientTool(program=path, loader=loader, libraries=found), ""
