"""Images: present by policy, fit for this node, and for those alone who may have them.

An image is fetched by everybody's right first: the site's login for its registry, or none. Only where that does not do
is the job owner's own login used, and what comes by it is marked (:mod:`pbsdock.engine.private`): from then on the
registry is asked for each user of that image on this node, with the right of that user.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from pbsdock.config.sections import RegistryConfig
from pbsdock.core.errors import HookError, NodeFault, Refusal
from pbsdock.directive.image_ref import parse_image
from pbsdock.engine import registry
from pbsdock.engine.base import ImageFacts
from pbsdock.engine.credentials import Login
from pbsdock.engine.keeper import Keeper
from pbsdock.engine.mirrors import Mirrors
from pbsdock.engine.private import WHOLE, PrivateImages
from pbsdock.engine.pull_errors import PullFailure, RetryPolicy, too_large, tried
from pbsdock.engine.pull_state import Bounds
from pbsdock.engine.pulls import Client, Pulls
from pbsdock.engine.turns import Turns

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


# What another login may change. A registry may say of a private image that there is none.
_DENIED = frozenset({"image-access-denied", "image-not-found", "image-tag-not-found", "registry-busy"})
# The engine's own word that nothing has come; after any other end of a pull something may yet.
_NOTHING_CAME = _DENIED | {"disk-full", "image-wrong-architecture", "registry-unreachable"}
_GRANTED_S = 300.0  # how long a registry's yes counts for one user and image: an array of jobs asks once


def _none(_registry: str) -> Login:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Whose right to an image counts: *site* and *own* give the login for a registry when it is needed, empty for none.

    They may raise HookError. *hint* says what keeps *own* from having one, "" if nothing does.
    """

    uid: int = 0
    site: Callable[[str], Login] = _none
    own: Callable[[str], Login] = _none
    hint: Callable[[str], str] = lambda _registry: ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image of this node: ``id`` is what runs, ``digest`` what the registry calls it (None if never pulled).

    ``is_fetched``: it was not here already.
    """

    id: str
    digest: str | None
    architecture: str
    size: int
    is_fetched: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PullSettings:
    """What the site says of pulls. ``at_once``: how many on this node, 0 for any number."""

    at_once: int = 0
    registries: Mapping[str, RegistryConfig] = field(default_factory=dict)

    def per_minute(self, registry: str) -> int:
        """How many pulls begin there in a minute, 0 for any number."""
        rules = self.registries.get(registry)
        return rules.max_per_minute if rules is not None else 0


def architecture_of(platform: str | None, machine: Callable[[], str]) -> str:
    """What the images are built for that *platform* asks for, else the engine's own *machine*, which is asked then."""
    if platform and "/" in platform:
        return platform.split("/")[1]
    name = machine()
    return _ARCHITECTURES.get(name, name)


class Images:
    """The node's images; ``ensure`` may be called from many threads at once."""

    def __init__(
        self,
        client: Client,
        inspect: Callable[[str], ImageFacts | None],
        emit: Callable[..., None],
        *,
        private: PrivateImages | None = None,
        clock: Callable[[], float] = time.monotonic,
        policy: RetryPolicy | None = None,
        retry_after: Callable[[str], float | None] = registry.retry_after,
        keeper: Keeper | None = None,
        settings: Callable[[], PullSettings] = lambda: PullSettings(),
    ) -> None:
        self.client = client
        self.inspect = inspect
        self.emit = emit
        self.clock = clock
        self.private = private or PrivateImages(None)
        self.policy = policy or RetryPolicy()
        self.retry_after = retry_after
        self.keeper = keeper or Keeper()
        self.mirrors = Mirrors(client, inspect, lambda: settings().registries, clock)
        self.turns = Turns(lambda: settings().at_once, lambda registry: settings().per_minute(registry), clock)
        self.pulls = Pulls(
            client,
            emit,
            self._pulled,
            self._marked,
            retry_after,
            self.keeper.before,
            self.mirrors,
            self.turns,
            clock=clock,
            policy=self.policy,
        )
        self._granted: dict[tuple[int, str, str], float] = {}  # user, reference, image id: when
        self._host: str | None = None

    def ensure(
        self,
        reference: str,
        *,
        pull: str,
        platform: str | None,
        inactivity_s: float,
        total_s: float,
        max_bytes: int = 0,
        asker: Asker | None = None,
        progress: Callable[[str], None] = lambda text: None,
        tells: bool = True,
    ) -> Image:
        """Make the image present as *pull* says and return it. Raises Refusal or NodeFault, always a HookError.

        *tells*: an event says that it was here already.
        """
        asker = asker or Asker()
        image = self._inspect(reference) if pull != "always" else None
        is_private = image is not None and self.private.holds(parse_image(reference).name, image.id)
        if image is not None and is_private and not self._may_have(reference, image, asker, total_s):
            image = None
        if image is None:
            if pull == "never":
                raise Refusal(
                    "image-not-present",
                    f"image {reference!r} is not on this node and --pull never forbids to fetch it",
                )
            fetched = self._fetch(reference, platform, Bounds(inactivity_s, total_s, max_bytes), asker, progress)
            image = replace(fetched, is_fetched=True)
        elif tells:
            self.emit("image.present", image=reference, image_id=image.id, digest=image.digest, private=is_private)
        self._check(reference, image, platform, max_bytes)
        return image

    def same(self, reference: str, image_id: str, *, platform: str | None, max_bytes: int) -> Image | None:
        """The image with that very id, if it is here, by whatever name, and is not somebody's own.

        *reference* is what it is called elsewhere. Raises Refusal for one that this node does not take, NodeFault.
        """
        found = self.keeper.look(partial(self.inspect, image_id))
        if found is None or self.private.holds(parse_image(reference).name, found.id):
            return None
        self.emit("image.present", image=reference, image_id=found.id, digest=None, private=False)
        image = Image(id=found.id, digest=None, architecture=found.architecture, size=found.size_bytes)
        self._check(reference, image, platform, max_bytes)
        return image

    # -- by whose right -----------------------------------------------------------------------------------------

    def _fetch(
        self, reference: str, platform: str | None, bounds: Bounds, asker: Asker, progress: Callable[[str], None]
    ) -> Image:
        host, name = parse_image(reference).registry, parse_image(reference).name
        began = self.clock()
        own = asker.own(host)
        try:
            first = replace(bounds, is_hurried=bool(own))
            sources = self.mirrors.of(reference, asker.site)
            self.pulls.wait(reference, platform, first, asker.site(host), progress, user=asker.uid, sources=sources)
            is_own = False
        except HookError as error:
            if not own or error.code not in _DENIED:
                raise self._hinted(error, asker, host) from None
            left = replace(bounds, total_s=max(1.0, bounds.total_s - (self.clock() - began)))
            self.pulls.wait(reference, platform, left, own, progress, is_own=True, user=asker.uid)
            is_own = True
        image = self._inspect(reference)
        if image is None:
            raise NodeFault("pull-failed", f"image {reference!r} was pulled but is not there")
        if not is_own:
            self.private.forget(name, image.id)
        return image

    @staticmethod
    def _hinted(error: HookError, asker: Asker, host: str) -> HookError:
        hint = asker.hint(host) if error.code in ("image-access-denied", "image-not-found") else ""
        return type(error)(error.code, f"{error.sentence}; {hint}") if hint else error

    @contextmanager
    def _marked(self, reference: str) -> Iterator[None]:
        """Around a pull by a user's login: what comes of it is marked before anybody can use it. Raises NodeFault."""
        name = parse_image(reference).name
        before = self._inspect(reference)
        open_id = before.id if before is not None and not self.private.holds(name, before.id) else ""
        self.private.begin(name)
        marks = {WHOLE}
        try:
            yield
            image = self._inspect(reference)
            marks = {image.id} - {open_id} if image is not None else {WHOLE}
        except HookError as error:
            if error.code in _NOTHING_CAME:
                marks = set()
            raise
        finally:
            self.private.end(name, marks)

    def _may_have(self, reference: str, image: Image, asker: Asker, total_s: float) -> bool:
        """Whether the registry gives this very image to *asker*; False if it does not have it any more.

        Raises Refusal, or NodeFault where it cannot tell for now.
        """
        name, host = parse_image(reference).name, parse_image(reference).registry
        key = (asker.uid, name, image.id)
        if self.clock() - self._granted.get(key, -math.inf) < _GRANTED_S:
            return True
        # A tag may have moved on to what more people may see.
        exact = f"{name}@{image.digest}" if image.digest else reference
        deadline = self.clock() + total_s
        answers: list[HookError] = []
        for is_own, login_for in ((True, asker.own), (False, asker.site)):
            login = login_for(host)
            if is_own and not login:
                continue
            try:
                self._ask(exact, login, deadline)
            except HookError as error:
                answers.append(error)
                continue
            if not is_own:
                self.private.forget(name, image.id)
            self._grant(key)
            return True
        for answer in answers:
            if answer.code not in _DENIED or isinstance(answer, NodeFault):
                raise answer
        if any(answer.code == "image-tag-not-found" for answer in answers):
            return False
        raise self._hinted(
            Refusal("image-access-denied", f"image {reference!r} is private and its registry denies access"),
            asker,
            host,
        )

    def _ask(self, reference: str, login: Login, deadline: float) -> None:
        tries = 0
        while True:
            tries += 1
            client = self.client(None)
            try:
                registry.ask(client, reference, login)
                return
            except PullFailure as answer:
                pause = self.policy.delay_s(tries, self.retry_after(reference)) if answer.is_passing else 0.0
                if not answer.is_passing or self.clock() + pause > deadline:
                    raise tried(answer.error, tries) from None
            finally:
                client.close()
            time.sleep(pause)

    def _grant(self, key: tuple[int, str, str]) -> None:
        now = self.clock()
        self._granted = {key: at for key, at in list(self._granted.items()) if now - at < _GRANTED_S}
        self._granted[key] = now

    # -- the engine's images ------------------------------------------------------------------------------------

    def _pulled(self, reference: str, ms: float, exact: str) -> None:
        """*exact*: what a mirror had, by its name and digest; "" for none."""
        image = self._inspect(reference)
        name = parse_image(reference).name
        if image is not None:
            self.keeper.after(reference, image.id, *([exact] if exact else []))
        self.emit(
            "image.pulled",
            image=reference,
            ms=ms,
            image_id=image.id if image else None,
            digest=image.digest if image else None,
            size_bytes=image.size if image else None,
            private=image is not None and self.private.holds(name, image.id),
            mirror=exact.partition("@")[0] or None,
        )

    def _check(self, reference: str, image: Image, platform: str | None, max_bytes: int) -> None:
        wanted = architecture_of(platform, self._machine)
        if image.architecture and image.architecture != wanted:
            raise Refusal(
                "image-wrong-architecture",
                f"image {reference!r} is built for {image.architecture}; this node runs {wanted}",
            )
        if max_bytes and image.size > max_bytes:
            raise too_large(reference, f"has {image.size} bytes", max_bytes)

    def _machine(self) -> str:
        if self._host is None:
            client = self.client(None)
            try:
                self._host = str(client.info().get("Architecture", ""))
            finally:
                client.close()
        return self._host

    def _inspect(self, reference: str) -> Image | None:
        found = self.keeper.look(partial(self.inspect, reference)) or self._from_mirror(reference)
        if found is None:
            return None
        digests = {parse_image(head).name: tail for head, _, tail in (name.partition("@") for name in found.digests)}
        digest = next((digests[name] for name in self.mirrors.names(reference) if name in digests), None)
        return Image(id=found.id, digest=digest, architecture=found.architecture, size=found.size_bytes)

    def _from_mirror(self, reference: str) -> ImageFacts | None:
        """What has the digest, and the name that it came by from a mirror; an engine gives it no other by hand."""
        digest = parse_image(reference).digest
        _, *others = self.mirrors.names(reference)
        for name in others if digest else ():
            found = self.keeper.look(partial(self.inspect, f"{name}@{digest}"))
            if found is not None and not self.private.holds(name, found.id):
                return found
        return None
