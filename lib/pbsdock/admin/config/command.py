"""``pbsdock config [diff|test]`` and ``pbsdock reload``: their options, and what they print."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pbsdock.admin.ask import answered, is_root
from pbsdock.config.change import Change, changes
from pbsdock.config.lines import Place, line_of
from pbsdock.config.reader import toml_value
from pbsdock.config.tables import Config, ConfigError, load_with_lines
from pbsdock.core.paths import Paths, load
from pbsdock.protocol import wire
from pbsdock.protocol.link import AgentGone
from pbsdock.rm.choose import words

WRONG = 2  # the exit code for a file that is wrong
_ASK_S = 10.0


def add_arguments(config: argparse.ArgumentParser) -> None:
    """The options of ``config`` and its parts."""
    parts = config.add_subparsers(metavar="PART", dest="part")
    diff = parts.add_parser(
        "diff", help="what the file changes of the defaults, and what the running agent lacks of it"
    )
    diff.add_argument("--json", action="store_true", help="one JSON object")
    diff.set_defaults(run=show_diff)
    test = parts.add_parser("test", help="what a script would get here by the file as it is, without running it")
    test.add_argument("script", metavar="SCRIPT")
    test.add_argument("--user", metavar="USER", help="as this user (default: the owner of the script)")
    test.add_argument(
        "-l", dest="resources", metavar="RES", action="append", default=[], help=f"as for {words().submit}"
    )
    test.add_argument("-q", dest="queue", help="queue")
    test.add_argument("-d", dest="work_dir", metavar="DIR", help="submitted from there (default: from here)")
    test.add_argument("--json", action="store_true", help="one JSON object")
    test.set_defaults(run=run_test)


def show(arguments: argparse.Namespace) -> int:
    """Check the file and show all of it, defaults filled in."""
    found = read(load(arguments.paths))
    if found is None:
        return WRONG
    print(json.dumps(dataclasses.asdict(found[0]), indent=1))
    return 0


def read(paths: Paths) -> tuple[Config, Mapping[Place, int]] | None:
    """The site's file and its lines; None where it is wrong, which stderr tells."""
    try:
        config, lines = load_with_lines(paths.config)
    except (ConfigError, OSError) as error:
        print(error, file=sys.stderr)
        return None
    import os

    if config.engine.docker_config and os.geteuid() == 0:
        from pbsdock.core.errors import NodeFault
        from pbsdock.engine.credentials import load_site

        try:
            load_site(Path(config.engine.docker_config))
        except NodeFault as error:
            print(f"{paths.config.name}: engine.docker_config: {error}", file=sys.stderr)
            return None
    if config.nodes.sign_with != "munge" and os.geteuid() == 0:
        from pbsdock.cluster.signing import SigningError, key_file, read_key

        file = key_file(config.nodes, paths.config)
        try:
            if config.nodes.sign_with == "key" or os.path.lexists(file):
                read_key(file)
        except SigningError as error:
            print(f"{paths.config.name}: nodes.key_file: {error}", file=sys.stderr)
            return None
    return config, lines


# -- diff -------------------------------------------------------------------------------------------------------------


def show_diff(arguments: argparse.Namespace) -> int:
    """Exit code 0: the running agent has all of the file in force, or none runs; 1: it lacks something; 2: the file is
    wrong."""
    if not is_root("ask the agent what is in force"):
        return 1
    paths = load(arguments.paths)
    found = read(paths)
    if found is None:
        return WRONG
    config, lines = found
    own = changes(Config(), config)
    running = _in_force(arguments.paths)
    lacking = changes(running, config) if running is not None else ()
    if arguments.json:
        told = {
            "file": str(paths.config),
            "of_defaults": [{**_plain(change), "line": _line(change, lines)} for change in own],
            "agent_runs": running is not None,
            "of_agent": [_plain(change) for change in lacking],
        }
        print(json.dumps(told, indent=1))
    else:
        for text in _told(paths.config.name, own, lines, lacking, running is not None):
            print(text)
    return 1 if lacking else 0


def _told(
    name: str, own: tuple[Change, ...], lines: Mapping[Place, int], lacking: tuple[Change, ...], runs: bool
) -> Iterator[str]:
    for change in own:
        was = f" (default {_value(change.before)})" if change.before is not None else ""
        yield f"{name}:{_line(change, lines)}: {change.key} = {_value(change.after)}{was}"
    if not own:
        yield f"{name} has the defaults"
    if not runs:
        yield "the agent does not answer; the next one reads the file"
    elif not lacking:
        yield "the running agent has all of it in force"
    for change in lacking:
        cure = "start the agent anew" if change.needs_restart else "pbsdock reload"
        yield f"not in force: {change.key} = {_value(change.after)} (in force {_value(change.before)}); {cure}"


def _in_force(paths_file: Path) -> Config | None:
    from pbsdock.core.plain import from_plain

    try:
        answer = answered(paths_file, wire.Message("config"), _ASK_S)
    except AgentGone:
        return None
    if answer.op != "done":
        return None
    config: Config = from_plain(Config, json.loads(answer.text("json")), newer=True)
    return config


def _line(change: Change, lines: Mapping[Place, int]) -> int:
    if change.key.startswith("override["):
        return line_of(lines, ("override", int(change.key[9:-1]) - 1))
    return line_of(lines, tuple(change.key.split(".")))


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        default = type(value)()
        shown = [
            f"{field.name} = {_value(getattr(value, field.name))}"
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != getattr(default, field.name)
        ]
        return "{" + ", ".join(shown) + "}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + "}"
    return toml_value(value)


def _plain(change: Change) -> dict[str, Any]:
    return dataclasses.asdict(change)


# -- test -------------------------------------------------------------------------------------------------------------


def run_test(arguments: argparse.Namespace) -> int:
    """Exit code 0: the job would run; 1: it would be refused; 2: wrong file or request."""
    from pbsdock.admin.config.would import lines_of, would
    from pbsdock.trial.request import BadRequest

    if not is_root("look at directories as another user"):
        return 1
    paths = load(arguments.paths)
    found = read(paths)
    if found is None:
        return WRONG
    try:
        told = would(arguments, paths, *found)
    except BadRequest as error:
        print(f"pbsdock config test: {error}", file=sys.stderr)
        return WRONG
    if arguments.json:
        print(json.dumps(told, indent=1))
    else:
        for line in lines_of(told, paths.config.name):
            print(line)
    return 1 if told["outcome"] == "refused" else 0


# -- reload -----------------------------------------------------------------------------------------------------------


def reload(arguments: argparse.Namespace) -> int:
    """Exit code 0: the file is in force, as far as a running agent can take it; 1: not done; 2: the file is wrong, and
    what was in force stays."""
    if not is_root("reload the configuration"):
        return 1
    try:
        answer = answered(arguments.paths, wire.Message("reload"))
    except AgentGone:
        if read(load(arguments.paths)) is None:
            return WRONG
        print("the file is well; the agent does not answer, and the next one reads it")
        return 0
    if answer.op != "done":
        print(f"pbsdock: {answer.text('sentence')}", file=sys.stderr)
        return WRONG if answer.text("code") == "bad-configuration" else 1
    told = json.loads(answer.text("json"))
    if arguments.json:
        print(json.dumps(told, indent=1))
        return 0
    changed, waiting = told["changed"], told["waiting"]
    print(f"in force for new jobs: {', '.join(changed)}" if changed else "nothing changed in what is in force")
    if waiting:
        print(f"waiting until the agent is started anew: {', '.join(waiting)}")
    return 0
