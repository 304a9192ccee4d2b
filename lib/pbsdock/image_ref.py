"""Docker's image reference grammar (distribution/reference): registry, repository, tag, digest. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DEFAULT_REGISTRY = "docker.io"
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REGISTRY = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")


class BadImage(ValueError):
    """A reference Docker would not take; ``str()`` says what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """A reference with nothing left out: ``busybox`` is docker.io/library/busybox:latest."""

    registry: str
    repository: str
    tag: str | None
    digest: str | None

    @property
    def name(self) -> str:
        """Registry and repository."""
        return f"{self.registry}/{self.repository}"

    @property
    def canonical(self) -> str:
        """The whole reference; a digest outweighs the tag."""
        return f"{self.name}@{self.digest}" if self.digest else f"{self.name}:{self.tag}"


def parse_image(text: str) -> ImageRef:
    """Parse ``[REGISTRY/]REPOSITORY[:TAG][@sha256:…]``. Raises BadImage."""
    rest, at, digest = text.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise BadImage(f"digest {digest!r} of image {text!r} is not sha256: and 64 hexadecimal digits")
    slash = rest.rfind("/")
    colon = rest.rfind(":")
    tag = None
    if colon > slash:
        rest, tag = rest[:colon], rest[colon + 1 :]
        if not _TAG.fullmatch(tag):
            raise BadImage(f"tag {tag!r} of image {text!r} is not letters, digits, '_', '.' and '-', at most 128")
    first, found, remainder = rest.partition("/")
    if found and ("." in first or ":" in first or first == "localhost"):
        registry, repository = first, remainder
        if not _REGISTRY.fullmatch(registry):
            raise BadImage(f"registry {registry!r} of image {text!r} is not a host name with an optional port")
    else:
        registry, repository = _DEFAULT_REGISTRY, rest
    if registry in ("docker.io", "index.docker.io"):
        registry = _DEFAULT_REGISTRY
        if "/" not in repository:
            repository = f"library/{repository}"
    _check_repository(repository.removeprefix("library/") if repository != "library/" else "", repository, text)
    return ImageRef(
        registry=registry, repository=repository, tag=tag or (None if digest else "latest"), digest=digest or None
    )


def _check_repository(shown: str, repository: str, text: str) -> None:
    if any(letter.isupper() for letter in shown):
        raise BadImage(f"image {text!r} has capital letters; repository names are lower case")
    if len(repository) > 255 or not all(_COMPONENT.fullmatch(one) for one in repository.split("/")):
        raise BadImage(
            f"image {text!r} is not an image name; write [REGISTRY/]REPOSITORY[:TAG] with lower-case letters, digits,"
            " '.', '_' and '-'"
        )
