"""Map keys to files and files to keys. Pure."""

from __future__ import annotations

import fnmatch
import os.path
import re

from pbsdock.s3.names import KEY_LIMIT, Url

NAME_MAX, PATH_MAX = 255, 4095  # bytes; linux/limits.h, the second without its NUL
_LONG = 160  # characters of a key in a sentence
_NO_TEXT = re.compile("[\ud800-\udfff]")  # how Python has a name's bytes that are no UTF-8 (PEP 383)


class BadName(ValueError):
    """A key or path that cannot be copied; ``str()`` says why."""


def matches(key: str, pattern: str) -> bool:
    """Whether a key fits a pattern, component by component: ``*`` and ``?`` do not cross a slash."""
    have, want = key.split("/"), pattern.split("/")
    return len(have) == len(want) and all(fnmatch.fnmatchcase(a, b) for a, b in zip(have, want, strict=True))


def relative(key: str, url: Url) -> str:
    """The path of an object relative to its target; "" for the object that marks the prefix itself.

    Raises BadName if it is not a path: a key may be any text, and ``..`` would lead out of the target.
    """
    rest = key[len(url.directory) :].removeprefix("/") if url.directory else key
    parts = rest.removesuffix("/").split("/") if rest else []
    for part in parts:
        if problem := _unfit(part):
            below = url.directory + "/" if url.directory else "the bucket"
            raise BadName(f"the key {shown(key)} is no path below {below!r}: {problem}")
    return rest


def _unfit(part: str) -> str:
    """Why a component is no file's name, "" if it is (POSIX, "Filename"; NAME_MAX of Linux)."""
    if part == "":
        return "it has an empty component"
    if part in (".", ".."):
        return f"it has a {part!r} component"
    if "\0" in part:
        return "it has a NUL character"
    if len(os.fsencode(part)) > NAME_MAX:
        return f"it has a component of more than {NAME_MAX} bytes"
    return ""


def shown(key: str) -> str:
    """A key for a sentence, quoted, its control characters escaped, its middle left out if it is long."""
    return repr(key if len(key) <= _LONG else f"{key[: _LONG // 2]}...{key[-_LONG // 2 :]}")


def check_path(key: str, path: str) -> None:
    """Whether the kernel takes the path a key becomes. Raises BadName."""
    name = os.path.basename(path.rstrip("/"))
    if len(os.fsencode(name)) > NAME_MAX:
        raise BadName(f"the key {shown(key)} cannot be a file: its name would have more than {NAME_MAX} bytes")
    if len(os.fsencode(path)) > PATH_MAX:
        raise BadName(f"the key {shown(key)} cannot be a file: its path would have more than {PATH_MAX} bytes")


def file_for(key: str, path: str, *, into_directory: bool) -> str:
    """The file a single object becomes: PATH itself, or below it where PATH is a directory."""
    return os.path.join(path, key.rsplit("/", 1)[-1]) if into_directory else path


def key_for(name: str, url: Url, *, single: bool) -> str:
    """The key of a file: the URL's own for a single file, unless that is a prefix; else below it."""
    if single and url.key and not url.key.endswith("/"):
        return url.key
    return f"{url.directory}/{name}" if url.directory else name


def key_problem(key: str) -> str:
    """Why a file's name can be no key, "" if it can: keys are UTF-8 of a length (Amazon S3, "Object key names"), file
    names any bytes."""
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return "is not UTF-8, which a key has to be"
    return f"would make a key of more than {KEY_LIMIT} bytes" if size > KEY_LIMIT else ""


def escaped(text: str) -> str:
    """A sentence with a file's name in it, as UTF-8; bytes that are not UTF-8 become ``\\xff``."""
    return _NO_TEXT.sub(lambda match: f"\\x{ord(match[0]) & 0xFF:02x}", text)


def fixed_part(pattern: str) -> str:
    """The directory in front of a path pattern's first wildcard."""
    head = []
    for part in pattern.split("/"):
        if has_wildcard(part):
            break
        head.append(part)
    return "/".join(head) or "/"


def has_wildcard(text: str) -> bool:
    """Whether a path is a pattern."""
    return any(character in text for character in "*?[")


# -- parts ------------------------------------------------------------------------------------------------------------

PART = 8 << 20  # bytes; also the largest file that is sent in one request
_MOST_PARTS = 10_000  # of one upload (Amazon S3, "Multipart upload limits"; Ceph's rgw_multipart_part_upload_limit)
_COMMON = tuple(size << 20 for size in (8, 16, 5, 15, 10, 32, 64, 100, 128, 256, 512, 1024))


def part_size(size: int) -> int:
    """Bytes of a part of an upload of *size* bytes."""
    least = -(-size // _MOST_PARTS)
    return max(PART, -(-least >> 20) << 20)


def parts_of(etag: str) -> int:
    """How many parts an object was uploaded in, as its ETag says; 0 for one made in one piece."""
    tail = etag.strip('"').partition("-")[2]
    return int(tail) if tail.isascii() and tail.isdigit() else 0


def likely_part_sizes(size: int, etag: str) -> tuple[int, ...]:
    """Part sizes, in bytes, of common clients that fit an object's size and number of parts; the likeliest first.

    S3 does not tell them, and the ETag of an upload in parts can only be verified with them.
    """
    count = parts_of(etag)
    if count == 0:
        return ()
    sizes = dict.fromkeys((part_size(size), *_COMMON))
    return tuple(part for part in sizes if max(1, -(-size // part)) == count)
