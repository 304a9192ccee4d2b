"""Images: present by policy, and fit for this node."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pbsdock.core.errors import NodeFault, Refusal
from pbsdock.directive.image_ref import parse_image
from pbsdock.engine.pull_errors import too_large
from pbsdock.engine.pulls import Bounds, Client, Pulls

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image of this node: ``id`` is what runs, ``digest`` what the registry calls it (None if never pulled)."""

    id: str
    digest: str | None
    architecture: str
    size: int


class Images:
    """The node's images; ``ensure`` may be called from many threads at once."""

    def __init__(
        self,
        client: Client,
        inspect: Callable[[str], Mapping[str, Any] | None],
        emit: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.client = client
        self.inspect = inspect
        self.emit = emit
        self.pulls = Pulls(client, emit, self._pulled, clock)
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
        auth: Mapping[str, Mapping[str, str]] | None = None,
        progress: Callable[[str], None] = lambda text: None,
    ) -> Image:
        """Make the image present as *pull* says and return it. Raises Refusal or NodeFault, always a HookError."""
        image = self._inspect(reference) if pull != "always" else None
        if image is None:
            if pull == "never":
                raise Refusal(
                    "image-not-present",
                    f"image {reference!r} is not on this node and --pull never forbids to fetch it",
                )
            login = (auth or {}).get(parse_image(reference).registry, {})
            self.pulls.wait(reference, platform, Bounds(inactivity_s, total_s, max_bytes), login, progress)
            image = self._inspect(reference)
            if image is None:
                raise NodeFault("pull-failed", f"image {reference!r} was pulled but is not there")
        else:
            self.emit("image.present", image=reference, image_id=image.id, digest=image.digest)
        self._check(reference, image, platform, max_bytes)
        return image

    def _pulled(self, reference: str, ms: float) -> None:
        image = self._inspect(reference)
        self.emit(
            "image.pulled",
            image=reference,
            ms=ms,
            image_id=image.id if image else None,
            digest=image.digest if image else None,
            size_bytes=image.size if image else None,
        )

    def _check(self, reference: str, image: Image, platform: str | None, max_bytes: int) -> None:
        wanted = platform.split("/")[1] if platform and "/" in platform else self._architecture()
        if image.architecture and image.architecture != wanted:
            raise Refusal(
                "image-wrong-architecture",
                f"image {reference!r} is built for {image.architecture}; this node runs {wanted}",
            )
        if max_bytes and image.size > max_bytes:
            raise too_large(reference, f"has {image.size} bytes", max_bytes)

    def _architecture(self) -> str:
        if self._host is None:
            client = self.client(None)
            try:
                name = str(client.info().get("Architecture", ""))
            finally:
                client.close()
            self._host = _ARCHITECTURES.get(name, name)
        return self._host

    def _inspect(self, reference: str) -> Image | None:
        found = self.inspect(reference)
        if found is None:
            return None
        name = parse_image(reference).name
        digests = [one.partition("@") for one in found.get("RepoDigests") or []]
        digest = next((tail for head, _, tail in digests if parse_image(head).name == name), None)
        return Image(
            id=str(found["Id"]),
            digest=digest,
            architecture=str(found.get("Architecture", "")),
            size=int(found.get("Size", 0)),
        )
