"""``pbsdock doctor site``: configuration, agent, hooks, the resource manager's side, and files that were left."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from pbsdock.admin.ask import answered
from pbsdock.admin.doctor import slurm
from pbsdock.admin.doctor.subject import Subject
from pbsdock.admin.doctor.table import Mend, Row, ok, unknown, warn, wrong
from pbsdock.admin.setup import check, mom_config
from pbsdock.admin.setup.files import read
from pbsdock.admin.setup.first_process import RUN
from pbsdock.admin.setup.places import MOM_HOOKS, Places
from pbsdock.agent import first_process
from pbsdock.agent.drain import Drain
from pbsdock.agent.version import version
from pbsdock.config.change import changes
from pbsdock.config.tables import Config
from pbsdock.core.errors import HookError
from pbsdock.core.ledger import Ledger
from pbsdock.core.plain import from_plain
from pbsdock.engine.credentials import load_site
from pbsdock.host.installed import is_usable
from pbsdock.protocol import wire
from pbsdock.protocol.link import AgentGone
from pbsdock.rm.base import ResourceManager

_ANSWER_S = 2.0
_ALARM = 300.0  # mom's default for $prologalarm, seconds; it kills ten before
_STALE_S = 3600.0
_MOST = 8  # rows of one kind
_USAGE = 125  # the exit code of init/init.c that is no container's first process


def examine(subject: Subject) -> Iterator[Row]:
    """All of them."""
    yield from configuration(subject)
    yield from agent(subject)
    yield from installation(subject)
    if subject.paths.slurm_conf is not None:
        yield from slurm.examine(subject)
    else:
        yield from mom(subject)
        yield server(subject.manager)
    yield starter(subject)
    yield run_hook(subject.paths.lib)
    yield from left_files(subject)


# -- configuration and agent ------------------------------------------------------------------------------------------


def configuration(subject: Subject) -> Iterator[Row]:
    """Whether the file is right, and in force."""
    config = subject.config_or_error
    if isinstance(config, str):
        yield wrong("config", "file", config, f"correct {subject.paths.config}; pbsdock config checks it")
        return
    yield ok("config", "file", f"{subject.paths.config} is well")
    if config.engine.docker_config:
        try:
            load_site(Path(config.engine.docker_config))
        except HookError as error:
            yield wrong("config", "logins", str(error), "engine.docker_config names a docker config.json of root's own")


def agent(subject: Subject) -> Iterator[Row]:
    """Whether it answers, with what configuration, and what it says of the node."""
    paths = subject.paths
    began = time.monotonic()
    try:
        answer = answered(subject.paths_file, wire.Message("config"), _ANSWER_S)
    except AgentGone as error:
        if paths.unhealthy.exists():
            yield wrong(
                "agent", "answer", f"it does not start: {_flag(paths.unhealthy)}", "mend that; a hook starts it"
            )
        else:
            yield warn("agent", "answer", f"it does not answer ({error})", "the next job's prologue starts it")
    else:
        yield ok("agent", "answer", f"within {(time.monotonic() - began) * 1000:.0f} ms")
        yield _in_force(subject, answer)
        yield running_version(_version_of(subject), version())
    if paths.unhealthy.exists():
        cure = "it comes back by itself once that is mended"
        yield wrong("agent", "node", f"out of service: {_flag(paths.unhealthy)}", cure)
    drained = Drain(paths.drained).now()
    if drained is not None:
        yield warn("agent", "node", drained.sentence, "pbsdock undrain lets container jobs come again")
    records, problems = Ledger(paths.state_dir / "jobs").load_all()
    for problem in problems[:_MOST]:
        yield wrong("agent", "ledger", str(problem), "the reaper does nothing until that file is readable or removed")
    if not problems:
        yield ok("agent", "ledger", f"{len(records)} records, all readable")


def _version_of(subject: Subject) -> str:
    """The running agent's own, "" where it tells none."""
    with suppress(AgentGone):
        return answered(subject.paths_file, wire.Message("ping"), _ANSWER_S).text("version")
    return ""


def running_version(running: str, installed: str) -> Row:
    """Whether the agent that runs is the installed one. Pure."""
    if running == installed:
        return ok("agent", "version", f"{running}, as installed")
    seen = f"the agent that runs is {running or 'of a release that tells no version'}, installed is {installed}"
    return warn(
        "agent", "version", seen, "end it (agent.pid has its number): jobs run on, and the installed one is started"
    )


def _flag(path: Path) -> str:
    return (read(path).splitlines() or ["no reason is given"])[0]


def _in_force(subject: Subject, answer: wire.Message) -> Row:
    config = subject.config_or_error
    if answer.op != "done" or isinstance(config, str):
        return unknown("config", "in force", "the agent is of another release, or the file is wrong")
    lacking = changes(from_plain(Config, json.loads(answer.text("json")), newer=True), config)
    if not lacking:
        return ok("config", "in force", "the agent has all of the file")
    keys = ", ".join(change.key for change in lacking[:_MOST])
    cure = "pbsdock reload" if not all(change.needs_restart for change in lacking) else "start the agent anew"
    return warn("config", "in force", f"the agent lacks of the file: {keys}", cure)


# -- installation and resource manager --------------------------------------------------------------------------------


def installation(subject: Subject) -> Iterator[Row]:
    """What install.sh --check says, but for the slow part, which are the packages; modes can be mended."""
    places = Places.of(subject.paths)
    told = list(dict.fromkeys(check.around(places)))
    for sentence in told[: 2 * _MOST]:
        seen, _, fix = sentence.rpartition("; ") if "; " in sentence else (sentence, "", "run install.sh again")
        yield wrong("install", "files", seen, fix, _mode_mend(sentence))
    if not told:
        yield ok("install", "files", f"hooks, units and the manager's lines as installed in {places.where}")
    if places.slurm_conf is not None:
        return
    lacking = [name for name in MOM_HOOKS if not (places.mom_priv / name).is_file()]
    if not (places.mom_priv / MOM_HOOKS[0]).is_file():
        yield wrong("install", "hooks", f"there is no prologue in {places.mom_priv}", "run install.sh again")
    elif lacking:
        yield wrong("install", "hooks", f"{places.mom_priv} lacks {', '.join(lacking)}", "run install.sh again")
    else:
        yield ok("install", "hooks", ", ".join(MOM_HOOKS))


def _mode_mend(sentence: str) -> Mend | None:
    """For a sentence of :func:`pbsdock.admin.setup.files.weak_spots` about a mode."""
    path, has, rest = sentence.partition(" has mode ")
    if not has:
        path, has, rest = sentence.partition(" is writable by others")
    if not has or not path.startswith("/") or not os.path.lexists(path):
        return None
    found = os.lstat(path)
    if found.st_uid or stat.S_ISLNK(found.st_mode):
        return None
    return Mend(f"take group's and others' right to write from {path}", partial(_close, path, rest))


def _close(path: str, told: str) -> None:
    mode = stat.S_IMODE(os.lstat(path).st_mode) & ~0o022
    wanted = told.partition("must be ")[2]
    if wanted.isdigit():
        mode = int(wanted, 8)
    os.chmod(path, mode)


def mom(subject: Subject) -> Iterator[Row]:
    """The daemon, its configuration, and what it keeps of jobs."""
    places = Places.of(subject.paths)
    words = subject.manager.words
    if subject.manager.is_running():
        yield ok("mom", "daemon", f"{words.name}'s daemon runs here")
    else:
        yield warn("mom", "daemon", f"{words.name}'s daemon does not run here", "start it")
    text = read(places.mom_config)
    told = [*mom_config.wrong(text, places)]
    for line in told:
        seen, _, fix = line.rpartition("; ") if "; " in line else (line, "", "run install.sh again, then restart mom")
        yield wrong("mom", "configuration", seen, fix)
    if not told:
        yield ok("mom", "configuration", f"{places.mom_config} has pbsdock's lines")
    for line in mom_config.warnings(text, places):
        yield warn("mom", "configuration", line, "$down_on_error true")
    yield alarm(text, subject.config)
    try:
        yield ok("mom", "job files", f"{len(subject.manager.live())} jobs are alive here")
    except OSError as error:
        yield wrong("mom", "job files", str(error), "nothing is reaped while they cannot be read")


def alarm(text: str, config: Config) -> Row:
    """Whether mom lets the prologue be as long at work as it thinks. Pure."""
    found = mom_config.values(text, "prologalarm")
    try:
        seconds = float(found[-1]) if found else _ALARM
    except ValueError:
        return wrong("mom", "prologalarm", f"$prologalarm {found[-1]} is no number", "give seconds")
    if config.prologue.alarm_s > seconds - 10:
        seen = (
            f"mom kills the prologue after {seconds - 10:g} s, and [prologue] alarm_s says {config.prologue.alarm_s:g}"
        )
        return wrong(
            "mom", "prologalarm", seen, f"alarm_s = {seconds - 10:g}, or $prologalarm {config.prologue.alarm_s + 10:g}"
        )
    return ok("mom", "prologalarm", f"mom's alarm leaves the prologue its {config.prologue.alarm_s:g} s")


def server(manager: ResourceManager) -> Row:
    """Whether a node that reports an error gets no more jobs."""
    heeds, sentence = manager.heeds_errors()
    if heeds is None:
        return unknown("server", "down_on_error", sentence, "on the server's host: qmgr -c 'list server'")
    if heeds:
        return ok("server", "down_on_error", sentence)
    return wrong("server", "down_on_error", sentence, "qmgr -c 'set server down_on_error = True'")


def starter(subject: Subject) -> Row:
    """The first process of containers."""
    program = first_process.program(subject.paths)
    if not subject.config.engine.first_process:
        return warn(
            "first process", "use", "engine.first_process = false: the engine passes on the streams", "set it true"
        )
    if not is_usable(program):
        seen = f"{program} is not there, or not root's alone"
        return warn("first process", "use", seen, "apt-get install gcc libc6-dev, and run install.sh again")
    if why := not_run(program):
        seen = f"{program} cannot be run: {why}"
        return wrong(
            "first process", "use", seen, "no noexec where pbsdock lies, this machine's build: install.sh again"
        )
    return ok("first process", "use", "jobs are started by pbsdock's own")


def not_run(program: Path) -> str:
    """Why it cannot be run at all, "" if it can: outside of a container it says how it is used, and ends."""
    try:
        done = subprocess.run([program], capture_output=True, text=True, timeout=_ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return getattr(error, "strerror", None) or str(error)
    return "" if done.returncode == _USAGE else f"it ended with {done.returncode}; {done.stderr.strip()[:100]}"


def run_hook(library: Path) -> Row:
    """The run hook in C, without which each job and task keeps an interpreter; *library* is where the package lies."""
    program = library / "pbsdock" / RUN.name
    if not is_usable(program):
        seen = f"{program} is not there, or not root's alone: each job and task has an interpreter waiting for it"
        return warn("run hook", "program", seen, "apt-get install gcc libc6-dev, and run install.sh again")
    return ok("run hook", "program", "jobs and tasks without a terminal are waited for by a small program")


# -- what was left ----------------------------------------------------------------------------------------------------


def left_files(subject: Subject) -> Iterator[Row]:
    """Temporary files of processes that were killed; and directories that are root's alone."""
    paths, now = subject.paths, time.time()
    patterns: list[tuple[Path, str]] = [
        (paths.run_dir, "agent.sock.*"),
        (paths.run_dir, "unhealthy.*"),
        (paths.run_dir, ".probe-*"),
        (paths.state_dir, ".probe-*"),
        (paths.state_dir, "*.new"),
        (paths.state_dir / "jobs", "*.tmp*"),
        (paths.state_dir / "history", "*/.new-*"),
        (paths.config.parent, "*.new.*"),
    ]
    stale = sorted({path for place, pattern in patterns for path in place.glob(pattern) if _is_old(path, now)})
    for path in stale[:_MOST]:
        mend = Mend(f"remove {path}", partial(path.unlink, missing_ok=True))
        yield warn("files", "stale", f"{path} was left by a process that is gone", "remove it", mend)
    if not stale:
        yield ok("files", "stale", "nothing was left by processes that are gone")
    for place, mode in ((paths.state_dir, 0o700), (paths.work, 0o700), (paths.pins, 0o700)):
        if place.is_dir() and (has := stat.S_IMODE(place.stat().st_mode)) != mode:
            act: Callable[[], None] = partial(os.chmod, place, mode)
            mend = Mend(f"chmod {mode:o} {place}", act)
            yield wrong(
                "files", "modes", f"{place} has mode {has:o}; expected {mode:o}", f"chmod {mode:o} {place}", mend
            )


def _is_old(path: Path, now: float) -> bool:
    try:
        found = path.lstat()
    except OSError:
        return False
    return not stat.S_ISDIR(found.st_mode) and now - found.st_mtime > _STALE_S
