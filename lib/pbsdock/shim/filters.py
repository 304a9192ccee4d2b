"""``--filter`` of ``ps``, ``images`` and ``network ls``: which rows fit. Pure; no value is ever a regular expression.

As in Docker, of several values of a key one has to fit, of labels all, and of every key given some.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from pbsdock.core.errors import BadValue
from pbsdock.directive.image_ref import BadImage, parse_image
from pbsdock.directive.tokens import shown
from pbsdock.shim.commands import Images, NetworkLs, Pairs, Ps
from pbsdock.shim.flags import parse_bool
from pbsdock.shim.patterns import PathPattern
from pbsdock.shim.rows import ContainerRow, ImageRow, NetworkRow

STATES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")
_BUILT_IN = ("bridge", "host", "none")
_PATTERN_LIMIT = 512  # characters of a pattern of names
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-/")


def _part(value: str) -> None:
    """A part of a name or id, with ^ for its start and $ for its end."""
    if not set(value.removeprefix("^").removesuffix("$")) <= _PLAIN:
        raise BadValue(
            "is not part of a name; write letters, digits, '_', '.' and '-', ^ for its start and $ for its end"
        )


def _one_of(*allowed: str) -> Callable[[str], None]:
    def check(value: str) -> None:
        if value not in allowed:
            raise BadValue(f"is none of {', '.join(allowed)}")

    return check


def _truth(value: str) -> None:
    if parse_bool(value) is None:
        raise BadValue("is neither true nor false")


def _number(value: str) -> None:
    if not (value.isascii() and value.removeprefix("-").isdigit() and len(value) < 6):
        raise BadValue("is not an exit code")


def check_pattern(value: str) -> None:
    """Raise BadValue for a pattern that is longer than any name."""
    if len(value) > _PATTERN_LIMIT:
        raise BadValue(f"has {len(value)} characters; at most {_PATTERN_LIMIT} are taken")


def _any(_: str) -> None:
    """Any text fits, or not."""


# The keys of each command's filters, and what their values are.
KEYS: Mapping[str, Mapping[str, Callable[[str], None]]] = {
    "ps": {
        "ancestor": _any,
        "before": _any,
        "exited": _number,
        "id": _part,
        "is-task": _truth,
        "label": _any,
        "name": _part,
        "network": _any,
        "since": _any,
        "status": _one_of(*STATES),
    },
    "images": {"dangling": _truth, "label": _any, "reference": check_pattern},
    "network ls": {
        "driver": _any,
        "id": _part,
        "label": _any,
        "name": _part,
        "scope": _any,
        "type": _one_of("builtin", "custom"),
    },
}


def check_filters(command: str, filters: Sequence[tuple[str, str]]) -> None:
    """Raise BadValue, a whole sentence, for a filter that is not known or whose value is wrong."""
    for key, value in filters:
        if key not in KEYS[command]:
            raise BadValue(f"invalid filter {shown(key)}; the filters are {', '.join(KEYS[command])}")
        try:
            KEYS[command][key](value)
        except BadValue as error:
            raise BadValue(f"invalid filter {shown(f'{key}={value}')}: {shown(value)} {error}") from None


def _grouped(filters: Pairs) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for key, value in filters:
        found[key] = (*found.get(key, ()), value)
    return found


def _fits_part(text: str, values: Iterable[str]) -> bool:
    """Whether a text holds one of the parts; ^ and $ are its ends, and a slash before a name is the engine's."""
    for value in values:
        part = value.removeprefix("^").removesuffix("$").removeprefix("/")
        at_start, at_end = value.startswith(("^", "/")), value.endswith("$")
        if at_start and at_end:
            fits = text == part
        elif at_start:
            fits = text.startswith(part)
        else:
            fits = text.endswith(part) if at_end else part in text
        if fits:
            return True
    return False


def _fits_labels(labels: Mapping[str, str], values: Iterable[str]) -> bool:
    pairs = (value.partition("=") for value in values)
    return all(key in labels and (not equals or labels[key] == value) for key, equals, value in pairs)


def select_containers(rows: Iterable[ContainerRow], command: Ps) -> list[ContainerRow]:
    """The rows ``docker ps`` shows, the newest first. Raises BadValue, a whole sentence, for a container not found."""
    newest = sorted(rows, key=lambda row: row.created, reverse=True)
    given = _grouped(command.filters)
    count = 1 if command.latest else command.last
    everything = command.all or count > 0 or "status" in given or "exited" in given
    after = max((_found(newest, text).created for text in given.get("since", ())), default=None)
    before = min((_found(newest, text).created for text in given.get("before", ())), default=None)
    fitting = [
        row
        for row in newest
        if (everything or row.state in ("running", "paused", "restarting"))
        and (after is None or row.created > after)
        and (before is None or row.created < before)
        and _fits_container(row, given)
    ]
    return fitting[:count] if count else fitting


def _found(rows: Iterable[ContainerRow], text: str) -> ContainerRow:
    row = next((row for row in rows if text in row.names or (text and row.id.startswith(text))), None)
    if row is None:
        raise BadValue(f"No such container: {shown(text)}")
    return row


def _fits_container(row: ContainerRow, given: Mapping[str, tuple[str, ...]]) -> bool:
    return all(_CONTAINER[key](row, values) for key, values in given.items() if key in _CONTAINER)


def _is_of(row: ContainerRow, values: Iterable[str]) -> bool:
    """Whether a container's image is one of those, by name or by id."""
    name = _canonical(row.image)
    for value in values:
        plain = value.removeprefix("sha256:")
        if len(plain) >= 4 and row.image_id.removeprefix("sha256:").startswith(plain):
            return True
        if name is not None and name == _canonical(value):
            return True
    return False


def _canonical(text: str) -> str | None:
    try:
        return parse_image(text).canonical
    except BadImage:
        return None


_CONTAINER: Mapping[str, Callable[[ContainerRow, Sequence[str]], bool]] = {
    "ancestor": _is_of,
    "exited": lambda row, values: row.state in ("exited", "dead") and row.exit_code in map(int, values),
    "id": lambda row, values: _fits_part(row.id, values),
    "is-task": lambda _row, values: any(parse_bool(value) is False for value in values),
    "label": lambda row, values: _fits_labels(row.labels, values),
    "name": lambda row, values: any(_fits_part(name, values) for name in row.names),
    "network": lambda row, values: any(value in row.networks for value in values),
    "status": lambda row, values: row.state in values,
}


def select_images(rows: Iterable[ImageRow], command: Images) -> list[ImageRow]:
    """The rows ``docker images`` shows, the newest first."""
    given = _grouped(command.filters)
    texts = [*given.get("reference", ()), *([command.reference] if command.reference else ())]
    patterns = [PathPattern(text) for text in texts]
    newest = sorted(rows, key=lambda row: row.created, reverse=True)
    dangling = {parse_bool(value) for value in given.get("dangling", ())}
    return [
        row
        for row in newest
        if (not dangling or (not row.tag and not row.repository) in dangling)
        and _fits_labels(row.labels, given.get("label", ()))
        and (not patterns or any(_fits_reference(row, pattern) for pattern in patterns))
    ]


def _fits_reference(row: ImageRow, pattern: PathPattern) -> bool:
    return bool(row.repository) and (pattern.fits(f"{row.repository}:{row.tag}") or pattern.fits(row.repository))


def select_networks(rows: Iterable[NetworkRow], command: NetworkLs) -> list[NetworkRow]:
    """The rows ``docker network ls`` shows, by name."""
    given = _grouped(command.filters)
    named = sorted(rows, key=lambda row: row.name)
    return [row for row in named if all(_NETWORK[key](row, values) for key, values in given.items())]


_NETWORK: Mapping[str, Callable[[NetworkRow, Sequence[str]], bool]] = {
    "driver": lambda row, values: row.driver in values,
    "id": lambda row, values: _fits_part(row.id, values),
    "label": lambda row, values: _fits_labels(row.labels, values),
    "name": lambda row, values: _fits_part(row.name, values),
    "scope": lambda row, values: row.scope in values,
    "type": lambda row, values: ("builtin" if row.name in _BUILT_IN else "custom") in values,
}
