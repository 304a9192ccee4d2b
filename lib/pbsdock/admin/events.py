"""``pbsdock events``: its options, and what they choose of which file."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

_A_DAY = "1d"


def add_arguments(events: argparse.ArgumentParser) -> None:
    """The options; those that choose may be given several times, and then any of them will do."""
    events.add_argument("--follow", "-f", action="store_true", help="wait for more, also when the file is rotated")
    events.add_argument("--job", metavar="ID", action="append", help="only this job's")
    events.add_argument("--user", metavar="NAME", action="append", help="only of this user's jobs")
    events.add_argument("--node", metavar="NAME", action="append", help="only of this node; * and ? match")
    events.add_argument("--event", metavar="NAME", action="append", help="only these; * and ? match, as in 'job.*'")
    events.add_argument(
        "--level", choices=("info", "warning", "error"), default="info", help="only these and worse ones"
    )
    events.add_argument("--since", metavar="TIME", help="only later ones: 30m, 2h or 1d ago, or a date (UTC)")
    events.add_argument("--file", metavar="FILE", help="read this file, such as one of many nodes; - is the input")
    events.add_argument(
        "--summary", action="store_true", help="count them, of the last day unless --since says otherwise"
    )
    events.add_argument("--json", action="store_true", help="the lines as they are; with --summary one JSON object")


def show_events(arguments: argparse.Namespace) -> int:
    """Returns 0; 1 if there is nothing to read, 2 for options that make no sense."""
    from pbsdock.core.errors import BadValue
    from pbsdock.events.selection import Selection, event_pattern, moment
    from pbsdock.events.view import show, summarise

    since = arguments.since or (_A_DAY if arguments.summary else "")
    try:
        if arguments.summary and arguments.follow:
            raise BadValue("--summary is of what there is; it cannot --follow")
        selection = Selection(
            jobs=tuple(arguments.job or ()),
            users=tuple(arguments.user or ()),
            nodes=tuple(arguments.node or ()),
            events=tuple(map(event_pattern, arguments.event or ())),
            level=arguments.level,
            since=moment(since, datetime.now(UTC)) if since else "",
        )
    except BadValue as error:
        print(f"pbsdock: {error}", file=sys.stderr)
        return 2
    try:
        file = Path(arguments.file) if arguments.file else _own(arguments)
    except (OSError, ValueError) as error:
        print(f"pbsdock: it is not known where the events are: {error}", file=sys.stderr)
        return 2
    if arguments.summary:
        return summarise(file, selection=selection, raw=arguments.json, out=sys.stdout)
    nodes = bool(arguments.file or arguments.node)
    return show(file, selection=selection, follow=arguments.follow, raw=arguments.json, nodes=nodes, out=sys.stdout)


def _own(arguments: argparse.Namespace) -> Path:
    """This node's own stream. Raises OSError where nothing is installed, ConfigError."""
    from pbsdock.config.tables import load as load_config
    from pbsdock.core.paths import load

    paths = load(arguments.paths)
    file = load_config(paths.config).events.file
    return Path(file) if file else paths.log_dir / "events.jsonl"
