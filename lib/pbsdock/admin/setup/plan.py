"""What an installation does, as data: made by looking at the node, then printed (``--dry-run``) or carried out.

Refusals come from making the plan, so nothing has been changed when one is told. The order is that of carrying it out:
everything the new version needs is there before it is put in force, and what goes through ``current`` comes after that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pbsdock.admin.setup import mom_config, slurm_config
from pbsdock.admin.setup.errors import SetupError
from pbsdock.admin.setup.files import read
from pbsdock.admin.setup.host import has_systemd
from pbsdock.admin.setup.places import Places
from pbsdock.admin.setup.render import is_ours


@dataclass(frozen=True, slots=True)
class MakeVersion:
    """Make a complete version from *identity*, or reuse an existing one."""

    identity: str
    instance: str


@dataclass(frozen=True, slots=True)
class WriteConfig:
    """Write the commented configuration."""

    path: Path
    journald: bool


@dataclass(frozen=True, slots=True)
class KeepSiteHook:
    """Keep the site's own hook under a second name; pbsdock's hook calls it."""

    hook: Path
    kept: Path


@dataclass(frozen=True, slots=True)
class SwitchVersion:
    """Point the link ``current`` to the new version."""


@dataclass(frozen=True, slots=True)
class PutHooks:
    """Write the hooks that mom calls, if they differ."""


@dataclass(frozen=True, slots=True)
class ExtendMomConfig:
    """Put pbsdock's lines into mom's configuration."""

    path: Path
    text: str
    missing: tuple[str, ...]
    wanted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TellSlurm:
    """Write pbsdock's block into slurm.conf, or tell what is to be in it. *told* is what else is wrong with it."""

    path: Path
    wanted: tuple[str, ...]
    told: tuple[str, ...]
    is_written: bool


@dataclass(frozen=True, slots=True)
class RestartAgent:
    """Install the systemd units and restart the agent from the new version."""


@dataclass(frozen=True, slots=True)
class PruneVersions:
    """Remove versions from which no process runs."""


Action = (
    MakeVersion
    | WriteConfig
    | KeepSiteHook
    | SwitchVersion
    | PutHooks
    | ExtendMomConfig
    | TellSlurm
    | RestartAgent
    | PruneVersions
)


def make(places: Places, identity: str, instance: str, *, writes_slurm_conf: bool = False) -> list[Action]:
    """The steps of an installation on this node. Raises SetupError, OSError."""
    last = _tell_slurm(places, writes_slurm_conf) if places.slurm_conf is not None else _extend_mom(places)
    plan: list[Action] = [MakeVersion(identity, instance)]
    if not places.policy.exists():
        plan.append(WriteConfig(places.policy, journald=not places.relocated and has_systemd()))
    plan += keeps(places)
    return [*plan, SwitchVersion(), PutHooks(), last, RestartAgent(), PruneVersions()]


def _extend_mom(places: Places) -> ExtendMomConfig:
    """Raises SetupError."""
    text = read(places.mom_config)
    mom_config.check(text, places)
    joined, missing = mom_config.joined(text, places)
    return ExtendMomConfig(places.mom_config, joined, tuple(missing), tuple(mom_config.lines(places)))


def _tell_slurm(places: Places, is_written: bool) -> TellSlurm:
    """Raises SetupError."""
    assert places.slurm_conf is not None
    text = read(places.slurm_conf)
    slurm_config.check(text, places)
    told = tuple(slurm_config.unfit(text, places.slurm_conf))
    return TellSlurm(places.slurm_conf, tuple(slurm_config.lines(places)), told, is_written)


def keeps(places: Places) -> Iterator[KeepSiteHook]:
    """A step for each hook of the site's own in the place of ours. Raises SetupError."""
    for name in places.mom_hooks:
        hook, kept = places.mom_priv / name, places.site_hooks(name) / "50-site"
        if not hook.exists() or (hook.is_file() and is_ours(read(hook))):
            continue
        if not hook.is_file():
            raise SetupError(f"{hook} is not a regular file; mom would not run it, move it away")
        if kept.exists():
            raise SetupError(f"both {hook} and {kept} are the site's; rename one of them")
        yield KeepSiteHook(hook, kept)


def would(action: Action, places: Places) -> Iterator[str]:
    """The lines of a dry run. Pure."""
    match action:
        case MakeVersion():
            hooks = places.hooks if places.slurm_conf is not None else places.mom_priv
            yield (
                f"would install the program into {places.prefix}, hooks into {hooks},"
                f" configuration into {places.policy}"
            )
        case KeepSiteHook(hook, kept):
            yield f"would keep the site's own {hook.name} as {kept}"
        case ExtendMomConfig():
            yield f"would make sure that {action.path} has:"
            yield from (f"    {line}" for line in action.wanted)
        case TellSlurm():
            yield f"would {'write' if action.is_written else 'ask for'} these lines in {action.path}:"
            yield from (f"    {line}" for line in action.wanted)
            yield f"would {'write' if action.is_written else 'ask for'} this line in {slurm_config.stack_file(places)}:"
            yield f"    {slurm_config.stack_line(places)}"
            yield from (f"warning: {line}" for line in action.told)
        case _:
            pass
