"""Times and numbers as Torque writes them (``src/lib/Libattr``). Pure."""

from __future__ import annotations

from pbsdock.core.errors import BadValue

_DIGITS = 20  # what a C long can have with its sign; more is no number of Torque's


def parse_duration(text: str) -> int:
    """Parse ``SECONDS`` or ``[[DD:]HH:]MM:SS[.fraction]`` into whole seconds, rounded as Torque does: half goes up.

    Raises BadValue.
    """
    whole, dot, fraction = text.strip().partition(".")
    parts = whole.split(":")
    if not 1 <= len(parts) <= 4 or not all(is_number(part) for part in parts) or (dot and not is_number(fraction)):
        raise BadValue(f"{text[:80]!r} is not a time; write seconds or [[DD:]HH:]MM:SS")
    seconds = 1 if fraction[:1] >= "5" else 0
    for value, weight in zip(reversed(parts), (1, 60, 3600, 86400), strict=False):
        seconds += int(value) * weight
    return seconds


def is_number(text: str) -> bool:
    """Whether *text* is a number as Torque writes them: other alphabets' digits, signs and endless rows are not."""
    return text.isascii() and text.isdigit() and len(text) <= _DIGITS
