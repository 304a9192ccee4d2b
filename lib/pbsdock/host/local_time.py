"""What time zone this host keeps, as its C library would find it (tzset(3), tzfile(5))."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

LOCALTIME = "/etc/localtime"
ZONES = "/usr/share/zoneinfo"
FILE_LIMIT = 64 << 10  # bytes; the largest zone has less than four thousand
UTC = "UTC0"
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,3}", re.ASCII)
_RULE = re.compile(r"[!-~]{3,128}", re.ASCII)
_SAME = {"GMT0": UTC, "<UTC>0": UTC, "Universal0": UTC, "UCT0": UTC}


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTime:
    """``zone`` is the name in the zone database, "" if the host's file is none of it; ``rule`` the one for now and all
    later years, as a TZ variable has it (POSIX)."""

    zone: str
    rule: str


def rule_of(data: bytes | None) -> str:
    """The rule at the end of a zone file, ``CET-1CEST,M3.5.0,M10.5.0/3``; no file is UTC, and "" a file without one."""
    if not data:
        return UTC
    lines = data.rstrip(b"\n").rpartition(b"\n")
    text = lines[2].decode("ascii", "replace")
    is_zone = data.startswith(b"TZif") and data[4:5] >= b"2" and data.endswith(b"\n")
    return _SAME.get(text, text) if is_zone and _RULE.fullmatch(text) else ""


def read(path: str = LOCALTIME) -> LocalTime:
    """This host's. A file that cannot be read is none."""
    try:
        with open(path, "rb") as file:
            rule = rule_of(file.read(FILE_LIMIT))
    except OSError:
        return LocalTime(zone="", rule=UTC)
    _, found, zone = os.path.realpath(path).partition("/zoneinfo/")
    zone = zone.removeprefix("posix/")
    return LocalTime(zone=zone if found and _ZONE.fullmatch(zone) else "", rule=rule)
