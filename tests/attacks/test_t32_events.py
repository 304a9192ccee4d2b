"""T32: the event stream is the site's: no text of a user's begins a line in it, and no user reads it."""

from __future__ import annotations

import json
import stat
import subprocess

import pytest

from tests.conftest import IMAGE, USERS, Instance
from tests.support.attack import as_user

pytestmark = pytest.mark.engine
_FORGED = (
    'x\n{"ts":"2000-01-01T00:00:00.000000Z","seq":1,"event":"job.finished"}\n\x1b[2J\x1b]0;title\x07\r\x85\u2028\u202e'
)


@pytest.mark.parametrize("where", ["name", "queue", "image", "variable", "request"])
def test_forged_lines(instance: Instance, where: str) -> None:
    """Through a job's name, its queue, an image, a variable and a client's own words: each line is still one event."""
    before = instance.events_file.read_bytes().count(b"\n") if instance.events_file.exists() else 0
    script = f"#!/bin/sh\n#DOCKER {_FORGED.encode().hex() if where != 'image' else _FORGED.replace(chr(10), ' ')}\n"
    if where == "request":
        instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n")
        as_user(
            instance,
            """
            for op in ("start", "reap", "signal"):
                link = Link(sys.argv[1], 5.0)
                link.send(wire.Message(op, job=sys.argv[2], reason=sys.argv[2], task=sys.argv[2], argv=[sys.argv[2].encode()]))
                link.recv()
        """,
            _FORGED,
        )
    else:
        script = f"#!/bin/sh\n#DOCKER {IMAGE}\ntrue\n" if where != "image" else script
        options = {"name": {"name": _FORGED}, "queue": {"queue": _FORGED}, "variable": {"variables": {"X": _FORGED}}}
        instance.run(script, **options.get(where, {}))
    data = instance.events_file.read_bytes()
    new = data.splitlines()[before:]

    assert new
    assert data.isascii()
    sequence = []
    for line in new:
        event = json.loads(line)
        assert line.startswith(b'{"ts":"')
        assert b"\x1b" not in line
        sequence.append(event["seq"])
    assert sequence == list(range(sequence[0], sequence[0] + len(sequence)))


def test_shown_to_a_terminal(instance: Instance) -> None:
    """`pbsdock events` prints no control character of a user's either."""
    instance.run(f"#!/bin/sh\n#DOCKER {IMAGE} \x1b[2J\n", name=_FORGED)
    said = instance.command("events").stdout

    assert said
    assert not [one for one in said.replace("\n", "") if not one.isprintable()]


def test_nobody_reads_or_writes_it(instance: Instance) -> None:
    """0640 root:adm, and the directories of state and records closed."""
    assert instance.run(f"#!/bin/sh\n#DOCKER {IMAGE}\n").exit_status == 0
    assert stat.S_IMODE(instance.events_file.stat().st_mode) == 0o640
    for command in (
        ["cat", str(instance.events_file)],
        ["sh", "-c", f"echo forged >>{instance.events_file}"],
        ["ls", str(instance.state_dir)],
        ["ls", str(instance.run_dir / "work")],
        ["ls", str(instance.run_dir / "pins")],
    ):
        done = subprocess.run(command, user=USERS[0], group=USERS[0], extra_groups=[], capture_output=True, check=False)
        assert done.returncode != 0, command


def test_long_words_are_cut(instance: Instance) -> None:
    """A name of 200 kB is no line of 200 kB."""
    done = instance.run(f"#!/bin/sh\n#DOCKER {'x' * 3000}\n", name="n" * 100_000)

    assert done.exit_status == 125
    assert max(len(line) for line in instance.events_file.read_bytes().splitlines()) <= 32768
