"""``pbsdock doctor``: its options, and its parts. Each imports what it needs itself: the packages may be damaged."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbsdock.admin.doctor.table import Row


def add_arguments(doctor: argparse.ArgumentParser) -> None:
    """Without a part: all of them, in one table."""
    doctor.add_argument("--json", dest="whole_json", action="store_true", help="one JSON list")
    doctor.add_argument("--fix", action="store_true", help="mend what is safe to: modes, files that were left")
    doctor.add_argument("--dry-run", action="store_true", help="with --fix: only say what would be done")
    doctor.set_defaults(run=_whole, only=None)
    parts = doctor.add_subparsers(metavar="PART")
    stores = _part(parts, "s3", "mint, read, be denied, revoke, be denied: at each object store", _s3)
    stores.add_argument("stores", nargs="*", metavar="STORE", help="only these; otherwise all")
    _part(parts, "engine", "known escapes of its version, who can reach it or change our files", _engine)
    _part(parts, "packages", "the installed packages: the lock's, unchanged, without known vulnerabilities", _packages)
    _part(parts, "mounts", "what is mounted for jobs on this host: each of a job that needs it", _mounts)
    _part(parts, "accounting", "whether containers come into the resource manager's accounting", _accounting)
    for name, help_text in (
        ("site", "configuration, agent, hooks, the resource manager's side, files that were left"),
        ("host", "kernel, cgroups, user namespaces, clock, disks"),
        ("nodes", "what the nodes of a cluster sign with, whether this one can be asked, others' versions and clocks"),
        ("services", "metrics and sessions: whether the agent offers what the site has turned on"),
        ("registries", "whether they can be reached, and the site's logins are taken"),
    ):
        _part(parts, name, help_text, _whole).set_defaults(only=name)


def _part(
    parts: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    help_text: str,
    run: Callable[[argparse.Namespace], int],
) -> argparse.ArgumentParser:
    parser = parts.add_parser(name, help=help_text)
    parser.add_argument("--json", action="store_true", help="one JSON list")
    parser.set_defaults(run=run)
    return parser


def _whole(arguments: argparse.Namespace) -> int:
    from pbsdock.admin.ask import is_root
    from pbsdock.admin.doctor.subject import Subject
    from pbsdock.admin.doctor.table import as_json, exit_code, lines
    from pbsdock.admin.doctor.whole import PARTS, examine
    from pbsdock.core.paths import load

    if not is_root("look at all of a node"):
        return 2
    try:
        subject = Subject(load(arguments.paths), arguments.paths)
    except (OSError, ValueError) as error:
        print(f"pbsdock: the installation cannot be read ({error}); run install.sh again", file=sys.stderr)
        return 2
    only: str | None = arguments.only
    rows = examine(subject, {only: PARTS[only]} if only else None)
    if arguments.whole_json or getattr(arguments, "json", False):
        print(as_json(rows))
    else:
        for line in lines(rows):
            print(line)
    if arguments.fix:
        return _fix(rows, exit_code(rows), is_trial=arguments.dry_run)
    return exit_code(rows)


def _fix(rows: list[Row], code: int, *, is_trial: bool) -> int:
    """Do what is safe; the exit code is that of the checks before it. Tells on stderr, beside the JSON."""
    for mend in dict.fromkeys(row.mend for row in rows if row.mend is not None):
        if is_trial:
            print(f"would {mend.what}", file=sys.stderr)
            continue
        try:
            mend.act()
            print(f"fixed: {mend.what}", file=sys.stderr)
        except OSError as error:
            print(f"not fixed: {mend.what}: {error.strerror}", file=sys.stderr)
    return code


def _s3(arguments: argparse.Namespace) -> int:
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


def _engine(arguments: argparse.Namespace) -> int:
    from pbsdock.admin.doctor.engine import examine
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
        engine = connect(config.engine.socket, config.engine.timeout_s)
        findings = list(examine(paths, config, engine, engine.info()))
    except (ConfigError, HookError, EngineError, OSError) as error:
        print(f"pbsdock: {error}", file=sys.stderr)
        return 2
    return report(iter(findings), sys.stdout, as_json=arguments.json)


def _packages(arguments: argparse.Namespace) -> int:
    from pbsdock.admin.doctor.packages import examine
    from pbsdock.admin.doctor.report import report
    from pbsdock.core.paths import load

    try:
        findings = list(examine(load(arguments.paths)))
    except (OSError, ValueError) as error:
        print(f"pbsdock: the installation cannot be read ({error}); run install.sh again", file=sys.stderr)
        return 2
    return report(iter(findings), sys.stdout, as_json=arguments.json)


def _mounts(arguments: argparse.Namespace) -> int:
    from pbsdock.admin.doctor.mounts import examine
    from pbsdock.admin.doctor.report import report
    from pbsdock.core.paths import load

    try:
        findings = list(examine(load(arguments.paths)))
    except OSError as error:
        print(f"pbsdock: the jobs' records cannot be read ({error}); only root may", file=sys.stderr)
        return 2
    return report(iter(findings), sys.stdout, as_json=arguments.json)


def _accounting(arguments: argparse.Namespace) -> int:
    import socket

    from pbsdock.admin.doctor.accounting import examine
    from pbsdock.admin.doctor.report import report
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
    finding = examine(manager(paths, socket.gethostname(), client_dir=client_dir))
    return report(iter([finding]), sys.stdout, as_json=arguments.json)
