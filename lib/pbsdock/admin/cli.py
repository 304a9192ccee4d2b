"""``pbsdock``: the command for users (check, why, try), operators (events, ps) and admins (reap, config, doctor).

Each command imports what it needs itself: somebody waits for ``why`` and ``ps``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pbsdock.protocol import wire
from pbsdock.protocol.link import AgentGone, connect


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 well, 1 not, 2 wrong input."""
    given = sys.argv[1:] if argv is None else list(argv)
    arguments = parser_for(given).parse_args(given)
    try:
        return int(arguments.run(arguments))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return 130


def parser_for(argv: Sequence[str] | None = None) -> argparse.ArgumentParser:
    """The parser of all commands; those that take long to import have their options only if *argv* names them, or is
    None."""
    parser = argparse.ArgumentParser(prog="pbsdock", description="Torque jobs in Docker containers.")
    parser.add_argument("--paths", type=Path, default=Path("/opt/pbsdock/current/paths.json"), help=argparse.SUPPRESS)
    verbs = parser.add_subparsers(required=True, metavar="COMMAND")

    check = verbs.add_parser("check", help="check the #DOCKER lines of scripts; needs neither engine nor root")
    check.add_argument("scripts", nargs="+", metavar="SCRIPT")
    check.set_defaults(run=_check)

    trial = verbs.add_parser("try", help="run a script on this host as Torque would")
    if argv is None or "try" in argv:
        from pbsdock.trial import add_arguments as add_trial_arguments

        add_trial_arguments(trial)
    trial.set_defaults(run=_try)

    why = verbs.add_parser("why", help="tell what became of a job of yours, or of anybody's as root, and why")
    why.add_argument("job", metavar="JOB", help="a job id, or its number alone")
    why.add_argument("--json", action="store_true", help="one JSON object; with --watch one a second")
    why.add_argument("--watch", action="store_true", help="show what it uses once a second until it is over")
    why.set_defaults(run=_why)

    ps = verbs.add_parser("ps", help="list the jobs with containers on this node")
    ps.add_argument("--job", metavar="ID", help="on all nodes of this job instead, by its id or its number alone")
    ps.add_argument("--json", action="store_true", help="one JSON object")
    ps.set_defaults(run=_ps)

    events = verbs.add_parser("events", help="show the event stream")
    from pbsdock.admin.events import add_arguments as add_event_arguments

    add_event_arguments(events)
    events.set_defaults(run=_events)

    reap = verbs.add_parser("reap", help="remove what belongs to no live job, now")
    reap.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    reap.add_argument("--json", action="store_true", help="one JSON object")
    reap.set_defaults(run=_reap)

    doctor = verbs.add_parser("doctor", help="prove a part of the site by using it")
    parts = doctor.add_subparsers(required=True, metavar="PART")
    stores = parts.add_parser("s3", help="mint, read, be denied, revoke, be denied: at each object store")
    stores.add_argument("stores", nargs="*", metavar="STORE", help="only these; otherwise all")
    stores.add_argument("--json", action="store_true", help="one JSON list")
    stores.set_defaults(run=_doctor_s3)

    engine = parts.add_parser("engine", help="known escapes of its version, who can reach it or change our files")
    engine.add_argument("--json", action="store_true", help="one JSON list")
    engine.set_defaults(run=_doctor_engine)

    packages = parts.add_parser(
        "packages", help="the installed packages: the lock's, unchanged, without known vulnerabilities"
    )
    packages.add_argument("--json", action="store_true", help="one JSON list")
    packages.set_defaults(run=_doctor_packages)

    mounts = parts.add_parser("mounts", help="what is mounted for jobs on this host: each of a job that needs it")
    mounts.add_argument("--json", action="store_true", help="one JSON list")
    mounts.set_defaults(run=_doctor_mounts)

    accounting = parts.add_parser("accounting", help="whether containers come into the resource manager's accounting")
    accounting.add_argument("--json", action="store_true", help="one JSON list")
    accounting.set_defaults(run=_doctor_accounting)

    config = verbs.add_parser("config", help="check the site's configuration file and show it")
    config.set_defaults(run=_config)

    setup = verbs.add_parser("setup", help="install, check or take out pbsdock, go back to the version before")
    if argv is None or "setup" in argv:
        from pbsdock.admin.setup.command import add_arguments as add_setup_arguments

        add_setup_arguments(setup)
    setup.set_defaults(run=_setup)
    return parser


def _check(arguments: argparse.Namespace) -> int:
    from pbsdock.directive.parse import DirectiveError, late_line, late_sentence, parse_script
    from pbsdock.rm.choose import words

    wrong = False
    for name in arguments.scripts:
        try:
            script = Path(name).read_bytes()
            directive = parse_script(script, words(), filename=name)
        except OSError as error:
            print(f"{name}: cannot be read: {error.strerror}", file=sys.stderr)
            wrong = True
        except DirectiveError as error:
            print(error, file=sys.stderr)
            wrong = True
        else:
            if late := late_line(script):
                print(f"{name}: {late_sentence(late, contained=directive is not None)}", file=sys.stderr)
            print(f"{name}: {directive.image.canonical if directive else 'no #DOCKER line: runs without a container'}")
    return 2 if wrong else 0


def _try(arguments: argparse.Namespace) -> int:
    from pbsdock.trial import main as run

    return int(run(arguments))


def _why(arguments: argparse.Namespace) -> int:
    from pbsdock.admin.why.command import run
    from pbsdock.core.paths import load

    socket = str(load(arguments.paths).socket)
    return run(socket, arguments.job, as_json=arguments.json, watch=arguments.watch, out=sys.stdout)


def _ask(arguments: argparse.Namespace, message: wire.Message) -> wire.Message | None:
    from pbsdock.core.paths import load

    if os.geteuid() != 0:
        print("pbsdock: only root may ask the agent about all jobs; use sudo", file=sys.stderr)
        return None
    try:
        link = connect(str(load(arguments.paths).socket), wait_s=0.0, timeout_s=300.0)
        link.send(message)
        answer, _fds = link.recv()
    except AgentGone as error:
        print(f"pbsdock: the agent does not answer ({error}); the next job's prologue starts it", file=sys.stderr)
        return None
    if answer.op in ("refused", "fault"):
        print(f"pbsdock: {answer.text('sentence')}", file=sys.stderr)
        return None
    return answer


def _ps(arguments: argparse.Namespace) -> int:
    if arguments.job:
        from pbsdock.admin.nodes import show

        told = _ask(arguments, wire.Message("nodes", job=arguments.job))
        return 1 if told is None else show(json.loads(told.text("json")), as_json=arguments.json, out=sys.stdout)
    answer = _ask(arguments, wire.Message("list"))
    if answer is None:
        return 1
    data = json.loads(answer.text("json"))
    if arguments.json:
        print(json.dumps(data, indent=1))
        return 0
    print(f"{'JOB':<24} {'USER':<12} {'STATE':<10} {'CONTAINER':<12} IMAGE")
    for job in data["jobs"]:
        container = (job["container"] or "-")[:12]
        print(f"{job['job']:<24} {job['user']:<12} {job['state']:<10} {container:<12} {job['image'] or '-'}")
    for problem in data["problems"]:
        print(f"ledger: {problem}", file=sys.stderr)
    return 1 if data["problems"] else 0


def _reap(arguments: argparse.Namespace) -> int:
    answer = _ask(arguments, wire.Message("reap", dry_run=int(arguments.dry_run)))
    if answer is None:
        return 1
    data = json.loads(answer.text("json"))
    if arguments.json:
        print(json.dumps(data, indent=1))
    elif data["blocked"]:
        print(f"nothing was touched: {data['blocked']}")
    else:
        for finding in data["findings"]:
            verb = "would remove" if arguments.dry_run else "found"
            print(f"{verb} {finding['kind']} {finding['name']} ({finding['why']})")
        print(f"{len(data['findings'])} found, {data['reaped']} removed")
    return 1 if data["blocked"] or (data["left"] and not arguments.dry_run) else 0


def _events(arguments: argparse.Namespace) -> int:
    from pbsdock.admin.events import show_events

    return show_events(arguments)


def _doctor_s3(arguments: argparse.Namespace) -> int:
    import socket

    from pbsdock.admin.doctor.report import report
    from pbsdock.admin.doctor.stores import examine
    from pbsdock.config.tables import ConfigError
    from pbsdock.config.tables import load as load_config
    from pbsdock.core.paths import load

    if os.geteuid() != 0:
        print("pbsdock: only root can read the node's identity; use sudo", file=sys.stderr)
        return 1
    paths = load(arguments.paths)
    try:
        config = load_config(paths.config)
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    unknown = [name for name in arguments.stores if name not in config.s3]
    if unknown or not config.s3:
        known = ", ".join(config.s3) or "none"
        print(f"pbsdock: there is no store {unknown[0] if unknown else ''!r}; configured are {known}", file=sys.stderr)
        return 2
    findings = examine(config, f"{paths.instance}@{socket.gethostname()}", arguments.stores)
    return report(findings, sys.stdout, as_json=arguments.json)


def _doctor_engine(arguments: argparse.Namespace) -> int:
    from itertools import chain

    from pbsdock.admin.doctor.engine import judge_fitness, judge_paths, judge_socket, judge_versions
    from pbsdock.admin.doctor.report import report
    from pbsdock.config.tables import ConfigError
    from pbsdock.config.tables import load as load_config
    from pbsdock.core.errors import HookError
    from pbsdock.core.paths import load
    from pbsdock.engine.base import EngineError
    from pbsdock.engine.make import connect

    if os.geteuid() != 0:
        print("pbsdock: only root may ask the engine; use sudo", file=sys.stderr)
        return 1
    paths = load(arguments.paths)
    try:
        config = load_config(paths.config)
        settings = config.engine
        engine = connect(settings.socket, settings.timeout_s)
        versions, capabilities = engine.components(), engine.info()
    except (ConfigError, HookError, EngineError, OSError) as error:
        print(f"pbsdock: {error}", file=sys.stderr)
        return 2
    findings = chain(
        judge_versions(versions),
        judge_fitness(capabilities, settings.runtime, config.security.seccomp),
        judge_socket(settings.socket),
        judge_paths(paths),
    )
    return report(iter(findings), sys.stdout, as_json=arguments.json)


def _doctor_packages(arguments: argparse.Namespace) -> int:
    from pbsdock.admin.doctor.packages import examine
    from pbsdock.admin.doctor.report import report
    from pbsdock.core.paths import load

    try:
        findings = list(examine(load(arguments.paths)))
    except (OSError, ValueError) as error:
        print(f"pbsdock: the installation cannot be read ({error}); run install.sh again", file=sys.stderr)
        return 2
    return report(iter(findings), sys.stdout, as_json=arguments.json)


def _doctor_mounts(arguments: argparse.Namespace) -> int:
    from pbsdock.admin.doctor.mounts import examine
    from pbsdock.admin.doctor.report import report
    from pbsdock.core.paths import load

    try:
        findings = list(examine(load(arguments.paths)))
    except OSError as error:
        print(f"pbsdock: the jobs' records cannot be read ({error}); only root may", file=sys.stderr)
        return 2
    return report(iter(findings), sys.stdout, as_json=arguments.json)


def _doctor_accounting(arguments: argparse.Namespace) -> int:
    import socket

    from pbsdock.admin.doctor.report import Finding, report
    from pbsdock.config.tables import ConfigError
    from pbsdock.config.tables import load as load_config
    from pbsdock.core.paths import load
    from pbsdock.rm.choose import manager

    paths = load(arguments.paths)
    try:
        client_dir = load_config(paths.config).torque.client_dir
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    program, lost = manager(paths, socket.gethostname(), client_dir=client_dir).adopts()
    finding = Finding("Accounting", "containers", not lost, lost or f"{program} makes them the job's")
    return report(iter([finding]), sys.stdout, as_json=arguments.json)


def _config(arguments: argparse.Namespace) -> int:
    import dataclasses

    from pbsdock.config.tables import ConfigError
    from pbsdock.config.tables import load as load_config
    from pbsdock.core.paths import load

    paths = load(arguments.paths)
    try:
        config = load_config(paths.config)
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    if config.engine.docker_config and os.geteuid() == 0:
        from pbsdock.core.errors import NodeFault
        from pbsdock.engine.credentials import load_site

        try:
            load_site(Path(config.engine.docker_config))
        except NodeFault as error:
            print(f"{paths.config.name}: engine.docker_config: {error}", file=sys.stderr)
            return 2
    print(json.dumps(dataclasses.asdict(config), indent=1))
    return 0


def _setup(arguments: argparse.Namespace) -> int:
    from pbsdock.admin.setup.command import called
    from pbsdock.admin.setup.places import Places
    from pbsdock.core.paths import load

    try:
        installed = Places.of(load(arguments.paths))
    except (OSError, ValueError):
        installed = None  # nothing is installed yet, or it cannot tell any more: the options must say where
    return called(arguments, installed)


if __name__ == "__main__":
    sys.exit(main())
