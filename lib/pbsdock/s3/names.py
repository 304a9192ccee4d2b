"""How a directive writes buckets, prefixes and objects. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

BUCKET = r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}"
ACCESS_FORM = "[PROFILE:]BUCKET[/PREFIX][:ro|rw]"
URL_FORM = "s3://[PROFILE:]BUCKET/KEY"
# Bytes; S3's own limit (Amazon S3, "Object key names"). A longer name in a policy makes radosgw 16.2 crash (observed
# from 1,800 on), which no job may bring about.
KEY_LIMIT = 1024
ON = ("success", "always")  # when --stage-out uploads: after exit status 0, or after any
_NAME = re.compile(rf"(?:([A-Za-z][A-Za-z0-9_-]{{0,31}}):)?({BUCKET})(?:/(.*))?")
_WILD = re.compile(r"[*?\[]")


class BadName(ValueError):
    """A text that names no bucket; ``str()`` says why."""


@dataclass(frozen=True, slots=True)
class Access:
    """``[PROFILE:]BUCKET[/PREFIX][:ro|rw]``; *store* None is the site's first, *prefix* has no slash at its ends."""

    store: str | None
    bucket: str
    prefix: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Url:
    """``s3://[PROFILE:]BUCKET[/KEY]``: an object, a whole prefix (ends in ``/`` or is empty) or a pattern."""

    store: str | None
    bucket: str
    key: str

    @property
    def literal(self) -> str:
        """What stands before the first wildcard."""
        found = _WILD.search(self.key)
        return self.key[: found.start()] if found else self.key

    @property
    def is_pattern(self) -> bool:
        """Whether it has wildcards."""
        return self.literal != self.key

    @property
    def directory(self) -> str:
        """The longest prefix of whole components under which everything it names lies; no slash at its end."""
        if self.is_pattern:
            return self.literal.rpartition("/")[0]
        return self.key.removesuffix("/")


def parse_access(text: str) -> Access:
    """Parse the value of ``--s3``; without a mode it is for reading. Raises BadName."""
    name, mode = text, "ro"
    if text.endswith((":ro", ":rw")):
        name, mode = text[:-3], text[-2:]
    found = _NAME.fullmatch(name)
    if found is None:
        raise BadName(f"is not {ACCESS_FORM}")
    prefix = (found[3] or "").removesuffix("/")
    if prefix and (problem := _key_problem(prefix)):
        raise BadName(problem)
    if _WILD.search(prefix) or ":" in prefix:
        raise BadName("has one of * ? [ : in its prefix; name what lies before it, a prefix covers all below it")
    return Access(found[1], found[2], prefix, mode == "ro")


def parse_url(text: str) -> Url:
    """Parse an object's address. Raises BadName."""
    scheme, _, rest = text.partition("://")
    found = _NAME.fullmatch(rest) if scheme == "s3" else None
    if found is None:
        raise BadName(f"is not {URL_FORM}")
    key = found[3] or ""
    if key and (problem := _key_problem(key.removesuffix("/"))):
        raise BadName(problem)
    return Url(found[1], found[2], key)


def _key_problem(key: str) -> str | None:
    """Why a key is not taken: what cannot be a path below a directory, or would mean more than itself in a policy."""
    if any(part in ("", ".", "..") for part in key.split("/")):
        return "has an empty, '.' or '..' component; write the key without it"
    if "${" in key:
        return "has '${' in its key, which a policy would fill in; it cannot be asked for"
    if not key.isprintable():
        return "has a control character in its key"
    if len(key.encode("utf-8", "replace")) > KEY_LIMIT:
        return f"has a key of more than {KEY_LIMIT} bytes"
    return None
