"""Mirrors of registries: where an image can be had else, by its digest, under the name that the user wrote.

What a mirror gives out is taken by its digest alone, which the engine checks against the content. Whose word counts for
the digest of a tag is the site's choice. A mirror is shown the login that the site has for the mirror's own host, if
any; those of the registry and of users never.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pbsdock.config.sections import RegistryConfig
from pbsdock.core.errors import HookError, Refusal
from pbsdock.directive.image_ref import ImageRef, parse_image
from pbsdock.engine import manifest, registry
from pbsdock.engine.base import ImageFacts
from pbsdock.engine.credentials import Login

_AWAY_S = 60.0  # how long a mirror that gave no answer is not asked again
_ASK_S = 10.0
_AWAY = frozenset({"registry-unreachable", "registry-busy", "pull-too-slow"})

Registries = Callable[[], Mapping[str, RegistryConfig]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """An image at a mirror. ``reference`` has the mirror's name and the tag or digest that the user wrote."""

    mirror: str
    reference: str
    login: Login

    @property
    def registry(self) -> str:
        """The mirror's host."""
        return parse_image(self.reference).registry


class Mirrors:
    """Any thread. *client* makes one of the engine's, with a deadline in seconds."""

    def __init__(
        self,
        client: Callable[[float | None], Any],
        inspect: Callable[[str], ImageFacts | None],
        registries: Registries = dict,
        clock: Callable[[], float] = time.monotonic,
        digest_of: Callable[[str, Login], str | None] = manifest.digest_of,
    ) -> None:
        self._client = client
        self._inspect = inspect
        self._registries = registries
        self._clock = clock
        self._digest_of = digest_of
        self._lock = threading.Lock()
        self._away: dict[str, float] = {}  # mirror -> until when

    def of(self, reference: str, site: Callable[[str], Login]) -> tuple[Source, ...]:
        """Where to ask for an image before its own registry, in order. Raises what *site* does."""
        image = parse_image(reference)
        now = self._clock()
        with self._lock:
            away = {mirror for mirror, until in self._away.items() if until > now}
        found = []
        for mirror in self._names(image.registry):
            if mirror not in away:
                there = _at(mirror, image)
                found.append(Source(mirror=mirror, reference=there, login=site(parse_image(there).registry)))
        return tuple(found)

    def names(self, reference: str) -> Iterator[str]:
        """The image's registry and repository, as the user wrote it and as each mirror has it."""
        image = parse_image(reference)
        yield image.name
        for mirror in self._names(image.registry):
            yield f"{mirror}/{image.repository}"

    def digest(self, reference: str, login: Login) -> str | None:
        """That of what *reference* is by its registry's word, or its own; None where mirrors are asked themselves.

        Raises Refusal where the registry, whose word counts, does not say.
        """
        image = parse_image(reference)
        if image.digest:
            return image.digest
        if self._registries()[image.registry].tags == "mirror":
            return None
        digest = self._asked(reference, login)
        if digest is None:
            raise Refusal("registry-unreachable", f"{image.registry} does not say which digest {reference!r} has")
        return digest

    def exact(self, source: Source, digest: str | None) -> str:
        """What to pull there: the image by *digest*, None for that of the mirror's own word. Raises Refusal."""
        digest = digest or self._asked(source.reference, source.login)
        if digest is None:
            raise Refusal("registry-unreachable", f"{source.mirror} does not say which digest its image has")
        return f"{parse_image(source.reference).name}@{digest}"

    def adopt(self, exact: str, reference: str) -> None:
        """Call what was pulled as the user does. Raises NodeFault, Refusal."""
        digest = exact.rpartition("@")[2]
        found = self._inspect(exact)
        if found is None or not any(name.endswith(f"@{digest}") for name in found.digests):
            raise Refusal("pull-failed", f"what came of {exact} is not that image")
        image = parse_image(reference)
        if image.digest or not image.tag:
            return  # an engine gives no name with a digest by hand; it is found by the mirror's
        client = self._client(None)
        try:
            registry.tag(client, exact, image)
        finally:
            client.close()

    def failed(self, source: Source, error: HookError) -> None:
        """One that does not answer is left out for a while."""
        if error.code in _AWAY:
            with self._lock:
                self._away[source.mirror] = self._clock() + _AWAY_S

    def _names(self, host: str) -> tuple[str, ...]:
        rules = self._registries().get(host)
        return rules.mirrors if rules is not None else ()

    def _asked(self, reference: str, login: Login) -> str | None:
        """By ourselves, which counts as no pull; else by the engine, which has certificates and proxies of its own."""
        if digest := self._digest_of(reference, login):
            return digest
        client = self._client(_ASK_S)
        try:
            return registry.digest(client, reference, login)
        finally:
            client.close()


def _at(mirror: str, image: ImageRef) -> str:
    name = f"{mirror}/{image.repository}"
    return f"{name}@{image.digest}" if image.digest else f"{name}:{image.tag}"
