"""The terminal of an interactive job. Imported only where there is one."""

from __future__ import annotations

import os
import select
import termios

from pbsdock.hook.streams import write_all

_CHUNK = 1 << 16


class Terminal:
    """The terminal in raw mode, put back at the end."""

    def __init__(self) -> None:
        self._saved = termios.tcgetattr(0)
        raw = termios.tcgetattr(0)
        raw[0] &= ~(
            termios.IGNBRK
            | termios.BRKINT
            | termios.PARMRK
            | termios.ISTRIP
            | termios.INLCR
            | termios.IGNCR
            | termios.ICRNL
            | termios.IXON
        )
        raw[1] &= ~termios.OPOST
        raw[2] = (raw[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
        raw[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
        raw[6][termios.VMIN] = 1
        raw[6][termios.VTIME] = 0
        termios.tcsetattr(0, termios.TCSADRAIN, raw)

    def restore(self) -> None:
        """Give the terminal back as it was."""
        try:
            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)
        except (OSError, termios.error):
            pass


class Pty:
    """The master of a terminal that was made in the container, between it and this process's own terminal."""

    def __init__(self, master: int, poller: select.poll) -> None:
        self._master = master
        self._poller = poller
        self._typed = b""  # what the other end has no room for yet
        self._is_fed = True  # whether this process's own terminal is read
        os.set_blocking(master, False)
        poller.register(master, select.POLLIN)
        poller.register(0, select.POLLIN)
        self.resize()

    def resize(self) -> None:
        """Give the terminal the size that this process's own has."""
        try:
            termios.tcsetwinsize(self._master, termios.tcgetwinsize(0))
        except (OSError, termios.error):
            pass

    def handle(self, fd: int) -> None:
        """Pass on what *fd* has, or has room for."""
        if fd == self._master:
            self._from_container()
            self._to_container()
        elif fd == 0 and self._is_fed:
            self._from_user()

    def _from_container(self) -> bool:
        """Returns whether something came."""
        try:
            data = os.read(self._master, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:  # EIO: nobody has the other end
            data = b""
        if not data:
            return False
        try:
            write_all(1, memoryview(data))
        except OSError:
            pass
        return True

    def _from_user(self) -> None:
        try:
            data = os.read(0, _CHUNK)
        except OSError:
            data = b""
        if not data:
            self._is_fed = False
            self._poller.unregister(0)
            return
        self._typed += data
        self._to_container()

    def _to_container(self) -> None:
        try:
            while self._typed:
                self._typed = self._typed[os.write(self._master, self._typed) :]
        except BlockingIOError:
            pass
        except OSError:
            self._typed = b""
        self._poller.modify(self._master, select.POLLIN | (select.POLLOUT if self._typed else 0))
        if self._is_fed:
            self._poller.modify(0, 0 if self._typed else select.POLLIN)

    def drain(self) -> None:
        """Pass on what is left of the output, and close the terminal."""
        while self._from_container():
            pass
        self._poller.unregister(self._master)
        os.close(self._master)
        if self._is_fed:
            self._poller.unregister(0)


def window() -> tuple[int, int]:
    """(rows, columns) of the terminal on stdin; (0, 0) if unknown."""
    try:
        size = os.get_terminal_size(0)
    except OSError:
        return 0, 0
    return size.lines, size.columns
