"""Sizes as people write them, sizes and lists in sentences. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pbsdock.core.errors import BadValue

_SHOWN = 8
# 20 digits: a size Torque cannot hold, -1gb too, comes as 2^63-1 of its unit (observed).
_SIZE = re.compile(r"([0-9]{1,20})([kmgtp]?)([bw]?)", re.IGNORECASE | re.ASCII)
_SCALE = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40, "p": 50}
_WORD = 4  # bytes, as Torque's mom counts them


def parse_size(text: str) -> int:
    """Parse a size into bytes: ``b kb mb gb tb pb``, ``w kw mw …`` (words of 4 bytes), bare is bytes.

    The site's file, a directive and Torque write sizes this way. Raises BadValue.
    """
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise BadValue(f"{text[:80]!r} is not a size; write a whole number and b, kb, mb, gb, tb or w, kw, mw, gw, tw")
    count, scale, unit = match.groups()
    return (int(count) << _SCALE[scale.lower()]) * (_WORD if unit.lower() == "w" else 1)


def human(size: int) -> str:
    """Bytes for a person: "200 MiB"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def some(texts: Sequence[str]) -> str:
    """The first eight items of a list, for a sentence."""
    shown = ", ".join(texts[:_SHOWN]) or "none"
    return f"{shown} and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else shown
