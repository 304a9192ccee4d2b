"""The site's configuration: one typed table of settings, unknown keys refused, all errors at once.

Every setting is a dataclass field with its default, bounds and documentation; the parser, the commented file in etc/
and the manual page are checked against these fields.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import stat
import tomllib
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pbsdock.torque import BadValue, parse_size


def setting(
    default: Any, doc: str, *, least: float | None = None, most: float | None = None, size: bool = False
) -> Any:
    """A documented setting. With *size* the file may say "64mb"; the value is bytes."""
    return field(default=default, metadata={"doc": doc, "least": least, "most": most, "size": size})


class ConfigError(ValueError):
    """All errors of a configuration file; ``str()`` is one line each."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """The Docker Engine of the node."""

    socket: str = setting("/var/run/docker.sock", "The engine's unix socket.")
    timeout_s: float = setting(20.0, "Deadline of one engine call, seconds.", least=1, most=300)
    docker_config: str = setting("", "Root-only docker config.json with the site's registry credentials; empty: none.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImagesConfig:
    """Which images, and how they get here."""

    allow: tuple[str, ...] = setting(("*",), "Patterns of REGISTRY/REPOSITORY, or sha256:… digests, that may run.")
    deny: tuple[str, ...] = setting((), "Patterns that may not, whatever `allow` says.")
    require_digest: bool = setting(False, "Whether a directive must pin its image with @sha256:….")
    pull: Literal["never", "missing", "always"] = setting("missing", "When to pull: never, missing or always.")
    wait_notice_s: float = setting(3.0, "A longer wait for an image (seconds) is told on the job's stderr.", least=0)
    inactivity_s: float = setting(60.0, "A pull without any progress for so many seconds is given up.", least=1)
    total_s: float = setting(270.0, "A pull is given up after so many seconds.", least=1)
    max_bytes: int = setting(0, "Largest image, by its size on disk; 0: no limit.", least=0, size=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountsConfig:
    """What of the host a container sees."""

    home: Literal["rw", "ro", "none"] = setting("rw", "The job owner's home directory: rw, ro or none.")
    work_dir: bool = setting(True, "Whether the directory of qsub is mounted, where `allow` covers it.")
    allow: tuple[str, ...] = setting((), 'Prefixes --volume may name, by path components; "PATH:ro" is read-only.')
    deny: tuple[str, ...] = setting((), "Prefixes closed to --volume although `allow` covers them.")
    always: tuple[str, ...] = setting((), '"SOURCE:TARGET[:ro]" given to every container.')


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Which networks."""

    default: str = setting("host", "The network of a job that names none.")
    allow: tuple[str, ...] = setting(("host", "none"), "The networks a directive may name.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvConfig:
    """The environment."""

    deny: tuple[str, ...] = setting(
        ("LD_*", "DOCKER_*", "PATH", "BASH_ENV", "ENV", "PYTHONHOME", "PYTHONPATH", "PERL5LIB", "PBSDOCK"),
        "Patterns of the job's variables that belong to the host and are not passed on.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """Defaults and maxima. Sizes as in Torque ("8gb"); 0 means: none of its own."""

    default_memory: int = setting(0, "Memory of a job that asks for none; 0: not limited.", least=0, size=True)
    max_memory: int = setting(0, "Largest memory a job may ask for; 0: the node's.", least=0, size=True)
    reserve_memory: int = setting(0, "Memory of the node kept from jobs.", least=0, size=True)
    swap: Literal["none", "as-vmem"] = setting("as-vmem", "Whether vmem above mem may be used as swap.")
    cpu: Literal["quota", "none"] = setting("quota", "How ppn is enforced: CPU quota, or not at all.")
    pids: int = setting(4096, "Processes and threads a job may have.", least=16, most=4194304)
    shm: int = setting(64 << 20, "Size of /dev/shm without --shm-size.", least=1, size=True)
    max_shm: int = setting(0, "Largest --shm-size; 0: the job's memory.", least=0, size=True)
    oom_score_adj: int = setting(500, "How readily the kernel kills a job's processes.", least=0, most=1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesConfig:
    """Devices."""

    allow: tuple[str, ...] = setting((), "Device nodes every container gets, for example /dev/fuse.")
    gpus: bool = setting(False, "Whether --gpus may be used by jobs that were granted GPUs.")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsersConfig:
    """Who may use containers."""

    min_uid: int = setting(1000, "Smaller user ids are system users and refused.", least=1)
    deny: tuple[str, ...] = setting((), "Users who may not.")


@dataclass(frozen=True, slots=True, kw_only=True)
class InteractiveConfig:
    """Containers on demand, for jobs without a script."""

    allow: bool = setting(True, "Whether qsub -I -v PBSDOCK='IMAGE options' starts a container.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """The agent's door."""

    max_connections: int = setting(1024, "Connections at a time; a user gets a quarter of them.", least=32, most=65536)
    request_timeout_s: float = setting(30.0, "A request must have arrived whole after so many seconds.", least=1)
    message_bytes: int = setting(4 << 20, "Largest request.", least=65536, most=64 << 20, size=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PrologueConfig:
    """The time mom grants."""

    alarm_s: float = setting(290.0, "When mom kills the prologue ($prologalarm less ten seconds).", least=20)
    margin_s: float = setting(15.0, "Seconds before that by which the prologue has answered.", least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaperConfig:
    """The reaper."""

    period_s: float = setting(60.0, "Seconds between two passes.", least=1)
    grace_s: float = setting(120.0, "What is younger is never touched.", least=0)
    cap: int = setting(200, "Removals in one pass at most.", least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsConfig:
    """The event stream."""

    file: str = setting("", "The file of the stream; empty: events.jsonl in the instance's log directory.")
    journald: bool = setting(False, "Whether events go to the systemd journal as well.")
    max_field: int = setting(4096, "Longest text of one field, characters.", least=64)
    max_line: int = setting(32768, "Longest line, bytes.", least=1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthConfig:
    """The node check."""

    hold_s: float = setting(60.0, "How long a node stays out of service for a fault nobody can probe.", least=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """Another policy for some jobs; the first that matches wins. Empty lists match everybody."""

    users: tuple[str, ...] = setting((), "User names.")
    groups: tuple[str, ...] = setting((), "Primary group names.")
    queues: tuple[str, ...] = setting((), "Queues.")
    images: ImagesConfig | None = None
    mounts: MountsConfig | None = None
    network: NetworkConfig | None = None
    env: EnvConfig | None = None
    limits: LimitsConfig | None = None
    devices: DevicesConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole configuration, defaults filled in."""

    engine: EngineConfig = field(default_factory=EngineConfig)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    mounts: MountsConfig = field(default_factory=MountsConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    env: EnvConfig = field(default_factory=EnvConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    devices: DevicesConfig = field(default_factory=DevicesConfig)
    users: UsersConfig = field(default_factory=UsersConfig)
    interactive: InteractiveConfig = field(default_factory=InteractiveConfig)
    agent: AgentConfig = field(default_factory=AgentConfig)
    prologue: PrologueConfig = field(default_factory=PrologueConfig)
    reaper: ReaperConfig = field(default_factory=ReaperConfig)
    events: EventsConfig = field(default_factory=EventsConfig)
    health: HealthConfig = field(default_factory=HealthConfig)
    override: tuple[Override, ...] = ()


def load(path: Path) -> Config:
    """Read the site's file; a missing one means all defaults. Raises ConfigError, OSError."""
    if not path.exists():
        return Config()
    if problem := untrusted(path):
        raise ConfigError([f"{path}: {problem}"])
    return parse(path.read_text(), path.name)


def untrusted(path: Path) -> str | None:
    """Say what makes *path* or a directory above it writable by others than root; None if nothing does."""
    resolved = path.resolve()
    for one in (resolved, *resolved.parents):
        found = one.stat()
        if found.st_uid != 0:
            return f"{one} belongs to uid {found.st_uid}; it must belong to root"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
            return f"{one} is writable by others (mode {found.st_mode & 0o7777:04o}); use chmod go-w"
    return None


def parse(text: str, filename: str = "pbsdock.toml") -> Config:
    """Parse a configuration text. Raises ConfigError with every problem and its line."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"at line (\d+)", str(error))
        where = f"{filename}:{line.group(1)}" if line else filename
        raise ConfigError([f"{where}: not TOML: {error}"]) from None
    reader = _Reader(text, filename)
    config = reader.table(Config, data, "", None)
    if reader.problems:
        raise ConfigError(reader.problems)
    assert isinstance(config, Config)
    return config


class _Reader:
    """Builds dataclasses from tables and collects what is wrong."""

    def __init__(self, text: str, filename: str) -> None:
        self.lines = text.splitlines()
        self.filename = filename
        self.problems: list[str] = []
        self.base: Config | None = None

    def wrong(self, table: str, key: str, sentence: str, nth: int | None = None) -> None:
        self.problems.append(f"{self.filename}:{self._line(table, key, nth)}: {sentence}")

    def _line(self, table: str, key: str, nth: int | None) -> int:
        """Find the line of a key: tomllib keeps none."""
        current, seen, last = "", -1, 1
        for number, line in enumerate(self.lines, start=1):
            header = re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?", line)
            if header and "=" not in line.split("[")[0]:
                current = header.group(1)
                seen += current == "override" and line.strip().startswith("[[")
            matches = current == table and (nth is None or seen == nth)
            if matches:
                last = number
            if matches and re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*[=.]", line):
                return number
            if header and current == (f"{table}.{key}" if table else key):
                return number
        return last

    def table(self, kind: type, data: Any, name: str, nth: int | None) -> Any:
        if not isinstance(data, dict):
            self.wrong("", name, f"{name} is not a table; write [{name}]")
            return kind()
        hints = typing.get_type_hints(kind)
        known = {one.name: one for one in dataclasses.fields(kind)}
        values = {}
        for key, value in data.items():
            shown = f"{name}.{key}" if name else key
            if key not in known:
                near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
                self.wrong(name, key, f"unknown key {shown!r}; {hint}", nth)
                continue
            inner = _table_type(hints[key])
            if key == "override" and kind is Config:
                values[key] = self._overrides(value)
            elif inner is not None:
                values[key] = self.table(inner, value, shown, nth)
            else:
                self._value(values, known[key], hints[key], value, name, nth)
        return kind(**values)

    def _overrides(self, value: Any) -> tuple[Override, ...]:
        if not isinstance(value, list):
            self.wrong("", "override", "override is a list of tables; write [[override]]")
            return ()
        return tuple(self.table(Override, one, "override", index) for index, one in enumerate(value))

    def _value(
        self, values: dict[str, Any], known: dataclasses.Field[Any], hint: Any, value: Any, name: str, nth: int | None
    ) -> None:
        shown = f"{name}.{known.name}"
        allowed = typing.get_args(hint) if typing.get_origin(hint) is Literal else None
        meta = known.metadata

        def wrong(what: str) -> None:
            self.wrong(name, known.name, f"{shown} = {value!r} is not allowed; {what}", nth)

        if meta.get("size") and isinstance(value, str):
            try:
                value = parse_size(value)
            except BadValue:
                return wrong('write a size such as "64mb" or a number of bytes')
        if allowed is not None:
            if value not in allowed:
                return wrong(f"use one of {', '.join(repr(one) for one in allowed)}")
        elif typing.get_origin(hint) is tuple:
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                return wrong("write a list of texts")
            value = tuple(value)
        elif hint is float:
            if isinstance(value, bool) or not isinstance(value, int | float):
                return wrong("write a number")
            value = float(value)
        elif not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
            return wrong({bool: "write true or false", int: "write a whole number", str: "write a text"}[hint])
        least, most = meta.get("least"), meta.get("most")
        if (least is not None and value < least) or (most is not None and value > most):
            pairs = (("at least", least), ("at most", most))
            bounds = [f"{word} {bound}" for word, bound in pairs if bound is not None]
            return wrong(f"it must be {' and '.join(bounds)}")
        paths = known.name in ("allow", "deny", "always") and name.endswith("mounts")
        if paths and any(not one.startswith("/") for one in value):
            return wrong("every path begins with /")
        values[known.name] = value
        return None


def _table_type(hint: Any) -> type | None:
    candidates = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return next((one for one in candidates if dataclasses.is_dataclass(one) and isinstance(one, type)), None)


def settings() -> Iterator[tuple[str, str, Any, str]]:
    """Every setting as (section, key, default, documentation), in the order of the file."""
    for section in dataclasses.fields(Config):
        kind = Override if section.name == "override" else _table_type(typing.get_type_hints(Config)[section.name])
        assert kind is not None
        for one in dataclasses.fields(kind):
            if "doc" in one.metadata:
                yield section.name, one.name, one.default, one.metadata["doc"]


def toml_value(value: Any) -> str:
    """Write a default as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_value(one) for one in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def commented() -> str:
    """The shipped file: every key with its default, commented out."""
    lines = ["# pbsdock site policy. Every key is shown with its default; unknown keys are refused.", ""]
    current = ""
    for section, key, default, doc in settings():
        if section != current:
            title = "[[override]]" if section == "override" else f"[{section}]"
            lines += ["", *_section_text(section), f"#{title}" if section == "override" else title]
            current = section
        lines += [f"# {doc}", f"#{key} = {toml_value(default)}"]
    lines += ["# Any of the tables above but engine, users, agent and the like, whole, for these jobs:",
              "#[override.images]", '#allow = ["docker.io/library/*"]']  # fmt: skip
    return "\n".join(lines) + "\n"


def _section_text(section: str) -> list[str]:
    kind = Override if section == "override" else _table_type(typing.get_type_hints(Config)[section])
    text = (kind.__doc__ or "") if kind is not None else ""
    return [f"# {text.splitlines()[0]}"]


def documented() -> str:
    """The reference as a Markdown table, for docs/configuration.md."""
    lines = []
    current = ""
    for section, key, default, doc in settings():
        if section != current:
            lines += ["", f"## [{section}]", "", *(one[2:] for one in _section_text(section)), "",
                      "| key | default | meaning |", "|---|---|---|"]  # fmt: skip
            current = section
        lines.append(f"| `{key}` | `{toml_value(default)}` | {doc.replace('|', chr(92) + '|')} |")
    return "\n".join(lines) + "\n"


def is_root_only(path: Path) -> bool:
    """Whether only root can read *path*."""
    found = os.stat(path)
    return found.st_uid == 0 and not found.st_mode & 0o077
