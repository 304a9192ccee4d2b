"""Sizes for people. Pure."""

from __future__ import annotations


def human(size: int) -> str:
    """Bytes for a person: "200 MiB"."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"
