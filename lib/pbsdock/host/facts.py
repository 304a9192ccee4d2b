"""What the kernel says of this host."""

from __future__ import annotations

import os


def boot_id() -> str:
    """The kernel's id of this boot (random(4)): everything recorded under another is dead."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def host_memory() -> int:
    """Bytes of memory of this host (sysconf(3))."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
