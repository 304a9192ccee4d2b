"""The site's configuration: all sections, overrides for some jobs, and how the file is read.

Unknown keys are refused, and all errors are told at once.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pbsdock.config import checks
from pbsdock.config.lines import Place, positions
from pbsdock.config.reader import ConfigError, Reader, setting
from pbsdock.config.sections import (
    AgentConfig,
    CgroupConfig,
    DevicesConfig,
    DirectiveConfig,
    EngineConfig,
    EnvConfig,
    EventsConfig,
    HealthConfig,
    HistoryConfig,
    ImagesConfig,
    InteractiveConfig,
    LimitsConfig,
    MetricsConfig,
    MountsConfig,
    NetworkConfig,
    NodesConfig,
    PrologueConfig,
    ReaperConfig,
    RegistryConfig,
    SecurityConfig,
    ShimConfig,
    StagingConfig,
    StoreConfig,
    StoreRules,
    TorqueConfig,
    UsersConfig,
)
from pbsdock.config.trust import check_trusted

__all__ = [
    "AgentConfig",
    "CgroupConfig",
    "Config",
    "ConfigError",
    "DevicesConfig",
    "DirectiveConfig",
    "EngineConfig",
    "EnvConfig",
    "EventsConfig",
    "HealthConfig",
    "HistoryConfig",
    "ImagesConfig",
    "InteractiveConfig",
    "LimitsConfig",
    "MetricsConfig",
    "MountsConfig",
    "NetworkConfig",
    "NodesConfig",
    "Override",
    "PrologueConfig",
    "ReaperConfig",
    "RegistryConfig",
    "SecurityConfig",
    "ShimConfig",
    "StagingConfig",
    "StoreConfig",
    "StoreRules",
    "TorqueConfig",
    "UsersConfig",
    "check_trusted",
    "is_root_only",
    "load",
    "load_with_lines",
    "parse",
    "seccomp_of",
]

LEAST_MEMORY = 6 << 20  # the engine refuses less (Docker Engine 20.10, linuxMinMemory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Another policy for some jobs; the first that matches wins. An empty list matches everybody."""

    users: tuple[str, ...] = setting((), "User names.")
    groups: tuple[str, ...] = setting((), "Primary groups by name, or any group by number.")
    queues: tuple[str, ...] = setting((), "Queues.")
    images: ImagesConfig | None = None
    mounts: MountsConfig | None = None
    network: NetworkConfig | None = None
    env: EnvConfig | None = None
    limits: LimitsConfig | None = None
    devices: DevicesConfig | None = None
    s3: dict[str, StoreRules] | None = None


OVERRIDABLE = ("images", "mounts", "network", "env", "limits", "devices")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration, defaults filled in."""

    engine: EngineConfig = field(default_factory=EngineConfig)
    directive: DirectiveConfig = field(default_factory=DirectiveConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    mounts: MountsConfig = field(default_factory=MountsConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    torque: TorqueConfig = field(default_factory=TorqueConfig)
    security: SecurityConfig = field(default_factory=SecurityConfig)
    cgroup: CgroupConfig = field(default_factory=CgroupConfig)
    devices: DevicesConfig = field(default_factory=DevicesConfig)
    users: UsersConfig = field(default_factory=UsersConfig)
    shim: ShimConfig = field(default_factory=ShimConfig)
    interactive: InteractiveConfig = field(default_factory=InteractiveConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    nodes: NodesConfig = field(default_factory=NodesConfig)
    prologue: PrologueConfig = field(default_factory=PrologueConfig)
    reaper: ReaperConfig = field(default_factory=ReaperConfig)
    events: EventsConfig = field(default_factory=EventsConfig)
    metrics: MetricsConfig = field(default_factory=MetricsConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    staging: StagingConfig = field(default_factory=StagingConfig)
    registry: dict[str, RegistryConfig] = field(
        default_factory=dict, metadata={"names": checks.registry, "shown": '"docker.io"'}
    )
    s3: dict[str, StoreConfig] = field(default_factory=dict)
    override: tuple[Override, ...] = ()


def load(path: Path) -> Config:
    """Read the site's file; a missing one means all defaults.

    Raises ConfigError, also for a file that others than root could have written, and OSError.
    """
    return load_with_lines(path)[0]


def load_with_lines(path: Path) -> tuple[Config, Mapping[Place, int]]:
    """The same, and the line of every key that the file has. Raises ConfigError, OSError."""
    try:
        check_trusted(path)
    except FileNotFoundError:
        return Config(), {}
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path.name}: the file is not UTF-8 text (byte {error.start + 1})"]) from None
    config = parse(text, path.name)
    seccomp_of(config.security)
    return config, positions(text)


def seccomp_of(security: SecurityConfig) -> str:
    """What :mod:`pbsdock.engine.make` takes: the name of a profile, or its text. Raises ConfigError."""
    if not security.seccomp.startswith("/"):
        return security.seccomp
    try:
        check_trusted(Path(security.seccomp))
        text = Path(security.seccomp).read_text(encoding="utf-8")
        if wrong := checks.seccomp_profile(json.loads(text)):
            raise ValueError(wrong)
    except (OSError, ValueError) as error:
        raise ConfigError([f"security.seccomp: {security.seccomp} is no profile that can be read: {error}"]) from None
    return text


def parse(text: str, filename: str = "pbsdock.toml") -> Config:
    """Parse a configuration text. Raises ConfigError with every problem and its line."""
    try:
        data = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError alone: a number of thousands of digits
        raise ConfigError([_not_toml(str(error), text, filename)]) from None
    reader = Reader(text)
    overrides = data.pop("override", [])
    config: Config = reader.table(Config, data, ())
    _consistent(reader, config, ())
    config = replace(config, override=_overrides(reader, overrides, config))
    if reader.problems:
        raise ConfigError([f"{filename}:{line}: {sentence}" for line, sentence in sorted(reader.problems)])
    return config


def _not_toml(message: str, text: str, filename: str) -> str:
    found = re.search(r" \(at line (\d+), column (\d+)\)$", message)
    if found:
        return f"{filename}:{found.group(1)}: column {found.group(2)}: not TOML: {message[: found.start()]}"
    # "at end of document": tomllib found out at the last line; a number of thousands of digits has no place at all.
    last = len(text.splitlines()) if message.endswith(" (at end of document)") else 1
    return f"{filename}:{max(1, last)}: not TOML: {message.removesuffix(' (at end of document)')}"


def _overrides(reader: Reader, data: Any, config: Config) -> tuple[Override, ...]:
    """Read the overrides. A setting that an override leaves out keeps the site's value, so omissions loosen nothing."""
    if not isinstance(data, list):
        reader.wrong(("override",), "override is not a list of tables; expected [[override]]")
        return ()
    made = []
    rules = {name: StoreRules(allow=store.allow) for name, store in config.s3.items()}
    whole = Override(**{name: getattr(config, name) for name in OVERRIDABLE}, s3=rules)
    for index, entry in enumerate(data):
        if not isinstance(entry, dict):
            reader.wrong(("override", index), "override is not a list of tables; expected [[override]]")
            continue
        override: Override = reader.table(Override, entry, ("override", index), whole)
        left_out: dict[str, Any] = {name: None for name in (*OVERRIDABLE, "s3") if name not in entry}
        for name in set(override.s3 or ()) - set(config.s3):
            reader.wrong(("override", index, "s3", name), f"override.s3.{name}: there is no [s3.{name}]")
        override = replace(override, **left_out)
        _consistent(reader, override, ("override", index))
        made.append(override)
    return tuple(made)


def _consistent(reader: Reader, config: Config | Override, place: tuple[str | int, ...]) -> None:
    """Note settings that contradict each other."""
    limits = config.limits
    if limits is not None:
        if 0 < limits.max_memory < limits.default_memory:
            reader.wrong((*place, "limits", "default_memory"), "limits.default_memory is larger than limits.max_memory")
        if 0 < limits.max_shm < limits.shm:
            reader.wrong((*place, "limits", "shm"), "limits.shm is larger than limits.max_shm")
        for key in ("default_memory", "max_memory"):
            if 0 < getattr(limits, key) < LEAST_MEMORY:
                reader.wrong((*place, "limits", key), f"limits.{key} is below 6mb, the least the engine takes")
    images = config.images
    if images is not None and images.low_water > images.high_water:
        reader.wrong((*place, "images", "low_water"), "images.low_water is above images.high_water")
    for name, registry in config.registry.items() if isinstance(config, Config) else ():
        for index, mirror in enumerate(registry.mirrors):
            if mirror.partition("/")[0] == name:
                sentence = f"registry.{name}.mirrors: {mirror} is at the registry itself"
                reader.wrong((*place, "registry", name, "mirrors", index), sentence)
    for name, store in config.s3.items() if isinstance(config, Config) else ():
        if name == "default":
            said = "s3.default: call it otherwise; default is the profile of a job's first store"
            reader.wrong((*place, "s3", name), said)
        for key in ("endpoint", "identity"):
            if not getattr(store, key):
                reader.wrong((*place, "s3", name), f"s3.{name}.{key} is missing")
        if len(store.probe) not in (0, 2):
            reader.wrong((*place, "s3", name, "probe"), f"s3.{name}.probe names two buckets, or none")
    if isinstance(config, Config) and config.prologue.margin_s >= config.prologue.alarm_s:
        reader.wrong(("prologue", "margin_s"), "prologue.margin_s leaves nothing of prologue.alarm_s")


def is_root_only(path: Path) -> bool:
    """Whether only root can read *path*."""
    found = os.stat(path)
    return found.st_uid == 0 and not found.st_mode & 0o077
