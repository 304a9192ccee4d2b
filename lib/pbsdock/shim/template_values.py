"""How a template sees values: plain JSON types as Go's, their fields, their truth and their text. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pbsdock.directive.tokens import shown
from pbsdock.shim.template_tokens import BadTemplate, bad

# Fields of the engine's answers that are maps with free keys: a key that is not there is no error in them.
_MAPS = frozenset(
    (
        "Labels",
        "Networks",
        "Ports",
        "ExposedPorts",
        "Volumes",
        "Sysctls",
        "Tmpfs",
        "Options",
        "DriverOpts",
        "Containers",
    )
)
# Fields the engine leaves out where there is nothing to tell.
_OPTIONAL = frozenset(("Health", "Healthcheck"))
_MOST_DIGITS = 1e21  # from which on Go writes an exponent


class _Missing:
    """What a map has not: printed as Go does, and empty."""


MISSING: Final = _Missing()


@dataclass(frozen=True, slots=True)
class Method:
    """What a template calls by a name with one text, as ``.Label "key"``."""

    call: Callable[[str], str]


def field_of(value: Any, name: str, parent: str) -> Any:
    """A field of a value; *parent* is the field's name that gave the value. Raises BadTemplate."""
    if isinstance(value, Mapping):
        if name in value:
            return value[name]
        if parent in _MAPS:
            return MISSING
        # Go's names of fields and JSON's differ in case: ID and Id, NanoCPUs and NanoCpus.
        lower = name.lower()
        for key in value:
            if key.lower() == lower:
                return value[key]
        if name in _OPTIONAL:
            return None
        raise bad(f"can't evaluate field {shown(name)[1:-1]}; there are {_names(value)}")
    if value is None or value is MISSING:
        raise bad(f"nil pointer evaluating {shown(name)[1:-1]}; what holds it is not there")
    raise bad(f"can't evaluate field {shown(name)[1:-1]} in what is no object")


def _names(value: Mapping[str, Any]) -> str:
    names = sorted(str(key) for key in value)
    return ", ".join(names[:40]) + (f" and {len(names) - 40} more" if len(names) > 40 else "")


def call_method(said: str, method: Method, arguments: list[Any]) -> str:
    """Call a method with its one text. Raises BadTemplate."""
    if len(arguments) != 1 or not isinstance(arguments[0], str):
        raise bad(f'{said} takes one text, as {said} "key"')
    return method.call(arguments[0])


def is_true(value: Any) -> bool:
    """Whether Go's ``if`` takes it: neither empty, zero, false nor nothing."""
    return value is not MISSING and bool(value)


def as_text(value: Any) -> str:
    """A value as Go prints it with ``%v``."""
    if value is MISSING:
        return "<no value>"
    return inner_text(value)


def inner_text(value: Any) -> str:
    """The same within a list or a map."""
    if value is None or value is MISSING:
        return "<nil>"
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return number_text(value)
    if isinstance(value, Mapping):
        return f"map[{' '.join(f'{key}:{inner_text(value[key])}' for key in sorted(value, key=str))}]"
    if isinstance(value, list | tuple):
        return f"[{' '.join(map(inner_text, value))}]"
    return "" if isinstance(value, Method) else str(value)


def number_text(value: float) -> str:
    """A number with a fraction as Go's shortest form."""
    if math.isfinite(value) and value == int(value) and abs(value) < _MOST_DIGITS:
        return str(int(value))
    return repr(value)


__all__ = [
    "MISSING",
    "BadTemplate",
    "Method",
    "as_text",
    "call_method",
    "field_of",
    "inner_text",
    "is_true",
    "number_text",
]
