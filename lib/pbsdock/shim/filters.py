"""``--filter`` of ``ps``, ``images`` and ``network ls``. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from pbsdock.core.errors import BadValue
from pbsdock.directive.tokens import shown

# The keys of each command's filters.
KEYS = {
    "ps": ("ancestor", "exited", "id", "is-task", "label", "name", "network", "status"),
    "images": ("dangling", "label", "reference"),
    "network ls": ("driver", "id", "label", "name", "scope", "type"),
}


def check_filters(command: str, filters: Sequence[tuple[str, str]]) -> None:
    """Raise BadValue, a whole sentence, for a filter that is not known."""
    for key, _ in filters:
        if key not in KEYS[command]:
            raise BadValue(f"invalid filter {shown(key)}; the filters are {', '.join(KEYS[command])}")
