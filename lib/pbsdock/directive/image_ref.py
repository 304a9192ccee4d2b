"""Docker's image reference grammar (distribution/reference): registry, repository, tag, digest. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DEFAULT_REGISTRY = "docker.io"
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_REGISTRY = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_SCHEME = re.compile(r"[a-z][a-z0-9+-]*://")
_IMAGE_ID = re.compile(r"[0-9a-f]{64}")
_NAME_LIMIT = 255
_TEXT_LIMIT = 1024


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
    """Parse ``[REGISTRY/]REPOSITORY[:TAG][@sha256:…]``. Raises BadImage.

    Complete and strict as Docker's own reference grammar; of digests only sha256, which engines and registries use.
    """
    if len(text) > _TEXT_LIMIT:
        raise BadImage(f"the image's name has {len(text)} characters; at most {_TEXT_LIMIT} are taken")
    scheme = _SCHEME.match(text)
    if scheme:
        raise BadImage(f"image {text!r} begins with {scheme.group()}; an image's name has no scheme, leave it out")
    if _IMAGE_ID.fullmatch(text):
        raise BadImage(f"image {text!r} is an image's id; name its repository, with @sha256:… to pin it")
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
    _check_repository(repository, text)
    if len(registry) + 1 + len(repository) > _NAME_LIMIT:
        raise BadImage(f"image {text!r} is too long; registry and repository have at most {_NAME_LIMIT} characters")
    return ImageRef(
        registry=registry, repository=repository, tag=tag or (None if digest else "latest"), digest=digest or None
    )


def _check_repository(repository: str, text: str) -> None:
    if any(letter.isupper() for letter in repository):
        raise BadImage(f"image {text!r} has capital letters; repository names are lower case")
    if not all(_COMPONENT.fullmatch(component) for component in repository.split("/")):
        raise BadImage(
            f"image {text!r} is not an image name; write [REGISTRY/]REPOSITORY[:TAG] with lower-case letters, digits,"
            " '.', '_' and '-'"
        )
