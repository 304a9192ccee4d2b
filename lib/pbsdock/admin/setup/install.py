"""Carry out a plan; roll back to the previous version."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pbsdock.admin.setup import agent, build, check, host, manual, mom_config, plan, services, slurm_config
from pbsdock.admin.setup.errors import SetupError
from pbsdock.admin.setup.files import put, read, weak_place
from pbsdock.admin.setup.places import MOM_HOOKS, Places
from pbsdock.admin.setup.source import Source
from pbsdock.admin.setup.versions import Version, Versions
from pbsdock.config.tables import ConfigError
from pbsdock.config.tables import load as load_config
from pbsdock.core.paths import load as load_paths
from pbsdock.host.installed import offer_docker

Say = Callable[[str], None]
COMMANDS = ("pbsdock", "pbsdock-agent")
# What an installation had that knew no versions.
OLD = ("venv", "paths.json", "lock.txt", "stamp", "hooks/ask")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to install, and from where."""

    places: Places
    source: Source
    python: Path
    wheels: Path | None = None
    writes_slurm_conf: bool = False

    @property
    def versions(self) -> Versions:
        """The versions below the prefix."""
        return Versions(self.places.prefix)


def install(order: Order, say: Say, *, dry_run: bool) -> int:
    """Install, upgrade or mend. Raises SetupError, OSError; then what was in force still is."""
    places, versions = order.places, order.versions
    _refuse_weak(places.mom_priv, *places.ours)
    instance = places.instance()
    identity = order.source.identity(places, instance or "new", order.python)
    steps = plan.make(places, identity, instance, writes_slurm_conf=order.writes_slurm_conf)
    if _nothing_to_do(order, identity):
        _warn(places, say)
        say(f"nothing to do: this version is installed in {places.where} already")
        return 0
    if dry_run:
        for step in steps:
            if isinstance(step, plan.ExtendMomConfig | plan.TellSlurm):
                say(host.describe(places, instance))
            for line in plan.would(step, places):
                say(line)
        _warn(places, say)
        return 0
    os.umask(0o022)
    places.prefix.mkdir(parents=True, exist_ok=True)
    with versions.locked():
        instance = _make_places(places)
        identity = order.source.identity(places, instance, order.python)
        say(host.describe(places, instance))
        _PlanRunner(order, say).carry_out(
            plan.make(places, identity, instance, writes_slurm_conf=order.writes_slurm_conf)
        )
        _warn(places, say)
        say(f"installed pbsdock {order.source.version} into {places.where}")
    return 0


def rollback(places: Places, say: Say) -> int:
    """Make the previous version the current one. Raises SetupError, OSError; then nothing has changed."""
    versions = Versions(places.prefix)
    with versions.locked():
        current, to = versions.current(), versions.previous()
        if current is None or to is None:
            raise SetupError(f"{places.prefix} has no previous version to go back to; install the one that is wanted")
        problems = to.changed()
        if problems or not build.works(to):
            problem = problems[0] if problems else f"{to.home} does not work"
            raise SetupError(f"version {current.name} stays in force: {problem}")
        _refuse_unreadable(current, to)
        versions.exchange(to)
        put_around(places, to)
        restart(places, to, say)
        say(f"version {to.name} is in force now; rolling back once more exchanges it for {current.name} again")
    return 0


def _refuse_unreadable(current: Version, to: Version) -> None:
    """Raises SetupError where the configuration is right for *current*, and *to* would not run with it."""
    if current != to and (complaint := build.complaint(to)) and not build.complaint(current):
        raise SetupError(
            f"version {current.name} stays in force: {to.name} cannot run with this configuration: {complaint}"
        )


def put_around(places: Places, version: Version) -> None:
    """Write the files that are the same in all versions, if they differ."""
    places.hooks.mkdir(exist_ok=True)
    for name in places.mom_hooks:
        put(places.mom_priv / name, read(version.home / "stubs" / name), 0o755)
    for name in places.helpers:
        (places.hooks / name).parent.mkdir(exist_ok=True)
        put(places.hooks / name, read(version.home / "stubs" / name), 0o755)
    commands = places.prefix / "bin"
    commands.mkdir(exist_ok=True)
    for name in COMMANDS:
        _link(commands / name, f"../current/bin/{name}")
    manual.link(places, version)
    _offer_docker(version)


def _offer_docker(version: Version) -> None:
    """Jobs have their docker command from now on; the agent, which begins with it, may start later."""
    with suppress(ConfigError, OSError, ValueError):  # told by the check of the configuration, in its place
        paths = load_paths(version.home / "paths.json")
        offer_docker(paths, load_config(paths.config))


def restart(places: Places, version: Version, say: Say) -> None:
    """Restart the agent from *version* if it ran; otherwise systemd or the next hook starts it."""
    was_there = agent.stop(places)
    if not services.install(places, version.home, say) and was_there:
        agent.start(places, version)


def _link(path: Path, target: str) -> None:
    if path.is_symlink() and os.readlink(path) == target:
        return
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    os.replace(temporary, path)


def _nothing_to_do(order: Order, identity: str) -> bool:
    current = order.versions.current()
    return current is not None and current.identity == identity and not any(check.wrong(order.places, hurry=True))


def _refuse_weak(*paths: Path) -> None:
    for path in paths:
        if spot := weak_place(path):
            raise SetupError(spot)


def _make_places(places: Places) -> str:
    for directory in (places.etc, places.run_dir, places.log_dir):
        directory.mkdir(parents=True, exist_ok=True)
    places.state_dir.mkdir(parents=True, exist_ok=True)
    places.state_dir.chmod(0o700)
    # Again, now that they exist: somebody may have been quicker in a shared directory.
    _refuse_weak(*places.ours)
    if not (name := places.instance()):
        name = f"pbsdock-{os.urandom(4).hex()}" if places.relocated else "pbsdock"
        put(places.instance_file, f"{name}\n", 0o644)
    return name


def _warn(places: Places, say: Say) -> None:
    """With Torque: ``qsub -T x`` makes mom run ``prologue.x`` instead of ``prologue`` if there is such a name."""
    if places.slurm_conf is not None:
        return
    users = {f"{kind}.user{rest}" for kind in ("prologue", "epilogue") for rest in ("", ".parallel")}
    usual = {*MOM_HOOKS, *users, "epilogue.precancel"}
    for kind in ("prologue", "epilogue"):
        for stray in sorted(places.mom_priv.glob(f"{kind}.*")):
            name = stray.name.removeprefix(f"{kind}.")
            if stray.name in usual:
                continue
            if stray.is_dir():
                say(
                    f"warning: {stray} is a directory: with qsub -T {name} mom takes it for a {kind} that fails, and"
                    " the node for a sick one; move it away"
                )
            else:
                say(
                    f"warning: {stray} exists: qsub -T {name} runs it instead of pbsdock's {kind}; a #DOCKER line in"
                    " such a job is refused"
                )
    for line in mom_config.warnings(read(places.mom_config), places):
        say(f"warning: {line}")


class _PlanRunner:
    """Carries out the steps of a plan; the first step makes or finds the version that the others need."""

    def __init__(self, order: Order, say: Say) -> None:
        self.order = order
        self.places = order.places
        self.versions = order.versions
        self.say = say

    def carry_out(self, steps: list[plan.Action]) -> None:
        """Carry out *steps* in order. Raises the error of the first that fails."""
        version: Version | None = None
        for step in steps:
            if isinstance(step, plan.MakeVersion):
                version = self._version(step)
            else:
                assert version is not None
                self._do(step, version)

    def _version(self, step: plan.MakeVersion) -> Version:
        found = build.find(self.versions, step.identity, self.places)
        return found or build.make(
            self.versions,
            self.places,
            self.order.source,
            self.order.python,
            self.order.wheels,
            step.identity,
            step.instance,
            self.say,
        )

    def _do(self, step: plan.Action, version: Version) -> None:
        match step:
            case plan.WriteConfig(path, journald):
                self._write_policy(path, journald)
            case plan.KeepSiteHook(hook, kept):
                self._keep(hook, kept)
            case plan.SwitchVersion():
                if (current := self.versions.current()) is not None:
                    _refuse_unreadable(current, version)
                self.versions.exchange(version)
            case plan.PutHooks():
                put_around(self.places, version)
            case plan.ExtendMomConfig():
                self._join(step)
            case plan.TellSlurm():
                self._tell_slurm(step)
            case plan.RestartAgent():
                restart(self.places, version, self.say)
            case plan.PruneVersions():
                self._tidy()
            case plan.MakeVersion():
                raise AssertionError(step)

    def _write_policy(self, path: Path, journald: bool) -> None:
        text = self.order.source.etc("pbsdock.toml")
        if journald:
            text = text.replace("\n#journald = false\n", "\njournald = true\n")
        put(path, text, 0o644)
        self.say(f"wrote the commented configuration {path}")
        if journald:
            log = self.places.log_dir / "events.jsonl"
            self.say(f"events go to {log} and to the journal: journalctl -t pbsdock JOB=ID")

    def _keep(self, hook: Path, kept: Path) -> None:
        """Link the site's hook to a second name. The first is replaced by rename later, so mom always finds a hook."""
        kept.parent.mkdir(mode=0o755, exist_ok=True)
        os.link(hook, kept)
        self.say(f"kept the site's own {hook.name} as {kept}")

    def _join(self, step: plan.ExtendMomConfig) -> None:
        old = read(step.path)
        if step.text == old:
            return
        if not step.path.exists():
            put(step.path, "", 0o644)
        before = step.path.with_name(f"{step.path.name}.before-pbsdock")
        found = step.path.stat()
        if not before.exists():
            shutil.copy2(step.path, before)
            os.chown(before, found.st_uid, found.st_gid)
        put(step.path, step.text, stat.S_IMODE(found.st_mode), like=found)
        self.say(f"added to {step.path} (the old one is {before}):")
        for line in step.missing:
            self.say(f"    {line}")
        self.say("restart pbs_mom, or send it SIGHUP, to let these lines count")

    def _tell_slurm(self, step: plan.TellSlurm) -> None:
        if step.is_written:
            slurm_config.write(step.path, step.wanted)
            slurm_config.write_stack(self.places)
            self.say(f"wrote pbsdock's block into {step.path} (the old one is {slurm_config.before(step.path)}):")
        else:
            self.say(f"put these lines into {step.path} on all of the cluster's hosts:")
        for line in step.wanted:
            self.say(f"    {line}")
        self.say(f"{'and' if step.is_written else 'and this one'} into {slurm_config.stack_file(self.places)}:")
        self.say(f"    {slurm_config.stack_line(self.places)}")
        self.say("then restart slurmctld, which reads PrologFlags when it starts, and run: scontrol reconfigure")
        for line in step.told:
            self.say(f"warning: {line}")

    def _tidy(self) -> None:
        for name in OLD:
            path = self.places.prefix / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self.versions.prune()
