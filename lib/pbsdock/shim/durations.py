"""Times and sizes as Docker's tables have them: ``2 hours``, ``8.64MB``. Pure."""

from __future__ import annotations

from datetime import datetime, tzinfo

_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
_HOUR, _DAY = 3600, 24
_NEVER = "0001-01-01 00:00:00 +0000 UTC"


def human_duration(seconds: float) -> str:
    """How long, as Docker's go-units says it: "Less than a second", "About a minute", "3 weeks"."""
    whole = max(0, int(seconds))
    minutes, hours = whole // 60, int(max(0.0, seconds) / _HOUR + 0.5)
    if whole < 1:
        return "Less than a second"
    if whole < 60:
        return "1 second" if whole == 1 else f"{whole} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    if hours < _DAY * 7 * 2:
        return f"{hours // _DAY} days"
    if hours < _DAY * 30 * 2:
        return f"{hours // _DAY // 7} weeks"
    if hours < _DAY * 365 * 2:
        return f"{hours // _DAY // 30} months"
    return f"{int(seconds / _HOUR) // _DAY // 365} years"


def human_size(size: int, digits: int = 3) -> str:
    """Bytes with so many digits that count, in powers of 1000."""
    value, at = float(size), 0
    while value >= 1000 and at < len(_UNITS) - 1:
        value /= 1000
        at += 1
    return f"{value:.{digits}g}{_UNITS[at]}"


def local_text(seconds: float, zone: tzinfo | None = None) -> str:
    """A time since the epoch as ``2026-11-26 04:41:11 +0000 UTC``; *zone* None: this host's.

    A time that no calendar here has, as an image may name any, is Go's zero: when that has been nobody knows.
    """
    try:
        return datetime.fromtimestamp(int(seconds), zone).astimezone(zone).strftime("%Y-%m-%d %H:%M:%S %z %Z")
    except (ValueError, OverflowError, OSError):
        return _NEVER
