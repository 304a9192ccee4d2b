"""What the parts of the policy share: the host's facts, spelling of paths and positions in sentences. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from pbsdock.core.pathrules import ClosedPaths
from pbsdock.directive.parse import Directive


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What a decision needs of the execution host: memory in bytes, CPUs that can be used.

    ``free_cpus`` are the CPUs no other job of ours has for itself, None where nobody keeps count; ``closed`` are this
    host's own paths that are not given to containers.
    """

    node: str
    memory_bytes: int
    cpus: int
    free_cpus: tuple[int, ...] | None = None
    closed: ClosedPaths = field(default_factory=ClosedPaths)


def plain(path: str) -> str:
    """The one spelling of an absolute path without '..': no doubled, trailing or dotted components."""
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def position(directive: Directive, option: str, index: int) -> str:
    """``script:4:9`` of the *index*-th use of an option."""
    places = directive.where.get(option, ())
    if index >= len(places):
        return directive.at(option)
    line, column = places[index]
    return f"{directive.filename}:{line}:{column}"
