"""The passwd and group files of a container: the image's own names with the job owner's. Pure.

They are names and nothing else: a job's container has no set-user-id program that could ask them for a right. What an
image says is read strictly all the same, and never stands in the place of root or of the job's own user and groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from pbsdock.core.plan import Plan

FILE_LIMIT = 256 << 10  # bytes of an image's file that are read
_MOST = 4096  # entries
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}\$?", re.ASCII)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_NOBODY = 65534
_LARGEST = 2**32 - 2  # the number above means "none" (chown(2))


def passwd(plan: Plan, shell: str, image: bytes | None = None, other: tuple[str, int] | None = None) -> str:
    """A passwd file with the names of the *image*'s own, in which root, nobody, the job's user and *other*, a name and
    a number of the host's, are who they are."""
    entries = {name: fields for name, fields in _entries(image, 7) if _is_number(fields[3])}
    own = {"root": "0", "nobody": str(_NOBODY), plan.user: str(plan.uid)}
    if other is not None and other[0] not in own and other[1] not in (0, _NOBODY, plan.uid):
        own[other[0]] = str(other[1])
        entries[other[0]] = [other[0], "x", str(other[1]), str(_NOBODY), other[0], "/nonexistent", "/bin/false"]
    lines = [f"{plan.user}:x:{plan.uid}:{plan.gid}:{plan.user}:{plan.home}:{shell}"]
    if "root" not in entries or entries["root"][2] != "0":
        lines.append("root:x:0:0:root:/root:/bin/sh")
    for name, (_name, _password, uid, *rest) in entries.items():
        if own.get(name, uid) == uid and name != plan.user and uid != str(plan.uid) and (uid != "0" or name == "root"):
            lines.append(":".join([name, "x", uid, *rest]))
    if not any(line.startswith("nobody:") for line in lines) and plan.uid != _NOBODY:
        lines.append(f"nobody:x:{_NOBODY}:{_NOBODY}:nobody:/nonexistent:/bin/false")
    return "\n".join([*lines[1:], lines[0]]) + "\n"


def group(plan: Plan, names: Mapping[int, str], image: bytes | None = None) -> str:
    """A group file with the *image*'s own and the job owner's groups; *names* is gid -> name as the host knows them.

    A group of the owner's that the host has no name for is called as in the image, else by its number.
    """
    entries = {name: (fields[2], fields[3]) for name, fields in _entries(image, 4)}
    in_image = {int(gid): name for name, (gid, _members) in reversed(entries.items())}
    mine = {}
    for gid in dict.fromkeys((plan.gid, *plan.groups)):
        if gid not in (0, _NOBODY):
            mine[gid] = names.get(gid) or in_image.get(gid) or f"g{gid}"
    taken = {*mine.values(), "root"}
    lines = ["root:x:0:"]
    for name, (number, members) in entries.items():
        if name in taken or number == "0" or int(number) in mine:
            continue
        kept = ",".join(member for member in members.split(",") if member != plan.user)
        lines.append(f"{name}:x:{number}:{kept}")
    if _NOBODY not in in_image and "nogroup" not in taken and "nogroup" not in entries:
        lines.append(f"nogroup:x:{_NOBODY}:")
    lines += [f"{name}:x:{gid}:{'' if gid == plan.gid else plan.user}" for gid, name in mine.items()]
    return "\n".join(lines) + "\n"


def _entries(image: bytes | None, width: int) -> Iterator[tuple[str, Sequence[str]]]:
    """The well-formed entries of passwd(5) or group(5), the first of each name; an id is the third field of both."""
    seen = set()
    for line in (image or b"").decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        is_plain = len(fields) == width and line.isprintable() and "\ufffd" not in line
        if is_plain and _NAME.fullmatch(fields[0]) and _is_number(fields[2]) and fields[0] not in seen:
            seen.add(fields[0])
            yield fields[0], fields
        if len(seen) >= _MOST:
            return


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None and int(text) <= _LARGEST
