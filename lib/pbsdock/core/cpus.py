"""Lists of CPUs as the kernel writes them. Pure."""

from __future__ import annotations


def parse_cpus(text: str) -> set[int]:
    """The CPUs of a kernel list such as "0-3,8" (cpuset(7))."""
    found: set[int] = set()
    for part in text.split(",") if text else []:
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
