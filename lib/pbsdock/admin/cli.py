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

from pbsdock.admin.ask import told
from pbsdock.protocol import wire


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
    parser = argparse.ArgumentParser(prog="pbsdock", description="Batch jobs in Docker containers.")
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

    doctor = verbs.add_parser("doctor", help="every check of node and site there is, or one part by using it")
    from pbsdock.admin.doctor.command import add_arguments as add_doctor_arguments

    add_doctor_arguments(doctor)

    images = verbs.add_parser("images", help="images of this node: list, pull, pin, unpin, prune")
    from pbsdock.admin.images import add_arguments as add_image_arguments

    add_image_arguments(images)

    drain = verbs.add_parser("drain", help="no new container jobs on this node; those that run finish")
    undrain = verbs.add_parser("undrain", help="take container jobs again")
    from pbsdock.admin import drain as drains

    drains.add_arguments(drain, undrain)
    drain.set_defaults(run=drains.drain)
    undrain.set_defaults(run=drains.undrain)

    config = verbs.add_parser("config", help="check the site's configuration file and show it; diff; test SCRIPT")
    config.set_defaults(run=_config)
    if argv is None or "config" in argv:
        from pbsdock.admin.config.command import add_arguments as add_config_arguments

        add_config_arguments(config)

    reload = verbs.add_parser(
        "reload", help="put the configuration file in force for new jobs, if nothing in it is wrong"
    )
    reload.add_argument("--json", action="store_true", help="one JSON object")
    reload.set_defaults(run=_reload)

    setup = verbs.add_parser("setup", help="install, check or take out pbsdock, go back to the version before")
    if argv is None or "setup" in argv:
        from pbsdock.admin.setup.command import add_arguments as add_setup_arguments

        add_setup_arguments(setup)
    setup.set_defaults(run=_setup)
    return parser


def _check(arguments: argparse.Namespace) -> int:
    from pbsdock.directive.parse import DirectiveError, late_line, late_sentence, parse_script
    from pbsdock.rm.choose import words

    wrong, known = False, words(arguments.paths)
    for name in arguments.scripts:
        try:
            script = Path(name).read_bytes()
            directive = parse_script(script, known, filename=name)
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


def _ps(arguments: argparse.Namespace) -> int:
    if arguments.job:
        from pbsdock.admin.nodes import show

        answer = told(arguments.paths, wire.Message("nodes", job=arguments.job))
        return 1 if answer is None else show(answer, as_json=arguments.json, out=sys.stdout)
    data = told(arguments.paths, wire.Message("list"))
    if data is None:
        return 1
    if arguments.json:
        print(json.dumps(data, indent=1))
        return 0
    print(f"{'JOB':<24} {'USER':<12} {'STATE':<10} {'CONTAINER':<12} IMAGE")
    for job in data["jobs"]:
        container = (job["container"] or "-")[:12]
        print(f"{job['job']:<24} {job['user']:<12} {job['state']:<10} {container:<12} {job['image'] or '-'}")
        for child in job.get("children", ()):  # an agent of an earlier release tells of none
            container = child["container"][:12] or "-"
            print(f"  {child['name']:<22} {'':<12} {child['state']:<10} {container:<12} {child['image']}")
    if data.get("drained"):
        from pbsdock.admin.drain import shown

        print(shown(data["drained"]))
    for problem in data["problems"]:
        print(f"ledger: {problem}", file=sys.stderr)
    return 1 if data["problems"] else 0


def _reap(arguments: argparse.Namespace) -> int:
    data = told(arguments.paths, wire.Message("reap", dry_run=int(arguments.dry_run)))
    if data is None:
        return 1
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


def _config(arguments: argparse.Namespace) -> int:
    from pbsdock.admin.config.command import show

    return show(arguments)


def _reload(arguments: argparse.Namespace) -> int:
    from pbsdock.admin.config.command import reload

    return reload(arguments)


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
