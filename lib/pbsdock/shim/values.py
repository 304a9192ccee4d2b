"""The values of options, as Docker writes them: sizes, CPUs, signals, names. Pure.

Each reader raises BadValue with what is wrong, to stand behind the option's name.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence

from pbsdock.core.errors import BadValue
from pbsdock.directive.tokens import shown


class NotOffered(BadValue):
    """A value that Docker would take and a job does not have."""


_SIZE = re.compile(r"(?=\.?[0-9])([0-9]{0,18})(?:\.([0-9]{0,9})[0-9]{0,60})? ?([kKmMgGtTpP]?)(?:[iI]?[bB])?", re.ASCII)
_SCALE = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_MOST_BYTES = 2**63 - 1
_CPUS = re.compile(r"([0-9]{0,6})(?:\.([0-9]{0,3})[0-9]{0,60})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
_CPU_LIST = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?){0,1023}", re.ASCII)
_NAME = re.compile(r"/?([a-zA-Z0-9][a-zA-Z0-9_.-]{1,254})")
_NETWORK = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_HOSTNAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_.-]{0,62}[a-zA-Z0-9])?")
_PLATFORM = re.compile(r"[a-z0-9]{1,32}(?:/[a-z0-9_.]{1,32}){0,2}")
_USER = re.compile(r"[^:\s]{1,256}(?::[^:\s]{1,256})?")
_REAL_TIME = re.compile(r"RT(?:MIN(?:\+([0-9]{1,2}))?|MAX(?:-([0-9]{1,2}))?)", re.ASCII)
_DEVICE_ID = re.compile(r"[A-Za-z0-9:./_-]{1,80}")
PATH_LIMIT = 4096


def size(text: str) -> int:
    """Bytes, as Docker reads a size: ``64m``, ``1.5g``, ``1GiB``; units are powers of 1024."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise BadValue("is not a size; write a number and b, k, m, g or t, for example 512m")
    whole, part, unit = match.groups()
    scale = _SCALE[unit.lower()]
    bytes_ = (int(whole or "0") << scale) + (int((part or "").ljust(9, "0")) << scale) // 10**9
    if bytes_ > _MOST_BYTES:
        raise BadValue("is more than any node has")
    return bytes_


def cpus(text: str) -> int:
    """Thousandths of a CPU: ``1.5`` is 1500."""
    match = _CPUS.fullmatch(text)
    if match is None or text in ("", "."):
        raise BadValue("is not a number of CPUs, for example 1.5")
    return int(match[1] or "0") * 1000 + int((match[2] or "").ljust(3, "0"))


def whole(text: str, least: int = -_MOST_BYTES) -> int:
    """A whole number of at least *least*."""
    if not _WHOLE.fullmatch(text):
        raise BadValue("is not a whole number")
    if int(text) < least:
        raise BadValue(f"is less than {least}")
    return int(text)


def cpu_list(text: str) -> str:
    """CPUs as the kernel lists them: ``0-3,8``."""
    if not _CPU_LIST.fullmatch(text):
        raise BadValue("is not a list of CPUs, for example 0-3 or 0,2")
    return text


def name(text: str) -> str:
    """A container's name."""
    match = _NAME.fullmatch(text)
    if match is None:
        raise BadValue("is not a container's name; write two or more letters, digits, '_', '.' or '-'")
    return match[1]


def network_name(text: str) -> str:
    """A network's name."""
    if not _NETWORK.fullmatch(text):
        raise BadValue("is not a network's name; write letters, digits, '_', '.' or '-'")
    return text


def hostname(text: str) -> str:
    """A host's name."""
    if not _HOSTNAME.fullmatch(text):
        raise BadValue("is not a host name; write at most 64 letters, digits, '_', '-' and '.'")
    return text


def platform(text: str) -> str:
    """``OS/ARCHITECTURE[/VARIANT]``."""
    if not _PLATFORM.fullmatch(text.lower()):
        raise BadValue("is not OS/ARCHITECTURE, for example linux/amd64")
    return text.lower()


def user(text: str) -> str:
    """``NAME|UID[:GROUP|GID]``."""
    if not _USER.fullmatch(text):
        raise BadValue("is not USER or USER:GROUP, as names or numbers")
    return text


def signal_name(text: str) -> str:
    """A signal's name without SIG, or its number in digits for one without a name."""
    upper = text[:16].upper().removeprefix("SIG") if len(text) <= 16 else ""
    if re.fullmatch("[0-9]{1,3}", upper, re.ASCII) and 0 < int(upper) < signal.NSIG:
        number = int(upper)
        try:
            return signal.Signals(number).name.removeprefix("SIG")
        except ValueError:
            return str(number)
    if f"SIG{upper}" in signal.Signals.__members__:
        return upper
    real_time = _REAL_TIME.fullmatch(upper)
    if real_time and int(real_time[1] or real_time[2] or "0") <= signal.SIGRTMAX - signal.SIGRTMIN:
        return upper
    raise BadValue("is not a signal, for example TERM, SIGINT or 9")


def choice(text: str, allowed: Sequence[str], why: str = "") -> str:
    """One of a few words; *why* others are not taken."""
    if text not in allowed:
        said = " or ".join([", ".join(allowed[:-1]), allowed[-1]]) if len(allowed) > 1 else allowed[0]
        raise BadValue(f"is not {said}" + (f": {why}" if why else ""))
    return text


def path(text: str) -> str:
    """A path of the client's."""
    if not text or len(text) > PATH_LIMIT:
        raise BadValue("names no file" if not text else f"has {len(text)} characters; a path has at most {PATH_LIMIT}")
    return text


def inside(text: str) -> str:
    """An absolute path in a container."""
    if not path(text).startswith("/"):
        raise BadValue("is not an absolute path in the container")
    return text


def variable(text: str) -> tuple[str, str | None]:
    """``NAME=VALUE``, or ``NAME`` with the value None: as the client's environment has it."""
    name_, equals, value = text.partition("=")
    if not name_:
        raise BadValue("is not NAME=VALUE or NAME")
    return name_, value if equals else None


def pair(text: str) -> tuple[str, str]:
    """``KEY=VALUE``, or ``KEY`` with an empty value: a label."""
    key, _, value = text.partition("=")
    if not key or any(letter.isspace() for letter in key):
        raise BadValue("is not KEY=VALUE with a key without blanks")
    return key, value


def filter_pair(text: str) -> tuple[str, str]:
    """``KEY=VALUE`` of ``--filter``; the key in small letters, without blanks around it and the value."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadValue("is not KEY=VALUE, for example name=db")
    return key.strip().lower(), value.strip()


def comma_separated(text: str) -> list[str]:
    """The fields of one line of comma-separated values; a field in double quotes may hold commas."""
    fields: list[str] = []
    at, most = 0, len(text)
    while at <= most:
        if text[at : at + 1] == '"':
            field, at = _quoted(text, at + 1)
        else:
            end = text.find(",", at)
            end = most if end < 0 else end
            field, at = text[at:end], end
        fields.append(field)
        if at < most and text[at] != ",":
            raise BadValue("has a quotation mark inside a field; put the marks around the whole field")
        at += 1
    return fields


def _quoted(text: str, at: int) -> tuple[str, int]:
    """A field behind its opening mark, in which two marks are one; and where it ends."""
    parts = []
    while True:
        end = text.find('"', at)
        if end < 0:
            raise BadValue("has a quotation mark that is not closed")
        parts.append(text[at:end])
        if text[end + 1 : end + 2] != '"':
            return "".join(parts), end + 1
        parts.append('"')
        at = end + 2


def gpus(text: str) -> str:
    """``all``, a count in digits, or ``device=ID[,ID…]``."""
    fields = comma_separated(text)
    if len(fields) == 1 and "=" not in fields[0]:
        return _count(fields[0])
    count, ids = "", list[str]()
    for field in fields:
        key, equals, value = field.partition("=")
        if key == "device" and equals:
            ids = value.split(",") if value else []
        elif not equals and ids:
            ids.append(key)
        elif key == "count" and equals:
            count = _count(value)
        elif key == "driver" and value in ("", "nvidia"):
            pass
        elif key == "capabilities":
            pass
        elif key in ("driver", "options"):
            raise BadValue(f"has {shown(field)}; the site chooses how GPUs are given, write all, a count or device=ID")
        else:
            raise BadValue(f"has {shown(field)}; write all, a count or device=ID")
    if (ids and count) or not all(_DEVICE_ID.fullmatch(each) for each in ids):
        raise BadValue("names GPUs in no way that is known; write all, a count or device=ID[,ID]")
    return f"device={','.join(ids)}" if ids else count or "all"


def _count(text: str) -> str:
    if text in ("all", "-1"):
        return "all"
    if not re.fullmatch("[0-9]{1,4}", text, re.ASCII):
        raise BadValue("is not all, a count or device=ID[,ID]")
    return str(int(text))


def network(text: str) -> tuple[str, tuple[str, ...]]:
    """(network, aliases) of ``NAME``, ``container:NAME`` or ``name=NAME,alias=NAME``."""
    if text.startswith("container:"):
        other = text.removeprefix("container:")
        if not other:
            raise BadValue("names no container; write container:NAME")
        return text, ()
    if "=" not in text:
        return network_name(text), ()
    found, aliases = "", []
    for field in comma_separated(text):
        key, _, value = field.partition("=")
        if key == "name":
            found = network_name(value)
        elif key == "alias":
            aliases.append(network_name(value))
        else:
            raise BadValue(f"has {shown(field)}; write a name, or name=NAME,alias=NAME: the rest is the site's")
    if not found:
        raise BadValue("names no network")
    return found, tuple(aliases)
