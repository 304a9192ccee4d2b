"""Memory the agent no longer needs goes back to the host, whose memory is the jobs': glibc would keep it."""

from __future__ import annotations

import ctypes
import threading

_WORTH_IT = 16 << 20  # bytes freed since the last time
_M_ARENA_MAX = -8  # malloc.h
_ARENAS = 2  # glibc makes eight a CPU, one a thread; each keeps what the largest request of its threads took


class Heap:
    """What was freed since it was given back last; any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._freed = 0

    def freed(self, size: int) -> None:
        """So many bytes more are of no use."""
        with self._lock:
            self._freed += size

    def tidy(self) -> bool:
        """Give back what was freed, if it is worth the milliseconds; returns whether it was."""
        with self._lock:
            if self._freed < _WORTH_IT:
                return False
            self._freed = 0
        try:
            ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
        except AttributeError:
            return False  # another C library than glibc
        return True


def few_arenas() -> None:
    """Keep the allocator from giving every thread a heap of its own."""
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
    except AttributeError:
        pass  # another C library than glibc


heap = Heap()
