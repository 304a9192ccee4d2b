"""The engine of this node, and its images: the only place that knows which engine there is."""

from __future__ import annotations

from collections.abc import Callable

from pbsdock.engine.base import ContainerEngine
from pbsdock.engine.docker.api import Engine
from pbsdock.engine.images import Images, PullSettings
from pbsdock.engine.keeper import Keeper
from pbsdock.engine.private import PrivateImages


def connect(socket_path: str, timeout_s: float) -> ContainerEngine:
    """The engine at a unix socket; no call takes more than *timeout_s* seconds. Nothing is sent before the first."""
    return Engine(socket_path, timeout_s)


def connect_with_images(
    socket_path: str,
    timeout_s: float,
    *,
    seccomp: str,
    on_change: Callable[[bool, str], None],
    emit: Callable[..., None],
    private: PrivateImages,
    keeper: Keeper,
    settings: Callable[[], PullSettings],
) -> tuple[ContainerEngine, Images]:
    """The same and its images; *on_change* is told whether it answers, and why it does not, *private* says whose
    images are not for everybody, *keeper* has room for them and removes them again, *settings* are the site's for
    pulls.

    *seccomp*: "engine", "hpc" or a profile in JSON, for every container.
    """
    engine = Engine(socket_path, timeout_s, on_change=on_change, seccomp=seccomp)
    return engine, Images(engine.client, engine.inspect_image, emit, private=private, keeper=keeper, settings=settings)
