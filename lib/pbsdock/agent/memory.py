"""Memory the agent no longer needs goes back to the host, whose memory is the jobs': glibc would keep it."""

from __future__ import annotations

import ctypes
import sys
import threading
import warnings
from types import ModuleType
from typing import cast

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

    def started(self) -> None:
        """What was needed to start alone is worth giving back, and nobody has counted it (0.7 MiB, measured)."""
        self.freed(_WORTH_IT)

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


def leave_out_unused() -> None:
    """Keep a library from being loaded that another one does without: to be called before that one is loaded.

    requests guesses with it how a text is encoded where a server does not say (compat.py, models.py), and else takes
    UTF-8, which an engine's answers are. It keeps 1.5 MiB (measured).
    """
    sys.modules.setdefault("charset_normalizer", cast(ModuleType, None))  # makes its import an ImportError
    warnings.filterwarnings("ignore", "Unable to find acceptable character detection")


def few_arenas() -> None:
    """Keep the allocator from giving every thread a heap of its own."""
    try:
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)
    except AttributeError:
        pass  # another C library than glibc


heap = Heap()
