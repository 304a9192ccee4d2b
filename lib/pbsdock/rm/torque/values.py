"""Sizes, times and numbers as Torque writes them (``src/lib/Libattr``). Pure."""

from __future__ import annotations

import re

# 20 digits: a size Torque cannot hold, -1gb too, comes as 2^63-1 of its unit (observed).
_SIZE = re.compile(r"([0-9]{1,20})([kmgtp]?)([bw]?)", re.IGNORECASE | re.ASCII)
_SCALE = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_WORD = 4  # bytes, as mom counts them
_DIGITS = 20  # what a C long can have with its sign; more is no number of Torque's


class BadValue(ValueError):
    """A value Torque would not have sent; ``str()`` names it and says what is allowed."""


def parse_size(text: str) -> int:
    """Parse a Torque size into bytes: ``b kb mb gb tb pb``, ``w kw mw …`` (words of 4 bytes), bare is bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadValue(f"{text[:80]!r} is not a size; write a whole number and b, kb, mb, gb, tb or w, kw, mw, gw, tw")
    count, scale, unit = match.groups()
    return (int(count) << _SCALE[scale.lower()]) * (_WORD if unit.lower() == "w" else 1)


def parse_duration(text: str) -> int:
    """Parse ``SECONDS`` or ``[[DD:]HH:]MM:SS[.fraction]`` into whole seconds, rounded as Torque does: half goes up.

    Raises BadValue.
    """
    whole, dot, fraction = text.strip().partition(".")
    parts = whole.split(":")
    if not 1 <= len(parts) <= 4 or not all(is_number(one) for one in parts) or (dot and not is_number(fraction)):
        raise BadValue(f"{text[:80]!r} is not a time; write seconds or [[DD:]HH:]MM:SS")
    seconds = 1 if fraction[:1] >= "5" else 0
    for value, weight in zip(reversed(parts), (1, 60, 3600, 86400), strict=False):
        seconds += int(value) * weight
    return seconds


def is_number(text: str) -> bool:
    """Whether *text* is a number as Torque writes them: other alphabets' digits, signs and endless rows are not."""
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS
