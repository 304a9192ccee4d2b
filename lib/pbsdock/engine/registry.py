"""What is asked of a registry beside pulls: whether somebody may have an image, which it is, and when to come back."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

import docker.errors
import requests.exceptions

from pbsdock.core.errors import NodeFault
from pbsdock.directive.image_ref import ImageRef, parse_image
from pbsdock.engine.credentials import ANONYMOUS, Login
from pbsdock.engine.pull_errors import failure, short

_HUB = "registry-1.docker.io"
_HEAD_S = 5.0
KINDS = ", ".join(
    (
        "application/vnd.oci.image.index.v1+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v2+json",
    )
)


def ask(client: Any, reference: str, login: Login) -> None:
    """Return if the registry gives out the image's manifest for this *login*.

    The engine asks (``GET /distribution/NAME/json``), by its own certificates, mirrors and proxies, as in a pull.
    Raises pbsdock.engine.pull_errors.PullFailure with what the registry says; NodeFault if the engine does not answer.
    """
    try:
        client.inspect_distribution(reference, auth_config=dict(login or ANONYMOUS))
    except docker.errors.APIError as error:
        raise failure(reference, str(error.explanation or error)) from None
    except requests.exceptions.Timeout:
        raise failure(reference, "i/o timeout: no answer within the engine's deadline") from None
    except requests.exceptions.RequestException as error:
        raise NodeFault("engine-unreachable", f"the Docker engine does not answer: {short(error)}") from None


def digest(client: Any, reference: str, login: Login) -> str | None:
    """What the engine is told that *reference* is, ``sha256:…``; None where it is told nothing.

    By its own certificates and proxies, as in a pull, and as a pull it is counted.
    """
    try:
        told = client.inspect_distribution(reference, auth_config=dict(login or ANONYMOUS))
        return str(told["Descriptor"]["digest"])
    except (docker.errors.APIError, requests.exceptions.RequestException, KeyError, TypeError):
        return None


def tag(client: Any, exact: str, reference: ImageRef) -> None:
    """Call an image of this node *reference*, which has a tag. Raises NodeFault."""
    try:
        client.tag(exact, reference.name, reference.tag)
    except docker.errors.APIError as error:
        said = f"image {reference.canonical!r} cannot be tagged: {short(error)}"
        raise NodeFault("pull-failed", said) from None
    except requests.exceptions.RequestException as error:
        raise NodeFault("engine-unreachable", f"the Docker engine does not answer: {short(error)}") from None


def retry_after(reference: str) -> float | None:
    """Seconds until the registry wants to be asked again (RFC 9110, Retry-After), None if it does not say.

    The engine hands on a registry's words alone, no header of its answer. So this asks once itself, without any login,
    following nothing, for at most five seconds.
    """
    image = parse_image(reference)
    host, plain = host_of(image.registry)
    kind = http.client.HTTPConnection if plain else http.client.HTTPSConnection
    connection = kind(host, timeout=_HEAD_S)
    watch = threading.Timer(_HEAD_S, _cut, [connection])
    watch.daemon = True
    watch.start()
    try:
        connection.request("HEAD", _path(image), headers={"Accept": KINDS, "User-Agent": "pbsdock"})
        answer = connection.getresponse()
        said = answer.getheader("Retry-After") if answer.status in (429, 503) else None
        return None if said is None else _seconds(said)
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        watch.cancel()
        connection.close()


def host_of(registry: str) -> tuple[str, bool]:
    """Host and port of a registry by its name in references, and whether it speaks plain HTTP: as the engine does by
    itself, for this host's own registries."""
    host = _HUB if registry == "docker.io" else registry
    name = host.rsplit(":", 1)[0]
    return host, name == "localhost" or name.startswith("127.")


def _path(image: ImageRef) -> str:
    return f"/v2/{image.repository}/manifests/{image.digest or image.tag}"


def _cut(connection: http.client.HTTPConnection) -> None:
    with suppress(OSError, AttributeError):  # it has ended
        connection.sock.shutdown(socket.SHUT_RDWR)


def _seconds(text: str) -> float | None:
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
