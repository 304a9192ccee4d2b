"""Sizes and lists in sentences. Pure."""

from __future__ import annotations

from collections.abc import Sequence

_SHOWN = 8


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
