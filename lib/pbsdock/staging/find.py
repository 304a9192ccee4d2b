"""Find the objects and files of an order, by listing and by walking. Nothing is copied here."""

from __future__ import annotations

import glob
import os
import stat
from collections.abc import Callable, Iterator
from typing import Any

from pbsdock.staging.download import Source
from pbsdock.staging.errors import StageError
from pbsdock.staging.names import (
    BadName,
    check_path,
    file_for,
    fixed_part,
    has_wildcard,
    key_for,
    matches,
    relative,
    shown,
)
from pbsdock.staging.order import Item
from pbsdock.staging.retry import RetryPolicy


def objects(
    client: Any, item: Item, retry: RetryPolicy, leave_out: Callable[[str], None]
) -> Iterator[tuple[Source, str]]:
    """Yield every object of a stage-in and the path it goes to, which ends in a slash where that is a directory.

    A key that can be no file is told to *leave_out*, as long as others can. Raises StageError.
    """
    url = item.url
    if item.is_single:
        yield _single(client, item, retry)
        return
    count = usable = 0
    unfit: list[str] = []
    for source in _listed(client, item.bucket, url.literal, retry, item.address):
        if url.is_pattern and not matches(source.key, url.key):
            continue
        count += 1
        try:
            name = relative(source.key, url)
            path = os.path.join(item.path, name)
            check_path(source.key, path)
            if name.endswith("/") and source.size:
                raise BadName(f"the key {shown(source.key)} names a directory, and holds {source.size} bytes")
        except BadName as error:
            unfit = [*unfit, str(error)][:1]
            leave_out(str(error))
            continue
        usable += 1
        if name:  # the mark of the prefix itself
            yield source, path
    if unfit and not usable:
        more = f"; nor can {count - 1} more be staged" if count > 1 else ""
        raise StageError("key-unfit", f"{unfit[0]}{more}", item.where)
    if count == 0:
        what = "matches no object" if url.is_pattern else "has no object below it"
        raise StageError("no-such-object", f"{item.address} {what}", item.where)


def _single(client: Any, item: Item, retry: RetryPolicy) -> tuple[Source, str]:
    first = next(_listed(client, item.bucket, item.key, retry, item.address, most=1), None)
    if first is None or first.key != item.key:
        hint = ""
        if next(_listed(client, item.bucket, f"{item.key}/", retry, item.address, most=1), None):
            hint = f"; there are objects below it: write {item.address}/ for all of them"
        raise StageError("no-such-object", f"{item.address} does not exist{hint}", item.where)
    into = item.path.endswith("/") or os.path.isdir(item.path)
    path = file_for(item.key, item.path, into_directory=into)
    try:
        check_path(item.key, path)
    except BadName as error:
        raise StageError("key-unfit", str(error), item.where) from None
    return first, path


def _listed(client: Any, bucket: str, prefix: str, retry: RetryPolicy, what: str, most: int = 1000) -> Iterator[Source]:
    more: dict[str, str] = {}
    while True:
        page = retry.call(
            lambda more=more: client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=most, **more),  # type: ignore[misc]
            what,
        )
        for entry in page.get("Contents", ()):
            yield Source(
                bucket, entry["Key"], int(entry["Size"]), str(entry["ETag"]), entry["LastModified"].timestamp()
            )
        if most == 1 or not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


# -- files ------------------------------------------------------------------------------------------------------------


def files(item: Item, leave_out: Callable[[str], None]) -> Iterator[tuple[str, int, str]]:
    """Yield (path, bytes, key) of every file of a stage-out. Raises StageError, OSError."""
    path = item.path.rstrip("/") or "/"
    count = 0
    for found, base, single in roots(path, item):
        for name, real, size in _walk(found, item, leave_out):
            count += 1
            yield real, size, key_for(os.path.relpath(name, base), item.url, single=single)
    if count == 0 and has_wildcard(path) and not os.path.lexists(path):
        raise StageError("nothing-to-stage", f"{item.shown} matches no file", item.where)


def roots(path: str, item: Item) -> list[tuple[str, str, bool]]:
    """(path to walk, directory that keys are relative to, is a single file) of each match. Raises StageError."""
    if os.path.lexists(path):
        if os.path.isdir(path):
            return [(path, path, False)]
        return [(path, os.path.dirname(path), True)]
    if has_wildcard(path):
        return [(match, fixed_part(path), False) for match in sorted(glob.glob(path, include_hidden=False))]
    raise StageError("nothing-to-stage", f"{item.shown} does not exist", item.where)


def _walk(top: str, item: Item, leave_out: Callable[[str], None]) -> Iterator[tuple[str, str, int]]:
    """(name, path, bytes) of every file below *top*. Links are followed inside the mount only: outside of it they
    may lead to something else here than in the container."""
    kept = _inside(top, item.root)
    if kept is None:
        leave_out(f"{top} is a link that leads out of {item.root}")
        return
    found = os.stat(kept)
    if stat.S_ISREG(found.st_mode):
        yield top, kept, found.st_size
        return
    if not stat.S_ISDIR(found.st_mode):
        leave_out(f"{top} is neither a file nor a directory")
        return
    if os.path.islink(top) and top != item.path.rstrip("/"):
        leave_out(f"{top} is a link to a directory")  # it might lead in a circle
        return
    with os.scandir(top) as entries:
        names = sorted(entry.path for entry in entries)
    for name in names:
        yield from _walk(name, item, leave_out)


def _inside(path: str, root: str) -> str | None:
    try:
        real = os.path.realpath(path, strict=True)
    except OSError:
        return None
    return real if os.path.commonpath([real, root]) == root else None
