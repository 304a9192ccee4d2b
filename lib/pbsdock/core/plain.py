"""Frozen dataclasses from plain JSON types and back, checked field by field. Pure."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal

_hints: Callable[[Any], dict[str, Any]] = functools.cache(typing.get_type_hints)
_defaults: Callable[[Any], list[tuple[str, Any]]] = functools.cache(
    lambda kind: [(field.name, field.default) for field in dataclasses.fields(kind)]
)


def to_plain(value: Any, *, sparse: bool = False) -> Any:
    """Plain JSON types for a dataclass, a tuple, a mapping or a value of an enum.

    With *sparse*, fields of a dataclass that have their default are left out.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, list | tuple):
        return [to_plain(item, sparse=sparse) for item in value]
    if isinstance(value, Mapping):
        return {key: to_plain(item, sparse=sparse) for key, item in value.items()}
    if isinstance(value, Enum):
        return value.value
    pairs = [(name, getattr(value, name), default) for name, default in _defaults(type(value))]
    return {name: to_plain(item, sparse=sparse) for name, item, default in pairs if not (sparse and item == default)}


def from_plain(kind: Any, value: Any, *, newer: bool = False) -> Any:
    """Build a *kind* (a dataclass, or the type of one of its fields) from plain JSON types.

    With *newer*, fields that this release does not know are passed over: a later release may have written them. Raises
    ValueError with the field, what it holds and what is allowed.
    """
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _dataclass(kind, value, newer)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        return _tuple(arguments, value, newer)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return from_plain(next(part for part in arguments if part is not type(None)), value, newer=newer)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{value!r} is none of {arguments}")
        return value
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a table, got {type(value).__name__}")
        return {str(key): from_plain(arguments[1], item, newer=newer) for key, item in value.items()}
    return _scalar(kind, value)


def _dataclass(kind: type[Any], value: Any, newer: bool) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError(f"{kind.__name__}: expected a table, got {type(value).__name__}")
    hints = _hints(kind)
    unknown = set(value) - set(hints)
    if unknown and not newer:
        raise ValueError(f"{kind.__name__}: unknown field {sorted(unknown)[0]!r}")
    given = {name: from_plain(hints[name], item, newer=newer) for name, item in value.items() if name in hints}
    try:
        return kind(**given)
    except TypeError as error:
        raise ValueError(f"{kind.__name__}: {error}") from None


def _tuple(arguments: tuple[Any, ...], value: Any, newer: bool) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"expected a list, got {type(value).__name__}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(from_plain(arguments[0], item, newer=newer) for item in value)
    if len(value) != len(arguments):
        raise ValueError(f"expected {len(arguments)} items, got {len(value)}")
    return tuple(from_plain(part, item, newer=newer) for part, item in zip(arguments, value, strict=True))


def _scalar(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError:
            raise ValueError(f"{value!r} is none of {tuple(member.value for member in kind)}") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)  # JSON has one kind of number
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value
