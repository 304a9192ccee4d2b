"""What the checks look at: an installed instance, its configuration and its engine, each found out once."""

from __future__ import annotations

import socket
from functools import cached_property
from pathlib import Path

from pbsdock.config.tables import Config, ConfigError, load
from pbsdock.core.errors import HookError, NodeFault
from pbsdock.core.paths import Paths
from pbsdock.engine.base import ContainerEngine, EngineCapabilities, EngineError
from pbsdock.engine.make import connect
from pbsdock.rm.base import ResourceManager
from pbsdock.rm.choose import manager

ENGINE_S = 3.0  # the whole of the doctor is to take no more than five


class Subject:
    """One instance on this host. Any thread; what is found out by two at once is the same."""

    def __init__(self, paths: Paths, paths_file: Path) -> None:
        self.paths = paths
        self.paths_file = paths_file
        self.name = socket.gethostname()

    @cached_property
    def config_or_error(self) -> Config | str:
        """The site's file, or what is wrong with it."""
        try:
            return load(self.paths.config)
        except (ConfigError, OSError) as error:
            return str(error)

    @property
    def config(self) -> Config:
        """The site's file; all defaults where it is wrong, which is told once."""
        found = self.config_or_error
        return found if isinstance(found, Config) else Config()

    @cached_property
    def engine(self) -> ContainerEngine:
        """The engine."""
        return connect(self.config.engine.socket, min(ENGINE_S, self.config.engine.timeout_s))

    @cached_property
    def info_or_error(self) -> EngineCapabilities | str:
        """The engine's own description, or why there is none."""
        try:
            return self.engine.info()
        except (HookError, EngineError, OSError) as error:
            return str(error)

    @property
    def info(self) -> EngineCapabilities:
        """The same. Raises NodeFault."""
        found = self.info_or_error
        if isinstance(found, str):
            raise NodeFault("engine-unreachable", found)
        return found

    @cached_property
    def manager(self) -> ResourceManager:
        """The resource manager's daemon here."""
        return manager(self.paths, self.name, client_dir=self.config.torque.client_dir)
