"""What an installation does, as data: made by looking at the node, then printed (``--dry-run``) or carried out.

Refusals come from making the plan, so nothing has been changed when one is told. The order is that of carrying it out:
everything the new version needs is there before it is put in force, and what goes through ``current`` comes after that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pbsdock.admin.setup import mom_config
from pbsdock.admin.setup.errors import SetupError
from pbsdock.admin.setup.files import read
from pbsdock.admin.setup.host import has_systemd
from pbsdock.admin.setup.places import MOM_HOOKS, Places
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
class RestartAgent:
    """Install the systemd units and restart the agent from the new version."""


@dataclass(frozen=True, slots=True)
class PruneVersions:
    """Remove versions from which no process runs."""


Action = (
    MakeVersion | WriteConfig | KeepSiteHook | SwitchVersion | PutHooks | ExtendMomConfig | RestartAgent | PruneVersions
)


def make(places: Places, identity: str, instance: str) -> list[Action]:
    """The steps of an installation on this node. Raises SetupError, OSError."""
    text = read(places.mom_config)
    mom_config.check(text, places)
    joined, missing = mom_config.joined(text, places)
    plan: list[Action] = [MakeVersion(identity, instance)]
    if not places.policy.exists():
        plan.append(WriteConfig(places.policy, journald=not places.relocated and has_systemd()))
    plan += keeps(places)
    plan += [SwitchVersion(), PutHooks()]
    plan.append(ExtendMomConfig(places.mom_config, joined, tuple(missing), tuple(mom_config.lines(places))))
    plan += [RestartAgent(), PruneVersions()]
    return plan


def keeps(places: Places) -> Iterator[KeepSiteHook]:
    """A step for each hook of the site's own in the place of ours. Raises SetupError."""
    for name in MOM_HOOKS:
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
            yield (
                f"would install the program into {places.prefix}, hooks into {places.mom_priv},"
                f" configuration into {places.policy}"
            )
        case KeepSiteHook(hook, kept):
            yield f"would keep the site's own {hook.name} as {kept}"
        case ExtendMomConfig():
            yield f"would make sure that {action.path} has:"
            yield from (f"    {line}" for line in action.wanted)
        case _:
            pass
