"""``pbsdock try``: qsub's options, as far as one host can honour them."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import select
import shlex
import signal
import socket
import sys
import termios
import threading
import tty
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from pbsdock.core.paths import Paths
from pbsdock.rm.torque import BadValue, parse_nodes
from pbsdock.trial.hooks import NOT_RUN, TIMED_OUT
from pbsdock.trial.mom import Trial
from pbsdock.trial.nodes import sisters
from pbsdock.trial.request import NOT_JOINED, BadRequest, Outcome, Request

_HONOURED = ("-l", "-N", "-q", "-S", "-v", "-t")
_NAME_LIMIT = 15  # qsub's own cut of a name taken from the script's file
_DEFAULTS = {"nodes": "1:ppn=1", "walltime": "01:00:00"}
_END_OF_INPUT = b"\x04"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``pbsdock try``."""
    parser.add_argument("script", nargs="?", metavar="SCRIPT", help="job script; none with -I")
    parser.add_argument("--user", metavar="USER", help="run as this user (default: the owner of the script)")
    parser.add_argument("-l", dest="resources", metavar="RES", action="append", default=[], help="as for qsub")
    parser.add_argument("-v", dest="variables", metavar="VARS", default="", help="NAME=VALUE,… for the job")
    parser.add_argument("-N", dest="name", help="job name")
    parser.add_argument("-q", dest="queue", help="queue")
    parser.add_argument("-S", dest="shell", help="shell")
    parser.add_argument("-t", dest="array_index", metavar="INDEX", help="run as this element of an array")
    parser.add_argument("-I", dest="interactive", action="store_true", help="interactive, on this terminal")
    parser.add_argument(
        "--nodes",
        metavar="SPEC",
        help="emulate the other nodes of a job on this host; SPEC is that of -l nodes=SPEC, such as 3:ppn=2",
    )
    parser.add_argument("--bare", action="store_true", help="without pbsdock's hooks, for comparison")
    parser.add_argument("--json", action="store_true", help="say how it ended as one JSON object")


def pbs_lines(script: bytes, filename: str = "script") -> dict[str, list[str]]:
    """qsub's options in the script's #PBS lines, as far as they are honoured here. Raises BadRequest."""
    found: dict[str, list[str]] = {}
    for number, line in enumerate(script.decode("utf-8", "replace").splitlines(), 1):
        if re.match(r"#PBS(\s|$)", line):
            try:
                words = shlex.split(line[4:], comments=True)
            except ValueError as error:
                raise BadRequest(f"{filename}:{number}: the #PBS line cannot be read: {error}") from None
            for option, value in _options(words):
                found.setdefault(option, []).append(value)
        elif line.strip() and not line.startswith("#"):
            break
    return found


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    rest = iter(words)
    for word in rest:
        if word[:2] in _HONOURED:
            yield word[:2], word[2:] or next(rest, "")


def variables(text: str) -> dict[str, str]:
    """qsub's -v list: a comma separates only where a name follows; a name alone has its value from here."""
    pairs: dict[str, str] = {}
    for item in re.split(r",(?=[A-Za-z_][A-Za-z0-9_]*(?:=|,|$))", text) if text else []:
        name, equals, value = item.partition("=")
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise BadRequest(f"-v {item[:80]!r} cannot be read; write NAME=VALUE, and a comma between two of them")
        if value[:1] in "'\"" and value[:1] == value[-1:] and len(value) > 1:
            value = value[1:-1]
        pairs[name] = value if equals else os.environ.get(name, "")
    return pairs


def merged(*lists: Sequence[str]) -> str:
    """One -l list of several; the earlier list wins, resource by resource, and a node and an hour are the default."""
    chosen: dict[str, str] = {}
    for items in lists:
        for item in ",".join(items).split(","):
            key, equals, value = item.strip().partition("=")
            if key:
                chosen.setdefault(key, equals + value)
    for key, value in _DEFAULTS.items():
        chosen.setdefault(key, f"={value}")
    return ",".join(key + value for key, value in chosen.items())


def _index(text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadRequest(f"-t {text[:40]}: one element is tried at a time; give its index, a whole number")
    return int(text)


def _script(arguments: argparse.Namespace) -> bytes | None:
    if arguments.interactive:
        if arguments.script is not None:
            raise BadRequest(f"an interactive job runs no script; leave out either -I or {arguments.script}")
        return None
    if arguments.script is None:
        raise BadRequest("name a script, or -I for an interactive job")
    try:
        return Path(arguments.script).read_bytes()
    except OSError as error:
        raise BadRequest(f"{arguments.script} cannot be read: {error.strerror}") from None


def owner_of(arguments: argparse.Namespace) -> str:
    """Who submits: --user, else the script's owner, else who called sudo. Raises BadRequest."""
    owner: str | None = arguments.user
    if owner is None and arguments.script is not None:
        uid = os.stat(arguments.script).st_uid
        try:
            owner = pwd.getpwuid(uid).pw_name
        except KeyError:
            raise BadRequest(f"{arguments.script} belongs to uid {uid}, which has no name; use --user") from None
    if owner in (None, "root") and arguments.user is None:
        owner = os.environ.get("SUDO_USER", "root")
    return owner or "root"


def _paths(arguments: argparse.Namespace) -> Paths:
    from pbsdock.core.paths import load

    try:
        return load(arguments.paths)
    except (OSError, ValueError) as error:
        raise BadRequest(f"no installed instance is found: {error}") from None


def request(arguments: argparse.Namespace) -> Request:
    """What the arguments and the script's own #PBS lines ask for; arguments win. Raises BadRequest."""
    if os.geteuid() != 0:
        raise BadRequest("pbsdock try stands in for pbs_mom and needs root; use sudo")
    mom_priv = _paths(arguments).mom_priv
    script = _script(arguments)
    nodes = [] if arguments.nodes is None else [f"nodes={arguments.nodes}"]
    lines = pbs_lines(script or b"", arguments.script or "script")

    def last(option: str, given: str | None, default: str | None) -> str | None:
        return given if given is not None else lines.get(option, [default])[-1]

    size = os.get_terminal_size(0) if os.isatty(0) else os.terminal_size((80, 24))
    name = last("-N", arguments.name, Path(arguments.script or "STDIN").name[:_NAME_LIMIT])
    return Request(
        mom_priv=mom_priv,
        user=owner_of(arguments),
        script=script,
        resources=merged(nodes, arguments.resources, lines.get("-l", [])),
        variables={**variables(",".join(lines.get("-v", []))), **variables(arguments.variables)},
        name=name or "STDIN",
        queue=last("-q", arguments.queue, None) or "batch",
        shell=last("-S", arguments.shell, None),
        array_index=_index(last("-t", arguments.array_index, None)),
        bare=arguments.bare,
        work_dir=os.getcwd() if script is not None else None,
        window=(size.lines, size.columns),
        term=os.environ.get("TERM", "dumb"),
    )


def main(arguments: argparse.Namespace) -> int:
    """``pbsdock try``; the exit code is the job's as a shell would see it, 2 for a wrong request."""
    try:
        with ExitStack() as stack:
            trial = _trial(arguments, stack)
            return _run(trial, arguments)
    except BadRequest as error:
        print(f"pbsdock try: {error}", file=sys.stderr)
        return 2


def _trial(arguments: argparse.Namespace, stack: ExitStack) -> Trial:
    """The job, with the emulated nodes it asks for, which end with *stack*. Raises BadRequest."""
    if arguments.nodes is None:
        return Trial(request(arguments))
    asked = request(arguments)
    if asked.script is None:
        raise BadRequest("an interactive job is tried on one node; leave out either -I or --nodes")
    try:
        names = sisters(parse_nodes(arguments.nodes), socket.gethostname())
    except BadValue as error:
        raise BadRequest(f"--nodes {arguments.nodes}: {error}") from None
    from pbsdock.trial.cluster import Cluster
    from pbsdock.trial.wide import WideTrial

    return WideTrial(asked, stack.enter_context(Cluster(_paths(arguments), names)))


def _run(trial: Trial, arguments: argparse.Namespace) -> int:
    if trial.begin() is None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: threading.Thread(target=trial.qdel, daemon=True).start())
        if trial.terminal is not None:
            with raw(0):
                converse(trial, 0, 2 if arguments.json else 1)
    outcome = trial.result()
    report(outcome, interactive=trial.job.interactive, as_json=arguments.json)
    return outcome.shell_status


def report(outcome: Outcome, *, interactive: bool, as_json: bool) -> None:
    """Hand out the job's output, or everything as one JSON object; say so if the prologue ended the job."""
    if as_json:
        data = asdict(outcome) | {
            "stdout": outcome.stdout.decode("utf-8", "replace"),
            "stderr": outcome.stderr.decode("utf-8", "replace"),
            "shell_status": outcome.shell_status,
        }
        print(json.dumps(data))
        return
    if not interactive or outcome.exit_status < 0:
        sys.stdout.buffer.write(outcome.stdout)
        sys.stdout.flush()
        sys.stderr.buffer.write(outcome.stderr)
        sys.stderr.flush()
    if outcome.exit_status < 0:
        print(f"pbsdock try: {_why(outcome)}", file=sys.stderr)


def _why(outcome: Outcome) -> str:
    if outcome.exit_status == NOT_JOINED:
        return f"a prologue.parallel of a sister's failed; Torque records {NOT_JOINED} and queues the job again"
    if outcome.session_id is not None:
        return f"the job's shell could not be started; Torque records {outcome.exit_status}"
    how = {
        NOT_RUN: "mom does not run it: it is not root's alone to write, or not executable",
        TIMED_OUT: "killed at its alarm",
    }.get(outcome.prologue_status or 0, f"exit {outcome.prologue_status}")
    return (
        f"the prologue ended the job ({how}; Torque records {outcome.exit_status});"
        f" {outcome.node_down or 'see the event stream'}"
    )


@contextmanager
def raw(keyboard: int) -> Iterator[None]:
    """Pass every key on as it is, Ctrl-C too, if the keyboard is a terminal."""
    if not os.isatty(keyboard):
        yield
        return
    before = termios.tcgetattr(keyboard)
    tty.setraw(keyboard)
    try:
        yield
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def converse(trial: Trial, keyboard: int, screen: int) -> None:
    """Connect the job's terminal with ours until the job ends."""
    assert trial.terminal is not None
    assert trial.leader is not None
    sources = [trial.terminal, keyboard]
    while True:
        poller = select.poll()
        for source in sources:
            poller.register(source, select.POLLIN)
        ready = [fd for fd, _ in poller.poll(100)]
        if trial.terminal in ready:
            data = os.read(trial.terminal, 65536)
            trial.screen += data
            os.write(screen, data)
        if keyboard in ready:
            typed = os.read(keyboard, 65536)
            os.write(trial.terminal, typed or _END_OF_INPUT)
            if not typed:
                sources.remove(keyboard)
        if trial.leader.poll() is not None and trial.terminal not in ready:
            return
