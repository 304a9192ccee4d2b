"""The signals that a run hook catches and passes on to its job."""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]  # typeshed has no stub; `signal` would import enum
import os

WINDOW, CHILD, CONTINUE = _signal.SIGWINCH, _signal.SIGCHLD, _signal.SIGCONT
_FORWARDED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGCONT", "SIGTSTP", "SIGXCPU")
# A bare job's leader dies of these whatever its script does, so the run hook ends by them too (torque-facts: 271).
_FATAL = frozenset(getattr(_signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"))


class Signals:
    """Signals of this process, caught from the construction on.

    ``wake`` is a descriptor that can be read when a signal has come. ``last`` is the last one that was passed on, 0 if
    there was none; ``fatal`` is the one this process is to end by, 0 if there is none.
    """

    def __init__(self) -> None:
        self.fatal = self.last = 0
        self._caught: list[int] = []
        self.wake, write_end = os.pipe()
        os.set_blocking(self.wake, False)
        os.set_blocking(write_end, False)
        _signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for name in (*_FORWARDED, "SIGWINCH", "SIGCHLD"):
            _signal.signal(getattr(_signal, name), self._catch)

    def _catch(self, number: int, _frame: object) -> None:
        self._caught.append(number)

    @property
    def are_pending(self) -> bool:
        """Whether any has been caught and not been taken."""
        return bool(self._caught)

    def quiet(self) -> None:
        """Empty ``wake``; what was caught is still to be taken."""
        try:
            os.read(self.wake, 512)
        except BlockingIOError:
            pass

    def take(self) -> list[int]:
        """The signals caught since the last call, in order."""
        self.quiet()
        caught, self._caught = self._caught, []
        return caught

    def note(self, number: int) -> None:
        """Remember a signal that is passed on."""
        self.last = number
        if number in _FATAL:
            self.fatal = number

    def die_if_fatal(self) -> None:
        """End this process if one that ends a job has been caught, by that signal."""
        for number in self._caught:
            if number in _FATAL:
                self.die(number)

    def die(self, number: int) -> None:
        """End this process by a signal, and leave no core of its own behind."""
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _signal.set_wakeup_fd(-1)
        for caught in {number, *(getattr(_signal, name) for name in (*_FORWARDED, "SIGWINCH", "SIGCHLD"))}:
            if caught not in (_signal.SIGKILL, _signal.SIGSTOP):
                _signal.signal(caught, _signal.SIG_DFL)
        _signal.pthread_sigmask(_signal.SIG_UNBLOCK, (number,))
        os.kill(os.getpid(), number)
