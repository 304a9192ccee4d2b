"""What differs between two configurations, and what of a new one counts while the agent runs. Pure.

A key counts at once unless its table says that the agent has to be started anew for it; object stores come and go with
a start only, because jobs that run have credentials there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pbsdock.config.tables import Config, Override, StoreConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A key whose values differ.

    A store, registry or override that only one of both has is one key, and None in the other.
    """

    key: str  # dotted
    before: Any
    after: Any
    needs_restart: bool = False


def changes(before: Config, after: Config) -> tuple[Change, ...]:
    """Every difference, in the order of the reference."""
    return tuple(_changes(before, after, ""))


def _changes(before: Any, after: Any, place: str) -> Iterator[Change]:
    for field in dataclasses.fields(before):
        key = f"{place}{field.name}"
        old, new = getattr(before, field.name), getattr(after, field.name)
        if old == new:
            continue
        if dataclasses.is_dataclass(old) and dataclasses.is_dataclass(new):
            yield from _changes(old, new, f"{key}.")
        elif key in ("s3", "registry"):
            yield from _named(key, old, new, needs_restart=key == "s3")
        elif key == "override":
            yield from _overrides(old, new)
        else:
            yield Change(key=key, before=old, after=new, needs_restart=field.metadata.get("restart", False))


def _named(key: str, before: dict[str, Any], after: dict[str, Any], *, needs_restart: bool) -> Iterator[Change]:
    """Tables with names: *needs_restart* says whether they come and go with a start only."""
    for name in dict.fromkeys((*before, *after)):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            yield Change(key=f"{key}.{name}", before=old, after=new, needs_restart=needs_restart)
        else:
            yield from _changes(old, new, f"{key}.{name}.")


def _overrides(before: tuple[Any, ...], after: tuple[Any, ...]) -> Iterator[Change]:
    for index in range(max(len(before), len(after))):
        old = before[index] if index < len(before) else None
        new = after[index] if index < len(after) else None
        if old != new:
            yield Change(key=f"override[{index + 1}]", before=old, after=new)


def in_force(before: Config, after: Config) -> Config:
    """*after*, but with *before*'s values of what needs a start. A store that is gone is closed to new jobs."""
    config: Config = _kept(before, after)
    stores = {}
    for name, store in before.s3.items():
        new = after.s3.get(name)
        stores[name] = _kept(store, new) if new is not None else dataclasses.replace(store, allow=())
    overrides = tuple(_with_stores(override, stores) for override in config.override)
    return dataclasses.replace(config, s3=stores, override=overrides)


def _with_stores(override: Override, stores: Mapping[str, StoreConfig]) -> Override:
    """Without rules for a store that is not there yet."""
    rules = {name: rule for name, rule in (override.s3 or {}).items() if name in stores}
    return dataclasses.replace(override, s3=rules or None)


def _kept(before: Any, after: Any) -> Any:
    """*after* with *before*'s values of the fields that need a start, in nested tables as well."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(after):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if field.metadata.get("restart"):
            values[field.name] = old
        elif dataclasses.is_dataclass(new) and dataclasses.is_dataclass(old):
            values[field.name] = _kept(old, new)
    return dataclasses.replace(after, **values)
