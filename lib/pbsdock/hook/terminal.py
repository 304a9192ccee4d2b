"""The terminal of an interactive job. Imported only where there is one."""

from __future__ import annotations

import os
import termios


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


def window() -> tuple[int, int]:
    """(rows, columns) of the terminal on stdin; (0, 0) if unknown."""
    try:
        size = os.get_terminal_size(0)
    except OSError:
        return 0, 0
    return size.lines, size.columns
