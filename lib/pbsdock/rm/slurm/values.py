"""Slurm's ways to write lists of hosts, counts by node, times, sizes and settings. Pure."""

from __future__ import annotations

import re

from pbsdock.core.errors import BadValue

_MOST_HOSTS = 65536
_RANGE = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", re.ASCII)
_COUNT = re.compile(r"([0-9]{1,9})(?:\(x([0-9]{1,9})\))?", re.ASCII)
_TIME = re.compile(r"(?:([0-9]{1,6})-)?([0-9]{1,9})(?::([0-9]{1,2}))?(?::([0-9]{1,2}))?", re.ASCII)
_SETTING = re.compile(r"^[ \t]*([A-Za-z]+)[ \t]*=[ \t]*([^#\n]*)", re.MULTILINE)
_ENDLESS = ("UNLIMITED", "NOT_SET", "INVALID", "Partition_Limit", "")


def hosts_of(text: str) -> tuple[str, ...]:
    """The hosts of a list such as ``n[01-03,7],login`` (hostlist.c), in its order. Raises BadValue."""
    found: list[str] = []
    for part in _parts(text):
        for host in _expanded(part):
            found.append(host)
            if len(found) > _MOST_HOSTS:
                raise BadValue(f"the list of hosts {text[:80]!r} has more than {_MOST_HOSTS}")
    return tuple(found)


def _parts(text: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts, depth, begun = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if letter == "," and not depth:
            parts.append(text[begun:place])
            begun = place + 1
    parts.append(text[begun:])
    return [part for part in parts if part]


def _expanded(part: str) -> list[str]:
    head, bracket, rest = part.partition("[")
    if not bracket:
        return [part]
    inside, closed, tail = rest.partition("]")
    if not closed:
        raise BadValue(f"the list of hosts {part[:80]!r} has a [ without a ]")
    tails = _expanded(tail) if tail else [""]
    return [f"{head}{number}{end}" for number in _numbers(inside) for end in tails]


def _numbers(text: str) -> list[str]:
    found: list[str] = []
    for item in text.split(","):
        match = _RANGE.fullmatch(item)
        if match is None:
            raise BadValue(f"{item[:40]!r} is no range of hosts")
        first, last = match[1], match[2] or match[1]
        if int(last) - int(first) >= _MOST_HOSTS:
            raise BadValue(f"{item[:40]!r} is a range of more than {_MOST_HOSTS} hosts")
        found += [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]
    return found


def counts_of(text: str) -> tuple[int, ...]:
    """The numbers by node of ``SLURM_JOB_CPUS_PER_NODE``, such as ``2(x3),1``. Raises BadValue."""
    found: list[int] = []
    for item in text.split(",") if text else []:
        match = _COUNT.fullmatch(item)
        if match is None or int(match[2] or 1) > _MOST_HOSTS:
            raise BadValue(f"{item[:40]!r} is no number of CPUs by node")
        found += [int(match[1])] * int(match[2] or 1)
    return tuple(found)


def seconds_of(text: str) -> int | None:
    """A time limit as squeue prints it: ``5:00``, ``1:00:00``, ``2-00:00:00``; None for none. Raises BadValue."""
    if text in _ENDLESS:
        return None
    match = _TIME.fullmatch(text)
    if match is None:
        raise BadValue(f"{text[:40]!r} is not a time limit of Slurm's")
    days, numbers = int(match[1] or 0), [int(number) for number in match.groups()[1:] if number is not None]
    if match[1] is not None:  # days-hours[:minutes[:seconds]]
        hours, minutes, seconds = (*numbers, 0, 0)[:3]
    else:  # [hours:]minutes:seconds, or minutes
        hours, minutes, seconds = (0, numbers[0], 0) if len(numbers) == 1 else (*(0,) * (3 - len(numbers)), *numbers)
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def gpu_ids_of(text: str) -> tuple[str, ...]:
    """The GPUs of ``SLURM_JOB_GPUS``, such as ``0,2`` or ``0-1``. Raises BadValue."""
    return tuple(str(int(number)) for number in _numbers(text)) if text else ()


def settings(text: str) -> dict[str, str]:
    """The settings of a configuration file, by names in lower case; of what is there twice the last."""
    return {name.lower(): value.strip() for name, value in _SETTING.findall(text)}
