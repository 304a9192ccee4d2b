"""Integers and texts as Torque's src/lib/Libdis writes them: "data is strings", readable and of any length."""

from __future__ import annotations

from typing import BinaryIO

_MOST_DIGITS = 19  # of a number of 64 bits
_LONGEST = 1 << 22  # bytes of a text


def number(value: int) -> bytes:
    """+5, 2+15, 210+1234567890: sign and digits, before them how many digits, before that how many of those."""
    text = f"{value:+d}"
    count = len(text) - 1
    while count > 1:
        text, count = f"{count}{text}", len(str(count))
    return text.encode()


def text(data: bytes) -> bytes:
    """Its length and itself."""
    return number(len(data)) + data


class Reader:
    """Numbers and texts from a stream. All methods raise ValueError for what is none, EOFError where it ends."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def number(self) -> int:
        """The next is a number."""
        count = 1
        while True:
            head = self._read(1)
            if head in b"+-":
                return int(head + self._digits(count))
            if head == b"0":
                raise ValueError("a length that begins with 0")
            count = int(self._digits(count - 1, head))
            if count > _MOST_DIGITS:
                raise ValueError(f"a number of {count} digits")

    def data(self) -> bytes:
        """The next is a text, of any bytes."""
        length = self.number()
        if not 0 <= length <= _LONGEST:
            raise ValueError(f"a text of {length} bytes")
        return self._read(length)

    def text(self) -> str:
        """The next is a text without NUL bytes, as programs take it."""
        data = self.data()
        if b"\0" in data:
            raise ValueError("a text with a NUL byte")
        return data.decode(errors="surrogateescape")

    def _digits(self, count: int, first: bytes = b"") -> bytes:
        digits = first + self._read(count)
        if not digits.isdigit():
            raise ValueError(f"{digits!r} where digits are expected")
        return digits

    def _read(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise EOFError
        return data
