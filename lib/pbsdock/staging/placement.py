"""Where files that are staged in go, and whether they can: as the job's user, before anything is copied."""

from __future__ import annotations

import os
from collections.abc import Sequence

from pbsdock.staging.download import Download, Source
from pbsdock.staging.errors import StageError
from pbsdock.staging.made import Made
from pbsdock.staging.names import shown
from pbsdock.staging.order import Item

_UNFINISHED = ".pbsdock-"


def unfinished(item: Item, mark: str) -> str:
    """The directory of an item's unfinished files: on the file system of the finished files; *mark* is the job's."""
    directory = item.url.is_pattern or not item.key or item.key.endswith("/") or item.path.endswith("/")
    base = item.path.rstrip("/") or "/"
    if not directory and not os.path.isdir(base):
        base = os.path.dirname(base)
    return os.path.join(base, f"{_UNFINISHED}{mark}")


def check_reach(item: Item, mark: str, made: Made) -> None:
    """Make an item's directory; it must be inside the item's root and writable. Raises StageError."""
    base = os.path.dirname(unfinished(item, mark))
    try:
        made.directory(base)
        real = os.path.realpath(base, strict=True)
    except OSError as error:
        raise StageError("stage-path", f"{item.shown} cannot be written: {error.strerror}") from None
    if os.path.commonpath([real, item.root]) != item.root:
        raise StageError("stage-path", f"{item.shown} leads out of {item.root}, to {real}")
    if not os.access(base, os.W_OK | os.X_OK):
        raise StageError("stage-path", f"{item.shown} cannot be written: Permission denied")


def in_the_way(found: Sequence[tuple[Item, Source, str]]) -> dict[str, str]:
    """The paths, of files and of directories (these end in a slash), that cannot be made, and why.

    A key that others lie below, as ``a`` and ``a/b``, would be a file and a directory: it gives way to the others. What
    is on the disk stays as it is.
    """
    needed: set[str] = set()
    blocked: dict[str, str] = {}  # directory -> what is in its way, "" if nothing is
    wrong: dict[str, str] = {}
    for item, _, path in found:
        # A file goes before a mark of a directory, which is empty.
        parent = os.path.dirname(path.rstrip("/"))
        while len(parent) > len(item.root) and parent not in needed:
            needed.add(parent)
            parent = os.path.dirname(parent)
    for item, source, path in found:
        plain = path.rstrip("/")
        if not path.endswith("/"):
            if plain in needed:
                wrong[path] = (
                    f"the key {shown(source.key)} cannot be a file, as others lie below it: {plain} is a directory"
                )
                continue
            if os.path.isdir(plain) and not os.path.islink(plain):
                wrong[path] = f"the key {shown(source.key)} cannot be a file: {plain} is a directory"
                continue
        directory = plain if path.endswith("/") else os.path.dirname(plain)
        if obstacle := _obstacle(directory, item.root, blocked):
            wrong[path] = f"the key {shown(source.key)} cannot be staged: {obstacle} is no directory"
    return wrong


def _obstacle(directory: str, root: str, known: dict[str, str]) -> str:
    """What exists and is no directory where *directory* is needed; "" if it can be made."""
    above = []
    while len(directory) > len(root) and directory not in known:
        above.append(directory)
        directory = os.path.dirname(directory)
    for each in reversed(above):
        known[each] = known.get(os.path.dirname(each), "")
        if not known[each] and os.path.lexists(each) and not os.path.isdir(each):
            known[each] = each
    return known[above[0]] if above else known.get(directory, "")


def check_distinct(due: Sequence[tuple[Item, Download]]) -> None:
    """Whether every object has a path of its own. Raises StageError."""
    seen: dict[str, str] = {}
    for item, download in due:
        if download.path in seen:
            sentence = f"{download.source.address} and {seen[download.path]} would both become {download.path}"
            raise StageError("stage-path", sentence, item.where)
        seen[download.path] = download.source.address


def check_space(due: Sequence[tuple[Item, Download]], mark: str) -> None:
    """Whether there is room for all files, before the first byte is fetched. Raises StageError, OSError."""
    needs: dict[int, tuple[int, int, Item]] = {}
    for item, download in due:
        base = os.path.dirname(unfinished(item, mark))
        device = os.stat(base).st_dev
        room = os.statvfs(base)
        needed = needs.get(device, (0, 0, item))[0] + download.source.size
        needs[device] = (needed, room.f_bavail * room.f_frsize, item)
    for needed, free, item in needs.values():
        if needed > free:
            sentence = f"{needed} bytes are to be staged to {item.shown} and its file system has {free} free"
            raise StageError("no-space", sentence, item.where)
